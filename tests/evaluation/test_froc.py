"""FROC against a slow plain-Python version of the challenge's procedure, and each edge case with its stated answer."""

import json
import math
import random
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from lungadv.evaluation.froc import FP_GRID, OPERATING_POINTS, Events, compare_froc, compare_scores, froc, froc_by_group, froc_table
from lungadv.evaluation.marks import FINDING_COLUMNS, MARK_COLUMNS, size_masks, type_masks
from lungadv.utils.statistics import resample_weights


def marks_of(*rows):
    return pd.DataFrame(rows, columns=MARK_COLUMNS)


def findings(*rows):
    return pd.DataFrame(rows, columns=FINDING_COLUMNS)


def official(marks, annotations, scans, excluded, cap=100):
    """The official procedure in loops: (false positives per scan, sensitivity) of the curve and the sensitivity at the points."""
    true, false, total = [], [], 0
    for scan in scans:
        candidates = [m for m in marks.itertuples() if m.seriesuid == scan]
        if len(candidates) > cap:
            bar = sorted((m.probability for m in candidates), reverse=True)[cap]
            candidates = [m for m in candidates if m.probability > bar]
        remaining = {m.Index: m for m in candidates}
        for table, included in ((annotations, True), (excluded, False)):
            for finding in table.itertuples():
                if finding.seriesuid != scan:
                    continue
                total += included
                diameter = 10.0 if finding.diameter_mm < 0 else finding.diameter_mm
                hits = []
                for m in candidates:
                    squared = (m.coordX - finding.coordX) ** 2 + (m.coordY - finding.coordY) ** 2 + (m.coordZ - finding.coordZ) ** 2
                    if squared < (diameter / 2) ** 2:
                        hits.append(m.probability)
                        remaining.pop(m.Index, None)
                if included and hits:
                    true.append(max(hits))
        false += [m.probability for m in remaining.values()]
    fps, sens = [0.0], [0.0]
    for bar in sorted(set(true + false), reverse=True):
        fps.append(sum(p >= bar for p in false) / len(scans))
        sens.append(sum(p >= bar for p in true) / total)
    return fps, sens, [interpolate(fps, sens, x) for x in OPERATING_POINTS], len(false)


def interpolate(xs, ys, x):
    if x >= xs[-1]:
        return ys[-1]
    k = max(i for i in range(len(xs)) if xs[i] <= x)
    return ys[k] + (ys[k + 1] - ys[k]) * (x - xs[k]) / (xs[k + 1] - xs[k])


def random_case(seed):
    """A crowded little world on a coarse grid, so that ties, radii met exactly, shared marks and double hits all occur."""
    draw = random.Random(seed)
    scans = [f"s{k}" for k in range(draw.randint(1, 5))]
    place = lambda: [draw.choice(scans + ["elsewhere"]), draw.randint(0, 12), draw.randint(0, 6), draw.randint(0, 6)]  # noqa: E731
    found = findings(*[place() + [draw.choice([2, 4, 5, 6, -1])] for _ in range(draw.randint(1, 8))], [scans[0], 1, 2, 3, 4])
    excluded = findings(*[place() + [draw.choice([-1, 3, 4])] for _ in range(draw.randint(0, 8))])
    marks = marks_of(*[place() + [draw.choice([0, 0.1, 0.2, 0.5, 0.5, 0.7, 0.9, 1])] for _ in range(draw.randint(0, 60))])
    return marks, found, scans, excluded, draw.choice([3, 5, 8, 100])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(60))
def test_equals_the_official_procedure(seed):
    marks, found, scans, excluded, cap = random_case(seed)
    fps, sens, points, false = official(marks, found, scans, excluded, cap)
    score = froc(marks, found, scans, excluded, max_per_scan=cap, bootstraps=0)
    assert np.allclose(score.curve.fp_per_scan, fps)
    assert np.allclose(score.curve.sensitivity, sens)
    assert np.allclose(list(score.sensitivity.values()), points)
    assert score.cpm == pytest.approx(sum(points) / 7)
    assert score.counts["false_positives"] == false


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(60, 80))
def test_equals_a_roc_curve_stretched_to_false_positives_a_scan(seed):
    """The challenge's own way to the curve: the ROC of hits against false marks, its axes scaled. Nothing here is shared with `froc`."""
    marks, found, scans, excluded, cap = random_case(seed)
    kept = marks[marks["seriesuid"].isin(scans)]
    bar = kept["seriesuid"].map(kept.groupby("seriesuid")["probability"].apply(lambda p: p.nlargest(cap + 1).iloc[cap:].max()))
    kept = kept[~(kept["probability"] <= bar.astype(float))]
    inside = []
    for table in (found, excluded):
        pairs = kept.reset_index().merge(table, on="seriesuid", suffixes=("", "_f")).merge(pd.DataFrame({"seriesuid": scans}))
        radius = pairs["diameter_mm"].where(pairs["diameter_mm"] >= 0, 10) / 2
        offset = [(pairs[f"coord{axis}"] - pairs[f"coord{axis}_f"]) ** 2 for axis in "XYZ"]
        inside.append(pairs[sum(offset) < radius**2])
    best = inside[0].groupby(["seriesuid", "coordX_f", "coordY_f", "coordZ_f", "diameter_mm"])["probability"].max()
    nodules = found[found["seriesuid"].isin(scans)]
    copies = nodules.groupby(list(FINDING_COLUMNS)).size().rename_axis(best.index.names)
    true = np.repeat(best.to_numpy(), copies.reindex(best.index).to_numpy())
    false = kept.drop(index=np.union1d(inside[0]["index"], inside[1]["index"]))["probability"].to_numpy()
    score = froc(marks, found, scans, excluded, max_per_scan=cap, bootstraps=0)
    assert (score.counts["nodules_found"], score.counts["false_positives"]) == (len(true), len(false))
    if len(true) and len(false):
        x, y, _ = roc_curve(np.r_[np.ones(len(true)), np.zeros(len(false))], np.r_[true, false])
        expected = np.interp(OPERATING_POINTS, x * len(false) / len(scans), y * len(true) / len(nodules))
        assert np.allclose(list(score.sensitivity.values()), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(15))
def test_bootstrap_equals_scoring_the_drawn_scans(seed):
    """Count-weighting must equal a real resample: scans drawn twice are copied under new names."""
    marks, found, scans, excluded, cap = random_case(seed)
    found, excluded = found[found.seriesuid.isin(scans)], excluded[excluded.seriesuid.isin(scans)]
    score = froc(marks, found, scans, excluded, max_per_scan=cap, bootstraps=8, seed=seed)
    for weights, sample in zip(resample_weights(len(scans), 8, seed), score.samples, strict=True):
        copies = [(scan, f"{scan}#{k}") for scan, count in zip(scans, weights, strict=True) for k in range(count)]
        drawn = [
            pd.concat([table[table.seriesuid == scan].assign(seriesuid=name) for scan, name in copies], ignore_index=True)
            for table in (marks, found, excluded)
        ]
        if len(drawn[1]):
            expected = official(drawn[0], drawn[1], [name for _, name in copies], drawn[2], cap)[2]
            assert np.allclose(sample, expected)
        else:
            assert np.isnan(sample).all()


def test_blocks_do_not_change_the_samples():
    draw = np.random.default_rng(0)
    probability = np.sort(draw.random(200).round(2))[::-1]
    events = Events(probability, draw.integers(0, 9, 200), draw.random(200) < 0.3, np.full(9, 10))
    weights = resample_weights(9, 50, 0)
    assert np.array_equal(events.sensitivity(weights), events.sensitivity(weights, block=1000))


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_corners_alone_give_the_same_sensitivities(decimals):
    draw = np.random.default_rng(1)
    probability = np.sort(draw.random(3000).round(decimals))[::-1]
    events = Events(probability, draw.integers(0, 12, 3000), draw.random(3000) < 0.1, np.full(12, 40))
    weights = resample_weights(12, 30, 0)
    for points in (OPERATING_POINTS, FP_GRID, (0, 0.001, 200, 1000)):
        whole = [np.interp(points, *curve) for curve in zip(*events.curves(weights), strict=True)]
        assert np.array_equal(events.sensitivity(weights, points), whole)
    assert decimals == 1 or events.curves(weights, corners=True)[0].shape[1] < events.curves(weights)[0].shape[1]


ONE = findings(["a", 0, 0, 0, 10])


def cpm(marks, annotations=ONE, scans=("a",), **more):
    return froc(marks, annotations, scans, bootstraps=0, **more)


# Each edge case on which public implementations disagree, and the answer here.


@pytest.mark.parametrize("x, found", [(5, 0), (4.999, 1), (0, 1)])
def test_a_mark_exactly_on_the_radius_misses(x, found):
    assert cpm(marks_of(["a", x, 0, 0, 0.5])).counts["nodules_found"] == found


@pytest.mark.parametrize("x, false", [(4.9, 0), (5, 1)])
def test_diameter_below_zero_stands_for_10_mm(x, false):
    marks = marks_of(["a", 40 + x, 0, 0, 0.5])
    assert cpm(marks, excluded=findings(["a", 40, 0, 0, -1])).counts["false_positives"] == false


def test_one_mark_in_two_nodules_finds_both():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5]), findings(["a", 1, 0, 0, 10], ["a", -1, 0, 0, 10]))
    assert (score.cpm, score.counts["nodules_found"], score.counts["duplicates"]) == (1, 2, 0)


def test_two_marks_in_one_nodule_count_once_with_the_higher_probability():
    marks = marks_of(["a", 0, 0, 0, 0.9], ["a", 1, 0, 0, 0.1], ["a", 50, 0, 0, 0.5])
    score = cpm(marks)
    assert score.cpm == 1  # found above the false mark
    assert (score.counts["duplicates"], score.counts["false_positives"]) == (1, 1)


def test_a_mark_on_a_nodule_and_an_excluded_finding_is_a_hit():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5]), excluded=findings(["a", 0, 0, 0, -1]))
    assert (score.cpm, score.counts["dropped_on_excluded"]) == (1, 0)


def test_ties_at_the_cap_leave_together():
    marks = marks_of(["a", 50, 0, 0, 0.9], ["a", 0, 0, 0, 0.5], ["a", 60, 0, 0, 0.5])
    assert cpm(marks, max_per_scan=2).counts == {
        "scans": 1, "scans_without_marks": 0, "marks_given": 3, "unknown_scan": 0, "over_cap": 2, "marks": 1, "nodules_unknown_scan": 0,
        "excluded_unknown_scan": 0, "nodules": 1, "nodules_found": 0, "on_nodules": 0, "duplicates": 0, "dropped_on_excluded": 0,
        "false_positives": 1,
    }  # fmt: skip
    assert cpm(marks, max_per_scan=3).counts["marks"] == 3
    assert cpm(marks_of(*[["a", 50, 0, 0, 0.5]] * 101)).counts["marks"] == 0  # all equal: nothing is above the 101st


def test_the_cap_comes_before_marks_on_excluded_findings_are_dropped():
    marks = marks_of(["a", 80, 0, 0, 0.9], ["a", 81, 0, 0, 0.8], ["a", 0, 0, 0, 0.7])
    assert cpm(marks, excluded=findings(["a", 80, 0, 0, -1]), max_per_scan=2).counts["nodules_found"] == 0


def test_ties_between_true_and_false_share_one_step():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5], ["a", 50, 0, 0, 0.5]))
    assert score.curve.to_numpy().tolist() == [[0, 0], [1, 1]]
    assert score.sensitivity[0.125] == 0.125  # on the diagonal


def test_no_false_positive_holds_the_curve_level():
    assert cpm(marks_of(["a", 0, 0, 0, 0.5])).cpm == 1


def test_no_mark_gives_zero():
    with pytest.warns(UserWarning, match="no mark at all"):
        score = froc(marks_of(), ONE, ["a"], bootstraps=20)
    assert (score.cpm, score.cpm_interval) == (0, (0, 0))


def test_no_hit_gives_zero():
    assert cpm(marks_of(["a", 50, 0, 0, 0.5])).cpm == 0


def test_no_nodule_gives_nan_and_says_so():
    with pytest.warns(UserWarning, match="no nodule"):
        score = froc(marks_of(["a", 50, 0, 0, 0.5]), findings(), ["a"], bootstraps=5)
    assert math.isnan(score.cpm)
    assert all(map(math.isnan, score.cpm_interval))
    assert score.to_dict()["cpm"] is None


def test_no_nodule_and_no_mark():
    with pytest.warns(UserWarning, match="no nodule"):
        assert math.isnan(cpm(marks_of(), findings()).cpm)


def test_probability_zero_on_a_nodule_is_a_hit():
    assert cpm(marks_of(["a", 0, 0, 0, 0.0])).cpm == 1


def test_negative_probabilities_such_as_logits_are_scores_like_others():
    assert cpm(marks_of(["a", 0, 0, 0, -3.0], ["a", 50, 0, 0, -5.0])).cpm == 1


def test_scans_without_marks_and_without_nodules_count_in_the_denominator():
    marks = marks_of(["a", 50, 0, 0, 0.9], ["a", 0, 0, 0, 0.5])
    assert cpm(marks).curve.fp_per_scan.max() == 1
    assert cpm(marks, scans=["a", "b", "c", "d"]).curve.fp_per_scan.max() == 0.25


def test_missed_nodules_stay_in_the_denominator():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5]), findings(["a", 0, 0, 0, 10], ["a", 50, 0, 0, 10]))
    assert score.cpm == 0.5
    assert len(score.curve) == 2


def test_operating_points_beyond_the_curve_are_clamped():
    score = cpm(marks_of(["a", 50, 0, 0, 0.9], ["a", 0, 0, 0, 0.5]))
    assert score.sensitivity[0.5] == 0
    assert score.sensitivity[1] == score.sensitivity[8] == 1


def test_the_curve_is_interpolated_between_its_points():
    marks = marks_of(["a", 50, 0, 0, 0.9], ["a", 0, 0, 0, 0.5], ["a", 60, 0, 0, 0.5])
    assert cpm(marks, scans=["a", "b", "c", "d"]).curve.to_numpy().tolist() == [[0, 0], [0.25, 0], [0.5, 1]]
    assert cpm(marks, scans=["a"]).sensitivity == {0.125: 0, 0.25: 0, 0.5: 0, 1: 0, 2: 1, 4: 1, 8: 1}
    assert cpm(marks, scans=list("abc")).sensitivity[0.5] == pytest.approx(0.5)  # half way from (1/3, 0) to (2/3, 1)


def test_duplicate_excluded_rows_change_nothing():
    marks = marks_of(["a", 80, 0, 0, 0.9], ["a", 0, 0, 0, 0.5])
    once = findings(["a", 80, 0, 0, -1])
    scores = [cpm(marks, excluded=table) for table in (once, pd.concat([once, once]))]
    assert scores[0].counts == scores[1].counts
    assert scores[0].counts["dropped_on_excluded"] == 1
    assert cpm(marks).cpm < scores[0].cpm  # without the list the mark is false


def test_a_nodule_listed_twice_counts_twice_as_in_the_challenge():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5]), pd.concat([ONE, ONE]))
    assert (score.counts["nodules"], score.counts["nodules_found"], score.cpm) == (2, 2, 1)


# Properties


PLACE = st.tuples(st.sampled_from(["a", "b", "c"]), *[st.integers(0, 6)] * 3)


WORLDS = st.tuples(
    st.lists(st.tuples(PLACE, st.integers(0, 9)), max_size=20),
    st.lists(st.tuples(PLACE, st.sampled_from([2, 4, 5, -1])), min_size=1, max_size=6),
    st.lists(st.tuples(PLACE, st.sampled_from([3, -1])), max_size=4),
)


FAR = 1000  # mm: from everything


def world(drawn):
    marks, nodules, excluded = ([[*place, last] for place, last in rows] for rows in drawn)
    return marks_of(*marks), findings(*nodules), ["a", "b", "c"], findings(*excluded)


def uncapped(*tables, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return froc(*tables, bootstraps=0, max_per_scan=10**6, **more)


def not_above(lower, upper):
    """At each place of the band."""
    return (lower.band["sensitivity"] <= upper.band["sensitivity"] + 1e-12).all() and lower.cpm <= upper.cpm + 1e-12


@settings(deadline=None, max_examples=25)
@given(WORLDS, st.randoms(use_true_random=False))
def test_curves_rise_and_no_order_of_rows_matters(drawn, random):
    marks, nodules, scans, excluded = world(drawn)
    score = uncapped(marks, nodules, scans, excluded)
    assert (score.curve.diff().dropna() >= 0).all(axis=None) and score.curve["sensitivity"].between(0, 1).all()
    assert score.band["sensitivity"].is_monotonic_increasing
    other = [table.sample(frac=1, random_state=random.randrange(2**31)) for table in (marks, nodules, excluded)]
    shuffled = uncapped(*other[:2], random.sample(scans, 3), other[2])
    assert shuffled.counts == score.counts and shuffled.curve.equals(score.curve)


@settings(deadline=None, max_examples=25)
@given(WORLDS, st.integers(0, 10), st.sampled_from("abc"))
def test_a_further_false_mark_never_raises_the_curve(drawn, probability, scan):
    marks, nodules, scans, excluded = world(drawn)
    more = pd.concat([marks, marks_of([scan, FAR, 0, 0, probability])], ignore_index=True)
    assert not_above(uncapped(more, nodules, scans, excluded), uncapped(marks, nodules, scans, excluded))


@settings(deadline=None, max_examples=25)
@given(WORLDS, st.integers(0, 10))
def test_a_further_hit_never_lowers_the_curve(drawn, probability):
    marks, nodules, scans, excluded = world(drawn)
    more = pd.concat([marks, marks_of([*nodules.iloc[0][:4], probability])], ignore_index=True)
    assert not_above(uncapped(marks, nodules, scans, excluded), uncapped(more, nodules, scans, excluded))


@settings(deadline=None, max_examples=25)
@given(WORLDS)
def test_only_the_order_of_probabilities_counts(drawn):
    marks, nodules, scans, excluded = world(drawn)
    squeezed = marks.assign(probability=np.exp(-marks["probability"].astype(float)) * -3)
    assert uncapped(squeezed, nodules, scans, excluded).curve.equals(uncapped(marks, nodules, scans, excluded).curve)


@settings(deadline=None, max_examples=25)
@given(WORLDS, st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_group_is_scored_with_the_other_nodules_excluded(drawn, chosen):
    marks, nodules, scans, excluded = world(drawn)
    chosen = np.array(chosen[: len(nodules)])
    score = froc_by_group(marks, nodules, scans, {"some": chosen, "all": chosen | True}, excluded, bootstraps=5)
    everything = uncapped(marks, nodules, scans, excluded)
    assert score["all"].curve.equals(everything.curve)
    apart = uncapped(marks, nodules[chosen], scans, pd.concat([excluded, nodules[~chosen]]))
    assert score["some"].curve.equals(apart.curve) and score["some"].counts["nodules"] == chosen.sum()
    assert score["some"].counts["false_positives"] == everything.counts["false_positives"]


# Groups


def test_groups_by_type_and_diameter_as_a_table():
    nodules = findings(["a", 0, 0, 0, 5.999], ["a", 50, 0, 0, 6], ["b", 0, 0, 0, 8], ["b", 50, 0, 0, 40], ["z", 0, 0, 0, 15])
    nodules["type"] = ["solid", "ground_glass", "solid", "solid", "solid"]
    marks = marks_of(["a", 50, 0, 0, 0.9], ["b", 50, 0, 0, 0.8], ["a", 90, 0, 0, 0.85])
    sizes = froc_table(froc_by_group(marks, nodules, ["a", "b"], size_masks(nodules), bootstraps=50)).set_index("group")
    assert sizes["nodules"].to_dict() == {"under 6": 1, "6-8": 1, "8-12": 1, "12-20": 0, "20+": 1}
    assert sizes["nodules_found"].tolist() == [0, 1, 0, 0, 1]
    assert sizes["cpm"].tolist()[:2] == [0, 1] and math.isnan(sizes["cpm"]["12-20"])  # its only nodule is in a scan that is not listed
    assert sizes["fp_0.25"]["20+"] == 0 and sizes["fp_0.5"]["20+"] == 1  # after the false mark
    types = froc_by_group(marks, nodules, ["a", "b"], type_masks(nodules), bootstraps=50, seed=3)
    assert list(types) == ["ground_glass", "solid"]
    table = froc_table(types).set_index("group")
    alone = froc(marks, nodules[nodules["type"] == "solid"], ["a", "b"], nodules[nodules["type"] != "solid"], bootstraps=50, seed=3)
    for measure, value, bounds in (("cpm", alone.cpm, alone.cpm_interval), ("fp_8", alone.sensitivity[8], alone.sensitivity_interval[8])):
        assert table.loc["solid", [measure, f"{measure}_lower", f"{measure}_upper"]].tolist() == [value, *bounds]


def test_a_group_may_hold_only_nodules_on_which_a_mark_of_another_lies():
    nodules = findings(["a", 1, 0, 0, 10], ["a", -1, 0, 0, 10])  # one mark in both
    marks = marks_of(["a", 0, 0, 0, 0.5], ["a", 5.5, 0, 0, 0.9])  # the second in the first alone
    first, second = froc_by_group(marks, nodules, ["a"], {"first": [True, False], "second": [False, True]}, bootstraps=0).values()
    assert first.cpm == second.cpm == 1
    assert (second.counts["false_positives"], second.counts["dropped_on_excluded"]) == (0, 1)


# Intervals and differences


def detector(quality, scans=40, seed=0):
    """Two nodules a scan and five false marks; the higher the quality the surer the hits."""
    draw = np.random.default_rng(seed)
    rows = []
    for scan in range(scans):
        rows += [[f"s{scan}", 100 * k, 0, 0, draw.normal(quality)] for k in range(2)]
        rows += [[f"s{scan}", 1000 + 50 * k, 0, 0, draw.normal()] for k in range(5)]
    nodules = findings(*[[f"s{scan}", 100 * k, 0, 0, 8] for scan in range(scans) for k in range(2)])
    return marks_of(*rows), nodules, [f"s{scan}" for scan in range(scans)]


def test_interval_covers_and_is_reproducible():
    marks, nodules, scans = detector(1)
    first, again, other = (froc(marks, nodules, scans, bootstraps=300, seed=seed) for seed in (0, 0, 1))
    assert first.cpm_interval == again.cpm_interval != other.cpm_interval
    assert first.cpm_interval[0] < first.cpm < first.cpm_interval[1]
    for point, (lower, upper) in first.sensitivity_interval.items():
        assert lower <= first.sensitivity[point] <= upper


def test_order_of_rows_and_of_marks_does_not_matter():
    marks, nodules, scans = detector(1)
    shuffled = marks.sample(frac=1, random_state=0), nodules.sample(frac=1, random_state=1)
    assert froc(*shuffled, scans, bootstraps=10).cpm_interval == froc(marks, nodules, scans, bootstraps=10).cpm_interval


def test_compare_is_paired():
    good, nodules, scans = detector(2)
    slightly_worse = good.assign(probability=good.probability - 0.3 * (good.coordX < 500))
    paired = compare_froc(good, slightly_worse, nodules, scans, bootstraps=300)
    assert paired.cpm == pytest.approx(froc(good, nodules, scans).cpm - froc(slightly_worse, nodules, scans).cpm)
    assert 0 < paired.cpm_interval[0] < paired.cpm < paired.cpm_interval[1]
    alone = froc(good, nodules, scans, bootstraps=300).cpm_interval
    assert np.diff(paired.cpm_interval) < np.diff(alone)
    assert set(paired.sensitivity) == set(OPERATING_POINTS)
    assert compare_froc(good, good, nodules, scans, bootstraps=10).cpm_interval == (0, 0)


@pytest.mark.parametrize("other", [{"scans": ["a", "c"]}, {"scans": ["b", "a"]}, {"seed": 1}, {"bootstraps": 20}])
def test_a_difference_is_of_pairs(other):
    terms = {"marks": marks_of(["a", 0, 0, 0, 0.5]), "annotations": ONE, "scans": ["a", "b"], "bootstraps": 30}
    one = froc(**terms)
    assert compare_scores(one, froc(**terms)).cpm == 0
    with pytest.raises(ValueError, match="not paired: score both with the same scans, seed and bootstraps"):
        compare_scores(one, froc(**terms | other))


@pytest.mark.parametrize("name", ["bootstraps", "max_per_scan"])
def test_numbers_below_zero_are_refused(name):
    for function in (froc, lambda *tables, **more: froc_by_group(*tables, {"all": np.array([True])}, **more)):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            function(marks_of(["a", 0, 0, 0, 0.5]), ONE, ["a"], **{name: -1})


def test_to_dict_is_json():
    marks, nodules, scans = detector(1, scans=5)
    read = json.loads(json.dumps(froc(marks, nodules, scans, bootstraps=10).to_dict()))
    assert set(read) == {"cpm", "cpm_interval", "sensitivity", "sensitivity_interval", "counts"}
    assert list(read["sensitivity"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert len(read["sensitivity_interval"]["0.125"]) == 2


def test_the_band_holds_the_curve_and_its_interval():
    marks, nodules, scans = detector(1)
    score = froc(marks, nodules, scans, bootstraps=200)
    assert score.band["fp_per_scan"][::8].tolist() == list(OPERATING_POINTS)
    assert score.band["sensitivity"][::8].tolist() == list(score.sensitivity.values())
    assert score.band[["lower", "upper"]][::8].to_numpy().tolist() == [list(bounds) for bounds in score.sensitivity_interval.values()]
    assert np.allclose(score.band["sensitivity"], np.interp(FP_GRID, score.curve["fp_per_scan"], score.curve["sensitivity"]))
