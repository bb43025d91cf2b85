"""Text headers, as MetaImage and NRRD have them: lines of a name and a value.

SimpleITK reads such a header, but takes a missing or garbled field as its default. These functions check the fields before it does.
"""

import math
import os
from pathlib import Path

from lungadv.data.io.header import LONGEST_HEADER
from lungadv.data.scan import ScanError

__all__ = ["beside", "field_of", "flag_of", "numbers_in", "split_fields", "start_of"]


def start_of(path: Path) -> bytes:
    """The bytes of a file in which its header must lie."""
    with open(path, "rb") as stream:
        return stream.read(LONGEST_HEADER)


def split_fields(lines: list, sign: str) -> dict:
    """The lines 'name = value' of a header as a dict. Raises ScanError for an endless line and a name that comes twice."""
    fields = {}
    for line in lines:
        if len(line) > 1000:  # endless.mhd: SimpleITK prints lines of its own
            raise ScanError(f"has a line of {len(line)} characters: is it a text header? Write it again")
        name, found, value = line.partition(sign)
        name = name.strip()
        if found and name in fields:  # twice.mhd: SimpleITK takes the last
            raise ScanError(f"has two lines '{name}': remove one")
        if found:
            fields[name] = value.strip()
    return fields


def field_of(fields: dict, *names: str) -> str:
    """The field of the first of these names for the same thing that a header has. Raises ScanError where it has none."""
    for name in names:
        if name in fields:
            return fields[name]
    hints = {
        "TransformMatrix": (
            ": without it no one knows where left is; "
            "add 'TransformMatrix = 1 0 0 0 1 0 0 0 1' if x runs to the patient's left, y to the back, z to the head"
        ),
        "Offset": ": add 'Offset = 0 0 0' if the place of the first voxel does not matter",
        "space": ": without it no one knows where left is; add 'space: left-posterior-superior' if the axes are those of DICOM",
    }
    raise ScanError(f"has no field '{names[0]}'" + hints.get(names[0], ": is it complete? Write it again"))


def numbers_in(name: str, text: str, count: int, kind: type = float) -> tuple:
    """`count` finite numbers in a field's text. Raises ScanError for anything else."""
    try:
        numbers = tuple(kind(word) for word in text.split())
        finite = all(map(math.isfinite, numbers))
    except (ValueError, OverflowError):
        numbers, finite = (), False
    if len(numbers) != count or not finite:
        raise ScanError(f"has the field '{name}' = '{text[:60]}', which is not {count} finite number(s): correct the header")
    return numbers


def flag_of(fields: dict, *names: str, default: bool) -> bool:
    """A field that is True or False. Raises ScanError for anything else."""
    text = next((fields[name] for name in names if name in fields), str(default)).lower()
    if text not in ("true", "false", "1", "0"):
        raise ScanError(f"has the field '{names[0]}' = '{text[:60]}': write True or False")
    return text in ("true", "1")


def beside(path: Path, name: str) -> Path:
    """The file that the header `path` names, `name` in Latin-1. Raises ScanError unless it lies in the header's own folder or below.

    SimpleITK reads any file that a header names: cases absolute.mhd, in/up.mhd, in/linked.mhd and in/listed.mhd in test_metaimage.
    """
    folder = path.resolve().parent
    names = [name, os.fsdecode(name.encode("latin-1"))]  # letters beyond ASCII: those of a header, or of the disk
    names = list(dict.fromkeys([*names, *(shown.replace("\\", "/") for shown in names)]))  # written by Windows
    last = names[-1].rpartition("/")[2]
    if os.path.dirname(name) == str(folder):
        raise ScanError(f"names its data file by its whole path, {name!r}, which others do not have: name it '{last}'")
    for shown in names:
        if not _lies_inside(folder, shown):
            raise ScanError(f"names its data file {name!r}, which is outside its folder: put the file beside the header and name it there")
    for shown in names:
        if (folder / shown).is_file():
            return folder / shown
    alike = [file.name for file in sorted(folder.iterdir()) if file.name.lower() == last.strip('"').lower()]
    put = f"put it there, and name it '{last}'" if last != names[-1] else "put it there"
    remedy = f"'{alike[0]}' is; name that in the header" if alike else put
    raise ScanError(f"names its data file {names[-1]!r}, which is not beside it: {remedy}")


def _lies_inside(folder: Path, name: str) -> bool:
    """Whether a file of this name lies in a folder or below, links followed."""
    try:
        plain = name and not Path(name).is_absolute() and ".." not in Path(name).parts
        return bool(plain) and (folder / name).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # a name that is no path, or a circle of links
        return False
