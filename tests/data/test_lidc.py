"""From outlines to voxels and nodules: drawn by hand, and LIDC-IDRI-0001's."""

import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungadv.data import lidc
from lungadv.data.io.read import read_scan
from lungadv.data.lidc import (
    FINDINGS,
    cluster_outlines,
    consensus,
    equivalent_diameter,
    fill_outline,
    is_spiculated,
    nodule_type,
    nodule_voxels,
)
from lungadv.data.lidc_xml import Contour, Finding, read_lidc
from lungadv.data.luna16 import read_excluded
from lungadv.data.scan import Scan
from lungadv.data.tables import LUNA16, TYPES, UNSPECIFIED, XYZ, AnnotationError, read_nodules, read_table
from tests.data.lidc_files import box, nodule_xml, non_nodule_xml, read, session_xml
from tests.data.real_files import REAL, UID, real


def a_scan(uid="a", shape=(40, 60, 50), spacing=(1, 1, 2), origin=(10, 200, -400), direction=None):
    return Scan(np.full(shape, -800, np.int16), spacing, origin, np.eye(3) if direction is None else direction, uid)


def pixels(text, mark):
    return {(x, y) for y, line in enumerate(textwrap.dedent(text).split()) for x, sign in enumerate(line) if sign == mark}


def test_an_outline_encloses_what_a_pencil_does():
    drawing = """
        ...ooo....
        ..o###oo..
        .o######o.
        .o###oo#o.
        ..o#o..oo.
        ...o......
    """
    right = [(3, 0), (4, 0), (5, 0), (6, 1), (7, 1), (8, 2), (8, 3), (8, 4), (7, 4), (6, 3), (5, 3)]
    around = [*right, (4, 4), (3, 5), (2, 4), (1, 3), (1, 2), (2, 1)]
    assert set(around) == pixels(drawing, "o")
    for points in (around, around[::-1], around[5:] + around[:5], [*around, around[0]]):
        assert set(map(tuple, fill_outline(np.array(points)).tolist())) == pixels(drawing, "#")


@pytest.mark.parametrize("points", [[(3, 3)], [(3, 3), (3, 3)], [(3, 3), (9, 3)], [(3, 3), (4, 3), (4, 4), (3, 4)]])
def test_outlines_around_nothing(points):
    assert fill_outline(np.array(points)).shape == (0, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=12))
def test_what_is_enclosed_is_cut_off_from_the_edge(points):
    """Against a flood fill by hand: nothing enclosed is on the outline or reached from outside in steps along rows and columns."""
    points = np.array(points)
    inside = set(map(tuple, fill_outline(points).tolist()))
    assert not inside & set(map(tuple, points.tolist()))
    for x, y in inside:  # every neighbour is inside or on the line: on it the nearest segment is at most half a pixel away
        for neighbour in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            assert neighbour in inside or to_line(np.array(neighbour), points) <= 0.5 + 1e-9


def to_line(point, points):
    """The largest of the distances along x and along y from a pixel to a closed polygon, at least over its segments."""
    best = np.inf
    for start, stop in zip(points, np.roll(points, -1, axis=0), strict=True):
        steps = max(np.abs(stop - start).max(), 1)
        best = min(best, np.abs(start + (stop - start) * np.linspace(0, 1, steps + 1)[:, None] - point).max(axis=1).min())
    return best


def test_holes_are_cut_out_and_outlines_on_one_slice_add_up():
    scan = a_scan()
    two = (Contour(np.array(box(10, 20, 4, 4)), -390), Contour(np.array(box(30, 20, 3, 3)), -390))
    hole = Contour(np.array(box(11, 21, 2, 1)), -390, inclusion=False)
    elsewhere = Contour(np.array(box(11, 21, 2, 2)), -388, inclusion=False)
    mask = np.zeros(scan.hu.shape, bool)
    mask.flat[nodule_voxels(Finding("", (*two, hole, elsewhere)), scan)] = True
    expected = np.zeros(scan.hu.shape, bool)
    expected[5, 20:24, 10:14] = expected[5, 20:23, 30:33] = True
    expected[5, 21, 11:13] = False
    assert (mask == expected).all()


def test_consensus_of_four_drawn_squares(tmp_path):
    """Two slices of 1 x 1 x 2 mm voxels: the square of columns 10-19 that two readers share, one half of it, and one beyond."""
    outlines = [box(10, 20, 10, 8), box(10, 20, 10, 8), box(10, 20, 5, 8), box(12, 20, 12, 8)]
    rated = zip(outlines, (1, 3, 3, 5), strict=True)
    sessions = (session_xml(nodule_xml((-390, "TRUE", each), (-388, "TRUE", each), texture=texture)) for each, texture in rated)
    table, mask = consensus(read(tmp_path, *sessions), a_scan())
    expected = np.zeros(mask.shape, np.uint8)
    expected[5:7, 20:28, 10:20] = 1
    assert (mask == expected).all() and mask.dtype == np.uint8
    row = table.iloc[0]
    assert np.allclose(row[XYZ].astype(float), [10 + 14.5, 200 + 23.5, -389]) and np.isclose(row["diameter_mm"], np.cbrt(6 / np.pi * 320))
    assert row[["seriesuid", "type", "attachment", "label", "readers", "kind"]].tolist() == ["a", "part_solid", "", 1, 4, "nodule"]


def test_half_of_the_readers_present_is_enough(tmp_path):
    for sessions, votes in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        for drawn in range(1, sessions + 1):
            shared = lidc._shared_voxels([np.arange(3)] * drawn, sessions)
            assert len(shared) == (3 if drawn >= votes else 0)


def test_what_is_excluded_and_why(tmp_path):
    small = nodule_xml((-380, "TRUE", [(40, 40)]), rated=False)
    tiny, disputed = nodule_xml((-370, "TRUE", box(5, 5, 2, 2))), nodule_xml((-360, "TRUE", box(30, 30, 9, 9)))
    empty = nodule_xml((-350, "TRUE", [(20, 20), (21, 20), (21, 21), (20, 21)]))
    findings = (tiny, disputed, small, empty), (tiny, disputed), (tiny, non_nodule_xml(-340, (7, 9))), ()
    table, mask = consensus(read(tmp_path, *(session_xml(*each) for each in findings)), a_scan())
    assert table[["kind", "readers", "label"]].to_numpy().tolist() == [
        ["small", 3, 0], ["disputed", 2, 0], ["small", 1, 0], ["small", 1, 0], ["non-nodule", 1, 0]
    ]  # fmt: skip
    assert not mask.any() and np.allclose(table["diameter_mm"], [np.cbrt(6 / np.pi * 8), np.cbrt(6 / np.pi * 162), -1, -1, -1])
    assert table.loc[[2, 3, 4], XYZ].to_numpy().tolist() == [[30.5, 220.5, -350], [50, 240, -380], [17, 209, -340]]


def test_readers_that_share_no_voxel_are_averaged(tmp_path):
    one, other = (session_xml(nodule_xml((-390, "TRUE", box(x, 20, 4, 8)))) for x in (10, 14))
    table, _ = consensus(read(tmp_path, one, other, session_xml(), session_xml()), a_scan())
    assert table["readers"].tolist() == [2] and np.allclose(table.loc[0, XYZ].astype(float), [10 + 13.5, 223.5, -390])
    assert np.isclose(table["diameter_mm"][0], np.cbrt(6 / np.pi * 64))


def test_a_reader_counts_once_in_a_nodule():
    centres = np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0], [3.5, 0, 0], [40, 0, 0], [60, 0, 0]], float)
    found = cluster_outlines(centres, np.full(6, 5.0), [0, 1, 0, 1, 2, 3])
    assert found == [[0, 1], [2, 3], [4], [5]]  # all four lie within reach of each other, but they are two readers' two nodules
    assert cluster_outlines(np.array([[0, 0, 0], [9.99, 0, 0], [20, 0, 0]]), np.full(3, 5.0), [0, 1, 2]) == [[0, 1], [2]]
    assert cluster_outlines(np.empty((0, 3)), np.empty(0), []) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_clusters_are_a_partition(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 12)
    readers = rng.integers(4, size=n).tolist()
    found = cluster_outlines(rng.uniform(0, 30, (n, 3)), rng.uniform(1, 10, n), readers)
    assert sorted(sum(found, [])) == list(range(n))
    assert all(len({readers[k] for k in members}) == len(members) for members in found)


@pytest.mark.parametrize(
    "texture, calcification, kind",
    [([5, 5, 4], [6, 6, 6], "solid"), ([5, 1, 3], [6], "part_solid"), ([1, 1, 2], [6], "ground_glass"),
     ([5, 5, 5], [3, 3, 6], "fully_calcified"), ([5], [5], "solid"), ([], [6], "unspecified"), ([], [], "unspecified")],
)  # fmt: skip
def test_types_from_median_ratings(texture, calcification, kind):
    ratings = [{"texture": value} for value in texture] + [{"calcification": value} for value in calcification]
    assert nodule_type([Finding("", (), each) for each in ratings]) == kind and kind in (*TYPES, UNSPECIFIED)


@pytest.mark.parametrize("spiculation, expected", [((4, 5, 1), True), ((1, 5), False), ((3,), False), ((), False)])
def test_spiculated_from_median_ratings(spiculation, expected):
    ratings = [{"spiculation": value} for value in spiculation] + [{"texture": 5}]
    assert is_spiculated([Finding("", (), each) for each in ratings]) is expected


@pytest.mark.parametrize("direction", [(1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_pixels_are_the_arrays_columns_and_rows_whatever_its_direction(tmp_path, direction):
    scan = a_scan(direction=np.diag(direction))
    z = scan.to_world([[5, 0, 0]])[0, 2]
    table, mask = consensus(read(tmp_path, session_xml(nodule_xml((z, "TRUE", box(10, 20, 9, 9)))) * 4), scan)
    assert mask[5, 20:29, 10:19].all() and mask.sum() == 81
    assert np.allclose(table.loc[0, XYZ].astype(float), scan.to_world([[5, 24, 14]])[0])


def test_a_position_between_slices_is_named(tmp_path):
    reading = read(tmp_path, session_xml(nodule_xml((-390.4, "TRUE", box(10, 20, 9, 9)))) * 4)
    with pytest.raises(AnnotationError, match="z -390.4 mm is on no slice of scan 'a' .-400 to -322 mm every 2.: use the series'"):
        consensus(reading, a_scan())


@pytest.mark.parametrize(
    "z, mistake", [((-39, -38.4), "in centimetres"), ((-0.39, -0.384), "in metres"), ((390, 384), "negated"), ((5, 8), "slice numbers")]
)
def test_positions_in_other_units_are_named(tmp_path, z, mistake):
    reading = read(tmp_path, session_xml(*(nodule_xml((each, "TRUE", box(10, 20, 4, 4))) for each in z)))
    with pytest.raises(AnnotationError, match=f"all 2 positions fit if they are {mistake}"):
        consensus(reading, a_scan())


@pytest.mark.parametrize(
    "z, needs", [((-410, -398), "-410 mm"), ((-312, -398, -316), "-316 to -312 mm"), ((-410.7, -398), None), ((-410, -397), None)]
)
@pytest.mark.parametrize("way", [1, -1])
def test_missing_slices_are_named(tmp_path, z, needs, way):
    reading = read(tmp_path, session_xml(*(nodule_xml((each, "TRUE", box(10, 20, 4, 4))) for each in z)))
    scan = a_scan()
    if way < 0:
        scan = Scan(scan.hu[::-1], scan.spacing, (*scan.origin[:2], -322), np.diag([1.0, 1.0, -1.0]), scan.uid)
    said = "slices are missing: 40 slices are here, from z -400 to -322 mm; the reading needs z {} too; get the whole series"
    with pytest.raises(AnnotationError, match=said.format(needs) if needs else "use the series' own slices"):
        consensus(reading, scan)


def test_readings_of_another_grid(tmp_path):
    reading = read(tmp_path, session_xml(nodule_xml((-390, "TRUE", box(47, 20, 4, 4)))))
    with pytest.raises(AnnotationError, match=r"pixel \(51, 24\) is outside the slices of 50 x 60"):
        consensus(reading, a_scan())
    with pytest.raises(AnnotationError, match="of series a, not of scan 'b'"):
        consensus(reading, a_scan("b"))
    tilted = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    with pytest.raises(AnnotationError, match="not axial"):
        consensus(reading, a_scan(direction=tilted))


def test_a_reading_of_nothing(tmp_path):
    table, mask = consensus(read(tmp_path, session_xml() * 4), a_scan())
    assert table.empty and table.columns.tolist() == FINDINGS and table["coordX"].dtype == float and not mask.any()


@pytest.fixture(scope="module")
def lidc_0001():
    reading = read_lidc(REAL / "lidc_idri_0001" / "069.xml")
    return reading, read_scan(REAL / "lidc_idri_0001" / f"{UID}.mhd")


EXCLUDED = REAL / "luna16_tables" / "annotations_excluded_LIDC-IDRI-0001_only.csv"


@real
def test_lidc_idri_0001_is_its_votes_and_luna16s_row(lidc_0001):
    reading, scan = lidc_0001
    table, mask = consensus(reading, scan)
    votes = read_scan(REAL / "lidc_idri_0001" / f"{UID}_nodule_votes.nii.gz").hu
    assert ((mask > 0) == (votes >= 2)).all() and (mask > 0).sum() == 5428
    nodule = table[table["kind"] == "nodule"].iloc[0]
    luna16 = read_nodules(REAL / "luna16_tables" / "annotations.csv").set_index("seriesuid").loc[UID]
    assert abs(nodule["diameter_mm"] / 23.40 - 1) < 0.001 and abs(nodule["diameter_mm"] / luna16["diameter_mm"] - 1) < 0.01
    assert np.linalg.norm(nodule[XYZ].astype(float) - luna16[XYZ].astype(float)) < 0.5  # mm
    assert nodule["readers"] == 4 and nodule["type"] == "solid" and (table["kind"] == "nodule").sum() == 1


@real
def test_luna16s_excluded_rows_are_the_points_of_0001(lidc_0001):
    reading, scan = lidc_0001
    marked = [(len(session.nodules), len(session.small), len(session.non_nodules)) for session in reading.sessions]
    assert marked == [(1, 3, 4), (1, 0, 1), (1, 3, 8), (1, 3, 0)]
    table, _ = consensus(reading, scan)
    excluded = read_table(EXCLUDED, LUNA16, repeats=True)
    ours, theirs = (sorted(part[part["diameter_mm"] < 0][XYZ].round(2).to_numpy().tolist()) for part in (table, excluded))
    assert len(ours) == 22 and np.allclose(ours, theirs, atol=0.011)


@real
def test_luna16s_diameters_are_the_readers_averaged_in_pairs(lidc_0001):
    """The last reader's diameter and the running means stand in LUNA16's tables of this scan, to the last digit."""
    reading, scan = lidc_0001
    first, second, third, fourth = (equivalent_diameter(len(nodule_voxels(session.nodules[0], scan)), scan) for session in reading.sessions)
    excluded = read_excluded(EXCLUDED)
    nodules = read_nodules(REAL / "luna16_tables" / "annotations.csv").set_index("seriesuid")
    running = [fourth, (fourth + third) / 2, ((fourth + third) / 2 + second) / 2]
    assert np.allclose(sorted(running), sorted(excluded["diameter_mm"][excluded["diameter_mm"] > 0]), atol=1e-6)
    assert np.isclose((running[-1] + first) / 2, nodules.loc[UID, "diameter_mm"], atol=1e-6)


@real
@pytest.mark.parametrize("name", ["188_259", "189_130"])
def test_holes_of_real_readings_make_their_nodules_smaller(name):
    reading = read_lidc(REAL / "lidc_xml" / f"{name}.xml")
    nodules = [nodule for session in reading.sessions for nodule in session.nodules]
    lowest = min(contour.z for nodule in nodules for contour in nodule.contours)
    scan = Scan(np.broadcast_to(np.int16(0), (200, 512, 512)), (0.7, 0.7, 2.5), (0, 0, lowest), np.eye(3), reading.uid)
    for nodule in nodules:
        filled = Finding("", tuple(contour for contour in nodule.contours if contour.inclusion))
        size, filled_size = len(nodule_voxels(nodule, scan)), len(nodule_voxels(filled, scan))
        assert (0 < size < filled_size) if len(filled.contours) < len(nodule.contours) else (0 < size == filled_size)
