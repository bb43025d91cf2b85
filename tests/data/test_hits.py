"""The hit rule: strictly inside the radius, of any table and scan."""

import numpy as np
import pandas as pd
import pytest

from lungadv.data.hits import DEFAULT_DIAMETER_MM, hits, match_by_scan, radius_mm


def test_a_diameter_below_zero_stands_for_10_mm():
    assert radius_mm([8, 0, -1, -7.5]).tolist() == [4, 0, 5, 5] and DEFAULT_DIAMETER_MM == 10


@pytest.mark.parametrize("diameter", [10.0, -1.0])
def test_a_point_on_the_radius_misses(diameter):
    points = [[5, 0, 0], [4.999, 0, 0], [3, 4, 0], [0, 0, -4.999], [0, 0, 0]]
    assert hits(points, [[0, 0, 0]], [diameter])[:, 0].tolist() == [False, True, False, True, True]


def test_a_diameter_of_zero_is_never_hit():
    assert not hits([[1.0, 2, 3]], [[1.0, 2, 3]], [0.0]).any()


def test_empty_tables_hit_nothing():
    assert hits(np.empty((0, 3)), [[0, 0, 0]], [5]).shape == (0, 1) and hits([[0, 0, 0]], np.empty((0, 3)), []).shape == (1, 0)


def table(*rows):
    return pd.DataFrame(rows, columns=["scan", "coordX", "coordY", "coordZ", "diameter_mm"])


def test_matches_are_within_a_scan_and_one_mark_may_hit_several_findings():
    marks = table([1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [2, 0, 0, 0, 0]).drop(columns="diameter_mm")
    findings = table([0, 1, 0, 0, 4], [1, 9, 0, 0, 4], [0, 0, 1, 0, -1], [3, 0, 0, 0, 8])
    assert sorted(zip(*match_by_scan(marks, findings).tolist(), strict=True)) == [(1, 0), (1, 2)]
    assert match_by_scan(marks[:0], findings).shape == match_by_scan(marks, findings[:0]).shape == (2, 0)


def test_matches_are_those_of_a_loop():
    draw = np.random.default_rng(0)
    marks, findings = (
        pd.DataFrame(draw.integers(0, 5, (count, 4)), columns=["scan", "coordX", "coordY", "coordZ"]).assign(
            diameter_mm=draw.choice([-1, 2, 4, 5], count)
        )
        for count in (60, 25)
    )
    expected = {
        (m.Index, f.Index)
        for m in marks.itertuples()
        for f in findings.itertuples()
        if m.scan == f.scan
        and (m.coordX - f.coordX) ** 2 + (m.coordY - f.coordY) ** 2 + (m.coordZ - f.coordZ) ** 2
        < (10 if f.diameter_mm < 0 else f.diameter_mm) ** 2 / 4
    }
    pairs = match_by_scan(marks, findings)
    assert set(zip(*pairs.tolist(), strict=True)) == expected and pairs.shape[1] == len(expected)
