"""The clone's root and the folders beside it, hashes of files, and files that are written whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungadv.utils.errors import InputError


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


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
