"""The folder of the manifest: locks, leftovers, full disks, other people's tables."""

import errno
import fcntl
import os

import pytest

from lungadv.data import store
from lungadv.data.ingest.files import lock_manifest
from lungadv.data.manifest import companion
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import luna16, take


def test_what_a_killed_writer_left_is_removed(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    take(src, "luna16", out)
    made = {path for path in out.parent.rglob("*") if path.is_file()}
    for name in ("store/.99999.1.2.0.h5", ".99999.manifest.csv", "manifest.items/.99999.0a.json"):
        (out.parent / name).write_bytes(b"half")
    others = {out.parent / name for name in (".1password.cfg", ".1.notes.txt", "store/.1password.cfg")}
    for path in others:
        path.write_text("not ours")
    (out.parent / ".2.manifest.csv").mkdir()
    take(src, "luna16", out)
    assert {path for path in out.parent.rglob("*") if path.is_file()} == made | others


def test_a_full_disk_is_one_error_and_nothing_half_made(tmp_path, out, monkeypatch):
    src, write = luna16(tmp_path / "luna", 3), store._write_bytes
    calls = []

    def full(path, data):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(store, "_write_bytes", full)
    with pytest.raises(InputError, match="no space is left on the disk of .*: make room and call again"):
        take(src, "luna16", out)
    assert not out.exists() and [path.name for path in (out.parent / "store").iterdir()] == ["1.2.0.h5"]
    assert take(src, "luna16", out)["taken"] == 3 and len(calls) == 4


def test_two_calls_at_once_do_not_mix(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    take(src, "luna16", out)
    with lock_manifest(out), pytest.raises(InputError, match="is being made by another process"):
        take(src, "luna16", out)


def test_a_damaged_report_is_named(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    take(src, "luna16", out)
    for damage in ("{", "[]", "{}"):
        companion(out).write_text(damage)
        with pytest.raises(InputError, match="manifest.ingest.json' cannot be read: delete it"):
            take(src, "luna16", out)
    companion(out).unlink()
    assert take(src, "luna16", out)["taken"] == 1


def test_tables_of_others_are_not_overwritten(tmp_path):
    src, other = luna16(tmp_path / "luna", 1), luna16(tmp_path / "other", 1)
    before = (other / "annotations.csv").read_text()
    with pytest.raises(InputError, match="annotations.csv' exists and is not this manifest's"):
        take(src, "luna16", other / "manifest.csv")
    assert (other / "annotations.csv").read_text() == before


def test_a_disk_without_locks_is_told_and_does_not_stop(tmp_path, out, monkeypatch):
    def flock(*given):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="manifest.items' knows no locks .Function not implemented"):
        assert take(luna16(tmp_path / "luna", 1), "luna16", out)["taken"] == 1
