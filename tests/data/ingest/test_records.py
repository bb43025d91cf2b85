"""Called again: what is kept, what is read anew, what changed or is gone."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lungadv.data import store
from lungadv.data.ingest import ingest, items, records
from lungadv.data.io.write import write_scan, write_volume
from lungadv.data.manifest import read_manifest
from lungadv.data.scan import Scan
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root
from tests.data.ingest.folders import HEADER, ORIGIN, SHAPE, SPACING, luna16, reading, report_of, scan_of, take


def test_a_second_call_reads_nothing_and_gives_the_same(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 3)
    first = take(src, "luna16", out)
    made = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    os.utime(src / "subset0" / "1.2.0.zraw")  # another time, the same bytes
    monkeypatch.setattr(items, "read_scan", None)
    assert take(src, "luna16", out) == first | {"unchanged": True} and not first["unchanged"]
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == made
    (src / "later.zip").write_bytes(b"PK")
    assert not take(src, "luna16", out)["unchanged"] and take(src, "luna16", out)["unchanged"]
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-10,-12,-280,9\n")
    assert not take(src, "luna16", out)["unchanged"]


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_scan_that_changed_since_is_an_error_that_names_it(tmp_path, out, change):
    src = luna16(tmp_path / "luna", 3)
    take(src, "luna16", out)
    data = src / "subset1" / "1.2.1.zraw"
    data.unlink()
    if change == "changed":
        write_scan(scan_of("1.2.1", 77), src / "subset1" / "1.2.1.mhd")
    with pytest.raises(InputError, match="1.2.1.(zraw|mhd)' (has changed|is gone) since it was read: .* delete '"):
        take(src, "luna16", out)
    if change == "changed":
        with pytest.raises(InputError, match="line 3: .* it has changed, run `lungadv ingest` again"):
            read_manifest(out)


def test_scans_that_vanish_are_an_error_that_names_one(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    take(src, "luna16", out)
    for k, named in ((1, "delete '.*json'"), (2, "and 1 more, is gone since it was read: .* delete '.*items'")):
        (src / f"subset{k}").rename(tmp_path / f"away{k}")
        with pytest.raises(InputError, match=f"subset1/1.2.1.mhd'.* {named}"):
            take(src, "luna16", out)
    assert len(pd.read_csv(out)) == 3
    shutil.rmtree(out.with_suffix(".items"))
    assert take(src, "luna16", out)["taken"] == 1


@pytest.mark.parametrize("names", [["sub/1.2.1.raw"], ["a.raw", "b.raw"]])
def test_every_data_file_of_a_scan_is_watched(tmp_path, out, names):
    src = luna16(tmp_path / "luna", 2)
    folder, hu = src / "subset1", scan_of("1.2.1", 1).hu
    for path in folder.iterdir():
        path.unlink()
    (folder / "sub").mkdir()
    data = names[0] if len(names) == 1 else "LIST\n" + "\n".join(names)
    header = "NDims = 3\nDimSize = 30 30 20\nElementSpacing = 1 1 2\nOffset = -20 -25 -300\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    (folder / "1.2.1.mhd").write_text(f"{header}ElementType = MET_SHORT\nElementDataFile = {data}\n")
    for name, part in zip(names, np.split(hu, len(names)), strict=True):
        (folder / name).write_bytes(part.tobytes())
    take(src, "luna16", out)
    assert pd.read_csv(out)["bytes"][1] == hu.nbytes + (folder / "1.2.1.mhd").stat().st_size
    last = folder / names[-1]
    last.write_bytes(bytes(2) + last.read_bytes()[2:])
    with pytest.raises(InputError, match=f"{last.name}' has changed since it was read"):
        take(src, "luna16", out)


def test_what_was_refused_is_read_again_once_mended(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    data = src / "subset1" / "1.2.1.zraw"
    whole = data.read_bytes()
    data.write_bytes(whole[:50])
    assert (take(src, "luna16", out)["taken"], report_of(out)["status"].tolist()) == (2, ["taken", "refused", "taken", "left out"])
    assert "1.2.1" in report_of(out)["reason"][1] and str(src) not in report_of(out)["reason"][1]
    data.write_bytes(whole)
    assert take(src, "luna16", out)["taken"] == 3 and set(report_of(out)["status"]) == {"taken"}


def test_a_missing_data_file_or_mask_brought_back_is_taken(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    data, mask = src / "subset1" / "1.2.1.zraw", src / "masks" / "1.2.2.mhd"
    whole = data.read_bytes()
    data.unlink()
    mask.parent.mkdir()
    write_volume(np.ones((19, *SHAPE[1:]), np.uint8), Scan(scan_of("").hu[:19], SPACING, ORIGIN, np.eye(3), ""), mask)
    assert take(src, "luna16", out)["taken"] == 1
    data.write_bytes(whole)
    write_volume(np.ones(SHAPE, np.uint8), scan_of(""), mask)
    assert take(src, "luna16", out)["taken"] == 3


def test_what_was_withdrawn_is_used_no_more(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    row = ",".join(map(str, scan_of("1.2.0").to_world([[9.5, 13, 10]])[0]))
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,{row},10\n1.2.1,-10,-12,-280,8\n")
    (src / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.1,-5,-5,-290,-1\n")
    (src / "0.xml").write_text(reading("1.2.0"))
    take(src, "luna16", out)
    made = read_manifest(out)
    assert made.scans["labels"].astype(bool).tolist() == [True, False] and len(made.excluded) == 1
    (src / "masks").mkdir()
    write_volume(np.ones(SHAPE, np.uint8), scan_of(""), src / "masks" / "1.2.0.mhd")
    take(src, "luna16", out)
    assert (read_manifest(out).labels("1.2.0") == 1).all()  # the data set's own come first
    shutil.rmtree(src / "masks")
    for name in ("0.xml", "annotations_excluded.csv"):
        (src / name).unlink()
    take(src, "luna16", out)
    data = read_manifest(out)
    assert not data.scans["labels"].any() and data.excluded.empty


def kill_all_at_one(job):
    """Read a scan, but at one of them end the whole group of processes: the other worker is anywhere."""
    if "1.2.150" in job.path:
        os.killpg(0, signal.SIGKILL)
    return items.read_item(job)


def test_killed_anywhere_the_next_call_goes_on(tmp_path, out):
    src = luna16(tmp_path / "luna", 200)
    code = "from tests.data.ingest.test_records import ingest, kill_all_at_one, records; records.read_item = kill_all_at_one; "
    command = [sys.executable, "-c", f"{code}ingest({str(src)!r}, 'luna16', {str(out)!r})"]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, start_new_session=True, cwd=repo_root()).returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.with_suffix(".items").glob("[0-9a-f]*.json")}
    assert 3 <= len(kept) < 200 and not out.exists()
    assert take(src, "luna16", out)["taken"] == 200
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert [path.name for path in out.parent.rglob(".*")] == [".lock"]


@pytest.mark.parametrize("kept", ["subset0", "subset2"])
def test_of_a_series_in_two_places_the_one_that_stays_is_read(tmp_path, out, kept):
    src = luna16(tmp_path / "luna", 3)
    scans = {"subset0": scan_of("1.2.0", 0), "subset2": scan_of("1.2.0", 77)}
    write_scan(scans["subset2"], src / "subset2" / "1.2.0.mhd")
    take(src, "luna16", out)
    for path in (src / ({*scans} - {kept}).pop()).glob("1.2.0.*"):
        path.unlink()
    assert take(src, "luna16", out)["taken"] == 3
    assert (read_manifest(out).scan("1.2.0").hu == scans[kept].hu).all()
    row = pd.read_csv(out, dtype=str).set_index("seriesuid").loc["1.2.0"]
    assert (np.asarray(store.open_scan(out.parent / row["store"]).hu) == scans[kept].hu).all()


@pytest.mark.parametrize("kept", ["1.2.1", "copy"])
def test_of_two_scans_of_the_same_voxels_either_may_stay(tmp_path, out, kept, monkeypatch):
    src = luna16(tmp_path / "luna", 2)
    for suffix in (".mhd", ".zraw"):
        shutil.copy(src / "subset1" / f"1.2.1{suffix}", src / "subset1" / f"copy{suffix}")
    header = src / "subset1" / "copy.mhd"
    header.write_text(header.read_text().replace("1.2.1.zraw", "copy.zraw"))
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-10,-12,-280,8\n")
    take(src, "luna16", out)
    for path in (src / "subset1").glob(f"{({'1.2.1', 'copy'} - {kept}).pop()}.*"):
        path.unlink()
    monkeypatch.setattr(items, "read_scan", None)  # no voxel is read again
    assert take(src, "luna16", out)["taken"] == 2 and pd.read_csv(out)["seriesuid"].tolist() == ["1.2.0", kept]
    for path in (src / "subset1").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="is gone since it was read"):
        take(src, "luna16", out)


def killed_at_one(job):
    """Read a scan, but be killed at one of them: a worker's job."""
    if "1.2.1" in job.path:
        os.kill(os.getpid(), signal.SIGKILL)
    return items.read_item(job)


def test_a_killed_worker_is_one_line_and_the_next_call_goes_on(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 3)
    with monkeypatch.context() as patch:
        patch.setattr(records, "read_item", killed_at_one)
        with pytest.raises(InputError, match=r"reading scans\) was killed, most likely because memory ran out: call again, .*--workers 1"):
            ingest(src, "luna16", out, workers=2)
    assert not out.exists()
    assert take(src, "luna16", out)["taken"] == 3


@pytest.mark.parametrize("damage", ["cut", "value", "deep", "list"])
def test_a_record_that_is_not_as_it_was_written_is_made_anew(tmp_path, out, damage):
    src = luna16(tmp_path / "luna", 2)
    take(src, "luna16", out)
    before = out.read_bytes()
    record = sorted(out.with_suffix(".items").glob("*.json"))[0]
    text = record.read_text()
    known = json.loads(text)
    known["series"][0]["geometry"]["spacing"] = [3.0, 3.0, 3.0]
    record.write_text({"cut": text[:-40], "value": json.dumps(known), "deep": '{"a":' * 5000, "list": "[]"}[damage])
    assert take(src, "luna16", out)["taken"] == 2
    assert out.read_bytes() == before and record.read_text() == text
