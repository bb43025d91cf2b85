"""What lies in a folder: one walk finds scan files, folders of DICOM slices, XML of readings, zips and tables."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lungadv.data.io.dicom_slice import begins_as_dicom
from lungadv.data.io.read import FILE_KINDS
from lungadv.utils.errors import InputError

__all__ = ["Contents", "find_contents", "read_head"]

MASKS = re.compile(r"(seg-lungs|masks$)", re.IGNORECASE)  # folders of volumes that are no scans
CUBE = re.compile(r".+_(dcm|seg)_\d+\.mha", re.IGNORECASE)  # of a nodule, or its mask
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
HEAD_BYTES = 2000


@dataclass(frozen=True)
class Contents:
    """What lies under a folder, as paths relative to it, and tables' places by name.

    scans: scan files. cubes: those of nodules with their masks, see `nodule_cubes`. folders: of DICOM slices. xml: LIDC's.
    """

    scans: tuple[str, ...]
    cubes: tuple[str, ...]
    folders: tuple[str, ...]
    xml: tuple[str, ...]
    zips: tuple[str, ...]
    tables: dict[str, list[str]]

    def table(self, name: str) -> str | None:
        """The place of a table: the highest, or None. InputError when two lie equally high, since nothing says which is meant."""
        places = sorted(self.tables.get(name, ()), key=lambda place: place.count("/"))
        if len(places) > 1 and places[0].count("/") == places[1].count("/"):
            raise InputError(f"'{places[0]}' and '{places[1]}' are both there: keep one")
        return places[0] if places else None


def find_contents(root: str | Path, skip: Path | None = None) -> Contents:
    """Walk a folder, links included and `skip` left out. Zips are listed, not read.

    Raises InputError when `root` is no folder or holds no scan.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"'{root}' is no folder: give the one that holds the data set")
    scans, cubes, folders, xml, zips, tables = [], [], [], [], [], {}
    for folder, names, files in os.walk(root, followlinks=True):
        here = Path(folder)
        names[:] = sorted(name for name in names if not name.startswith(".") and not _leads_back(here / name, skip))
        slices = False
        for name in sorted(name for name in files if not name.startswith(".")):
            path, kind = here.relative_to(root) / name, name.lower()
            if CUBE.fullmatch(name):
                cubes.append(path.as_posix())
            elif kind.endswith(FILE_KINDS):
                scans += [] if any(MASKS.search(part) for part in path.parts[:-1]) else [path.as_posix()]
            elif kind.endswith(".xml"):
                xml += [path.as_posix()] if b"ReadMessage" in read_head(here / name) else []
            elif kind.endswith(".zip"):
                zips.append(path.as_posix())
            elif kind.endswith(".csv"):
                tables.setdefault(name, []).append(path.as_posix())
            slices = slices or _is_slice(here / name)
        folders += [here.relative_to(root).as_posix()] if slices else []
    if not any((scans, cubes, folders, xml, zips)):
        raise InputError(f"'{root}' holds no scan: no {', '.join(FILE_KINDS)}, no DICOM")
    return Contents(tuple(scans), tuple(cubes), tuple(folders), tuple(xml), tuple(zips), tables)


def _leads_back(folder: Path, skip: Path | None) -> bool:
    """Whether a folder is to be skipped, or a link to one above itself (a walk would never end)."""
    real = folder.resolve()
    return real == skip or (folder.is_symlink() and folder.parent.resolve().is_relative_to(real))


def _is_slice(path: Path) -> bool:
    """Whether a file is a DICOM slice by its name or by how it begins: names as CT.1.2.840.1 have no suffix to go by."""
    return path.suffix.lower() in DICOM_SUFFIXES or begins_as_dicom(read_head(path))


def read_head(path: Path) -> bytes:
    """The first bytes of a file, none where it cannot be read."""
    if not path.is_file():  # a pipe would wait without end
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
