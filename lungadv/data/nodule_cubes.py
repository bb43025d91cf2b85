"""Cubes of 50 mm around nodules, each with its mask: a data source of patches, not of scans.

The public repository node21challenge/node21_generation_baseline holds LUNA16's nodules so:

    nodule_patches/<seriesuid>_dcm_<k>.mha    int16 HU, 1 mm voxels; cut off where the scan ends, some with padding
    nodule_patches/<seriesuid>_seg_<k>.mha    its mask: 1 in the nodule

`lungadv ingest --kind nodule-cubes` writes a manifest of them, one row a cube. A nodule lies at its mask's middle. World positions are
those of the cube's header. They are right inside the cube, but wrong in the patient where `world_ok` is False, as in flipped series.
Neighbouring cubes of a series overlap. A cube has a nodule in its middle, so what is counted over cubes is not LUNA16's FROC.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.dataset import same_grid
from lungadv.data.io.read import read_scan
from lungadv.data.kinds import NODULE_CUBE
from lungadv.data.lidc import equivalent_diameter
from lungadv.data.manifest import check_patients, root_of
from lungadv.data.scan import Scan, ScanError
from lungadv.data.tables import LUNA16, XYZ, AnnotationError, at_line, check_types, read_table
from lungadv.utils.errors import InputError

__all__ = [
    "COLUMNS", "DATASETS", "EXCLUDED", "FALSE_POSITIVE", "NOT_NODULES", "NOT_NODULES_FILE", "RATINGS", "Cubes", "cube_name", "load_cube",
    "measure_mask", "read_cubes",
]  # fmt: skip

NAME = re.compile(r"(.+)_dcm_(\d+)\.mha", re.IGNORECASE)
DATASETS = ("train", "validation", "test")
RATINGS = ["readers", "texture", "calcification", "spiculation", "malignancy", "subtlety"]  # means over LIDC's readers
COLUMNS = [
    "seriesuid", "number", "path", "mask", "kind", "dataset", "patient", *XYZ, "diameter_mm", "world_ok", "cut_off", "padded", "type",
    *RATINGS, "sha256", "bytes",
]  # fmt: skip
NOT_NODULES = ["path", *LUNA16, "kind", "dataset"]
EXCLUDED, FALSE_POSITIVE = "excluded", "false positive"  # kinds of what is no nodule
NOT_NODULES_FILE = "not_nodules.csv"  # beside a manifest of cubes


@dataclass(frozen=True, eq=False)
class Cubes:
    """Cubes of nodules, and positions in them that are no nodule.

    table: COLUMNS, one row a cube. `path` and `mask` are absolute; coordX, coordY, coordZ (LPS mm) are the mask's middle and
    `diameter_mm` is that of a ball of its volume; `world_ok` is "True", "False" or "" where nobody knows; `cut_off` is bool;
    `padded` counts voxels of padding; the RATINGS are NaN where nobody rated.
    not_nodules: NOT_NODULES. EXCLUDED findings count neither way; a FALSE_POSITIVE is what a detector took for a nodule.
    """

    table: pd.DataFrame
    not_nodules: pd.DataFrame

    def of(self, dataset: str) -> "Cubes":
        """The cubes of one of DATASETS; InputError for another name."""
        if dataset not in DATASETS:
            raise InputError(f"unknown data set '{dataset}': choose one of {', '.join(DATASETS)}")
        parts = {name: getattr(self, name) for name in ("table", "not_nodules")}
        return replace(self, **{name: part[part["dataset"] == dataset].reset_index(drop=True) for name, part in parts.items()})


def cube_name(path: str | Path) -> tuple[str, int, str] | None:
    """The series uid and nodule number that a cube's file is named after, and its mask's name beside it; None for other files."""
    match = NAME.fullmatch(Path(path).name)
    return (match[1], int(match[2]), f"{match[1]}_seg_{match[2]}.mha") if match else None


def read_cubes(path: str | Path) -> Cubes:
    """A manifest of cubes that `lungadv ingest --kind nodule-cubes` wrote, and the table of what is no nodule beside it.

    Raises InputError that names the file and row that is wrong, and the remedy: another kind of manifest, a cube or mask that is gone, a
    cube of another size in bytes, a patient in two data sets. Other changes to a file are not looked for here.
    """
    path = Path(path).resolve()
    try:
        table = _read_table(path)
        others = path.parent / NOT_NODULES_FILE
        not_nodules = read_table(others, NOT_NODULES, repeats=True)[NOT_NODULES] if others.exists() else pd.DataFrame(columns=NOT_NODULES)
    except AnnotationError as error:
        raise InputError(str(error)) from None
    root = root_of(path)
    not_nodules["path"] = [str(root / name) for name in not_nodules["path"]]
    not_nodules["dataset"] = not_nodules["path"].map(dict(zip(table["path"], table["dataset"], strict=True)))
    return Cubes(table.reset_index(drop=True), not_nodules.dropna(subset="dataset").reset_index(drop=True))


def _read_table(path: Path) -> pd.DataFrame:
    """The rows of a manifest of cubes with absolute paths; their files are there, and the cubes have the bytes they had."""
    table = read_table(path, ["seriesuid", "path"])
    if "kind" not in table or (table["kind"] != NODULE_CUBE).any():
        raise InputError(f"'{path}' is no manifest of nodule cubes: write one with `lungadv ingest FOLDER --kind nodule-cubes`")
    table = read_table(path, COLUMNS)[COLUMNS]
    for line, name in table["dataset"].items():
        if name not in DATASETS:
            raise InputError(f"{at_line(path, line)}: unknown data set '{name}': write one of {', '.join(DATASETS)}")
    check_patients(path, table)
    check_types(table, path)
    root = root_of(path)
    for line, (name, mask, size) in table[["path", "mask", "bytes"]].iterrows():
        gone = next((file for file in (name, mask) if not (root / file).is_file()), None)
        if gone:
            raise InputError(f"{at_line(path, line)}: '{gone}' does not exist in {root}: bring it back, or ingest again")
        if str(os.path.getsize(root / name)) != size:
            raise InputError(f"{at_line(path, line)}: '{name}' has not the {size} bytes it had: bring it back, or ingest again")
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in RATINGS}
    files = {name: [str(root / file) for file in table[name]] for name in ("path", "mask")}
    return table.assign(**numbers, **files, cut_off=table["cut_off"] == "True").astype({"number": int, "padded": int})


def load_cube(cube: Mapping) -> tuple[Scan, np.ndarray]:
    """A cube and its mask, from a row of `Cubes.table` or any mapping with `path` and `mask`.

    Returns a Scan, HU int16 (z, y, x) with its spacing and place, whose padding is AIR, and the mask, bool on the same grid.
    Raises ScanError for a file that cannot be read, and for a mask on another grid or without a voxel.
    """
    scan, mask = read_scan(cube["path"]), read_scan(cube["mask"])
    if not same_grid(scan, mask):
        raise ScanError(f"'{cube['mask']}' {mask.hu.shape} is no mask on the grid of its cube {scan.hu.shape}: take both from one clone")
    inside = mask.hu > 0
    if not inside.any():
        raise ScanError(f"'{cube['mask']}' is empty: no voxel is the nodule's; take the file from its source again, or remove the cube")
    return scan, inside


def measure_mask(scan: Scan, inside: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle of a mask, bool (z, y, x), as (3,) LPS mm, and the diameter in mm of a ball of its volume."""
    voxels = np.argwhere(inside)
    return scan.to_world([voxels.mean(axis=0)])[0], equivalent_diameter(len(voxels), scan)
