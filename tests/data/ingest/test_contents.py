"""What lies in a folder, and which kind it is."""

import csv
import os
import shutil

import pandas as pd
import pytest

from lungadv.data.ingest import items
from lungadv.data.manifest import read_manifest
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import HEADER, dicom, luna16, reading, report_of, scan_of, take


@pytest.mark.parametrize("named", ["1.3.12.2.1107.{}", "CT.1.2.840.{}", "{}.dicom", "{}"])
def test_slices_are_found_whatever_their_names(tmp_path, out, named):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    for k, path in enumerate((src / "P1" / "1.2.1").iterdir()):
        path.rename(path.with_name(named.format(k)))
    assert take(src, "dicom", out)["taken"] == 1


def test_wrong_folders_and_kinds_are_named(tmp_path, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zips").mkdir()
    for k in range(10):
        (tmp_path / "zips" / f"subset{k}.zip").write_bytes(b"PK")
    luna, slices = luna16(tmp_path / "luna", 1), dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    bare = luna16(tmp_path / "bare", 1)
    (bare / "annotations.csv").unlink()
    for arguments, reason in (
        ((tmp_path / "absent", "luna16", out), "is no folder"),
        ((tmp_path / "empty", "luna16", out), "holds no scan"),
        ((tmp_path / "zips", "luna16", out), "unpack 'subset0.zip', .*, 'subset9.zip' first"),
        ((luna, "dicom", out), "it looks like --kind luna16"),
        ((slices, "luna16", out), "no scan file .*.mhd, .*nii.gz.: it looks like --kind dicom"),
        ((slices, "lidc", out), "it looks like --kind dicom"),
        ((luna, "nifti", out), "unknown kind 'nifti'"),
        ((bare, "luna16", out), "holds no annotations.csv"),
        ((luna, "luna16", luna / "manifest.csv"), "a folder of its own"),
        ((luna, "luna16", tmp_path / "bare" / "manifest"), "ends in .csv"),
    ):
        with pytest.raises(InputError, match=reason):
            take(*arguments)
    (slices / "1.xml").write_text(reading("1.2.1"))
    with pytest.raises(InputError, match="does not go with --kind lidc"):
        take(slices, "lidc", out, tmp_path / "nodules.csv")
    take(luna, "luna16", out)
    with pytest.raises(InputError, match="was made from .*luna' as luna16"):
        take(slices, "dicom", out)


def test_a_zip_beside_scans_is_listed(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    (src / "subset7.zip").write_bytes(b"PK")
    found = take(src, "luna16", out)
    assert (found["left_out_rows"], found["left_out_files"]) == (0, 1)
    assert report_of(out).iloc[-1].tolist() == ["", "subset7.zip", "left out", "a zip file: unpack it first"]


def test_scans_of_another_kind_are_listed(tmp_path, out):
    src = dicom(luna16(tmp_path / "both", 1), [("P1", "1.2.1")])
    take(src, "luna16", out)
    assert report_of(out).iloc[-1].tolist() == ["", "P1/1.2.1", "left out", "is not read with --kind luna16"]
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.1,-10,-12,-280,8\n")
    take(src, "dicom", tmp_path / "b" / "m.csv")
    last = report_of(tmp_path / "b" / "m.csv").iloc[-1]
    assert last.tolist() == ["", "subset0/1.2.0.mhd", "left out", "is not read with --kind dicom"]


def test_the_highest_table_is_used_and_two_as_high_are_refused(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    for folder in ("a/b", "z"):
        (src / folder).mkdir(parents=True)
    shutil.copy(src / "annotations.csv", src / "a" / "b")
    (src / "annotations.csv").rename(src / "z" / "annotations.csv")
    (src / "a" / "b" / "annotations.csv").write_text("another table")
    (src / "z" / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.1,-5,-5,290,-1\n")
    assert take(src, "luna16", out)["nodules"] == 2
    assert report_of(out)["path"].iloc[-1] == "z/annotations_excluded.csv"
    shutil.copy(src / "z" / "annotations.csv", src / "a")
    with pytest.raises(InputError, match="'a/annotations.csv' and 'z/annotations.csv' are both there: keep one"):
        take(src, "luna16", out)
    assert take(src, "luna16", out, src / "z" / "annotations.csv")["nodules"] == 2


def test_a_link_to_nowhere_is_refused_and_costs_no_other(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    (src / "subset1" / "1.2.1.mhd").rename(tmp_path / "1.2.1.mhd")
    (src / "subset1" / "1.2.1.mhd").symlink_to(tmp_path / "absent.mhd")
    assert take(src, "luna16", out)["taken"] == 2
    assert "1.2.1.mhd' does not exist" in report_of(out)["reason"][1]
    (tmp_path / "1.2.1.mhd").replace(src / "subset1" / "1.2.1.mhd")
    assert take(src, "luna16", out)["taken"] == 3


LATIN = os.fsdecode(b"M\xfcller")  # a name that is not UTF-8


def test_of_scans_under_names_that_are_no_text_each_is_named_and_costs_no_other(tmp_path, out):
    src = luna16(tmp_path / "luna", 4)
    (src / "subset1").rename(src / LATIN)
    for path in (src / "subset2").iterdir():
        path.rename(path.with_name(LATIN + path.suffix))
    for name in (".zip", ".xml"):
        (src / f"{LATIN}{name}").write_text(reading("1.2.0"))
    found, lines = take(src, "luna16", out), report_of(out)
    assert (found["taken"], found["refused"], found["left_out_rows"], found["by_type"]) == (2, 2, 2, {"unspecified": 1, "solid": 1})
    reasons = dict(zip(lines["path"], lines["reason"], strict=True))
    for name in (r"M\xfcller/1.2.1.mhd", r"subset2/M\xfcller.mhd"):
        assert reasons[name] == f"'{name}': a name in this path is not UTF-8 text: rename it"
    assert reasons[r"M\xfcller.zip"] == "a zip file: unpack it first"
    assert lines["reason"][lines["path"] == "annotations.csv"].tolist() == ["line 3: its scan was refused", "line 4: its scan is not there"]
    assert len(read_manifest(out).scans) == 2
    (src / LATIN).rename(src / "subset1")
    assert take(src, "luna16", out)["taken"] == 3


def test_slices_may_have_any_name_but_their_folder_only_text(tmp_path, out, monkeypatch):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    for k, path in enumerate((src / "P1" / "1.2.1").iterdir()):
        path.rename(path.with_name(f"{LATIN}{k}.dcm"))
    (src / "P1" / "1.2.1" / f"notes{LATIN}.dcm").write_text("text")
    (src / "P2").rename(src / LATIN)
    found = take(src, "dicom", out)
    assert (found["taken"], found["refused"]) == (1, 2)
    first, second = report_of(out).query("status == 'refused'")["reason"]
    assert r"file 'notesM\xfcller.dcm' is no DICOM file" in first
    assert second == r"'M\xfcller/1.2.2': a name in this path is not UTF-8 text: rename it"
    shutil.rmtree(src / "P1")
    monkeypatch.setattr(items, "read_slices", None)  # nothing is read before it is said
    with pytest.raises(InputError, match=r"'M\\xfcller/1.2.2': .* rename it; it is the first of 1 scan, and none can be taken"):
        take(src, "dicom", tmp_path / "b" / "m.csv")


def test_data_set_and_manifest_have_names_of_text(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    with pytest.raises(InputError, match=r"manifest '.*M\\xfcller/m.csv': its name is not UTF-8 text: rename it"):
        take(src, "luna16", tmp_path / LATIN / "m.csv")
    with pytest.raises(InputError, match=r"data set '.*M\\xfcller': its name is not UTF-8 text: rename it"):
        take(src.rename(tmp_path / LATIN), "luna16", out)


def test_names_that_are_formulas_or_break_lines_reach_no_table(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    (src / "subset1").rename(src / "+contrast")
    for old, new in (("subset0/1.2.0", "subset0/=1+1"), ("subset2/1.2.2", "subset2/a\nb")):
        (src / f"{old}.mhd").rename(src / f"{new}.mhd")
    (src / "annotations.csv").write_text(f'{HEADER}\n1.2.1,-9,-12,-280,8\n=1+1,1,2,3,4\n"a\nb",1,2,3,4\n')
    assert take(src, "luna16", out)["taken"] == 1
    lines = report_of(out)
    refused = lines[lines["status"] == "refused"]["reason"].tolist()
    assert "its id '=1+1' would be a formula in a spreadsheet: rename it" in refused[0]
    assert "has a line break or another control character: rename it" in refused[1]
    with open(out.with_suffix(".report.csv"), newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) or "\n" in cell for cell in cells)
    manifest = pd.read_csv(out, dtype=str)
    assert manifest["path"].tolist() == ["./+contrast/1.2.1.mhd"]
    assert (read_manifest(out).scan("1.2.1").hu == scan_of("1.2.1", 1).hu).all()


def test_a_patient_named_as_a_formula_is_written_as_a_text(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("=1+1", "1.2.1"), ("=1+1", "1.2.2")])
    for _ in range(2):
        assert take(src, "dicom", out)["taken"] == 2
        assert pd.read_csv(out, dtype=str)["patient"].tolist() == ["'=1+1"] * 2
