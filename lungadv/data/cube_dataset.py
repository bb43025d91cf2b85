"""Cubes of nodules as a data set of small scans: what stages ask of a `Data`, each cube a scan with one nodule."""

import functools
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from lungadv.data.cube_patches import cube_lung, fitting_places
from lungadv.data.dataset import FILES, MIMICS, NODULES, Data
from lungadv.data.lidc import SPICULATED
from lungadv.data.nodule_cubes import DATASETS, Cubes, cube_name, load_cube
from lungadv.data.scan import Scan
from lungadv.data.tables import SMALLEST_MM, XYZ

__all__ = ["CubeData", "cubes_as_data", "usable_cubes", "without"]


class CubeData(Data):
    """A `Data` whose scans are cubes; ids of scans are `<seriesuid>_<number>`, data sets those of `nodule_cubes.DATASETS`."""

    known = DATASETS

    @property
    def datasets(self) -> list[str]:
        """The three data sets."""
        return list(DATASETS)

    def scan(self, uid: str) -> Scan:
        """The cube of a uid."""
        return replace(self._cube(uid)[0], uid=uid)

    def labels(self, uid: str) -> np.ndarray:
        """uint8 (z, y, x): 1 in the cube's nodule."""
        return self._cube(uid)[1].astype(np.uint8)

    def lungs(self, uid: str) -> np.ndarray:
        """The lung in a cube, bool (z, y, x), see `cube_lung`."""
        return cube_lung(*self._cube(uid))

    def _cube(self, uid):
        return _load(self._file(uid, "path"), self._file(uid, "labels"))


@functools.lru_cache(maxsize=1)  # stages ask for a cube's scan, labels and lungs one after the other
def _load(path, mask):
    return load_cube({"path": path, "mask": mask})


def without(cubes: Cubes, held_back: Collection[str]) -> Cubes:
    """Cubes without those of some patients and series."""
    return _rows(cubes, ~cubes.table[["patient", "seriesuid"]].isin(held_back).any(axis=1).to_numpy())


def _rows(cubes, chosen):
    """The chosen rows, bool (N,), of the table of cubes, and what is no nodule in them."""
    table = cubes.table[chosen].reset_index(drop=True)
    return replace(cubes, table=table, not_nodules=cubes.not_nodules[cubes.not_nodules["path"].isin(table["path"])].reset_index(drop=True))


def usable_cubes(cubes: Cubes, width: float) -> Cubes:
    """The cubes around whose nodule a patch of `width` mm lies inside the cube, and one a voxel off it; those under SMALLEST_MM are kept.

    All cubes and masks are read: raises ScanError as `load_cube` does.
    """
    fits = [_fits(cube, width) for cube in tqdm(cubes.table.to_dict("records"), desc="reading cubes", mininterval=2)]
    return _rows(cubes, np.array(fits, dtype=bool))


def _fits(cube, width):
    scan, _ = load_cube(cube)
    middle = np.rint(scan.to_voxel([[cube[name] for name in XYZ]])[0]).astype(int)
    return cube["diameter_mm"] < SMALLEST_MM or bool(fitting_places(scan, width + 2 * max(scan.spacing))[tuple(middle)])


def cubes_as_data(cubes: Cubes) -> CubeData:
    """The cubes with a nodule of SMALLEST_MM and more as a data set.

    A nodule is `spiculated` where the readers' mean rating is SPICULATED or more. Nothing says what it touches.
    """
    table = cubes.table[cubes.table["diameter_mm"] >= SMALLEST_MM].reset_index(drop=True)
    names = [cube_name(path) for path in table["path"]]
    table["seriesuid"] = [f"{uid}_{number}" for uid, number, _ in names]
    scans = table.assign(labels=table["mask"], lungs="", store="")[["seriesuid", "dataset", *FILES]]
    nodules = table.assign(attachment="", spiculated=table["spiculation"] >= SPICULATED, label=1)[NODULES]
    return CubeData(scans, nodules, pd.DataFrame(columns=NODULES), pd.DataFrame(columns=MIMICS))
