"""What is missed and mistaken, on scans made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lungadv.data.scan import Scan
from lungadv.evaluation.marks import MARK_COLUMNS
from lungadv.evaluation.misses import (
    classify_structure,
    detection_outcomes,
    difficulty_tables,
    false_positive_table,
    miss_table,
    values_in_balls,
)

COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
BENCHMARKS, STRATEGIES = ("in-house", "nlst"), ("baseline-ce", "baseline-beta-finetune")


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
        return pd.DataFrame(list(rows), columns=[*COLUMNS, *more]).astype(dict.fromkeys(COLUMNS[1:], float))

    annotations, excluded = (table(rows, "type", "attachment") for rows in (nodules, excluded))
    tables = {"annotations": annotations, "excluded": excluded, "mimics": table(mimics, "kind")}
    return SimpleNamespace(uids=uids, scan=scan, lungs=lambda uid: lungs, read=read, **tables)


def marks_of(*rows):
    """Marks of one detector from rows of seriesuid, coordX, probability."""
    table = pd.DataFrame(rows, columns=["seriesuid", "coordX", "probability"])
    return table.assign(coordY=0.0, coordZ=0.0, uncertainty=0.0).astype({"coordX": float})[[*MARK_COLUMNS, "uncertainty"]]


def result_of(data, *rows):
    return detection_outcomes({"baseline-ce": marks_of(*rows)}, data)["baseline-ce"]


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
    table = miss_table(result).set_index(["type", "size", "attachment"])
    assert table.loc["solid", "8-12", "all"][["nodules", "missed", "share"]].tolist() == [2, 1, 0.5]
    assert table.loc["part_solid", "all", "all"]["missed"] == 0 and table.loc["all", "8-12", "all"]["missed"] == 2
    assert len(table) == 1 + 3 + 1 + 3  # all, types, sizes, types by size: no attachment is known


def test_misses_by_size_and_attachment_with_their_intervals():
    sizes = (6, 7.99, 8, 11.9, 12, 19.9, 20, 35)
    attachment = ["isolated", "juxta-vascular", "juxta-pleural", "perifissural", "isolated", "isolated", "", "isolated"]
    data = corridor(["a"], [["a", 100 * k, 0, 0, size, "solid", attachment[k]] for k, size in enumerate(sizes)])
    table = miss_table(result_of(data, ("a", 0, 0.9), ("a", 300, 0.9))).set_index(["type", "size", "attachment"])
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
    assert classify_structure(marks, data).tolist() == [*expected.values(), "scar"]
    assert data.read == ["a"]  # once, and none whose marks all lie on mimics


def test_balls_keep_their_radius_in_thick_turned_slices():
    turned = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
    hu = np.arange(20, dtype=np.int16)[:, None, None] * np.ones((1, 60, 60), np.int16)  # the slice's number
    scan = Scan(hu, (1, 1, 5), (0, 0, 0), turned, "thick")  # slices along the world's x, 5 mm apart
    values = values_in_balls(hu, scan, np.array([[50.0, 30, 30], [52.4, 30, 30], [-40, 30, 30]]), 2.0)
    assert set(values[0]) == {10} and set(values[1]) == {10, 11} and set(values[2]) == {0}  # outside: the nearest voxel


def test_no_false_positive_leaves_an_empty_table():
    data = corridor(["a"], [["a", 0, 0, 0, 8, "solid", ""]])
    result = result_of(data, ("a", 0, 0.9))
    assert result.false.empty and result.threshold == -np.inf and data.read == []
    assert list(false_positive_table(result)) == ["on", "count", "per_scan", "share"]
    results = {name: dict.fromkeys(STRATEGIES, result) for name in BENCHMARKS}
    tables = difficulty_tables(results)
    assert tables["false_positives"].empty and (tables["misses"]["share"] == 0).all()
    assert tables["misses"].query("benchmark == 'both' and type == 'all' and size == 'all'")["nodules"].tolist() == [2, 2]
