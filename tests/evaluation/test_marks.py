"""Tables that are scored: what is read, refused, warned of and counted, and how nodules are grouped."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from lungadv.data.tables import AnnotationError
from lungadv.evaluation.froc import froc
from lungadv.evaluation.marks import (
    FINDING_COLUMNS,
    MARK_COLUMNS,
    axis_changes,
    cap_marks,
    describe_counts,
    read_findings,
    read_marks,
    size_group,
    type_masks,
    warn_of_wrong_positions,
)


def marks_of(*rows):
    return pd.DataFrame(rows, columns=MARK_COLUMNS)


def findings(*rows):
    return pd.DataFrame(rows, columns=FINDING_COLUMNS)


ONE = findings(["a", 0, 0, 0, 10])


def cpm(marks, annotations=ONE, scans=("a",), **more):
    return froc(marks, annotations, scans, bootstraps=0, **more)


def test_the_cap_is_of_each_scan_and_its_ties_leave_together():
    marks = pd.DataFrame({"scan": [0, 1, 0, 0, 1, 0], "probability": [0.5, 0.1, 0.9, 0.5, 0.1, 0.8]})
    assert cap_marks(marks, 2)["probability"].tolist() == [0.1, 0.9, 0.1, 0.8]
    assert cap_marks(marks, 3)["probability"].tolist() == [0.1, 0.9, 0.1, 0.8]
    assert len(cap_marks(marks, 4)) == 6 and cap_marks(marks[:0], 4).empty


def test_sizes_begin_at_their_least_diameter_and_an_unknown_one_is_of_10_mm():
    assert size_group(np.array([5.999, 6, 7.9, 8, 19.9, 20, -1])).tolist() == ["under 6", "6-8", "6-8", "8-12", "12-20", "20+", "8-12"]


# Tables that are refused


@pytest.mark.parametrize("column", ["probability", "coordX"])
def test_nan_is_an_error_that_names_the_row(column):
    marks = marks_of(["a", 0, 0, 0, 0.5], ["a", 1, 0, 0, 0.5])
    marks.loc[1, column] = np.nan
    with pytest.raises(ValueError, match=f"marks: row 1 .seriesuid a. has {column}"):
        cpm(marks)


def test_a_scan_listed_twice_is_an_error():
    with pytest.raises(ValueError, match="'a' is listed twice"):
        cpm(marks_of(), scans=["a", "b", "a"])


def test_a_header_line_among_the_scans_is_an_error():
    with pytest.raises(ValueError, match="header"):
        cpm(marks_of(), scans=["seriesuid", "a"])


@pytest.mark.parametrize("header", ["uid", "seriesuid ", "SeriesInstanceUID", "Series-UID"])
def test_a_header_line_of_another_name_is_an_error(header):
    with pytest.raises(ValueError, match=f"header line '{header}'"):
        froc(marks_of(["a", 0, 0, 0, 1]), ONE, [header, "a"])


@pytest.mark.parametrize("scans", ["abc", pd.DataFrame({"seriesuid": ["a"]})])
def test_scans_are_a_list_of_ids(scans):
    with pytest.raises(ValueError, match="not as a list: give a list of ids"):
        froc(marks_of(["a", 0, 0, 0, 1]), ONE, scans)


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


def test_missing_column_is_an_error():
    with pytest.raises(ValueError, match="no column 'probability'"):
        cpm(marks_of(["a", 0, 0, 0, 0.5]).rename(columns={"probability": "score"}))


@pytest.mark.parametrize("table", ["marks", "annotations", "excluded"])
def test_padding_is_an_error_in_each_table_that_it_names(table):
    tables = {"marks": marks_of(["a", 0, 0, 0, 0.5]), "annotations": ONE, "excluded": findings(["a", 9, 9, 9, -1])}
    tables[table] = tables[table].assign(seriesuid="007")
    with pytest.raises(ValueError, match=f"{table}, row 0: seriesuid '007' is not listed but '7' is: leading zeros"):
        cpm(scans=["a", "7"], **tables)


# Warnings and counts


def test_unknown_scans_are_ignored_and_counted():
    score = cpm(marks_of(["a", 0, 0, 0, 0.5], ["z", 0, 0, 0, 0.9]))
    assert (score.cpm, score.counts["unknown_scan"], score.counts["false_positives"]) == (1, 1, 0)


@pytest.mark.parametrize("change, named", [(lambda p: p[:, ::-1], "x and z swapped"), (lambda p: p * [-1, -1, 1], "negated")])
def test_swapped_or_flipped_axes_are_noticed(change, named):
    places = np.random.default_rng(0).uniform(-150, 150, (20, 3))
    nodules = findings(*[["a", *place, 8] for place in places])
    marks = marks_of(*[["a", *place, 0.5] for place in change(places)])
    with pytest.warns(UserWarning, match=named):
        assert cpm(marks, nodules).cpm < 0.1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_every_order_and_sign_of_the_axes_is_noticed(order, signs):
    if (order, signs) == ((0, 1, 2), (1, 1, 1)):
        return
    places = np.random.default_rng(0).uniform(-150, 150, (20, 3))
    nodules = findings(*[["a", *place, 8] for place in places]).assign(scan=0)
    marks = marks_of(*[["a", *place, 0.5] for place in places[:, order] * signs]).assign(scan=0)
    with pytest.warns(UserWarning, match="would hit 100% with (.*);") as caught:
        warn_of_wrong_positions(marks, nodules, found=0)
    named = str(caught[0].message).split("100% with ")[1].split("; ")[0]
    assert np.array_equal(axis_changes()[named](marks[["coordX", "coordY", "coordZ"]].to_numpy()), places)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_voxel_indices_are_noticed(order, whole, swapped):
    rng = np.random.default_rng(0)
    places = rng.uniform([-150, -120, -300], [150, 180, -20], (20, 3))
    voxels = ((places - [-170, -160, -320]) / [0.7, 0.7, 1.25])[:, order]
    tables = [voxels.round() if whole else voxels, places]
    marks, nodules = reversed(tables) if swapped else tables
    marks, nodules = marks_of(*[["a", *place, 0.5] for place in marks]), findings(*[["a", *place, 8] for place in nodules])
    with pytest.warns(UserWarning, match=f"the {'nodules' if swapped else 'marks'} look like voxel indices"):
        assert cpm(marks, nodules).cpm < 0.1


def test_whole_numbers_beside_millimetres_look_like_voxel_indices():
    places = np.random.default_rng(0).uniform(20, 150, (20, 3))  # no coordinate is negative
    marks = marks_of(*[["a", *(place / 0.7).round(), 0.5] for place in places])
    with pytest.warns(UserWarning, match="whole numbers"):
        cpm(marks, findings(*[["a", *place, 8] for place in places]))


def test_one_nodule_proves_no_unusual_order_of_axes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpm(marks_of(["a", 20, -30, 10, 0.5]), findings(["a", 10, 20, 30, 8]))


def test_right_or_merely_bad_marks_bring_no_warning():
    places = np.random.default_rng(0).uniform(-150, 150, (20, 3))
    nodules = findings(*[["a", *place, 8] for place in places])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpm(marks_of(*[["a", *place, 0.5] for place in places]), nodules)
        cpm(marks_of(*[["a", *place, 0.5] for place in places + 40]), nodules)


def test_what_is_ignored_is_counted():
    marks = marks_of(
        ["a", 0, 0, 0, 0.9], ["a", 1, 0, 0, 0.8], ["a", 90, 0, 0, 0.7], ["a", 60, 0, 0, 0.6], ["z", 0, 0, 0, 1], ["a", 70, 0, 0, 0.1]
    )  # fmt: skip
    nodules, excluded = (
        findings(["a", 0, 0, 0, 10], ["y", 0, 0, 0, 10]),
        findings(["a", 90, 0, 0, -1], ["y", 0, 0, 0, -1], ["z", 0, 0, 0, -1]),
    )
    counts = cpm(marks, nodules, ["a", "b"], excluded=excluded, max_per_scan=4).counts
    assert counts == {
        "scans": 2, "scans_without_marks": 1, "marks_given": 6, "unknown_scan": 1, "over_cap": 1, "marks": 4, "nodules_unknown_scan": 1,
        "excluded_unknown_scan": 2, "nodules": 1, "nodules_found": 1, "on_nodules": 2, "duplicates": 1, "dropped_on_excluded": 1,
        "false_positives": 1,
    }  # fmt: skip
    text = "\n".join(describe_counts(counts))
    for words in ("1 of 1 nodules", "not listed 1", "over the cap 1", "excluded findings 1", "hits on a nodule 1", "not listed 2"):
        assert words in text
    clean = cpm(marks_of(["a", 0, 0, 0, 0.5])).counts
    assert describe_counts(clean)[-1] == "ignored: nothing"


def test_marks_of_another_data_set_are_noticed():
    with pytest.warns(UserWarning, match="no mark is of a listed scan"):
        assert cpm(marks_of(["z", 0, 0, 0, 0.5])).cpm == 0


def test_one_fold_against_all_nodules_is_noticed():
    scans = list("abcde")
    nodules = findings(*[[scan, 0, 0, 0, 10] for scan in scans])
    with pytest.warns(UserWarning, match="3 of 5 listed scans have no mark and hold 60% of the nodules"):
        cpm(marks_of(["a", 0, 0, 0, 0.5], ["b", 0, 0, 0, 0.5]), nodules, scans)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpm(marks_of(*[[scan, 0, 0, 0, 0.5] for scan in "abc"]), nodules, scans)


# Groups and files


def test_nodules_without_a_type_are_a_group_of_their_own():
    table = pd.DataFrame({"type": ["solid", np.nan, "", "unspecified"]})
    assert {kind: mask.tolist() for kind, mask in type_masks(table).items()} == {
        "solid": [True, False, False, False],
        "unspecified": [False, True, True, True],
    }


def test_a_diameter_of_zero_is_named_with_its_line(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\na,0,0,0,8\na,9,9,9,0\n")
    with pytest.warns(UserWarning, match="annotations.csv, line 3: diameter_mm is 0"):
        read_findings(path)


def test_candidates_are_not_taken_for_marks(tmp_path):
    path = tmp_path / "candidates_V2.csv"
    path.write_text("seriesuid,coordX,coordY,coordZ,class\na,1,2,3,0\n")
    with pytest.raises(AnnotationError, match="candidates_V2.csv' has no column probability: these are candidates"):
        read_marks(path)


def test_the_type_of_a_nodule_is_kept_where_it_is_known(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text(",".join(FINDING_COLUMNS) + ",remark,type\na,1,2,3,6,x,solid\n")
    assert read_findings(path).columns.tolist() == [*FINDING_COLUMNS, "type"]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_readers_keep_ids_as_text(tmp_path, separator):
    path = tmp_path / "marks.csv"
    path.write_text("\n".join(separator.join(row) for row in (MARK_COLUMNS, ("056", "1", "2", "3.5", "0.25"))))
    assert read_marks(path).iloc[0].tolist() == ["056", 1, 2, 3.5, 0.25]


def test_readers_name_the_file_and_the_row(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text(",".join(FINDING_COLUMNS) + "\na,1,2,3,6\na,1,2,x,6\n")
    with pytest.raises(ValueError, match=r"annotations.csv, line 3: coordZ 'x' is no number"):
        read_findings(path)
    path.write_text(",".join(FINDING_COLUMNS) + "\na,1,2,3,6\na,1,2,3,6\n")
    with pytest.raises(ValueError, match="annotations.csv, line 3 repeats line 2"):
        read_findings(path)
    assert len(read_findings(path, repeats=True)) == 2
    path.write_text("")
    with pytest.raises(ValueError, match="annotations.csv"):
        read_findings(path)
    with pytest.raises(ValueError, match="nowhere.csv"):
        read_marks(tmp_path / "nowhere.csv")
