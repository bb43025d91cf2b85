"""annotations against hand-drawn outlines, LUNA16's tables and LIDC-IDRI's files (LUNGADV_REAL_CT), bad input and fuzzed files."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungadv import annotations as module
from lungadv import ct, datasets, phantom
from lungadv.annotations import LUNA16, XYZ, AnnotationError, Contour, Finding

REAL = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).resolve().parents[2] / "shared" / "real_ct")
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans at {REAL}: set LUNGADV_REAL_CT")
UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"  # LIDC-IDRI-0001
EXCLUDED = REAL / "luna16_tables" / "annotations_excluded_LIDC-IDRI-0001_only.csv"
HEAD = ",".join(LUNA16) + "\n"


def a_scan(uid="a", shape=(40, 60, 50), spacing=(1, 1, 2), origin=(10, 200, -400), direction=None):
    return ct.Scan(np.full(shape, -800, np.int16), spacing, origin, np.eye(3) if direction is None else direction, uid)


# ---- tables ----


def test_tables_by_comma_or_tab_give_the_same(tmp_path):
    comma, tab = tmp_path / "a.csv", tmp_path / "a.tsv"
    comma.write_text("\ufeff" + HEAD + '056, 1,-2e1,+3.5,6\n\n"57",1,2,3,6\n', encoding="utf-8")
    tab.write_text(HEAD.replace(",", "\t") + "056\t1\t-20\t3.5\t6\n\n57\t1\t2\t3\t6\n")
    one, other = module.read_table(comma, LUNA16), module.read_table(tab, LUNA16)
    pd.testing.assert_frame_equal(one, other)
    assert one.index.tolist() == [2, 4] and one["seriesuid"].tolist() == ["056", "57"]
    assert one.dtypes[1:].tolist() == [float] * 4 and one.loc[2, XYZ].tolist() == [1, -20, 3.5]


BAD_TABLES = {
    "nothing": ("", "cannot be read as CSV .*empty"),
    "column": ("seriesuid,coordX\na,1\n", "no column coordY, coordZ, diameter_mm"),
    "two columns": (HEAD.strip() + ",coordX\na,1,2,3,6,1\n", "two columns 'coordX'"),
    "semicolons": (HEAD.replace(",", ";") + "a;1,5;2;3;6\n", "semicolons"),
    "decimal commas": (HEAD + "a,1,5,2,5,3,5,6,5\n", "line 2 has 9 fields, the header 5: .*write 10.5"),
    "quoted comma": (HEAD + 'a,1,2,"-3,5",6\n', r"line 2: coordZ '-3,5' is no number: write -3\.5"),
    "short": (HEAD + "a,1,2,3,6\nb,1,2\n", "line 3 has 3 fields"),
    "text": (HEAD + "a,1,2,three,6\n", "line 2: coordZ 'three' is no number"),
    "nan": (HEAD + "a,1,2,nan,6\n", "line 2: coordZ 'nan'"),
    "gap": (HEAD + "a,1,2,,6\n", "line 2: coordZ ''"),
    "infinite": (HEAD + "a,1,2,1e999,6\n", "line 2: coordZ '1e999'"),
    "spreadsheet": (HEAD + "1.3E+55,1,2,3,6\n", r"line 2: seriesuid '1.3E\+55' is a number, not an id"),
    "german spreadsheet": (HEAD.replace(",", "\t") + "1,3E+55\t1\t2\t3\t6\n", "is a number, not an id"),
    "floats": (HEAD + "56.0,1,2,3,6\n", "'56.0' is a number, not an id"),
    "no id": (HEAD + " ,1,2,3,6\n", "line 2: the seriesuid is empty"),
    "twice": (HEAD + "a,1,2,3,6\n\na,1,2,3,6\n", "line 4 repeats line 2"),
    "quote": (HEAD + 'a,1,2,"3,6\n', "cannot be read as CSV"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_name_file_line_and_remedy(tmp_path, case):
    text, reason = BAD_TABLES[case]
    path = tmp_path / "nodules.csv"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=reason) as error:
        module.read_table(path, LUNA16)
    assert "nodules.csv" in str(error.value) and "\n" not in str(error.value) and ":" in str(error.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD, encoding="utf-16")
    for path in (tmp_path / "a.csv", tmp_path / "nowhere.csv", tmp_path):
        for read in (lambda path: module.read_table(path, LUNA16), module.read_uids, module.read_lidc):
            with pytest.raises(AnnotationError, match="cannot be read"):
                read(path)


def test_uid_list(tmp_path):
    path = tmp_path / "seriesuids.csv"
    path.write_text("056\r\n57\n\n")
    assert module.read_uids(path) == ["056", "57"]
    path.write_text("1.2\n\n1.3E+55\n")
    with pytest.raises(AnnotationError, match="seriesuids.csv, line 3: .*a spreadsheet saved it"):
        module.read_uids(path)
    for text, message in (("seriesuid\n056\n", "header"), ("a\na\n", "twice"), ("\n", "no scan")):
        path.write_text(text)
        with pytest.raises(AnnotationError, match=f"seriesuids.csv: .*{message}"):
            module.read_uids(path)


def test_nodules_of_any_csv(tmp_path):
    path = tmp_path / "nodules.csv"
    path.write_text("coordX,coordY,coordZ,diameter_mm,type,note\n1,2,3,6,ground_glass,seen\n")
    assert module.read_nodules(path, uid="1.2").to_dict("records") == [
        {"seriesuid": "1.2", "coordX": 1, "coordY": 2, "coordZ": 3, "diameter_mm": 6, "type": "ground_glass"}
        | {"attachment": "", "spiculated": ""}
    ]
    with pytest.raises(AnnotationError, match="no column seriesuid"):
        module.read_nodules(path)
    path.write_text(HEAD + "a,1,2,3,6\na,1,2,3,-1\n")
    with pytest.raises(AnnotationError, match="line 3: diameter_mm -1 is not above 0"):
        module.read_nodules(path)
    path.write_text(HEAD.strip() + ",type\na,1,2,3,6,cyst\n")
    with pytest.raises(AnnotationError, match="line 2: unknown type 'cyst': write one of solid"):
        module.read_nodules(path)
    path.write_text(HEAD.strip() + ",spiculated\na,1,2,3,6,True\na,1,2,9,6,maybe\n")
    with pytest.raises(AnnotationError, match="line 3: spiculated 'maybe': write True or False"):
        module.read_nodules(path)


def test_the_names_are_those_of_the_other_modules():
    assert module.TYPES is phantom.TYPES and datasets.NODULES[:7] == [*LUNA16, "type", "attachment"]


# ---- LUNA16 ----


def luna16_folder(folder, tables=""):
    for k, uid in enumerate(("1.2", "1.3", "1.4")):
        (folder / f"subset{k % 2}").mkdir(exist_ok=True)
        (folder / f"subset{k % 2}" / f"{uid}.mhd").touch()
    (folder / tables).mkdir(exist_ok=True)
    (folder / tables / "annotations.csv").write_text(HEAD + "1.2,1,2,3,6\n")
    return folder


def test_luna16_folder(tmp_path):
    found = module.read_luna16(luna16_folder(tmp_path, "CSVFILES"))
    assert found.folds == {"1.2": 0, "1.3": 1, "1.4": 0} and found.uids == ["1.2", "1.3", "1.4"]
    assert len(found.annotations) == 1 and found.excluded.empty and found.excluded["coordX"].dtype == float
    (tmp_path / "seriesuids.csv").write_text("1.2\n1.4\n")
    (tmp_path / "CSVFILES" / "annotations_excluded.csv").write_text(HEAD + "1.4,1,2,3,-1\n" * 2)
    found = module.read_luna16(tmp_path)
    assert found.uids == ["1.2", "1.4"] and found.excluded["diameter_mm"].tolist() == [-1]


def test_luna16_folders_that_are_none(tmp_path):
    with pytest.raises(AnnotationError, match="no scans subset0"):
        module.read_luna16(tmp_path)
    luna16_folder(tmp_path)
    (tmp_path / "annotations.csv").unlink()
    with pytest.raises(AnnotationError, match="no annotations.csv"):
        module.read_luna16(tmp_path)
    (tmp_path / "subset1" / "1.2.mhd").touch()
    with pytest.raises(AnnotationError, match="scan '1.2' lies in subset0 and subset1"):
        module.read_folds(tmp_path)


def test_candidates_of_both_versions(tmp_path):
    path = tmp_path / "candidates_V2.csv"
    path.write_text("seriesuid,coordX,coordY,coordZ,class\na,1,2,3,0\na,1,2,3,0\na,4,5,6,1\n")
    assert module.read_candidates(path)["class"].tolist() == [0, 0, 1]
    path.write_text("seriesuid,coordX,coordY,coordZ,class\na,1,2,3,2\n")
    with pytest.raises(AnnotationError, match="line 2: class '2' is neither 0 nor 1"):
        module.read_candidates(path)


@real
def test_luna16s_own_tables():
    nodules = module.read_nodules(REAL / "luna16_tables" / "annotations.csv")
    assert len(nodules) == 1186 and nodules["seriesuid"].nunique() == 601 and (nodules["type"] == "unspecified").all()
    excluded = module.read_excluded(EXCLUDED)
    assert len(excluded) == 19 and set(excluded["seriesuid"]) == {UID}  # of its 25 rows 6 come twice


# ---- positions ----


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
    module.check_positions(table, {"a": scan}, "nodules.csv")
    for mistake, values in ways_wrong(table, scan).items():
        wrong = table.assign(**dict(zip(XYZ, values, strict=True)))
        with pytest.raises(AnnotationError, match=rf"csv, line 2: .* outside scan 'a' .*: all {len(table)} rows .* fit as .*{mistake}"):
            module.check_positions(wrong, {"a": scan}, "nodules.csv")


def test_one_row_that_fits_by_chance_does_not_hide_the_flip():
    scan = a_scan(origin=(-25, -20, -400))
    table = rows([-20, -15, -390], [0, 30, -380], [10, 35, -370])  # the first also fits when flipped, the others do not
    flipped = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    with pytest.raises(AnnotationError, match="line 3: .*: all 3 rows of this table fit as x and y negated"):
        module.check_positions(flipped, {"a": scan}, "nodules.csv")


def test_a_single_scan_may_be_flipped_or_a_single_row_wrong():
    scans = {"a": a_scan("a"), "b": a_scan("b")}
    good = rows([30, 230, -390], uid="a")
    flipped = rows([-20, -215, -390], [-30, -220, -380], uid="b").set_axis([3, 4])
    with pytest.raises(AnnotationError, match="line 3: .* all 2 rows of this scan fit as x and y negated"):
        module.check_positions(pd.concat([good, flipped]), scans, "nodules.csv")
    mixed = rows([30, 230, -390], [30, 230, -100])
    with pytest.raises(AnnotationError, match=r"line 3: \[30.0, 230.0, -100.0\] mm lies outside .* \(voxel .*\): coordinates are LPS"):
        module.check_positions(mixed, scans, "nodules.csv")
    with pytest.raises(AnnotationError, match="line 2: scan '7.7' is not among the 2 given"):
        module.check_positions(rows([0, 0, 0], uid="7.7"), scans, "nodules.csv")
    module.check_positions(good.iloc[:0], scans, "nodules.csv")


# ---- LIDC: files ----

MESSAGE = '<{root} xmlns="{space}"><ResponseHeader>{header}</ResponseHeader>{body}</{root}>'
LIDC = {"root": "LidcReadMessage", "space": "http://www.nih.gov", "header": "<SeriesInstanceUid>a</SeriesInstanceUid>"}


def points_xml(name, points):
    return "".join(f"<{name}><xCoord>{x}</xCoord><yCoord>{y}</yCoord></{name}>" for x, y in points)


def nodule_xml(*rois, texture=5, calcification=6, rated=True):
    """A nodule of rois (z, inclusion, points)."""
    ratings = f"<characteristics><texture>{texture}</texture><calcification>{calcification}</calcification></characteristics>"
    drawn = "".join(
        f"<roi><imageZposition>{z} </imageZposition><imageSOP_UID>sop{z}</imageSOP_UID><inclusion>{inclusion}</inclusion>"
        f"{points_xml('edgeMap', points)}</roi>"
        for z, inclusion, points in rois
    )
    return f"<unblindedReadNodule><noduleID>n</noduleID>{ratings if rated else ''}{drawn}</unblindedReadNodule>"


def non_nodule_xml(z, point):
    return f"<nonNodule><nonNoduleID>x</nonNoduleID><imageZposition>{z}</imageZposition>{points_xml('locus', [point])}</nonNodule>"


def session_xml(*findings):
    return f"<readingSession><servicingRadiologistID>r</servicingRadiologistID>{''.join(findings)}</readingSession>"


def read(folder, *sessions, **message):
    (folder / "reading.xml").write_text(MESSAGE.format(**LIDC | {"body": "".join(sessions)} | message))
    return module.read_lidc(folder / "reading.xml")


def box(x, y, width, height):
    """A closed outline that encloses width x height pixels from (x, y)."""
    return [(x - 1, y - 1), (x + width, y - 1), (x + width, y + height), (x - 1, y + height), (x - 1, y - 1)]


SQUARE = nodule_xml((-390, "TRUE", box(10, 20, 4, 4)))


@pytest.mark.parametrize("root", ["LidcReadMessage", "IdriReadMessage"])
@pytest.mark.parametrize("space", ["http://www.nih.gov", "http://www.nih.gov/idri", ""])
def test_both_roots_in_any_namespace(tmp_path, root, space):
    header = "<CTSeriesInstanceUid>a</CTSeriesInstanceUid><Modality>CT</Modality>"
    reading = read(tmp_path, session_xml(SQUARE, non_nodule_xml(-380, (1, 2))) * 4, root=root, space=space, header=header)
    assert reading.uid == "a" and reading.remark == "" and len(reading.sessions) == 4
    session = reading.sessions[0]
    (contour,) = session.nodules[0].contours
    assert contour.z == -390 and contour.sop == "sop-390" and contour.inclusion and contour.points.tolist()[0] == [9, 19]
    assert session.nodules[0].ratings == {"texture": 5, "calcification": 6}
    assert session.non_nodules[0].contours[0].points.tolist() == [[1, 2]]


@pytest.mark.parametrize("sessions", [1, 3, 5])
def test_sessions_missing_or_more_are_said(tmp_path, sessions):
    assert read(tmp_path, session_xml() * sessions).remark == f"{sessions} reading sessions instead of 4"


ENTITIES = "".join(f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(9))
LAUGHS = f'<!DOCTYPE l [<!ENTITY a0 "ha">{ENTITIES}]><LidcReadMessage>&a9;</LidcReadMessage>'  # a thousand million of them


def message(*rois, **ratings):
    return MESSAGE.format(**LIDC, body=session_xml(nodule_xml(*rois, **ratings)))


BAD_XML = {
    "laughs": (LAUGHS, "could unfold without end"),
    "outside": ('<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><LidcReadMessage>&a;</LidcReadMessage>', "could unfold without end"),
    "doctype": ("<!DOCTYPE l><LidcReadMessage/>", "could unfold without end"),
    "cut": ("<LidcReadMessage><ResponseHeader>", "cannot be read as XML"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><LidcReadMessage/>', "cannot be read as XML"),
    "voc": ("<annotation/>", "its root is <annotation>"),
    "no uid": ("<LidcReadMessage/>", "does not say which series"),
    "no session": (MESSAGE.format(**LIDC, body=""), "no reading session"),
    "no point": (message((-390, "TRUE", [])), "nodule 'n' has an outline without points"),
    "hole": (message((-390, "FALSE", box(1, 1, 1, 1))), "no outline and no point"),
    "inclusion": (message((-390, "maybe", [(1, 2)])), "inclusion 'maybe' is neither"),
    "pixel": (message((-390, "TRUE", [("1.5", 2)])), "xCoord '1.5' is no whole number"),
    "far": (message((-390, "TRUE", [(1, 10**9)])), "yCoord '1000000000' is no whole number"),
    "z": (message(("nan", "TRUE", [(1, 2)])), "imageZposition 'nan' is no number"),
    "rating": (message((-390, "TRUE", [(1, 2)]), texture=9), "texture '9' is no whole number from 0 to 6"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_readings_name_file_and_remedy(tmp_path, case):
    text, reason = BAD_XML[case]
    (tmp_path / "reading.xml").write_text(text)
    with pytest.raises(AnnotationError, match=f"reading.xml.*{reason}") as error:
        module.read_lidc(tmp_path / "reading.xml")
    assert "\n" not in str(error.value) and not isinstance(error.value, module.Radiograph)


def test_a_folder_skips_and_counts_radiographs_and_says_what_it_refused(tmp_path):
    for name, text in {
        "1/a.xml": MESSAGE.format(**LIDC, body=session_xml() * 4),
        "1/again.xml": MESSAGE.format(**LIDC, body=session_xml() * 4),
        "2/chest.xml": MESSAGE.format(**LIDC | {"root": "IdriReadMessage"}, body="<CXRreadingSession/>"),
        "2/film.xml": MESSAGE.format(**LIDC | {"header": "<Modality>CXR</Modality>"}, body=""),
        "2/voc.xml": "<annotation/>",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    readings, radiographs, refused = module.read_lidc_folder(tmp_path)
    assert list(readings) == ["a"] and radiographs == 2 and {path.name for path in refused} == {"again.xml", "voc.xml"}
    assert "keep one of them" in refused[tmp_path / "1" / "again.xml"]


# ---- LIDC: outlines ----


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
        assert set(map(tuple, module.enclosed(np.array(points)).tolist())) == pixels(drawing, "#")


@pytest.mark.parametrize("points", [[(3, 3)], [(3, 3), (3, 3)], [(3, 3), (9, 3)], [(3, 3), (4, 3), (4, 4), (3, 4)]])
def test_outlines_around_nothing(points):
    assert module.enclosed(np.array(points)).shape == (0, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=12))
def test_what_is_enclosed_is_cut_off_from_the_edge(points):
    """Against a flood fill by hand: nothing enclosed is on the outline or reached from outside in steps along rows and columns."""
    points = np.array(points)
    inside = set(map(tuple, module.enclosed(points).tolist()))
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
    two = (Contour(np.array(box(10, 20, 4, 4)), -390, ""), Contour(np.array(box(30, 20, 3, 3)), -390, ""))
    hole = Contour(np.array(box(11, 21, 2, 1)), -390, "", inclusion=False)
    elsewhere = Contour(np.array(box(11, 21, 2, 2)), -388, "", inclusion=False)
    mask = np.zeros(scan.hu.shape, bool)
    mask.flat[module.region(Finding("", (*two, hole, elsewhere)), scan)] = True
    expected = np.zeros(scan.hu.shape, bool)
    expected[5, 20:24, 10:14] = expected[5, 20:23, 30:33] = True
    expected[5, 21, 11:13] = False
    assert (mask == expected).all()


# ---- LIDC: nodules ----


def test_consensus_of_four_drawn_squares(tmp_path):
    """Two slices of 1 x 1 x 2 mm voxels: the square of columns 10-19 that two readers share, one half of it, and one beyond."""
    outlines = [box(10, 20, 10, 8), box(10, 20, 10, 8), box(10, 20, 5, 8), box(12, 20, 12, 8)]
    rated = zip(outlines, (1, 3, 3, 5), strict=True)
    sessions = (session_xml(nodule_xml((-390, "TRUE", each), (-388, "TRUE", each), texture=texture)) for each, texture in rated)
    table, mask = module.lidc_nodules(read(tmp_path, *sessions), a_scan())
    expected = np.zeros(mask.shape, np.uint8)
    expected[5:7, 20:28, 10:20] = 1
    assert (mask == expected).all() and mask.dtype == np.uint8
    row = table.iloc[0]
    assert np.allclose(row[XYZ].astype(float), [10 + 14.5, 200 + 23.5, -389]) and np.isclose(row["diameter_mm"], np.cbrt(6 / np.pi * 320))
    assert row[["seriesuid", "type", "attachment", "label", "readers", "kind"]].tolist() == ["a", "part_solid", "", 1, 4, "nodule"]


def test_half_of_the_readers_present_is_enough(tmp_path):
    for sessions, votes in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        for drawn in range(1, sessions + 1):
            shared = module._shared([np.arange(3)] * drawn, sessions)
            assert len(shared) == (3 if drawn >= votes else 0)


def test_what_is_excluded_and_why(tmp_path):
    small = nodule_xml((-380, "TRUE", [(40, 40)]), rated=False)
    tiny, disputed = nodule_xml((-370, "TRUE", box(5, 5, 2, 2))), nodule_xml((-360, "TRUE", box(30, 30, 9, 9)))
    empty = nodule_xml((-350, "TRUE", [(20, 20), (21, 20), (21, 21), (20, 21)]))
    findings = (tiny, disputed, small, empty), (tiny, disputed), (tiny, non_nodule_xml(-340, (7, 9))), ()
    table, mask = module.lidc_nodules(read(tmp_path, *(session_xml(*each) for each in findings)), a_scan())
    assert table[["kind", "readers", "label"]].to_numpy().tolist() == [
        ["small", 3, 0], ["disputed", 2, 0], ["small", 1, 0], ["small", 1, 0], ["non-nodule", 1, 0]
    ]  # fmt: skip
    assert not mask.any() and np.allclose(table["diameter_mm"], [np.cbrt(6 / np.pi * 8), np.cbrt(6 / np.pi * 162), -1, -1, -1])
    assert table.loc[[2, 3, 4], XYZ].to_numpy().tolist() == [[30.5, 220.5, -350], [50, 240, -380], [17, 209, -340]]


def test_readers_that_share_no_voxel_are_averaged(tmp_path):
    one, other = (session_xml(nodule_xml((-390, "TRUE", box(x, 20, 4, 8)))) for x in (10, 14))
    table, _ = module.lidc_nodules(read(tmp_path, one, other, session_xml(), session_xml()), a_scan())
    assert table["readers"].tolist() == [2] and np.allclose(table.loc[0, XYZ].astype(float), [10 + 13.5, 223.5, -390])
    assert np.isclose(table["diameter_mm"][0], np.cbrt(6 / np.pi * 64))


def test_a_reader_counts_once_in_a_nodule():
    centres = np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0], [3.5, 0, 0], [40, 0, 0], [60, 0, 0]], float)
    found = module.clusters(centres, np.full(6, 5.0), [0, 1, 0, 1, 2, 3])
    assert found == [[0, 1], [2, 3], [4], [5]]  # all four lie within reach of each other, but they are two readers' two nodules
    assert module.clusters(np.array([[0, 0, 0], [9.99, 0, 0], [20, 0, 0]]), np.full(3, 5.0), [0, 1, 2]) == [[0, 1], [2]]
    assert module.clusters(np.empty((0, 3)), np.empty(0), []) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_clusters_are_a_partition(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 12)
    readers = rng.integers(4, size=n).tolist()
    found = module.clusters(rng.uniform(0, 30, (n, 3)), rng.uniform(1, 10, n), readers)
    assert sorted(sum(found, [])) == list(range(n))
    assert all(len({readers[k] for k in members}) == len(members) for members in found)


@pytest.mark.parametrize(
    "texture, calcification, kind",
    [([5, 5, 4], [6, 6, 6], "solid"), ([5, 1, 3], [6], "part_solid"), ([1, 1, 2], [6], "ground_glass"),
     ([5, 5, 5], [3, 3, 6], "fully_calcified"), ([5], [5], "solid"), ([], [6], "unspecified"), ([], [], "unspecified")],
)  # fmt: skip
def test_types_from_median_ratings(texture, calcification, kind):
    ratings = [{"texture": value} for value in texture] + [{"calcification": value} for value in calcification]
    assert module.nodule_type([Finding("", (), each) for each in ratings]) == kind and kind in (*phantom.TYPES, datasets.UNSPECIFIED)


@pytest.mark.parametrize("spiculation, expected", [((4, 5, 1), True), ((1, 5), False), ((3,), False), ((), False)])
def test_spiculated_from_median_ratings(spiculation, expected):
    ratings = [{"spiculation": value} for value in spiculation] + [{"texture": 5}]
    assert module.spiculated([Finding("", (), each) for each in ratings]) is expected


@pytest.mark.parametrize("direction", [(1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_pixels_are_the_arrays_columns_and_rows_whatever_its_direction(tmp_path, direction):
    scan = a_scan(direction=np.diag(direction))
    z = scan.to_world([[5, 0, 0]])[0, 2]
    table, mask = module.lidc_nodules(read(tmp_path, session_xml(nodule_xml((z, "TRUE", box(10, 20, 9, 9)))) * 4), scan)
    assert mask[5, 20:29, 10:19].all() and mask.sum() == 81
    assert np.allclose(table.loc[0, XYZ].astype(float), scan.to_world([[5, 24, 14]])[0])


def test_the_slices_own_uid_is_trusted_more_than_the_position(tmp_path):
    reading = read(tmp_path, session_xml(nodule_xml((-390.4, "TRUE", box(10, 20, 9, 9)))) * 4)
    with pytest.raises(AnnotationError, match="z -390.4 mm is on no slice of scan 'a' .-400 to -322 mm every 2.: use the series'"):
        module.lidc_nodules(reading, a_scan())
    assert module.lidc_nodules(reading, a_scan(), {"sop-390.4": -392.0})[1][4].sum() == 81


@pytest.mark.parametrize(
    "z, mistake", [((-39, -38.4), "in centimetres"), ((-0.39, -0.384), "in metres"), ((390, 384), "negated"), ((5, 8), "slice numbers")]
)
def test_positions_in_other_units_are_named(tmp_path, z, mistake):
    reading = read(tmp_path, session_xml(*(nodule_xml((each, "TRUE", box(10, 20, 4, 4))) for each in z)))
    with pytest.raises(AnnotationError, match=f"all 2 positions fit if they are {mistake}"):
        module.lidc_nodules(reading, a_scan())


@pytest.mark.parametrize(
    "z, needs", [((-410, -398), "-410 mm"), ((-312, -398, -316), "-316 to -312 mm"), ((-410.7, -398), None), ((-410, -397), None)]
)
@pytest.mark.parametrize("way", [1, -1])
def test_missing_slices_are_named(tmp_path, z, needs, way):
    reading = read(tmp_path, session_xml(*(nodule_xml((each, "TRUE", box(10, 20, 4, 4))) for each in z)))
    scan = a_scan()
    if way < 0:
        scan = ct.Scan(scan.hu[::-1], scan.spacing, (*scan.origin[:2], -322), np.diag([1.0, 1.0, -1.0]), scan.uid)
    said = "slices are missing: 40 slices are here, from z -400 to -322 mm; the reading needs z {} too; get the whole series"
    with pytest.raises(AnnotationError, match=said.format(needs) if needs else "use the series' own slices"):
        module.lidc_nodules(reading, scan)


def test_readings_of_another_grid(tmp_path):
    reading = read(tmp_path, session_xml(nodule_xml((-390, "TRUE", box(47, 20, 4, 4)))))
    with pytest.raises(AnnotationError, match=r"pixel \(51, 24\) is outside the slices of 50 x 60"):
        module.lidc_nodules(reading, a_scan())
    with pytest.raises(AnnotationError, match="of series a, not of scan 'b'"):
        module.lidc_nodules(reading, a_scan("b"))
    tilted = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    with pytest.raises(AnnotationError, match="not axial"):
        module.lidc_nodules(reading, a_scan(direction=tilted))


def test_a_reading_of_nothing(tmp_path):
    table, mask = module.lidc_nodules(read(tmp_path, session_xml() * 4), a_scan())
    assert table.empty and table.columns.tolist() == module.FINDINGS and table["coordX"].dtype == float and not mask.any()


# ---- nodules look like nodules ----


def chest_with(places, signs=(1, 1, 1), size=8, shape=(40, 80, 80), hu=-850):
    """Lung, centred on x = y = 0, with balls of `size` mm at LPS places, and their table."""
    scan = ct.Scan(np.full(shape, hu, np.int16), (2, 2, 2), (-79 * signs[0], -79 * signs[1], -400), np.diag(signs), "a")
    grid = scan.to_world(np.indices(shape).reshape(3, -1).T)
    for place in places:
        scan.hu[(np.linalg.norm(grid - place, axis=1) < size / 2).reshape(shape)] = 30
    return scan, rows(*places).assign(diameter_mm=float(size))


PLACES = [(-40, 30, -360), (-20, -45, -350), (35, 50, -370), (50, -20, -340), (0, 25, -350)]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)], ids=str)
def test_a_flip_that_stays_inside_is_named_and_the_right_table_is_not(signs):
    scan, table = chest_with(PLACES, signs)
    negated = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    module.check_positions(negated, {"a": scan}, "nodules.csv")
    assert module.check_look(table, {"a": scan}, "nodules.csv") == ""
    with pytest.raises(AnnotationError, match=r"nodules.csv: 0 of 5 rows .* but 5 do as x and y negated \(RAS instead of LPS\)"):
        module.check_look(negated, {"a": scan}, "nodules.csv")
    few = module.check_look(negated[:2], {"a": scan}, "nodules.csv")  # too few to be sure
    assert "0 of 2 rows" in few and "and 2 as x and y negated" in few
    with pytest.raises(AnnotationError, match="0 of 3 rows .* but 3 do as x and y negated"):
        module.check_look(negated[:3], {"a": scan}, "nodules.csv")
    chance = pd.concat([negated[:2], table[3:4]])  # one of three rows lies on something bright
    assert module.check_look(chance, {"a": scan}, "nodules.csv").startswith("nodules.csv: 1 of 3 rows looked at")


def test_a_voxel_table_that_lies_inside_is_named():
    scan, table = chest_with(PLACES)
    scan = ct.Scan(scan.hu, scan.spacing, (-10, -10, -10), scan.direction, "a")
    table[XYZ] += np.array([69, 69, 390])
    voxels = table.assign(**dict(zip(XYZ, scan.to_voxel(table[XYZ])[:, ::-1].T, strict=True)))
    assert module.check_look(table, {"a": scan}, "nodules.csv") == ""
    with pytest.raises(AnnotationError, match="voxel indices x, y, z"):
        module.check_look(voxels, {"a": scan}, "nodules.csv")


def test_tables_whose_rows_do_not_look_like_nodules_are_doubted_but_taken():
    scan, table = chest_with(PLACES)
    elsewhere = table.assign(coordX=table["coordX"] + 20)
    assert "0 of 5 rows looked at" in module.check_look(elsewhere, {"a": scan}, "nodules.csv")
    solid = ct.Scan(np.full((40, 80, 80), 40, np.int16), (2, 2, 2), (-79, -79, -400), np.eye(3), "a")
    assert "0 of 5 rows looked at" in module.check_look(table, {"a": solid}, "nodules.csv")  # no lung
    assert module.check_look(table[:0], {}, "nodules.csv") == ""
    many = pd.concat([table] * 300)
    assert module.check_look(many, {"a": scan}, "nodules.csv") == "" and module.check_look(table.assign(diameter_mm=1e6), {"a": scan}, "x")


def test_what_looks_like_a_nodule():
    for hu, around, expected in ((-650, -850, True), (-840, -850, False), (30, 30, False), (30, -1000, False), (700, -600, True)):
        scan, table = chest_with(PLACES[:1], hu=around)
        scan.hu[scan.hu == 30] = hu
        assert module.looks_like_nodule(scan, scan.to_voxel(PLACES[:1])[0], 8) == expected, (hu, around)
    assert not module.looks_like_nodule(scan, np.array([-1.0, 5, 5]), 8)


# ---- LIDC-IDRI's own files ----


@pytest.fixture(scope="module")
def lidc_0001():
    reading = module.read_lidc(REAL / "lidc_idri_0001" / "069.xml")
    return reading, ct.read_scan(REAL / "lidc_idri_0001" / f"{UID}.mhd")


@real
def test_lidc_idri_0001_is_its_votes_and_luna16s_row(lidc_0001):
    reading, scan = lidc_0001
    table, mask = module.lidc_nodules(reading, scan)
    votes = ct.read_scan(REAL / "lidc_idri_0001" / f"{UID}_nodule_votes.nii.gz").hu
    assert ((mask > 0) == (votes >= 2)).all() and (mask > 0).sum() == 5428
    nodule = table[table["kind"] == "nodule"].iloc[0]
    luna16 = module.read_nodules(REAL / "luna16_tables" / "annotations.csv").set_index("seriesuid").loc[UID]
    assert abs(nodule["diameter_mm"] / 23.40 - 1) < 0.001 and abs(nodule["diameter_mm"] / luna16["diameter_mm"] - 1) < 0.01
    assert np.linalg.norm(nodule[XYZ].astype(float) - luna16[XYZ].astype(float)) < 0.5  # mm
    assert nodule["readers"] == 4 and nodule["type"] == "solid" and (table["kind"] == "nodule").sum() == 1


@real
def test_luna16s_excluded_rows_are_the_points_of_0001(lidc_0001):
    reading, scan = lidc_0001
    marked = [(len(session.nodules), len(session.small), len(session.non_nodules)) for session in reading.sessions]
    assert marked == [(1, 3, 4), (1, 0, 1), (1, 3, 8), (1, 3, 0)]
    table, _ = module.lidc_nodules(reading, scan)
    excluded = module.read_table(EXCLUDED, LUNA16, repeats=True)
    ours, theirs = (sorted(part[part["diameter_mm"] < 0][XYZ].round(2).to_numpy().tolist()) for part in (table, excluded))
    assert len(ours) == 22 and np.allclose(ours, theirs, atol=0.011)


@real
def test_luna16s_diameters_are_the_readers_averaged_in_pairs(lidc_0001):
    """The last reader's diameter and the running means stand in LUNA16's tables of this scan, to the last digit."""
    reading, scan = lidc_0001
    first, second, third, fourth = (module.diameter(len(module.region(session.nodules[0], scan)), scan) for session in reading.sessions)
    excluded = module.read_excluded(EXCLUDED)
    nodules = module.read_nodules(REAL / "luna16_tables" / "annotations.csv").set_index("seriesuid")
    running = [fourth, (fourth + third) / 2, ((fourth + third) / 2 + second) / 2]
    assert np.allclose(sorted(running), sorted(excluded["diameter_mm"][excluded["diameter_mm"] > 0]), atol=1e-6)
    assert np.isclose((running[-1] + first) / 2, nodules.loc[UID, "diameter_mm"], atol=1e-6)


@real
def test_a_negated_row_of_0001_is_doubted(lidc_0001):
    _, scan = lidc_0001
    table = module.read_nodules(REAL / "luna16_tables" / "annotations.csv")
    table, scans = table[table["seriesuid"] == UID], {UID: scan}
    negated = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    module.check_positions(negated, scans, "annotations.csv")  # it stays inside
    assert module.check_look(table, scans, "annotations.csv") == ""
    assert "and 1 as x and y negated" in module.check_look(negated, scans, "annotations.csv")


@real
def test_slices_of_dicom_and_of_the_xml_agree(lidc_0001):
    reading, _ = lidc_0001
    positions = module.slice_positions(REAL / "lidc_idri_0001" / "dicom")
    contours = [contour for session in reading.sessions for nodule in session.nodules for contour in nodule.contours]
    shared = [(contour.z, positions[contour.sop]) for contour in contours if contour.sop in positions]
    assert len(positions) == 9 and len(shared) == len(contours) and all(np.isclose(*pair) for pair in shared)
    with pytest.raises(AnnotationError, match="069.xml' is no DICOM slice"):
        module.slice_positions(REAL / "lidc_idri_0001")


@real
def test_every_reading_among_the_real_files():
    readings, radiographs, refused = module.read_lidc_folder(REAL)
    assert {reading.path.name for reading in readings.values()} == {"069.xml", "188_259.xml", "189_130.xml", "189_142.xml"}
    assert radiographs == 1 and len(refused) == 3 and all("its root is <annotation>" in reason for reason in refused.values())

    def holes(reading):
        nodules = [nodule for session in reading.sessions for nodule in session.nodules]
        return sum(not contour.inclusion for nodule in nodules for contour in nodule.contours)

    found = {reading.path.name: holes(reading) for reading in readings.values()}
    assert found == {"069.xml": 0, "188_259.xml": 1, "189_130.xml": 12, "189_142.xml": 0}


@real
@pytest.mark.parametrize("name", ["188_259", "189_130"])
def test_holes_of_real_readings_make_their_nodules_smaller(name):
    reading = module.read_lidc(REAL / "lidc_xml" / f"{name}.xml")
    nodules = [nodule for session in reading.sessions for nodule in session.nodules]
    lowest = min(contour.z for nodule in nodules for contour in nodule.contours)
    scan = ct.Scan(np.broadcast_to(np.int16(0), (200, 512, 512)), (0.7, 0.7, 2.5), (0, 0, lowest), np.eye(3), reading.uid)
    for nodule in nodules:
        filled = Finding("", tuple(contour for contour in nodule.contours if contour.inclusion))
        size, filled_size = len(module.region(nodule, scan)), len(module.region(filled, scan))
        assert (0 < size < filled_size) if len(filled.contours) < len(nodule.contours) else (0 < size == filled_size)


# ---- fuzz ----

FUZZ = """
import resource, sys
from pathlib import Path
import numpy as np
from hypothesis import example, given, settings, strategies as st
from lungadv import annotations as module
from lungadv import ct

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (50, 50))
path = Path(sys.argv[1]) / "fuzzed"
scan = ct.Scan(np.full((40, 60, 50), -800, np.int16), (1, 1, 2), (10, 200, -400), np.eye(3), "a")
seed = Path(sys.argv[2]).read_bytes()
pieces = [b",", b"\\t", b";", b'"', b"\\n", b"\\0", b"\\xff", b"", b"-1", b"1e999", b"9" * 400, b"nan", b"1.3E+55",
          "\\u0663".encode(), b"<a>" * 9, b"</roi>", b"<", b">", b"&x;", b"<!DOCTYPE l [", b'<!ENTITY x "y">',
          b"<inclusion>", b"TRUE", b"32767", b"xmlns='b'", b"FALSE", b"{"]
edit = st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.sampled_from(pieces) | st.binary(max_size=6))
limits = settings(max_examples=int(sys.argv[3]), deadline=None, database=None, derandomize=True)


def mutated(text, edits):
    for where, length, piece in edits:
        where %= len(text) + 1
        text = text[:where] + piece + text[where + length:]
    return text


def try_all(text, *readers):
    path.write_bytes(text)
    for read in readers:
        try:
            read(path)
        except module.AnnotationError as error:
            assert "\\n" not in str(error) and len(str(error)) < 1000, str(error)


def nodules(path):
    table = module.read_nodules(path)
    assert np.isfinite(table[module.XYZ].to_numpy()).all() and (table["diameter_mm"] > 0).all()
    module.check_positions(table, {"a": scan}, path)


@limits
@given(st.lists(edit, max_size=8))
def tables(edits):
    text = b"seriesuid,coordX,coordY,coordZ,diameter_mm,type\\na,30,230,-390,6,solid\\na,31,231,-380,7,ground_glass\\n"
    try_all(mutated(text, edits), nodules, module.read_excluded, module.read_candidates, module.read_uids)


@limits
@given(st.lists(edit, max_size=4))
@example([(10**6, 0, b"<a>" * 10**5)])
def readings(edits):
    try_all(mutated(seed, edits), lambda path: module.lidc_nodules(module.read_lidc(path), scan))


tables()
readings()
"""


def test_fuzzed_tables_and_readings_end_in_clear_errors(tmp_path):
    """In a process of its own with 1 GiB and 50 s of processor time: no crash, no hang, no other error."""
    drawn = session_xml(nodule_xml((-390, "TRUE", box(10, 20, 4, 4)), (-390, "FALSE", box(11, 21, 1, 1))))
    (tmp_path / "seed.xml").write_text(MESSAGE.format(**LIDC, body=drawn * 3 + session_xml(non_nodule_xml(-380, (3, 4)))))
    command = [sys.executable, "-c", FUZZ, str(tmp_path), str(tmp_path / "seed.xml"), "300"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
