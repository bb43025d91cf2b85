"""The clone's root and the folders beside it, hashes of files, and files that are written whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungadv.utils.errors import InputError

FULL = 2**20  # bytes free on a full disk, at most


class DiskFullError(InputError):
    """No space is left: nothing else that writes there can go on."""


def repo_root(start: str | Path | None = None) -> Path:
    """The clone that holds settings.ini and the Snakefile, searched upwards from `start` (default: the working folder).

    Raises InputError outside a clone.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / "settings.ini").exists() and (folder / "Snakefile").exists():
            return folder
    raise InputError(
        "no clone of lungadv here: settings.ini and Snakefile were not found in this folder or above it; "
        "run `git clone` of the project, `cd lungadv`, then `make reproduce`"
    )


def runs_folder() -> Path:
    """Where runs are kept: `runs` in the clone, or LUNGADV_RUNS. Raises InputError outside a clone."""
    return Path(os.environ.get("LUNGADV_RUNS") or repo_root() / "runs").resolve()


def real_folder() -> Path:
    """Where the real scans may lie: the folder LUNGADV_REAL_CT, else ../shared/real_ct of the clone. Raises InputError outside a clone."""
    return Path(os.environ.get("LUNGADV_REAL_CT") or repo_root().parent / "shared" / "real_ct")


def sha256(path: str | Path) -> str:
    """The hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(file: str | Path, root: Path) -> dict:
    """Size, time and digest of a file: path (from `root`), bytes, mtime_ns and sha256; see `is_unchanged`."""
    state = os.stat(file)
    digest = sha256(file)
    name = os.path.relpath(file, root)  # a link's data may lie outside
    return {"path": Path(name).as_posix(), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest}


def is_unchanged(known: dict, root: Path) -> bool:
    """Whether a file still has the size and time, or else the size and digest, of its `fingerprint`."""
    path = root / known["path"]
    try:
        state = path.stat()
    except OSError:
        return False
    if state.st_size != known["bytes"]:
        return False
    return state.st_mtime_ns == known["mtime_ns"] or sha256(path) == known["sha256"]


def read_json(path: str | Path) -> dict:
    """What a JSON file says, as names and values. Raises InputError that names the file for anything else."""
    try:
        known = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # lists within lists without end
        raise InputError(f"'{path}' cannot be read as JSON ({error}): bring back the file as it was written, or make it anew") from None
    if not isinstance(known, dict):
        raise InputError(f"'{path}' holds no names and values of JSON: bring back the file as it was written, or make it anew")
    return known


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well. Raises InputError when the disk is full."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with guard_disk(path.parent):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_folder(new: Path, old: Path) -> None:
    """Put a whole folder in place of another one: no moment shows half of either."""
    stale = old.with_name(f".{old.name}.stale.{os.getpid()}")
    if old.exists():
        os.replace(old, stale)
    os.replace(new, old)
    shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def guard_disk(folder: str | Path) -> Iterator[None]:
    """Writing into a folder; a full disk becomes one DiskFullError, an InputError, whichever library meets it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # safetensors has an error of its own, SimpleITK's are RuntimeErrors without a word of it
        if _is_of_full_disk(error, folder):
            raise DiskFullError(
                f"no space is left on the disk of '{folder}': make room and call again, it goes on where it stopped"
            ) from None
        raise


def _is_of_full_disk(error: Exception, folder: str | Path) -> bool:
    """Whether an error, or the one that it was raised from, comes from a disk without room."""
    causes = [cause for cause in (error, error.__context__) if cause]
    said = any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(cause) for cause in causes)
    return said or (any(isinstance(cause, OSError | RuntimeError) for cause in causes) and shutil.disk_usage(folder).free < FULL)
