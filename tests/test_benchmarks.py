"""Table II: the stage's tables from fake networks on made-up scans, against scores worked out apart."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv import benchmarks, runs
from lungadv.froc import froc

DATASETS = ("validation", "in-house", "nlst")
TYPES = ["solid", "solid", "ground_glass", "part_solid"]


def scene(dataset, scans=6):
    """Per scan a nodule of each type, an excluded finding and four candidates elsewhere: (data, candidate table)."""
    uids = [f"{dataset}.{k}" for k in range(scans)]
    rows = [[uid, 100.0 * k, 0.0, 0.0, 8.0, kind] for uid in uids for k, kind in enumerate(TYPES)]
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm", "type"]
    annotations = pd.DataFrame(rows, columns=columns)
    excluded = pd.DataFrame([[uid, 500.0, 0.0, 0.0, 4.0, "solid"] for uid in uids], columns=columns)
    places = [[uid, x, 0.0, 0.0] for uid in uids for x in (0, 100, 200, 300, 500, 600, 700, 800, 900)]
    table = pd.DataFrame(places, columns=columns[:4]).astype({"coordX": float})
    return SimpleNamespace(annotations=annotations, excluded=excluded, uids=uids), table


def confidence_of(name, table):
    """A made-up network: the later in STRATEGIES, the surer of nodules; beta+syn is the only one sure of the rare types."""
    skill = list(runs.STRATEGIES).index(name)
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
    (folder / "provenance.json").write_text("{}")


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
        patch.setitem(runs.STAGES, "benchmarks", runs.Stage("lungadv.benchmarks:build", 1))
        patch.setattr(benchmarks.datasets, "load", lambda run: SimpleNamespace(of=lambda dataset: scene(dataset)[0]))
        patch.setattr(benchmarks.fpr, "load_patches", load_patches)
        patch.setattr(benchmarks.fpr, "load_network", lambda run, name: name)
        patch.setattr(benchmarks.fpr, "predict", predict)
        run = runs.open_run("tiny", 0)
        for name in runs.STRATEGIES:
            write_validation(run, name)
        benchmarks.build(run)
        return run


def read(run, name):
    return pd.read_csv(run.path("benchmarks", f"{name}.csv"), dtype={"seriesuid": str})


def test_every_table_holds_what_froc_says(run):
    scores = read(run, "froc").set_index(["benchmark", "excluded", "strategy"])
    assert len(scores) == len(DATASETS) * 2 * len(runs.STRATEGIES)
    for dataset in DATASETS:
        data, table = scene(dataset)
        for name in runs.STRATEGIES:
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
    assert len(differences) == 2 * 2 * 3 * len(benchmarks.PAIRS) and not differences.index.has_duplicates
    for a, b in benchmarks.PAIRS:
        each = [cpm[name, a] - cpm[name, b] for name in benchmarks.BENCHMARKS]
        both = differences.loc["all", "cpm", "both", a, b]
        assert differences.loc["all", "cpm", "nlst", a, b]["difference"] == pytest.approx(each[1], abs=1e-5)
        assert both["difference"] == pytest.approx(np.mean(each), abs=1e-5)
        assert both["lower"] <= both["lower90"] <= both["upper90"] <= both["upper"]
    gain = differences.loc["subsolid", "cpm", "both", "beta+syn", "control"]
    assert gain["lower"] > 0  # made so


def test_low_minus_high_compares_the_ends_of_the_curve():
    gain = np.array([[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0] * 7])
    assert np.allclose(benchmarks.MEASURES["low-minus-high"](gain), [0.1, 0])
    assert np.allclose(benchmarks.MEASURES["cpm"](gain), [1 / 7, 0])


def test_table2_stands_beside_the_paper(run):
    table = read(run, "table2").set_index(["benchmark", "strategy"])
    assert len(table) == 2 * len(runs.STRATEGIES) and not table.index.has_duplicates
    row = table.loc["nlst", "beta+syn"]
    assert (row["paper_cpm"], row["paper_fp_0.25"], row["paper_fp_0.25_implied"]) == (0.8789, 0.7444, 0.8076)
    assert table.loc["nlst", runs.STRATEGIES["control"]][["paper_cpm", "paper_fp_8"]].isna().all()
    cpm = read(run, "froc").query("excluded == 'dropped' and benchmark == 'nlst' and strategy == 'beta+syn'")["cpm"].item()
    assert row["cpm"] == pytest.approx(cpm, abs=1e-4)


def test_implied_values_are_those_of_the_reading_notes():
    implied = benchmarks.printed_table2()["fp_0.25_implied"].tolist()
    assert np.allclose(implied[:7], [80.70, 86.09, 81.51, 85.76, 86.97, 83.88, 86.73])
    assert np.allclose(implied[7:], [70.62, 68.73, 72.15, 77.65, 80.76, 80.31, 80.64])


def test_scores_are_reproducible():
    data, table = scene("nlst")
    marks = {name: table.assign(probability=confidence_of(name, table)) for name in runs.STRATEGIES}
    first, second = (
        benchmarks.evaluate(marks, data.annotations, data.excluded, data.uids, bootstraps=20, seed=1)["all", "dropped"] for _ in range(2)
    )
    assert all(np.array_equal(first[name].samples, second[name].samples) for name in marks)
