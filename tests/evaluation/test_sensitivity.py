"""Sensitivity counted by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lungadv.evaluation.sensitivity import (
    DIAMETER_GROUPS,
    hit_scores,
    score_threshold,
    sensitivities,
    sensitivity_curve,
    sensitivity_numbers,
    sensitivity_table,
)


def marks(rows, uid="1", source="blob"):
    """Marks from (x, score) or (x, score, diameter), along a line."""
    rows = [(*row, np.nan)[:3] for row in rows]
    table = pd.DataFrame(rows, columns=["coordX", "score", "diameter_mm"], dtype=float)
    return table.assign(seriesuid=uid, source=source, coordY=0.0, coordZ=0.0)


def nodules(*rows):
    table = pd.DataFrame(rows, columns=["seriesuid", "coordX", "diameter_mm"])
    return table.assign(coordY=0.0, coordZ=0.0)


def test_a_hit_is_closer_than_the_radius_and_in_the_same_scan():
    found = nodules(("1", 0.0, 10.0), ("1", 100.0, 10.0), ("2", 0.0, 10.0))
    found.index = [7, 3, 5]
    table = pd.concat([marks([(4.999, 0.3), (5.0, 0.9), (-2, 0.1), (95.0, 0.8)]), marks([(4, 0.6)], uid="3")])
    assert hit_scores(found, table).tolist() == [0.3, -np.inf, -np.inf]
    assert hit_scores(found, marks([])).tolist() == [-np.inf] * 3


@pytest.mark.parametrize("per_scan, scans, left", [(1, 2, 2), (4, 3, 12), (0.5, 4, 2), (7, 3, 20)])
def test_score_at_leaves_that_many(per_scan, scans, left):
    table = marks([(0, score) for score in np.random.default_rng(0).permutation(20) / 20])
    assert (table["score"] >= score_threshold(table, per_scan, scans)).sum() == left


def test_score_at_takes_equal_scores_all_or_none():
    table = marks([(0, 0.9), (9, 0.7), (18, 0.7), (27, 0.7), (36, 0.1)])
    left = [int((table["score"] >= score_threshold(table, per_scan, 1)).sum()) for per_scan in range(7)]
    assert left == [0, 1, 1, 1, 4, 5, 5]


def test_score_at_leaves_none_where_none_is_allowed():
    table = marks([(0, 0.5), (9, 0.7)])
    assert (table["score"] >= score_threshold(table, 0.5, 1)).sum() == 0


def test_sensitivity_numbers_have_the_rows_the_claims_read():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0), ("2", 0.0, 8.0), ("2", 50.0, 20.0))
    far = [(1000 + 10 * k, 0.5 - k / 100) for k in range(20)]
    raw = pd.concat([
        marks([(0, 0.9), (51, 0.8), *far]), marks([(0, 0.3), *far], uid="2"),
        marks([(0, 0.1), *far], source="rpn"), marks([(52, 0.9), *far], uid="2", source="rpn"),
    ])  # fmt: skip
    found = pd.concat([marks([(0, 0.9), (51, 0.8)]), marks([(500, 0.7)], uid="2")])
    rows = sensitivity_numbers(truth, raw, found, 2)
    assert set(rows.columns) == {"claim", "measure", "network", "condition", "item", "value"} and rows["value"].notna().all()
    first = rows[rows["claim"] == "M1"]
    assert len(first) == 2 * 2 * 4 and set(first["measure"]) == {"detected-4", "detected-8"} and set(first["network"]) == {"blob", "rpn"}
    items = ["1:0", "1:1", "2:0", "2:1"]
    for _, part in first.groupby(["network", "measure"]):
        assert part["item"].tolist() == items and part["condition"].tolist() == ["small", "large", "small", "large"]
    at = {key: part["value"].tolist() for key, part in first.groupby(["network", "measure"])}
    assert at["blob", "detected-8"] == [1, 1, 0, 0] and at["rpn", "detected-4"] == [0, 0, 0, 1]
    detected = rows[rows["measure"] == "detected"]
    assert detected["item"].tolist() == items and detected["value"].tolist() == [1, 1, 0, 0] and set(detected["network"]) == {"union"}
    count = rows[rows["measure"] == "candidates_per_scan"]
    assert count["value"].tolist() == [1.5] and count["item"].tolist() == [""]
    assert not rows.duplicated(["claim", "measure", "network", "item"]).any()


def test_a_nodule_that_no_mark_hits_is_missed_however_few_marks_there_are():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0))
    raw = pd.concat([marks([(0, 0.9)]), marks([(51, 0.9)], source="rpn")])
    rows = sensitivity_numbers(truth, raw, marks([(0, 0.9)]), 1)
    at = {key: part["value"].tolist() for key, part in rows[rows["claim"] == "M1"].groupby(["network", "measure"])}
    assert at["blob", "detected-4"] == at["blob", "detected-8"] == [1, 0] and at["rpn", "detected-8"] == [0, 1]


def test_the_sensitivity_curve_rises_to_the_share_that_is_hit():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0), ("2", 0.0, 8.0), ("2", 50.0, 20.0))
    table = pd.concat([marks([(0, 0.9), (51, 0.1), (500, 0.5)]), marks([(52, 0.2), (400, 0.6)], uid="2")])
    curve = sensitivity_curve(truth, table, 2)
    assert curve["per_scan"].iloc[0] == 0.5 and curve["per_scan"].iloc[-1] == pytest.approx(100)
    assert curve["sensitivity"].is_monotonic_increasing
    assert curve["sensitivity"].iloc[0] == 0.25 and curve["sensitivity"].iloc[-1] == 0.75


def test_sensitivities_have_intervals_over_scans_and_wilsons_where_all_or_none_are_found():
    truth = nodules(*[(str(k), 0.0, 10.0) for k in range(40)], *[(str(k), 50.0, 10.0) for k in range(40)])
    table = pd.concat([marks([(0, 0.9), (50, 0.9), (500, 0.8)] if k < 30 else [(500, 0.5)], uid=str(k)) for k in range(40)])
    none, most, found = sensitivities(truth, table, 40, [0.01, 1.5, 100]).itertuples()
    assert (none.sensitivity, none.lower) == (0, 0)
    assert none.upper == pytest.approx(stats.binomtest(0, 40).proportion_ci(method="wilson").high)
    assert most.sensitivity == found.sensitivity == 0.75 and most.nodules == 80
    # both nodules of a scan are found or neither: 40 draws, not 80
    assert (found.lower, found.upper) == pytest.approx(stats.binom.ppf([0.025, 0.975], 40, 0.75) / 40, abs=0.03)
    everything = sensitivities(truth[truth["seriesuid"].astype(int) < 30], table, 40, [100]).iloc[0]
    assert (everything["sensitivity"], everything["upper"]) == (1, 1) and 0.85 < everything["lower"] < 0.95


def test_the_sensitivity_table_splits_by_type_and_diameter():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0), ("2", 0.0, 8.0), ("2", 50.0, 20.0))
    truth["type"] = ["solid", "solid", "ground_glass", ""]
    table = sensitivity_table(truth, pd.concat([marks([(0, 0.9), (51, 0.8)]), marks([(3.9, 0.7)], uid="2")]), 2)
    assert table["group"].unique().tolist() == ["all", "ground_glass", "solid", *DIAMETER_GROUPS]
    counts = {"all": 4, "ground_glass": 1, "solid": 2} | dict.fromkeys(DIAMETER_GROUPS, 1)
    assert table.groupby("group")["nodules"].first().to_dict() == counts
    at = table[table["per_scan"] == 100].set_index("group")["sensitivity"]
    assert at.to_dict() == {"all": 0.75, "ground_glass": 1, "solid": 1, "6-8 mm": 1, "8-12 mm": 1, "12-20 mm": 1, "20+ mm": 0}
    assert table[(table["group"] == "solid") & (table["per_scan"] == 1)]["sensitivity"].tolist() == [1]
