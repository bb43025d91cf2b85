"""The folder that ingest writes into: whose it is, held by one process, free of what a killed one left, with room on the disk."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungadv.data.io.read import FILE_KINDS
from lungadv.data.manifest import TABLES, companion
from lungadv.utils.errors import InputError, check_name
from lungadv.utils.files import atomic_write, read_json
from lungadv.utils.locks import hold_alone

__all__ = [
    "check_out", "file_uid", "items_folder", "lock_manifest", "record_name", "report_file", "write_json", "written_files",
]  # fmt: skip


def items_folder(out: Path) -> Path:
    """The folder of the records of a manifest's scans."""
    return out.with_suffix(".items")


def report_file(out: Path) -> Path:
    """The report of a manifest, one line a scan."""
    return out.with_suffix(".report.csv")


def record_name(path: str) -> str:
    """The name of the record of a scan file or folder."""
    return f"{hashlib.sha256(path.encode()).hexdigest()[:16]}.json"


def file_uid(path: str | Path) -> str:
    """The series uid that a scan file is named after."""
    name = Path(path).name
    return name[: -len(next(kind for kind in FILE_KINDS[::-1] if name.lower().endswith(kind)))]


def check_out(out: Path, root: Path, kind: str) -> None:
    """Raise InputError unless a manifest has a folder of its own: the tables beside it are named as those of a data set.

    A manifest names both folders, so their names must be text.
    """
    check_name(root, "data set")
    check_name(out, "manifest")
    if out.suffix != ".csv":
        raise InputError(f"manifest '{out}': give a name that ends in .csv")
    if out.parent == root:
        raise InputError(f"manifest '{out}' would lie among the data: give a folder of its own, its tables are named like LUNA16's")
    path = companion(out)
    if path.exists():
        try:
            earlier = read_json(path)
            made_from = earlier["root"], earlier["kind"]
        except (InputError, KeyError):
            raise InputError(f"'{path}' cannot be read: delete it and call again") from None
        if made_from != (str(root), kind):
            raise InputError(f"manifest '{out}' was made from '{made_from[0]}' as {made_from[1]}: give --out another folder")
    elif not items_folder(out).exists():
        there = [name for name in (out.name, *TABLES) if (out.parent / name).exists()]
        if there:
            raise InputError(f"'{out.parent / there[0]}' exists and is not this manifest's: give --out a folder of its own")


def written_files(out: Path) -> dict[str, bytes]:
    """The bytes of a manifest and of what is written beside it, by name: of what there is."""
    files = (out, companion(out), report_file(out), *(out.parent / name for name in TABLES))
    return {file.name: file.read_bytes() for file in files if file.exists()}


@contextmanager
def lock_manifest(out: Path) -> Iterator[None]:
    """Hold a manifest alone, and remove what a killed call left half-written. A lock goes with the process that holds it.

    Raises InputError when another process holds it.
    """
    with hold_alone(items_folder(out) / ".lock", f"manifest '{out}'"):
        tables = (out.name, companion(out).name, report_file(out).name, *TABLES)
        for folder in (out.parent, items_folder(out), out.parent / "store", out.parent / "masks"):
            for path in folder.glob(".[0-9]*.*"):
                half = re.fullmatch(r"\.\d+\.(.+)", path.name)
                if half and path.is_file() and (folder != out.parent or half[1] in tables):
                    path.unlink()
        yield


def write_json(path: Path, values: dict) -> None:
    """Write a JSON file in place of an older one."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
