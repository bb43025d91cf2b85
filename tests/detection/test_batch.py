"""`lungadv detect` of a folder of scans: what is a scan in it, what is done again, what a bad one costs."""

import errno
import os
import shutil
import signal
import zipfile
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.io.write import write_scan, write_series
from lungadv.detection import batch
from lungadv.detection.scan_folder import find_scans
from lungadv.evaluation.marks import read_marks
from lungadv.utils.processes import each_in_processes
from tests.data.made_cubes import write_cube


@pytest.fixture
def scans(tmp_path_factory, scan_of):
    """A folder with a scan file, a zip, a series in two folders, a broken file, a mask and a text."""
    folder = tmp_path_factory.mktemp("given")
    scan = scan_of(40)
    write_scan(scan, folder / "file.mhd")
    write_scan(scan, folder / "again.mhd")
    write_scan(scan, folder / "packed.mhd")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        for file in sorted(folder.glob("packed.[mz][hr]*")):
            archive.write(file, file.name)
            file.unlink()
    write_series(replace(scan, uid="1.2.9"), folder / "patient" / "a")
    (folder / "patient" / "b").mkdir()
    for file in sorted((folder / "patient" / "a").iterdir())[20:]:
        shutil.move(file, folder / "patient" / "b")
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    (folder / "masks").mkdir()
    write_scan(scan, folder / "masks" / "file.mhd")
    (folder / "notes.txt").write_text("not a scan")
    return folder


def search(scans, out, weights, *more):
    return CliRunner().invoke(app, ["detect", *map(str, (scans, "--out", out, "--weights", weights, "--workers", 1, *more))])


def state(out):
    return pd.read_csv(out / "scans.csv", dtype=str, keep_default_na=False).set_index("path")


def test_every_scan_is_searched_once_and_a_bad_one_costs_only_itself(scans, weights, tmp_path):
    out = tmp_path / "out"
    result = search(scans, out, weights, "--json", "all.json")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 6 and lines[-1] == f"4 searched, 0 unchanged, 1 failed: {out}"
    paths = ["again.mhd", "broken.nii.gz", "file.mhd", "packed.zip", "patient/a"]
    assert sorted(line.split("] ")[1].split(":")[0] for line in lines[:-1]) == paths
    assert result.stderr.endswith(f"error: 1 of 5 scans could not be searched; reasons: {out / 'scans.csv'}\n")
    table = state(out)
    assert table.status.to_dict() == dict.fromkeys(table.index, "searched") | {"broken.nii.gz": "failed"}
    assert "broken.nii.gz" in table.said["broken.nii.gz"] and not (out / "broken").exists()
    findings = read_marks(out / "findings.csv")
    assert findings.seriesuid.value_counts().to_dict() == {"file": 2, "packed": 2, "1.2.9": 2, "again": 2}
    for name in ("file", "packed", "1.2.9", "again"):
        assert sorted(path.name for path in (out / name).iterdir()) == ["all.json", "findings.csv", "made.json"]


def test_findings_are_those_of_one_scan_alone(scans, weights, tmp_path):
    search(scans, tmp_path / "out", weights)
    alone = tmp_path / "alone.csv"
    CliRunner().invoke(app, ["detect", str(scans / "patient"), "--out", str(alone), "--weights", str(weights)])
    assert alone.read_bytes() == (tmp_path / "out" / "1.2.9" / "findings.csv").read_bytes()


def test_what_is_finished_is_skipped_and_what_changed_is_searched_again(scans, weights, tmp_path):
    out = tmp_path / "out"
    (scans / "broken.nii.gz").unlink()
    assert search(scans, out, weights).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.csv") if path.parent != out}
    result = search(scans, out, weights)
    assert result.exit_code == 0 and result.stdout.splitlines()[-1] == f"0 searched, 4 unchanged, 0 failed: {out}"
    assert "file.mhd: unchanged, skipped: 2 findings, 1 of them" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    os.utime(scans / "file.mhd")  # the same bytes, copied anew
    (out / "packed" / "findings.csv").write_text("cut sho")
    (out / "again" / "made.json").write_text("{")
    next((scans / "patient" / "b").iterdir()).unlink()
    result = search(scans, out, weights)
    expected = {"again.mhd": "searched", "file.mhd": "unchanged", "packed.zip": "searched", "patient/a": "failed"}
    assert state(out).status.to_dict() == expected
    assert len(read_marks(out / "findings.csv")) == 6


def test_other_weights_or_other_files_are_searched_again(scans, weights, tmp_path, remake):
    out = tmp_path / "out"
    search(scans, out, weights)
    remake(commit="another")
    assert "4 searched, 0 unchanged" in search(scans, out, weights).stdout
    assert "4 searched, 0 unchanged" in search(scans, out, weights, "--markups", "points.mrk.json").stdout
    assert (out / "file" / "points.mrk.json").exists()


def test_a_changed_scan_that_fails_leaves_no_findings_of_its_older_self(scans, weights, tmp_path):
    out = tmp_path / "out"
    search(scans, out, weights)
    (scans / "again.mhd").write_bytes(b"broken now")
    search(scans, out, weights)
    assert state(out).status["again.mhd"] == "failed" and "again" not in set(read_marks(out / "findings.csv").seriesuid)
    assert not (out / "again").exists()


def test_a_call_that_was_killed_goes_on(scans, weights, tmp_path, monkeypatch):
    out, write, left = tmp_path / "out", batch.write_outputs, [2]

    def stop(found, paths):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(found, paths)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "write_outputs", stop)
        search(scans, out, weights, "--json", "all.json")
    assert sum(path.name == "made.json" for path in out.rglob("*")) == 2
    (out / ".packed.part").mkdir(exist_ok=True)  # what a kill leaves
    assert "2 searched, 2 unchanged" in search(scans, out, weights, "--json", "all.json").stdout
    assert "0 searched, 4 unchanged" in search(scans, out, weights, "--json", "all.json").stdout and not list(out.glob(".*.part"))


def test_outputs_of_others_stay(scans, weights, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    result = search(scans, out, weights)
    assert result.exit_code == 1 and "holds other files" in result.stderr and len(list(out.iterdir())) == 1
    result = search(scans, scans, weights)
    assert result.exit_code == 1 and "holds other files" in result.stderr
    (out / "thesis.txt").unlink()
    (out / ".lock").touch()
    (out / "file").mkdir()
    (out / "file" / "thesis.txt").write_text("mine")
    search(scans, out, weights)
    assert "holds no findings" in state(out).said["file.mhd"] and (out / "file" / "thesis.txt").read_text() == "mine"


def test_names_of_files_are_checked_before_the_search(scans, weights, tmp_path):
    for option, name in (("--sheet", "sheet.jpg"), ("--sheet", "a/sheet.png"), ("--json", "made.json"), ("--markups", "/tmp/a.mrk.json")):
        result = search(scans, tmp_path / "out", weights, option, name)
        assert result.exit_code == 1 and f"'{name}' names a file in each scan's own folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_scan_and_one_with_other_series_alone_are_one_line(weights, tmp_path):
    (tmp_path / "empty").mkdir()
    result = search(tmp_path / "empty", tmp_path / "out", weights)
    assert result.exit_code == 1 and "holds no scan" in result.stderr and result.stderr.count("\n") == 1


def test_outputs_within_the_folder_of_scans_are_no_scans(scans, weights):
    out = scans / "found"
    search(scans, out, weights)
    write_scan(find_scans(scans, out)[0][0].read(), out / "file" / "copy.mhd")
    assert "0 searched, 4 unchanged" in search(scans, out, weights).stdout


def test_two_scans_of_one_name_and_two_of_one_id_are_not_mixed(scans, weights, tmp_path, scan_of):
    (scans / "other").mkdir()
    write_scan(scan_of(40), scans / "other" / "file.mhd")
    shutil.copy(scans / "packed.zip", scans / "packed2.zip")
    search(scans, tmp_path / "out", weights)
    table = state(tmp_path / "out")
    assert "has the name of 'file.mhd'" in table.said["other/file.mhd"]
    assert "its id 'packed' is that of 'packed.zip'" in table.said["packed2.zip"]
    assert read_marks(tmp_path / "out" / "findings.csv").seriesuid.value_counts().to_dict() == dict.fromkeys(
        ("file", "packed", "1.2.9", "again"), 2
    )


@pytest.mark.parametrize("spoilt", [(), ("1.2.3",), ("1.2.4",)])
def test_two_series_in_one_folder_are_two_scans(weights, tmp_path, scan_of, spoilt):
    for uid in ("1.2.3", "1.2.4"):
        write_series(replace(scan_of(40), uid=uid), tmp_path / uid)
        (tmp_path / "in" / "study").mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(sorted((tmp_path / uid).iterdir())):
            if not (uid in spoilt and number == 20):  # a gap is refused
                shutil.move(file, tmp_path / "in" / "study" / f"{uid}_{file.name}")
    result = search(tmp_path / "in", tmp_path / "out", weights, "--json", "all.json")
    status = {f"study (series {uid})": "failed" if uid in spoilt else "searched" for uid in ("1.2.3", "1.2.4")}
    assert state(tmp_path / "out").status.to_dict() == status and result.exit_code == bool(spoilt)
    assert set(read_marks(tmp_path / "out" / "findings.csv").seriesuid) == {"1.2.3", "1.2.4"} - set(spoilt)


@pytest.fixture
def one(tmp_path, scan_of):
    """A folder with one scan."""
    (tmp_path / "one").mkdir()
    write_scan(scan_of(40), tmp_path / "one" / "file.mhd")
    return tmp_path / "one"


def test_a_killed_worker_leaves_no_findings_of_other_weights(one, weights, tmp_path, remake, monkeypatch):
    out = tmp_path / "out"
    search(one, out, weights)
    assert (out / "file" / "findings.csv").exists()
    remake(commit="another")
    monkeypatch.setattr(batch, "each_in_processes", lambda function, jobs, workers: ((k, None) for k in range(len(jobs))))
    search(one, out, weights)
    assert "was killed" in state(out).said["file.mhd"] and not (out / "file").exists()


def test_a_full_disk_ends_the_call_and_is_no_fault_of_a_scan(one, weights, tmp_path, remake, monkeypatch):
    out = tmp_path / "out"
    search(one, out, weights)
    before = (out / "scans.csv").read_bytes()
    remake(commit="another")

    def full(found, paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(batch, "write_outputs", full)
    result = search(one, out, weights)
    assert result.exit_code == 1 and result.stderr.endswith(
        f"error: no space is left on the disk of '{out}': make room and call again, it goes on where it stopped\n"
    )
    assert (out / "scans.csv").read_bytes() == before and (out / "file" / "findings.csv").exists()


def test_files_named_as_cubes_of_nodules_are_counted(one, weights, tmp_path):
    write_cube(one, "1.2.3", 1)
    assert "1 searched, 0 unchanged, 2 failed" in search(one, tmp_path / "out", weights).stdout
    table = state(tmp_path / "out")
    assert all("is named as a cube of a nodule or its mask" in table.said[f"1.2.3_{kind}_1.mha"] for kind in ("dcm", "seg"))


def killed_by(number):
    """A job that dies for one number."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return -number


def test_a_killed_process_costs_its_own_job_only():
    assert dict(each_in_processes(killed_by, list(range(8)), 2)) == {k: None if k == 3 else -k for k in range(8)}
