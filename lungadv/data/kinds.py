"""What a run's data are: the phantom, scans of a manifest, or cubes of nodules."""

import csv
from pathlib import Path

__all__ = ["CUBES", "NODULE_CUBE", "PHANTOM", "SCANS", "kind_of"]

PHANTOM, SCANS, CUBES = "phantom", "scans", "cubes"
NODULE_CUBE = "nodule-cube"  # the column `kind` of a manifest of cubes, see `nodule_cubes`


def kind_of(data: str | Path) -> str:
    """Which of PHANTOM, SCANS and CUBES a run's `data` are, "phantom" or the path of a manifest.

    Cubes are told by the manifest's first row. What cannot be read as a table counts as SCANS; `read_manifest` says what is wrong with it.
    """
    if data == PHANTOM:
        return PHANTOM
    try:
        with open(data, encoding="utf-8-sig", newline="") as file:
            separator = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            return CUBES if next(csv.DictReader(file, delimiter=separator), {}).get("kind") == NODULE_CUBE else SCANS
    except (OSError, csv.Error, UnicodeDecodeError):
        return SCANS
