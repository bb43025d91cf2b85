"""Locks, where a disk has them and where it has none."""

import errno
import fcntl
import os

import pytest

from lungadv.utils.errors import InputError
from lungadv.utils.locks import hold, hold_alone


def refusing(number):
    """A flock of a disk that answers with this error."""

    def flock(*given):
        raise OSError(number, os.strerror(number))

    return flock


def test_one_alone_or_several_that_share(tmp_path):
    path = tmp_path / "lock"
    with hold(path) as first, hold(path) as second, hold(path, shared=True) as third:
        assert first.free and first.sure and not second.free and not third.free and not second.sure
    with hold(path, shared=True, wait=True) as first, hold(path, shared=True) as second, hold(path) as third:
        assert first.free and second.free and not third.free
    with hold_alone(path, "run 'a'"), pytest.raises(InputError, match="run 'a' is being made by another process"):
        with hold_alone(path, "run 'a'"):
            pass
    with hold_alone(path, "run 'a'") as file:
        assert file.fileno() > 2


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks_is_told_and_does_not_stop(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    for terms in ({}, {"shared": True, "wait": True}):
        with pytest.warns(UserWarning, match=f"the disk of '{tmp_path}' knows no locks .*: .* let no second process"):
            with hold(tmp_path / "lock", **terms) as lock:
                assert lock.free and not lock.sure


def test_another_fault_of_the_disk_is_no_other_process(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match=f"{tmp_path}/lock"), hold_alone(tmp_path / "lock", "run"):
        pass


def test_a_shared_lock_can_be_read_and_written(tmp_path, monkeypatch):
    """Over NFS a lock is one of bytes: a shared one wants a file that is open for reading, one alone for writing."""
    modes = []
    monkeypatch.setattr(fcntl, "flock", lambda file, how: modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    with hold(tmp_path / "lock", shared=True), hold(tmp_path / "lock"):
        assert modes == [os.O_RDWR, os.O_RDWR]
