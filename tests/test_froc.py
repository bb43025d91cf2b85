"""FROC against a slow plain-Python version of the challenge's procedure, and each edge case with its stated answer."""

import json
import math
import random
import warnings

import numpy as np
import pandas as pd
import pytest

from lungadv import froc as module
from lungadv.froc import FINDINGS, MARKS, OPERATING_POINTS, compare, froc


def marks_of(*rows):
    return pd.DataFrame(rows, columns=MARKS)


def findings(*rows):
    return pd.DataFrame(rows, columns=FINDINGS)


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


@pytest.mark.filterwarnings("ignore:the marks hit")
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


@pytest.mark.filterwarnings("ignore:the marks hit")
@pytest.mark.parametrize("seed", range(15))
def test_bootstrap_equals_scoring_the_drawn_scans(seed):
    """Count-weighting must equal a real resample: scans drawn twice are copied under new names."""
    marks, found, scans, excluded, cap = random_case(seed)
    found, excluded = found[found.seriesuid.isin(scans)], excluded[excluded.seriesuid.isin(scans)]
    score = froc(marks, found, scans, excluded, max_per_scan=cap, bootstraps=8, seed=seed)
    for weights, sample in zip(module.resamples(len(scans), 8, seed), score.samples, strict=True):
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
    events = module.Events(probability, draw.integers(0, 9, 200), draw.random(200) < 0.3, np.full(9, 10))
    weights = module.resamples(9, 50, 0)
    assert np.array_equal(events.sensitivity(weights), events.sensitivity(weights, block=1000))


@pytest.mark.parametrize("decimals", [1, 6])
def test_the_far_end_of_the_curve_may_be_left_out(decimals):
    draw = np.random.default_rng(1)
    probability = np.sort(draw.random(3000).round(decimals))[::-1]
    events = module.Events(probability, draw.integers(0, 12, 3000), draw.random(3000) < 0.1, np.full(12, 40))
    weights = module.resamples(12, 30, 0)
    assert decimals == 1 or len(events.top(weights, 8).scan) < 1000
    whole = [np.interp(OPERATING_POINTS, *curve) for curve in zip(*events.curves(weights), strict=True)]
    assert np.array_equal(events.sensitivity(weights), whole)
    unbalanced = module.Events(probability, np.zeros(3000, int), events.true, events.nodules)  # all in one scan, not always drawn
    whole = [np.interp(OPERATING_POINTS, *curve) for curve in zip(*unbalanced.curves(weights), strict=True)]
    assert np.array_equal(unbalanced.sensitivity(weights), whole)


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


@pytest.mark.parametrize("column", ["probability", "coordX"])
def test_nan_is_an_error_that_names_the_row(column):
    marks = marks_of(["a", 0, 0, 0, 0.5], ["a", 1, 0, 0, 0.5])
    marks.loc[1, column] = np.nan
    with pytest.raises(ValueError, match=f"marks: row 1 .seriesuid a. has {column}"):
        cpm(marks)


def test_probability_zero_on_a_nodule_is_a_hit():
    assert cpm(marks_of(["a", 0, 0, 0, 0.0])).cpm == 1


def test_negative_probabilities_such_as_logits_are_scores_like_others():
    assert cpm(marks_of(["a", 0, 0, 0, -3.0], ["a", 50, 0, 0, -5.0])).cpm == 1


def test_scans_without_marks_and_without_nodules_count_in_the_denominator():
    marks = marks_of(["a", 50, 0, 0, 0.9], ["a", 0, 0, 0, 0.5])
    assert cpm(marks).curve.fp_per_scan.max() == 1
    assert cpm(marks, scans=["a", "b", "c", "d"]).curve.fp_per_scan.max() == 0.25


def test_unknown_scans_are_ignored_and_counted():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5], ["z", 0, 0, 0, 0.9]))
    assert (score.cpm, score.counts["unknown_scan"], score.counts["false_positives"]) == (1, 1, 0)


def test_a_scan_listed_twice_is_an_error():
    with pytest.raises(ValueError, match="'a' is listed twice"):
        cpm(marks_of(), scans=["a", "b", "a"])


def test_a_header_line_among_the_scans_is_an_error():
    with pytest.raises(ValueError, match="header"):
        cpm(marks_of(), scans=["seriesuid", "a"])


def test_no_scan_is_an_error():
    with pytest.raises(ValueError, match="no scan"):
        cpm(marks_of(), scans=[])


@pytest.mark.parametrize("mark, scan", [("56", "056"), ("056", "56")])
def test_ids_that_lost_their_zeros_are_an_error(mark, scan):
    with pytest.raises(ValueError, match="leading zeros"):
        froc(marks_of([mark, 0, 0, 0, 0.5]), findings([scan, 0, 0, 0, 10]), [scan])


def test_numbers_as_ids_are_an_error():
    with pytest.raises(ValueError, match="not text"):
        froc(marks_of([56, 0, 0, 0, 0.5]), ONE, ["a"])


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


@pytest.mark.parametrize("change, named", [(lambda p: p[:, ::-1], "x and z swapped"), (lambda p: p * [-1, -1, 1], "negated")])
def test_swapped_or_flipped_axes_are_noticed(change, named):
    places = np.random.default_rng(0).uniform(-150, 150, (20, 3))
    nodules = findings(*[["a", *place, 8] for place in places])
    marks = marks_of(*[["a", *place, 0.5] for place in change(places)])
    with pytest.warns(UserWarning, match=named):
        assert cpm(marks, nodules).cpm < 0.1


def test_right_or_merely_bad_marks_bring_no_warning():
    places = np.random.default_rng(0).uniform(-150, 150, (20, 3))
    nodules = findings(*[["a", *place, 8] for place in places])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpm(marks_of(*[["a", *place, 0.5] for place in places]), nodules)
        cpm(marks_of(*[["a", *place, 0.5] for place in places + 40]), nodules)


def test_missing_column_is_an_error():
    with pytest.raises(ValueError, match="no column 'probability'"):
        cpm(marks_of(["a", 0, 0, 0, 0.5]).rename(columns={"probability": "score"}))


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
    paired = compare(good, slightly_worse, nodules, scans, bootstraps=300)
    assert paired.cpm == pytest.approx(froc(good, nodules, scans).cpm - froc(slightly_worse, nodules, scans).cpm)
    assert 0 < paired.cpm_interval[0] < paired.cpm < paired.cpm_interval[1]
    alone = froc(good, nodules, scans, bootstraps=300).cpm_interval
    assert np.diff(paired.cpm_interval) < np.diff(alone)
    assert set(paired.sensitivity) == set(OPERATING_POINTS)
    assert compare(good, good, nodules, scans, bootstraps=10).cpm_interval == (0, 0)


def test_to_dict_is_json():
    marks, nodules, scans = detector(1, scans=5)
    read = json.loads(json.dumps(froc(marks, nodules, scans, bootstraps=10).to_dict()))
    assert set(read) == {"cpm", "cpm_interval", "sensitivity", "sensitivity_interval", "counts"}
    assert list(read["sensitivity"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert len(read["sensitivity_interval"]["0.125"]) == 2


# Files


@pytest.mark.parametrize("separator", [",", "\t"])
def test_readers_keep_ids_as_text(tmp_path, separator):
    path = tmp_path / "marks.csv"
    path.write_text("\n".join(separator.join(row) for row in (MARKS, ("056", "1", "2", "3.5", "0.25"))))
    assert module.read_marks(path).iloc[0].tolist() == ["056", 1, 2, 3.5, 0.25]


def test_readers_name_the_file_and_the_row(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text(",".join(FINDINGS) + "\na,1,2,3,6\na,1,2,x,6\n")
    with pytest.raises(ValueError, match=r"annotations.csv, line 3: coordZ 'x' is no number"):
        module.read_findings(path)
    path.write_text(",".join(FINDINGS) + "\na,1,2,3,6\na,1,2,3,6\n")
    with pytest.raises(ValueError, match="annotations.csv, line 3 repeats line 2"):
        module.read_findings(path)
    assert len(module.read_findings(path, repeats=True)) == 2
    path.write_text("")
    with pytest.raises(ValueError, match="annotations.csv"):
        module.read_findings(path)
    with pytest.raises(ValueError, match="nowhere.csv"):
        module.read_marks(tmp_path / "nowhere.csv")
