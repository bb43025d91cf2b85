"""Table II: the stage's tables from fake networks on made-up scans, against scores worked out apart."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lungadv.data.dataset import BENCHMARKS
from lungadv.data.scan import Scan
from lungadv.evaluation.froc import froc
from lungadv.pipeline.graph import STAGES, Stage
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages import benchmarks as stage
from lungadv.pipeline.stages.benchmarks import MEASURES, PAIRS, STUDIED, build, printed_table2, score_strategies
from lungadv.training.strategies import BEYOND, FURTHER, STRATEGIES

DATASETS = ("validation", "in-house", "nlst")
TYPES = ["solid", "solid", "ground_glass", "part_solid"]
COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm", "type"]
ELSEWHERE = {600: "bifurcation", 700: "vessel", 800: "parenchyma or noise", 900: "pleura or mediastinum"}  # coordX: what lies there


def scene(dataset, scans=6):
    """Per scan a nodule of each type, an excluded finding and four candidates elsewhere (on ELSEWHERE): (data, candidate table)."""
    uids = [f"{dataset}.{k}" for k in range(scans)]
    nodules = [[uid, 100.0 * k, 0, 0, 8.0, kind, "isolated"] for uid in uids for k, kind in enumerate(TYPES)]
    excluded = [[uid, 500.0, 0, 0, 4.0, "solid", "isolated"] for uid in uids]
    mimics = [[uid, 600.0, 0, 0, 8.0, "bifurcation"] for uid in uids]
    places = [[uid, float(x), 0, 0] for uid in uids for x in (0, 100, 200, 300, 500, *ELSEWHERE)]
    return corridor(uids, nodules, excluded, mimics), pd.DataFrame(places, columns=COLUMNS[:4])


def corridor(uids, nodules, excluded=(), mimics=()):
    """Data of scans 1 m long in x, of voxels of 10 mm: lung of -850 HU up to x = 850 mm, a vessel of 0 HU around x = 700 mm."""
    hu, lungs = np.full((5, 5, 100), -850, np.int16), np.ones((5, 5, 100), bool)
    hu[..., 69:72] = 0
    lungs[..., 86:] = False
    read = []

    def scan(uid):
        read.append(uid)
        return Scan(hu, (10, 10, 10), (0, -20, -20), np.eye(3), uid)

    def table(rows, *more):
        return pd.DataFrame(list(rows), columns=[*COLUMNS[:5], *more]).astype(dict.fromkeys(COLUMNS[1:5], float))

    annotations, excluded = (table(rows, "type", "attachment") for rows in (nodules, excluded))
    tables = {"annotations": annotations, "excluded": excluded, "mimics": table(mimics, "kind")}
    return SimpleNamespace(uids=uids, scan=scan, lungs=lambda uid: lungs, read=read, **tables)


def confidence_of(name, table):
    """A made-up network: the later in STRATEGIES, the surer of nodules; beta+syn is the only one sure of the rare types."""
    skill = list(STRATEGIES).index(name)
    draw = np.random.default_rng(skill)
    nodule, rare = table["coordX"] < 400, table["coordX"].isin([200, 300])
    score = draw.normal(0.2 * skill * nodule) + (3.0 if name == "beta+syn" else 0.0) * rare
    return 1 / (1 + np.exp(-score))


def write_validation(run, name):
    """What training leaves behind: the answers to every validation patch, nodules and backgrounds among them."""
    table = scene("validation")[1].assign(kind="candidate")
    confidence = confidence_of(name, table)
    table = table.assign(confidence=confidence, uncertainty=1 - confidence)
    others = table.head(3).assign(kind=["nodule", "background", "nodule"], confidence=0.5)
    folder = run.path("fpr", name)
    folder.mkdir(parents=True)
    pd.concat([others, table]).to_csv(folder / "validation.csv", index=False)
    (folder / "training.json").write_text(json.dumps({"updates": 10 + len(name), "kept": 5, "converged": name != "control"}))
    (folder / "provenance.json").write_text("{}")


def truth_of(table):
    """The label of each candidate of `scene`: four nodules, an excluded finding, nothing elsewhere."""
    return np.select([table["coordX"] < 400, table["coordX"] == 500], [1, -1], 0)


def write_labels(run):
    """The patch tables, other kinds than candidates among their rows."""
    folder = run.path("patches")
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text("{}")
    for dataset in DATASETS:
        table = scene(dataset)[1]
        table = table.assign(kind="candidate", label=truth_of(table))
        pd.concat([table.head(2).assign(kind="nodule", label=1), table]).to_csv(folder / f"{dataset}.csv", index=False)


def load_patches(run, dataset, kinds):
    """Patches that hold the number of their data set, for `predict` to know them by; those of validation were answered in training."""
    assert kinds == ("candidate",) and dataset != "validation"
    table = scene(dataset)[1]
    return table, torch.full((len(table), 1, 2, 2, 2), DATASETS.index(dataset))


def predict(network, patches):
    confidence = torch.tensor(confidence_of(network, scene(DATASETS[patches.max()])[1]).to_numpy())
    return confidence, 1 - confidence


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose benchmarks are built from made-up scans and networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGADV_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setitem(STAGES, "benchmarks", Stage("lungadv.pipeline.stages.benchmarks", 1))
        patch.setattr(stage, "load", lambda run: SimpleNamespace(of=lambda dataset: scene(dataset)[0], datasets=["train", *DATASETS]))
        patch.setattr(stage, "load_patches", load_patches)
        patch.setattr(stage, "load_strategy", lambda run, name: name)
        patch.setattr(stage, "predict", predict)
        run = open_run("tiny", 0)
        for name in STRATEGIES:
            write_validation(run, name)
        write_labels(run)
        build(run)
        return run


def read(run, name):
    return pd.read_csv(run.path("benchmarks", f"{name}.csv"), dtype={"seriesuid": str})


def test_every_table_holds_what_froc_says(run):
    scores = read(run, "froc").set_index(["benchmark", "excluded", "strategy"])
    assert len(scores) == len(DATASETS) * 2 * len(STRATEGIES)
    for dataset in DATASETS:
        data, table = scene(dataset)
        for name in STRATEGIES:
            marks = read(run, f"marks/{dataset}/{name}")
            assert np.allclose(marks["probability"], confidence_of(name, table))
            assert list(marks) == ["seriesuid", "coordX", "coordY", "coordZ", "probability", "uncertainty"]
            for rule, excluded in (("dropped", data.excluded), ("counted", None)):
                expected = froc(marks, data.annotations, data.uids, excluded, bootstraps=0)
                row = scores.loc[dataset, rule, name]
                assert row["cpm"] == pytest.approx(expected.cpm, abs=1e-5)
                assert row["fp_0.5"] == pytest.approx(expected.sensitivity[0.5], abs=1e-5)
                assert row["lower"] <= row["cpm"] <= row["upper"]
    counted, dropped = (read(run, "froc").query("benchmark == 'nlst' and excluded == @rule")["cpm"] for rule in ("counted", "dropped"))
    assert (counted.to_numpy() < dropped.to_numpy()).any()
    curves = read(run, "curves").query("benchmark == 'nlst' and strategy == 'control'")
    assert curves[["fp_per_scan", "sensitivity"]].iloc[0].tolist() == [0, 0]
    assert curves["sensitivity"].iloc[-1] == 1


def test_types_are_scored_with_the_others_excluded(run):
    by_type = read(run, "by_type").query("benchmark == 'nlst'").set_index(["type", "strategy"])
    assert set(by_type.index.get_level_values("type")) == {"solid", "ground_glass", "part_solid", "subsolid"}
    assert by_type["nodules"].loc[:, "control"].to_dict() == {"ground_glass": 6, "part_solid": 6, "solid": 12, "subsolid": 12}
    data, table = scene("nlst")
    rare = data.annotations["coordX"].isin([200, 300])
    marks = table.assign(probability=confidence_of("beta+syn", table))
    off = table["coordX"].isin([0, 100, 500])  # on solid nodules and excluded findings
    expected = froc(marks[~off], data.annotations[rare], data.uids, bootstraps=0).cpm
    assert by_type["cpm"]["subsolid", "beta+syn"] == pytest.approx(expected, abs=1e-5)


def test_differences_are_those_of_the_scores(run):
    cpm = read(run, "froc").query("excluded == 'dropped'").set_index(["benchmark", "strategy"])["cpm"]
    differences = read(run, "differences").set_index(["subset", "measure", "benchmark", "a", "b"])
    assert len(differences) == 2 * 2 * 3 * len(PAIRS) and not differences.index.has_duplicates
    for a, b in PAIRS:
        each = [cpm[name, a] - cpm[name, b] for name in BENCHMARKS]
        both = differences.loc["all", "cpm", "both", a, b]
        assert differences.loc["all", "cpm", "nlst", a, b]["difference"] == pytest.approx(each[1], abs=1e-5)
        assert both["difference"] == pytest.approx(np.mean(each), abs=1e-5)
        assert both["lower"] <= both["lower90"] <= both["upper90"] <= both["upper"]
    gain = differences.loc["subsolid", "cpm", "both", "beta+syn", "control"]
    assert gain["lower"] > 0  # made so


def test_no_claim_is_judged_on_what_is_beyond_the_paper():
    pairs = PAIRS
    assert {(a, b) for a, b in pairs if set(BEYOND) & {a, b}} == {
        ("beta+online", other) for other in ("baseline-beta-finetune", "control", "beta+perturb")
    }
    others = {b for a, b in pairs if a == "beta+syn"}  # B5: best of all
    assert others == set(STRATEGIES) - {"beta+syn", "control-ce", "control-beta", *BEYOND, *FURTHER}


def test_sureness_leaves_out_where_there_is_no_truth(run):
    table = read(run, "calibration").set_index(["dataset", "strategy"])
    assert set(table.index) == {(name, strategy) for name in ("validation", "benchmarks") for strategy in STRATEGIES}
    for dataset, parts in (("validation", ["validation"]), ("benchmarks", BENCHMARKS)):
        scenes = pd.concat([scene(name)[1].assign(of=name) for name in parts], ignore_index=True)
        truth = truth_of(scenes)
        for strategy in ("baseline-ce", "beta+online"):
            confidence = np.concatenate([confidence_of(strategy, scene(name)[1]) for name in parts])[truth >= 0]
            nodule = truth[truth >= 0] == 1
            wrong, row = (confidence > 0.5) != nodule, table.loc[dataset, strategy]
            assert row[["n", "nodules", "wrong"]].tolist() == [len(nodule), nodule.sum(), wrong.sum()]
            assert row["error_auroc"] == pytest.approx(roc_auc_score(wrong, 1 - confidence), abs=1e-5)
            bins = read(run, "reliability").query("dataset == @dataset and strategy == @strategy")
            assert row["ece"] == pytest.approx((bins["n"] * (bins["confidence"] - bins["positive"]).abs()).sum() / len(nodule), abs=1e-4)
            parts_of = read(run, "uncertainty").query("dataset == @dataset and strategy == @strategy")
            assert (parts_of["n"] * parts_of["wrong"]).sum() == pytest.approx(wrong.sum(), abs=0.01)


def test_low_minus_high_compares_the_ends_of_the_curve():
    gain = np.array([[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0] * 7])
    assert np.allclose(MEASURES["low-minus-high"](gain), [0.1, 0])
    assert np.allclose(MEASURES["cpm"](gain), [1 / 7, 0])


def test_table2_stands_beside_the_paper(run):
    table = read(run, "table2").set_index(["benchmark", "strategy"])
    assert len(table) == 2 * len(STRATEGIES) and not table.index.has_duplicates
    row = table.loc["nlst", "beta+syn"]
    assert (row["paper_cpm"], row["paper_fp_0.25"], row["paper_fp_0.25_implied"]) == (0.8789, 0.7444, 0.8076)
    assert row["updates"] == sum(10 + len(name) for name in ("baseline-ce", "baseline-beta-finetune", "beta+syn"))
    assert table["converged"].groupby("strategy").all().to_dict() == {
        strategy.label: name != "control" for name, strategy in STRATEGIES.items()
    }
    for name in ("control", *BEYOND, *FURTHER):
        assert table.loc["nlst", STRATEGIES[name].label][["paper_cpm", "paper_fp_8"]].isna().all()
    cpm = read(run, "froc").query("excluded == 'dropped' and benchmark == 'nlst' and strategy == 'beta+syn'")["cpm"].item()
    assert row["cpm"] == pytest.approx(cpm, abs=1e-4)


def test_implied_values_are_those_of_the_reading_notes():
    implied = printed_table2()["fp_0.25_implied"].tolist()
    assert np.allclose(implied[:7], [80.70, 86.09, 81.51, 85.76, 86.97, 83.88, 86.73])
    assert np.allclose(implied[7:], [70.62, 68.73, 72.15, 77.65, 80.76, 80.31, 80.64])


def test_scores_are_reproducible():
    data, table = scene("nlst")
    marks = {name: table.assign(probability=confidence_of(name, table)) for name in STRATEGIES}
    first, second = (
        score_strategies(marks, data.annotations, data.excluded, data.uids, bootstraps=20, seed=1)["all", "dropped"] for _ in range(2)
    )
    assert all(np.array_equal(first[name].samples, second[name].samples) for name in marks)


def test_misses_and_false_positives_are_those_at_one_false_positive_a_scan(run):
    misses, false = (read(run, name).set_index(["benchmark", "strategy"]) for name in ("misses", "false_positives"))
    assert set(misses.index) == {(name, strategy) for name in (*BENCHMARKS, "both") for strategy in STUDIED}
    for strategy in STUDIED:
        for dataset in BENCHMARKS:
            data, table = scene(dataset)
            marks = table.assign(probability=confidence_of(strategy, table))
            curve = froc(marks, data.annotations, data.uids, data.excluded, bootstraps=0).curve
            whole = misses.loc[dataset, strategy].query("type == 'all' and size == 'all' and attachment == 'all'")
            assert 1 - whole["share"].item() == pytest.approx(curve.loc[curve["fp_per_scan"] <= 1, "sensitivity"].max(), abs=1e-5)
            above = marks[marks["probability"] > whole["threshold"].item() + 1e-6]
            expected = above["coordX"].map(ELSEWHERE).value_counts().to_dict()
            assert false.loc[dataset, strategy].set_index("on")["count"].to_dict() == expected
            assert sum(expected.values()) == 6
        for table, keys, count in ((misses, ["type", "size", "attachment"], "missed"), (false, ["on"], "count")):
            each, both = (table.loc[list(names)].xs(strategy, level=1) for names in (BENCHMARKS, ["both"]))
            assert each.groupby(keys)[count].sum().to_dict() == both.set_index(keys)[count].to_dict()
            assert both["threshold"].isna().all() and each["threshold"].notna().all()
