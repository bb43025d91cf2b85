"""Table II: the stage's tables from fake networks on made-up scans, against scores worked out apart."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from lungadv import benchmarks, ct, runs
from lungadv.froc import froc

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
        return ct.Scan(hu, (10, 10, 10), (0, -20, -20), np.eye(3), uid)

    def table(rows, *more):
        return pd.DataFrame(list(rows), columns=[*COLUMNS[:5], *more]).astype(dict.fromkeys(COLUMNS[1:5], float))

    annotations, excluded = (table(rows, "type", "attachment") for rows in (nodules, excluded))
    tables = {"annotations": annotations, "excluded": excluded, "mimics": table(mimics, "kind")}
    return SimpleNamespace(uids=uids, scan=scan, lungs=lambda uid: lungs, read=read, **tables)


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
        patch.setitem(runs.STAGES, "benchmarks", runs.Stage("lungadv.benchmarks:build", 1))
        patch.setattr(benchmarks.datasets, "load", lambda run: SimpleNamespace(of=lambda dataset: scene(dataset)[0]))
        patch.setattr(benchmarks.fpr, "load_patches", load_patches)
        patch.setattr(benchmarks.fpr, "load_network", lambda run, name: name)
        patch.setattr(benchmarks.fpr, "predict", predict)
        run = runs.open_run("tiny", 0)
        for name in runs.STRATEGIES:
            write_validation(run, name)
        write_labels(run)
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


def test_no_claim_is_judged_on_what_is_beyond_the_paper():
    pairs = benchmarks.PAIRS
    assert {(a, b) for a, b in pairs if set(runs.BEYOND) & {a, b}} == {
        ("beta+online", other) for other in ("baseline-beta-finetune", "control", "beta+perturb")
    }
    others = {b for a, b in pairs if a == "beta+syn"}  # B5: best of all
    assert others == set(runs.STRATEGIES) - {"beta+syn", "control-ce", "control-beta", "beta+online"}


def simulated(count=20_000, seed=0):
    """Confidences, and for each a uniform draw: a nodule with probability q(p) is one whose draw is below q(p)."""
    rng = np.random.default_rng(seed)
    return rng.random(count), rng.random(count)


def test_a_predictor_that_says_what_it_knows_has_no_calibration_error():
    p, draw = simulated()
    bins = benchmarks.reliability(p, draw < p)
    assert benchmarks.calibration_error(bins) < 0.015 and bins["n"].sum() == len(p) and len(bins) == 10


@pytest.mark.parametrize(
    "truth, expected",
    [
        (lambda p: p**2, 1 / 6),  # the integral of p - p^2
        (lambda p: p / 2, 1 / 4),
        (lambda p: 0.5 + 0 * p, 1 / 4),  # knows nothing
        (lambda p: 1 - p, 1 / 2),
    ],
)
def test_the_calibration_error_of_a_known_bias_is_its_closed_form(truth, expected):
    p, draw = simulated(200_000)
    assert benchmarks.calibration_error(benchmarks.reliability(p, draw < truth(p))) == pytest.approx(expected, abs=0.005)


def test_reliability_is_that_of_scikit_learn():
    p, draw = simulated(500, 3)
    p = np.clip(p * 1.5, 0, 1)  # many of exactly 1; none in between may be lost
    positive, confidence = calibration_curve(draw < p, p, n_bins=10)
    bins = benchmarks.reliability(p, draw < p)
    np.testing.assert_allclose(bins[["positive", "confidence"]].to_numpy(), np.c_[positive, confidence])
    assert (bins["confidence"].between(bins["low"], bins["high"])).all()
    few = benchmarks.reliability([0.05, 0.95, 0.97], [False, True, False])
    assert few["n"].tolist() == [1, 2] and few["positive"].tolist() == [0, 0.5]


def test_errors_by_uncertainty_by_hand():
    uncertainty = np.arange(40)[::-1] / 40
    table = benchmarks.error_by_uncertainty(uncertainty, uncertainty >= 0.9)
    assert table["n"].tolist() == [4] * 10 and table["wrong"].tolist() == [0] * 9 + [1]
    assert table["uncertainty"].tolist() == pytest.approx(np.arange(1.5, 40, 4) / 40)
    same = benchmarks.error_by_uncertainty(np.zeros(25), np.arange(25) < 5)  # all tied: still parts of like size
    assert same["n"].between(2, 3).all() and same["wrong"] @ same["n"] == 5


def test_sureness_leaves_out_where_there_is_no_truth(run):
    table = read(run, "calibration").set_index(["dataset", "strategy"])
    assert set(table.index) == {(name, strategy) for name in ("validation", "benchmarks") for strategy in runs.STRATEGIES}
    for dataset, parts in (("validation", ["validation"]), ("benchmarks", benchmarks.BENCHMARKS)):
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
    assert np.allclose(benchmarks.MEASURES["low-minus-high"](gain), [0.1, 0])
    assert np.allclose(benchmarks.MEASURES["cpm"](gain), [1 / 7, 0])


def test_table2_stands_beside_the_paper(run):
    table = read(run, "table2").set_index(["benchmark", "strategy"])
    assert len(table) == 2 * len(runs.STRATEGIES) and not table.index.has_duplicates
    row = table.loc["nlst", "beta+syn"]
    assert (row["paper_cpm"], row["paper_fp_0.25"], row["paper_fp_0.25_implied"]) == (0.8789, 0.7444, 0.8076)
    for name in ("control", *runs.BEYOND):
        assert table.loc["nlst", runs.STRATEGIES[name]][["paper_cpm", "paper_fp_8"]].isna().all()
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


def marks_of(*rows):
    """Marks of one detector from rows of seriesuid, coordX, probability."""
    table = pd.DataFrame(rows, columns=["seriesuid", "coordX", "probability"])
    return table.assign(coordY=0.0, coordZ=0.0, uncertainty=0.0).astype({"coordX": float})[benchmarks.MARKS]


def result_of(data, *rows):
    return benchmarks.outcomes({"baseline-ce": marks_of(*rows)}, data)["baseline-ce"]


def test_misses_and_false_positives_are_those_at_one_false_positive_a_scan(run):
    misses, false = (read(run, name).set_index(["benchmark", "strategy"]) for name in ("misses", "false_positives"))
    assert set(misses.index) == {(name, strategy) for name in (*benchmarks.BENCHMARKS, "both") for strategy in benchmarks.STUDIED}
    for strategy in benchmarks.STUDIED:
        for dataset in benchmarks.BENCHMARKS:
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
            each, both = (table.loc[list(names)].xs(strategy, level=1) for names in (benchmarks.BENCHMARKS, ["both"]))
            assert each.groupby(keys)[count].sum().to_dict() == both.set_index(keys)[count].to_dict()
            assert both["threshold"].isna().all() and each["threshold"].notna().all()


def test_a_nodule_is_found_by_any_mark_inside_its_radius_above_the_threshold():
    data = corridor(
        ["a", "b"],
        [["a", x, 0, 0, 8, kind, ""] for x, kind in ((0, "solid"), (100, "solid"), (200, "part_solid"), (300, "ground_glass"))],
        excluded=[["a", 400, 0, 0, 5, "solid", ""]],
    )
    result = result_of(
        data,
        *(("a", 1, 0.9), ("a", 3, 0.8)),  # two in one nodule
        ("a", 104, 0.9),  # not inside: on its rim
        ("a", 203, 0.6),
        ("a", 300, 0.3),  # as sure as the first false positive too many
        ("a", 400, 0.9),  # on an excluded finding
        *(("b", 700, 0.7), ("b", 800, 0.3), ("b", 800, 0.2)),
    )
    assert result.threshold == 0.3 and result.scans == 2
    assert result.nodules["found"].tolist() == [True, False, True, False]
    assert result.false["coordX"].tolist() == [104, 700]
    assert result_of(data, ("a", 0, 0.1), ("b", 700, 0.2)).threshold == -np.inf  # all marks count: they are so few
    table = benchmarks.misses(result).set_index(["type", "size", "attachment"])
    assert table.loc["solid", "8-12", "all"][["nodules", "missed", "share"]].tolist() == [2, 1, 0.5]
    assert table.loc["part_solid", "all", "all"]["missed"] == 0 and table.loc["all", "8-12", "all"]["missed"] == 2
    assert len(table) == 1 + 3 + 1 + 3  # all, types, sizes, types by size: no attachment is known


def test_misses_by_size_and_attachment_with_their_intervals():
    sizes = (6, 7.99, 8, 11.9, 12, 19.9, 20, 35)
    attachment = ["isolated", "juxta-vascular", "juxta-pleural", "perifissural", "isolated", "isolated", "", "isolated"]
    data = corridor(["a"], [["a", 100 * k, 0, 0, size, "solid", attachment[k]] for k, size in enumerate(sizes)])
    table = benchmarks.misses(result_of(data, ("a", 0, 0.9), ("a", 300, 0.9))).set_index(["type", "size", "attachment"])
    by_size = table.loc["all"].xs("all", level="attachment")
    assert by_size["nodules"].to_dict() == {"all": 8, "6-8": 2, "8-12": 2, "12-20": 2, "20+": 2}
    assert by_size["missed"].to_dict() == {"all": 6, "6-8": 1, "8-12": 1, "12-20": 2, "20+": 2}
    attached = table.sort_index().loc["all", "all"].drop("all")
    assert attached["missed"].to_dict() == {"isolated": 3, "juxta-pleural": 1, "juxta-vascular": 1, "perifissural": 0}
    z2 = 1.959964**2  # all of n missed: the lower end is n / (n + z^2); the interval of a half is symmetric
    assert by_size.loc["20+", ["lower", "upper"]].tolist() == pytest.approx([2 / (2 + z2), 1])
    half = 0.5 * np.sqrt(z2 / (2 + z2))
    assert by_size.loc["6-8", ["lower", "upper"]].tolist() == pytest.approx([0.5 - half, 0.5 + half])


def test_a_false_positive_lies_on_the_nearest_mimic_or_on_what_the_scan_shows():
    mimics = [["a", 600, 0, 0, 5, "bifurcation"], ["a", 606, 0, 0, 20, "scar"], ["a", 700, 5, 0, 5, ""], ["b", 800, 0, 0, 50, "scar"]]
    data = corridor(["a", "b", "c"], [["c", 0, 0, 0, 8, "solid", ""]], mimics=mimics)
    expected = {
        597: "bifurcation",  # within 4 mm, though its radius is 2.5; the scar's is 10, but it is farther
        604.5: "scar",  # nearer, and within its radius
        594: "parenchyma or noise",
        700: "vessel",  # a mimic of no known kind
        800: "parenchyma or noise",  # that mimic is in another scan
        853: "pleura or mediastinum",  # the lungs end at 855
        849: "parenchyma or noise",
        900: "pleura or mediastinum",
    }
    marks = marks_of(*(("a", x, 0.5) for x in expected), ("b", 820, 0.5)).assign(scan=[0] * len(expected) + [1])
    assert benchmarks.lies_on(marks, data).tolist() == [*expected.values(), "scar"]
    assert data.read == ["a"]  # once, and none whose marks all lie on mimics


def test_balls_keep_their_radius_in_thick_turned_slices():
    turned = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
    hu = np.arange(20, dtype=np.int16)[:, None, None] * np.ones((1, 60, 60), np.int16)  # the slice's number
    scan = ct.Scan(hu, (1, 1, 5), (0, 0, 0), turned, "thick")  # slices along the world's x, 5 mm apart
    values = benchmarks.in_balls(hu, scan, np.array([[50.0, 30, 30], [52.4, 30, 30], [-40, 30, 30]]), 2.0)
    assert set(values[0]) == {10} and set(values[1]) == {10, 11} and set(values[2]) == {0}  # outside: the nearest voxel


def test_no_false_positive_leaves_an_empty_table():
    data = corridor(["a"], [["a", 0, 0, 0, 8, "solid", ""]])
    result = result_of(data, ("a", 0, 0.9))
    assert result.false.empty and result.threshold == -np.inf and data.read == []
    assert list(benchmarks.false_positives(result)) == ["on", "count", "per_scan", "share"]
    results = {name: dict.fromkeys(benchmarks.STUDIED, result) for name in benchmarks.BENCHMARKS}
    tables = benchmarks.difficulty(results)
    assert tables["false_positives"].empty and (tables["misses"]["share"] == 0).all()
    assert tables["misses"].query("benchmark == 'both' and type == 'all' and size == 'all'")["nodules"].tolist() == [2, 2]
