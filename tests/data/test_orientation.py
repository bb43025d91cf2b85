"""Flipped and swapped axes: named where positions leave their scan, and where the voxels show it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungadv.data.io.read import read_scan
from lungadv.data.orientation import check_appearance, check_positions, looks_like_nodule
from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ, AnnotationError, read_nodules
from tests.data.real_files import REAL, UID, real


def a_scan(uid="a", shape=(40, 60, 50), spacing=(1, 1, 2), origin=(10, 200, -400), direction=None):
    return Scan(np.full(shape, -800, np.int16), spacing, origin, np.eye(3) if direction is None else direction, uid)


def rows(*points, uid="a"):
    return pd.DataFrame(points, columns=XYZ, index=range(2, len(points) + 2)).assign(seriesuid=uid)


def ways_wrong(table, scan):
    """The table as people get it wrong, by what the error must say."""
    x, y, z = table[XYZ].to_numpy().T
    k, j, i = scan.to_voxel(table[XYZ]).T
    return {
        "x and y negated": (-x, -y, z),
        "z negated": (x, y, -z),
        "x and z swapped": (z, y, x),
        "x and z swapped and x and y negated": (z, -y, -x),
        "voxel indices x, y, z": (i, j, k),
        "voxel indices z, y, x": (k, j, i),
    }


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=5), st.sampled_from([1, -1]), st.sampled_from([1, -1]))
def test_the_mistake_that_makes_positions_fit_is_named(fractions, flip_x, flip_z):
    scan = a_scan(origin=(100 * flip_x, 200, -400 * flip_z), direction=np.diag([flip_x, 1, flip_z]))
    table = rows(*scan.to_world(np.array(fractions) * np.array([39, 59, 49])))
    check_positions(table, {"a": scan}, "nodules.csv")
    for mistake, values in ways_wrong(table, scan).items():
        wrong = table.assign(**dict(zip(XYZ, values, strict=True)))
        with pytest.raises(AnnotationError, match=rf"csv, line 2: .* outside scan 'a' .*: all {len(table)} rows .* fit as .*{mistake}"):
            check_positions(wrong, {"a": scan}, "nodules.csv")


def test_one_row_that_fits_by_chance_does_not_hide_the_flip():
    scan = a_scan(origin=(-25, -20, -400))
    table = rows([-20, -15, -390], [0, 30, -380], [10, 35, -370])  # the first also fits when flipped, the others do not
    flipped = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    with pytest.raises(AnnotationError, match="line 3: .*: all 3 rows of this table fit as x and y negated"):
        check_positions(flipped, {"a": scan}, "nodules.csv")


def test_a_single_scan_may_be_flipped_or_a_single_row_wrong():
    scans = {"a": a_scan("a"), "b": a_scan("b")}
    good = rows([30, 230, -390], uid="a")
    flipped = rows([-20, -215, -390], [-30, -220, -380], uid="b").set_axis([3, 4])
    with pytest.raises(AnnotationError, match="line 3: .* all 2 rows of this scan fit as x and y negated"):
        check_positions(pd.concat([good, flipped]), scans, "nodules.csv")
    mixed = rows([30, 230, -390], [30, 230, -100])
    with pytest.raises(AnnotationError, match=r"line 3: \[30.0, 230.0, -100.0\] mm lies outside .* \(voxel .*\): coordinates are LPS"):
        check_positions(mixed, scans, "nodules.csv")
    with pytest.raises(AnnotationError, match="line 2: scan '7.7' is not among the 2 given"):
        check_positions(rows([0, 0, 0], uid="7.7"), scans, "nodules.csv")
    check_positions(good.iloc[:0], scans, "nodules.csv")


def chest_with(places, signs=(1, 1, 1), size=8, shape=(40, 80, 80), hu=-850):
    """Lung, centred on x = y = 0, with balls of `size` mm at LPS places, and their table."""
    scan = Scan(np.full(shape, hu, np.int16), (2, 2, 2), (-79 * signs[0], -79 * signs[1], -400), np.diag(signs), "a")
    grid = scan.to_world(np.indices(shape).reshape(3, -1).T)
    for place in places:
        scan.hu[(np.linalg.norm(grid - place, axis=1) < size / 2).reshape(shape)] = 30
    return scan, rows(*places).assign(diameter_mm=float(size))


PLACES = [(-40, 30, -360), (-20, -45, -350), (35, 50, -370), (50, -20, -340), (0, 25, -350)]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)], ids=str)
def test_a_flip_that_stays_inside_is_named_and_the_right_table_is_not(signs):
    scan, table = chest_with(PLACES, signs)
    negated = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    check_positions(negated, {"a": scan}, "nodules.csv")
    assert check_appearance(table, {"a": scan}, "nodules.csv") == ""
    with pytest.raises(AnnotationError, match=r"nodules.csv: 0 of 5 rows .* but 5 do as x and y negated \(RAS instead of LPS\)"):
        check_appearance(negated, {"a": scan}, "nodules.csv")
    few = check_appearance(negated[:2], {"a": scan}, "nodules.csv")  # too few to be sure
    assert "0 of 2 rows" in few and "and 2 as x and y negated" in few
    with pytest.raises(AnnotationError, match="0 of 3 rows .* but 3 do as x and y negated"):
        check_appearance(negated[:3], {"a": scan}, "nodules.csv")
    chance = pd.concat([negated[:2], table[3:4]])  # one of three rows lies on something bright
    assert check_appearance(chance, {"a": scan}, "nodules.csv").startswith("nodules.csv: 1 of 3 rows looked at")


def test_a_voxel_table_that_lies_inside_is_named():
    scan, table = chest_with(PLACES)
    scan = Scan(scan.hu, scan.spacing, (-10, -10, -10), scan.direction, "a")
    table[XYZ] += np.array([69, 69, 390])
    voxels = table.assign(**dict(zip(XYZ, scan.to_voxel(table[XYZ])[:, ::-1].T, strict=True)))
    assert check_appearance(table, {"a": scan}, "nodules.csv") == ""
    with pytest.raises(AnnotationError, match="voxel indices x, y, z"):
        check_appearance(voxels, {"a": scan}, "nodules.csv")


def test_tables_whose_rows_do_not_look_like_nodules_are_doubted_but_taken():
    scan, table = chest_with(PLACES)
    elsewhere = table.assign(coordX=table["coordX"] + 20)
    assert "0 of 5 rows looked at" in check_appearance(elsewhere, {"a": scan}, "nodules.csv")
    solid = Scan(np.full((40, 80, 80), 40, np.int16), (2, 2, 2), (-79, -79, -400), np.eye(3), "a")
    assert "0 of 5 rows looked at" in check_appearance(table, {"a": solid}, "nodules.csv")  # no lung
    assert check_appearance(table[:0], {}, "nodules.csv") == ""
    many = pd.concat([table] * 300)
    assert check_appearance(many, {"a": scan}, "nodules.csv") == "" and check_appearance(table.assign(diameter_mm=1e6), {"a": scan}, "x")


def test_what_looks_like_a_nodule():
    for hu, around, expected in ((-650, -850, True), (-840, -850, False), (30, 30, False), (30, -1000, False), (700, -600, True)):
        scan, table = chest_with(PLACES[:1], hu=around)
        scan.hu[scan.hu == 30] = hu
        assert looks_like_nodule(scan, scan.to_voxel(PLACES[:1])[0], 8) == expected, (hu, around)
    assert not looks_like_nodule(scan, np.array([-1.0, 5, 5]), 8)


@real
def test_a_negated_row_of_0001_is_doubted():
    scan = read_scan(REAL / "lidc_idri_0001" / f"{UID}.mhd")
    table = read_nodules(REAL / "luna16_tables" / "annotations.csv")
    table, scans = table[table["seriesuid"] == UID], {UID: scan}
    negated = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    check_positions(negated, scans, "annotations.csv")  # it stays inside
    assert check_appearance(table, scans, "annotations.csv") == ""
    assert "and 1 as x and y negated" in check_appearance(negated, scans, "annotations.csv")
