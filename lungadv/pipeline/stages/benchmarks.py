"""The stage `benchmarks`: Table II, every training strategy scored on both benchmarks and, apart, on the extra tests."""

import json
from importlib.resources import files

import numpy as np
import pandas as pd

from lungadv.data.dataset import BENCHMARKS
from lungadv.data.tables import SUBSOLID
from lungadv.evaluation.calibration import calibration_tables
from lungadv.evaluation.froc import OPERATING_POINTS, Froc, compare_scores, froc, froc_by_group
from lungadv.evaluation.marks import type_masks
from lungadv.evaluation.misses import detection_outcomes, difficulty_tables
from lungadv.models.dense_unet import predict
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import load
from lungadv.pipeline.stages.fpr import load_strategy
from lungadv.pipeline.stages.patches import load_patches
from lungadv.training.strategies import BEYOND, FURTHER, SEGMENTATION, STRATEGIES, strategies_of
from lungadv.utils.statistics import percentile_interval

__all__ = ["MARK_COLUMNS", "MEASURES", "PAIRS", "STUDIED", "build", "printed_table2", "score_strategies", "table2", "validation_marks"]

STUDIED = ("baseline-ce", "baseline-beta-finetune")  # the plain baseline, and the network that `lungadv detect` uses
PAIRS = (  # differences that the claims B1-B7 ask for, and, last, those of what is beyond the paper
    ("baseline-beta", "baseline-ce"),
    ("baseline-beta-finetune", "baseline-ce"),
    ("baseline-beta-finetune", "baseline-beta"),
    ("baseline-beta-finetune", "control-ce"),
    ("baseline-beta-finetune", "control-beta"),
    ("beta+syn-random", "baseline-beta-finetune"),
    ("beta+syn-random", "control"),
    *(("beta+syn", other) for other in STRATEGIES if other not in ("beta+syn", "control-ce", "control-beta", *BEYOND, *FURTHER)),
    *((name, other) for name in ("beta+perturb", "beta+perturb+syn") for other in ("baseline-beta-finetune", "control", "beta+syn")),
    *((name, other) for name in (*BEYOND, *FURTHER) for other in ("baseline-beta-finetune", "control", "beta+perturb")),
    *((name, "beta+syn") for name in FURTHER),
    ("beta+oracle-hard", "beta+oracle-random"),
)
MARK_COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "uncertainty"]
FP_COLUMNS = [f"fp_{point:g}" for point in OPERATING_POINTS]
MEASURES = {  # of sensitivities (..., 7) at the operating points
    "cpm": lambda sensitivity: sensitivity.mean(axis=-1),
    # at up to 0.5 false positives a scan against 1 and more
    "low-minus-high": lambda sensitivity: sensitivity[..., :3].mean(axis=-1) - sensitivity[..., 3:].mean(axis=-1),
}

Scores = dict[tuple[str, str], dict[str, Froc]]  # (subset, excluded rule) -> strategy -> score


def build(run: Run) -> None:
    """Write benchmarks/: marks/<dataset>/<strategy>.csv, froc.csv, curves.csv, by_type.csv, differences.csv, table2.csv.

    Also the `calibration_tables` on the candidates of validation and of both benchmarks together, and the `difficulty_tables`
    of the STUDIED strategies on the benchmarks: misses.csv and false_positives.csv.
    """
    with stage_output(run, "benchmarks") as folder:
        data = load(run)
        scores, outcomes, answers = {}, {}, {}
        for dataset in data.datasets[1:]:  # all but train
            marks = mark_candidates(run, dataset)
            (folder / "marks" / dataset).mkdir(parents=True)
            for name, table in marks.items():
                table.to_csv(folder / "marks" / dataset / f"{name}.csv", index=False)
            truth = candidate_labels(run, dataset)
            answers[dataset] = {name: table.assign(label=truth) for name, table in marks.items()}
            part = data.of(dataset)
            seed = run.rng("benchmarks", dataset).integers(2**32)
            terms = run.settings.froc.bootstraps, seed
            scores[dataset] = score_strategies(marks, part.annotations, part.excluded, part.uids, *terms, by_type=dataset != "validation")
            if dataset in BENCHMARKS:
                outcomes[dataset] = detection_outcomes({name: marks[name] for name in STUDIED}, part)
        both = {name: pd.concat([answers[dataset][name] for dataset in BENCHMARKS]) for name in strategies_of(run.data)}
        calibration = calibration_tables({"validation": answers["validation"], "benchmarks": both})
        for name, table in (score_tables(scores, training_facts(run)) | difficulty_tables(outcomes) | calibration).items():
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def training_facts(run: Run) -> dict[str, dict]:
    """Of each strategy the `updates` that its weights have seen in all, its starting point's included, and whether it `converged`."""
    facts = {name: json.loads((require(run, f"fpr/{name}") / "training.json").read_text()) for name in strategies_of(run.data)}

    def updates(name):
        start = STRATEGIES[name].start
        return facts[name]["updates"] + (0 if start == SEGMENTATION else updates(start))

    return {name: {"updates": updates(name), "converged": fact["converged"]} for name, fact in facts.items()}


# Marks


def mark_candidates(run: Run, dataset: str) -> dict[str, pd.DataFrame]:
    """Marks of each strategy on the candidates of a data set: {strategy: DataFrame of MARK_COLUMNS}.

    Coordinates in mm; probability (the network's confidence) and uncertainty in [0, 1].
    """
    if dataset == "validation":
        return {name: validation_marks(run, name) for name in strategies_of(run.data)}
    table, patches = load_patches(run, dataset, kinds=("candidate",))
    marks = {}
    for name in strategies_of(run.data):
        confidence, uncertainty = predict(load_strategy(run, name), patches)
        marks[name] = table.assign(probability=np.asarray(confidence), uncertainty=np.asarray(uncertainty))[MARK_COLUMNS]
    return marks


def validation_marks(run: Run, strategy: str) -> pd.DataFrame:
    """A strategy's marks on the validation candidates, as it gave them at the end of its training: DataFrame of MARK_COLUMNS."""
    table = pd.read_csv(require(run, f"fpr/{strategy}") / "validation.csv", dtype={"seriesuid": str})
    candidates = table[table["kind"] == "candidate"].reset_index(drop=True)
    return candidates.rename(columns={"confidence": "probability"})[MARK_COLUMNS]


def candidate_labels(run: Run, dataset: str) -> np.ndarray:
    """The label of each candidate of a data set, int (N,) in the order of their marks: 1 in a nodule, -1 in an excluded finding, else 0."""
    table = pd.read_csv(require(run, "patches") / f"{dataset}.csv", usecols=["kind", "label"])
    return table.loc[table["kind"] == "candidate", "label"].to_numpy()


# Scores


def score_strategies(
    marks: dict[str, pd.DataFrame],
    annotations: pd.DataFrame,
    excluded: pd.DataFrame,
    scans: list[str],
    bootstraps: int,
    seed: int,
    by_type: bool = True,
) -> Scores:
    """Score {strategy: marks} on one data set: {(subset, excluded rule): {strategy: Froc}}.

    Subsets are "all" and, `by_type`, each nodule type that occurs, and "subsolid". Marks on excluded findings are "dropped",
    for "all" also "counted" as false.
    """
    terms = {"bootstraps": bootstraps, "seed": seed}
    scores = {
        ("all", rule): {name: froc(table, annotations, scans, left_out, **terms) for name, table in marks.items()}
        for rule, left_out in (("dropped", excluded), ("counted", None))
    }
    if by_type:
        subsets, subsolid = type_masks(annotations), annotations["type"].isin(SUBSOLID).to_numpy()
        subsets |= {"subsolid": subsolid} if subsolid.any() else {}
        typed = {name: froc_by_group(table, annotations, scans, subsets, excluded, **terms) for name, table in marks.items()}
        scores |= {(subset, "dropped"): {name: typed[name][subset] for name in marks} for subset in subsets}
    return scores


def compare_strategies(scores: dict[str, dict[str, Froc]], subset: str) -> pd.DataFrame:
    """Paired differences of PAIRS from {benchmark: {strategy: Froc}}: a row for each benchmark and for "both", the mean of the benchmarks.

    Columns: subset, benchmark, a, b, measure, difference, lower, upper (95 %), lower90, upper90, from resampled scans.
    """
    rows = []
    for a, b in (pair for pair in PAIRS if all(set(pair) <= set(by_name) for by_name in scores.values())):
        pairs = [compare_scores(by_name[a], by_name[b]) for by_name in scores.values()]
        points = np.array([list(pair.sensitivity.values()) for pair in pairs])  # (benchmarks, 7)
        samples = np.array([pair.samples for pair in pairs])  # (benchmarks, bootstraps, 7)
        for measure, function in MEASURES.items():
            value, spread = function(points), function(samples)
            named = {name: (value[k], spread[k]) for k, name in enumerate(scores)} | {"both": (value.mean(), spread.mean(axis=0))}
            for benchmark, (estimate, resampled) in named.items():
                (lower, upper), (lower90, upper90) = percentile_interval(resampled), percentile_interval(resampled, 0.9)
                row = {"subset": subset, "benchmark": benchmark, "a": a, "b": b, "measure": measure, "difference": estimate}
                rows.append(row | {"lower": lower, "upper": upper, "lower90": lower90, "upper90": upper90})
    return pd.DataFrame(rows)


# Tables


def printed_table2() -> pd.DataFrame:
    """The paper's Table II as printed, in percent: benchmark, strategy, cpm, fp_0.125 ... fp_8, and fp_0.25_implied.

    The print repeats the column fp_0.125 as fp_0.25; fp_0.25_implied is what the printed CPM implies instead.
    """
    table = pd.read_csv(files("lungadv") / "paper" / "table2.csv")
    others = table[[column for column in FP_COLUMNS if column != "fp_0.25"]].sum(axis=1)
    return table.assign(**{"fp_0.25_implied": (7 * table["cpm"] - others).round(2)})


def table2(scores: dict[str, dict[str, Froc]], facts: dict[str, dict]) -> pd.DataFrame:
    """A row for each benchmark and strategy, all values in [0, 1], from {benchmark: {strategy: Froc}} and `training_facts`.

    Columns: benchmark, strategy (as in the paper), updates (of the classifier, in all), converged, cpm, lower, upper, and as measured
    fp_0.125 ... fp_8;
    then paper_cpm, paper_fp_0.125 ... as printed with paper_fp_0.25_implied; empty for a strategy that is not the paper's.
    """
    printed = printed_table2().set_index(["benchmark", "strategy"])[["cpm", *FP_COLUMNS, "fp_0.25_implied"]].div(100).add_prefix("paper_")
    rows = [
        {"benchmark": benchmark, "strategy": strategy.label, **facts[name]} | score_row(by_name[name])
        for benchmark, by_name in scores.items()
        for name, strategy in STRATEGIES.items()
        if name in by_name
    ]
    return pd.DataFrame(rows).join(printed, on=["benchmark", "strategy"]).round(4)


def score_row(score: Froc) -> dict[str, float]:
    """A Froc as a flat row: cpm, lower, upper and the sensitivity at each operating point."""
    lower, upper = score.cpm_interval
    return {"cpm": score.cpm, "lower": lower, "upper": upper} | dict(zip(FP_COLUMNS, score.sensitivity.values(), strict=True))


def score_tables(scores: dict[str, Scores], facts: dict[str, dict]) -> dict[str, pd.DataFrame]:
    """The stage's tables froc, by_type, curves, differences and table2, from {dataset: what `score_strategies` gives}."""
    rows = [
        {"benchmark": dataset, "subset": subset, "excluded": rule, "strategy": name, "nodules": score.counts["nodules"]} | score_row(score)
        for dataset, tasks in scores.items()
        for (subset, rule), by_name in tasks.items()
        for name, score in by_name.items()
    ]
    rows = pd.DataFrame(rows)
    curves = pd.concat(
        score.curve.assign(benchmark=dataset, strategy=name)
        for dataset, tasks in scores.items()
        for name, score in tasks["all", "dropped"].items()
    )
    on_benchmarks = {subset: {name: scores[name].get((subset, "dropped")) for name in BENCHMARKS} for subset in ("all", "subsolid")}
    complete = {subset: by_benchmark for subset, by_benchmark in on_benchmarks.items() if all(by_benchmark.values())}
    return {
        "froc": rows[rows["subset"] == "all"].drop(columns="subset"),
        "by_type": rows[rows["subset"] != "all"].drop(columns="excluded").rename(columns={"subset": "type"}),
        "curves": curves[["benchmark", "strategy", "fp_per_scan", "sensitivity"]],
        "differences": pd.concat([compare_strategies(by_benchmark, subset) for subset, by_benchmark in complete.items()]),
        "table2": table2(on_benchmarks["all"], facts),
    }
