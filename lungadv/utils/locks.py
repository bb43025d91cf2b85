"""Locks between processes: a file that a process holds, and that goes with it when it ends. ONE helper for all that is locked."""

import errno
import fcntl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lungadv.utils.errors import InputError

__all__ = ["Lock", "hold", "hold_alone"]

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # another process has it; NFS says EACCES
UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # disks of clusters that know no locks


@dataclass(frozen=True)
class Lock:
    """A lock's open file; whether one may go on (`free`), and whether no other process can (`sure`)."""

    file: IO
    free: bool
    sure: bool


@contextmanager
def hold(path: Path, shared: bool = False, wait: bool = False) -> Iterator[Lock]:
    """Hold the lock file `path`, made if need be, while the block runs.

    shared: together with others that share it. wait: until it is free.
    On a disk that knows no locks the Lock is free but not sure, and a warning says so.
    """
    with open(path, "a+") as file:  # for both: over NFS a shared lock wants to read, one alone to write
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            lock = Lock(file, free=True, sure=True)
        except OSError as error:
            if error.errno not in (*HELD, *UNKNOWN):
                raise OSError(error.errno, error.strerror, str(path)) from None
            lock = Lock(file, free=error.errno in UNKNOWN, sure=False)
            if lock.free:
                advice = "it goes on without, so let no second process write there"
                warnings.warn(f"the disk of '{path.parent}' knows no locks ({error.strerror}): {advice}", stacklevel=1)
        yield lock


@contextmanager
def hold_alone(path: Path, what: str, grace: float = 0) -> Iterator[IO]:
    """Hold the lock file `path` alone, as `hold`; yields its file. `what` is made meanwhile.

    grace: seconds in which another process, as one that was just killed, may let go of it. Raises InputError when it does not.
    """
    until = time.monotonic() + grace
    while True:
        with hold(path) as lock:
            if lock.free:
                yield lock.file
                return
        if time.monotonic() > until:
            raise InputError(f"{what} is being made by another process: wait for its end, or stop it")
        time.sleep(0.1)
