"""Ingest from end to end: phantoms and DICOM, the store, and the command."""

import hashlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lungadv.data import store
from lungadv.data.dataset import left_out
from lungadv.data.io.read import read_scan
from lungadv.data.manifest import companion, read_manifest
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root
from tests.data.ingest.folders import HEADER, dicom, luna16, report_of, scan_of, take


def test_the_store_holds_the_scan(tmp_path, out):
    take(luna16(tmp_path / "luna", 2), "luna16", out)
    row = pd.read_csv(out, dtype=str).iloc[1]
    kept, scan = store.open_scan(out.parent / row["store"]), scan_of("1.2.1", 1)
    assert (np.asarray(kept.hu) == scan.hu).all() and (kept.uid, kept.spacing, kept.origin) == (scan.uid, scan.spacing, scan.origin)
    assert kept.hu.sha256 == hashlib.sha256(scan.hu.astype("<i2").tobytes()).hexdigest()


def test_a_phantoms_folder_keeps_types_masks_and_mimics(phantoms, out):
    found = take(phantoms, "luna16", out)
    assert not any("look whether the positions are right" in sentence or "whole chest" in sentence for sentence in found["left_out"])
    assert set(report_of(out)["reason"]) == {""}
    data = read_manifest(out)
    wanted, mimics = (pd.read_csv(phantoms / name) for name in ("annotations.csv", "mimics.csv"))
    assert sorted(data.annotations["type"]) == sorted(wanted["type"]) and len(data.mimics) == len(mimics)
    for uid in data.uids:
        mask = read_scan(phantoms / "masks" / f"{uid}.mhd").hu
        assert (data.labels(uid) == mask).all() and data.lungs(uid).mean() > 0.03
    assert not any("outlines" in sentence or "lungs" in sentence or "mimics" in sentence for sentence in left_out(data))


def test_dicom_with_a_table_splits_by_patient(tmp_path, out):
    people = [("P1", "1.2.1"), ("P2", "1.2.2"), ("P1", "1.2.3")]
    src = dicom(tmp_path / "tcia", people)
    table = tmp_path / "nodules.csv"
    table.write_text(f"{HEADER},type\n1.2.1,-10,-12,-280,8,solid\n1.2.3,-10,-12,-280,9,ground_glass\n")
    found = take(src, "dicom", out, table)
    assert found["taken"] == 3 and found["by_type"] == {"solid": 1, "ground_glass": 1}
    manifest = pd.read_csv(out, dtype=str).set_index("seriesuid")
    assert manifest.loc["1.2.1", "dataset"] == manifest.loc["1.2.3", "dataset"] and manifest["patient"].tolist() == ["P1", "P1", "P2"]
    assert manifest.loc["1.2.2", ["kernel", "kvp", "mas", "thickness"]].tolist() == ["B40f", "120.0", "45.0", "2.0"]
    data = read_manifest(out)
    assert (data.scan("1.2.2").hu == scan_of("1.2.2", 1).hu).all() and len(data.annotations) == 2
    before = manifest["dataset"].to_dict()
    dicom(src, [("P3", "1.2.4")], first=3)
    take(src, "dicom", out, table)
    after = pd.read_csv(out, dtype=str).set_index("seriesuid")["dataset"].to_dict()
    assert len(after) == 4 and {uid: after[uid] for uid in before} == before


def test_two_series_in_one_folder_are_two_scans(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    (tmp_path / "one").mkdir()
    for path in src.rglob("*.dcm"):
        shutil.copy(path, tmp_path / "one" / f"{path.parent.name}-{path.name}")
    assert take(tmp_path / "one", "dicom", out)["taken"] == 2
    data = read_manifest(out)
    assert (data.scan("1.2.2").hu == scan_of("1.2.2", 1).hu).all()


def test_a_stray_file_is_named_and_costs_no_series(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    (src / "P1" / "1.2.1" / "notes.dcm").write_text("text renamed")
    (src / "P2" / "1.2.2" / "cut.dcm").write_bytes((src / "P2" / "1.2.2" / "0001.dcm").read_bytes()[:300])
    (src / "P3").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (src / "P3" / name).write_text("text renamed")
    found = take(src, "dicom", out)
    lines = report_of(out).set_index("path")
    assert (found["taken"], found["refused"]) == (2, 3)
    first = lines.loc["P1/1.2.1"].query("status == 'refused'")["reason"].iloc[0]
    assert first.startswith("'P1/1.2.1': file 'notes.dcm' is no DICOM file") and first.endswith("what else lies there was read without it")
    second = lines.loc["P2/1.2.2"].query("status == 'refused'")["reason"].iloc[0]
    assert "file 'cut.dcm' is a CT slice whose header ends too early" in second
    assert lines.loc["P3", "reason"].endswith("or remove it, and 1 more")
    assert (read_manifest(out).scan("1.2.1").hu == scan_of("1.2.1").hu).all()
    (src / "P1" / "1.2.1" / "notes.dcm").unlink()
    assert take(src, "dicom", out)["refused"] == 2


def test_the_command_says_what_it_took_and_ends_with_one_line_when_it_cannot(tmp_path, out):
    def call(*arguments):
        command = [sys.executable, "-m", "lungadv.cli", "ingest", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, encoding="utf-8")

    done = call(luna16(tmp_path / "luna", 3), "--kind", "luna16", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 scans taken, 0 refused; 0 rows of tables and 0 files left out; each with its reason: ")
    assert "\n3 nodules: 3 unspecified\n" in done.stdout and "nothing changed" not in done.stdout
    again = call(tmp_path / "luna", "--kind", "luna16", "--out", out)
    assert again.stdout == f"{done.stdout}nothing changed: 3 scans compared with the manifest\n"
    (tmp_path / "empty").mkdir()
    failed = call(tmp_path / "empty", "--kind", "dicom", "--out", tmp_path / "b" / "m.csv")
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    assert call(tmp_path / "empty", "--kind", "nifti", "--out", out).returncode == 2


def test_a_uid_that_is_a_path_writes_nothing_elsewhere(tmp_path, out):
    import pydicom

    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    for path in (src / "P1" / "1.2.1").iterdir():
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID = "../../x"
        header.save_as(path)
    assert take(src, "dicom", out)["taken"] == 1
    assert "SeriesInstanceUID '../../x', which is not digits and dots" in report_of(out)["reason"][0]
    assert not list(tmp_path.rglob("x.*"))


def test_when_nothing_can_be_taken_the_first_reason_is_said(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    (src / "subset0" / "1.2.0.zraw").write_bytes(b"x")
    (src / "subset1.zip").write_bytes(b"PK")
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-10,-12,-280,8\n7.7,-10,-12,-280,8\n")
    with pytest.raises(InputError, match="none of 1 scan could be taken, the first because: .*1.2.0"):
        take(src, "luna16", out)
    assert report_of(out)["status"][0] == "refused" and not out.exists()


def test_paths_of_a_manifest_do_not_leave_the_ingested_folder(tmp_path, out):
    take(luna16(tmp_path / "luna", 2), "luna16", out)
    luna16(tmp_path / "other", 1)
    text = out.read_text()
    for path in ("../other/subset0/1.2.0.mhd", f"{tmp_path}/other/subset0/1.2.0.mhd"):
        out.write_text(text.replace("subset0/1.2.0.mhd", path))
        with pytest.raises(InputError, match="line 2: .* leaves the ingested folder"):
            read_manifest(out)
    out.write_text(text)
    beside = companion(out)
    bad = (("{}", "does not say where"), ('{"root": "/no/such/folder"}', "is no folder"), ('{"root": "."}', "is no folder"))
    for content, reason in bad:
        beside.write_text(content)
        with pytest.raises(InputError, match=reason):
            read_manifest(out)


@pytest.mark.parametrize("way", ["file", "standard input"])
def test_a_script_needs_no_main_guard(tmp_path, out, way):
    src, script = luna16(tmp_path / "luna", 3), tmp_path / "script.py"
    script.write_text(f"from lungadv.data.ingest import ingest\nprint(ingest('{src}', 'luna16', '{out}', workers=2)['taken'], 'taken')\n")
    with open(script) as text:
        command, given = ([sys.executable, script], None) if way == "file" else ([sys.executable], text)
        environment = os.environ | {"PYTHONPATH": str(repo_root())}
        done = subprocess.run(command, stdin=given, capture_output=True, encoding="utf-8", env=environment, timeout=600)
    assert (done.returncode, done.stdout) == (0, "3 taken\n"), done.stderr
    assert "Traceback" not in done.stderr
