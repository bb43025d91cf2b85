"""Patches of real nodules and of what is none, from the same cubes, so that nothing but the nodule tells them apart.

A patch of 40 mm around a nodule fits into its cube of 50 mm; one around something else in the cube sticks out. So where a cube ends would
tell the label. Every positive patch is therefore cut as if its cube ended where that of a random negative does, and what lies beyond is
filled by one rule for both: mirrored at the end in half of the draws, air in the others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lungadv.data.patches import resample
from lungadv.data.positions import shift_margin
from lungadv.data.scan import AIR
from lungadv.settings import PatchSettings
from lungadv.training.cube_crops import SMALLEST_LEARNT_MM, NoduleCube, vary_thickness

__all__ = ["CubePatches", "ThickPatches", "cube_pools"]

THICK_SHARE = 0.4  # of the patches that get thick slices
COPIES = 4  # of a nodule of the most common type, each at another offset
SHIFT, MAX_SHIFT_MM = 0.3, 3.5  # of a positive patch from the nodule's middle: share of the diameter, and at most
FREE_MM = 4.0  # between a nodule and the middle of a negative patch
EDGE_MM = 5.0  # between the middle of a patch and its cube's edge
LUNG_HU = -500  # what is darker is lung
BACKGROUNDS = 3  # random places in the lung of a cube


class CubePatches:
    """A pool of patches of cubes: `pool[rows]` is int16 HU (n, 1, size, size, size), each cut and filled anew.

    cubes: int16 HU (z, y, x) each; rows: (N, 4), the cube and the voxel (z, y, x) where a patch begins.
    ends: (M, 2, 3), where cubes end in patches: a lower and an upper voxel along each axis. With `own` a patch takes the ends of its
    row, otherwise those of a random row.
    """

    def __init__(self, cubes: Sequence[np.ndarray], rows: np.ndarray, ends: np.ndarray, size: int, own: bool, rng: np.random.Generator):
        self.cubes, self.rows, self.ends, self.size, self.own, self.rng = cubes, rows, ends, size, own, rng

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._patch(row) for row in rows.tolist()])[:, None]

    def _patch(self, row):
        number, *start = self.rows[row]
        cube = self.cubes[number]
        low, high = self.ends[row if self.own else self.rng.integers(len(self.ends))]
        low, high = np.maximum(low, -np.array(start)), np.minimum(high, np.array(cube.shape) - start)
        mirrored = self.rng.random() < 0.5
        index, beyond = zip(*(_indices(*ends, self.size) for ends in zip(low, high, strict=True)), strict=True)
        patch = cube[np.ix_(*(at + first for at, first in zip(index, start, strict=True)))]
        if not mirrored:
            patch = np.where(beyond[0][:, None, None] | beyond[1][:, None] | beyond[2], np.int16(AIR), patch)
        return torch.from_numpy(np.ascontiguousarray(patch))


def _indices(low, high, size):
    """For each of `size` voxels along an axis the one that is shown, from `low` to `high` - 1, mirrored at both; and which lie beyond."""
    at, length = np.arange(size), high - low
    turn = (at - low) % (2 * length)
    return low + np.where(turn < length, turn, 2 * length - 1 - turn), (at < low) | (at >= high)


@dataclass(frozen=True, eq=False)
class ThickPatches:
    """A pool whose patches, int16 HU or in HU, are of thick slices in THICK_SHARE of the draws; spacing: of the patches in mm."""

    pool: Sequence
    spacing: float
    rng: np.random.Generator

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        patches = self.pool[rows]
        made = [vary_thickness(patch, self.spacing, THICK_SHARE, self.rng) for patch in patches]
        return torch.stack([patch.round().to(patches.dtype) for patch in made])


def cube_pools(
    cubes: Sequence[NoduleCube], candidates: Mapping[str, np.ndarray], settings: PatchSettings, rng: np.random.Generator
) -> dict[int, CubePatches]:
    """The pools of positive (1) and negative (0) patches of cubes, larger by `shift_margin` on every side.

    candidates: of each cube's name, places (n, 3) in LPS mm that candidate generation proposes. Negatives are those away from nodules and
    from what counts neither way, published false positives, and random places in the lung. A type of nodule has as many positives as the
    root of its number of cubes says, so that rare ones are learnt too.
    """
    size, grids, rows = settings.size + 2 * shift_margin(settings.spacing), [], {1: [], 0: []}
    numbers = Counter(cube.kind for cube in cubes)
    for number, cube in enumerate(cubes):
        grid = resample(cube.scan, settings.spacing)
        grids.append(grid.hu)
        lung = np.argwhere(grid.hu < LUNG_HU)
        places = [candidates.get(cube.name, np.empty((0, 3))), cube.false_positives, grid.to_world(rng.permutation(lung)[:BACKGROUNDS])]
        for label, centres in ((1, _positives(cube, _copies(cube.kind, numbers), rng)), (0, _negatives(cube, np.concatenate(places)))):
            voxels = grid.to_voxel(centres)
            from_edge = np.minimum(voxels, np.array(grid.hu.shape) - 1 - voxels).min(axis=1) * settings.spacing
            start = np.round(voxels[from_edge >= EDGE_MM] - (size - 1) / 2).astype(int)
            rows[label].append(np.c_[np.full(len(start), number), start])
    rows = {label: np.concatenate(parts) for label, parts in rows.items()}
    ends = np.array([(-row[1:], np.array(grids[row[0]].shape) - row[1:]) for row in rows[0]]).clip(0, size)
    return {label: CubePatches(grids, rows[label], ends, size, label == 0, rng) for label in (1, 0)}


def _copies(kind, numbers):
    """How many positives a nodule of a type gets: COPIES, times the root of how much more cubes the most common type has."""
    return round(COPIES * (max(numbers.values()) / numbers[kind]) ** 0.5)


def _positives(cube, copies, rng):
    """Places (n, 3) in LPS mm: `copies` around the middle of each nodule of a cube of SMALLEST_LEARNT_MM and more."""
    nodules = np.repeat(cube.nodules[cube.nodules[:, 3] >= SMALLEST_LEARNT_MM], copies, axis=0)
    away = rng.standard_normal((len(nodules), 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    reach = np.minimum(SHIFT * nodules[:, 3], MAX_SHIFT_MM) * rng.random(len(nodules)) ** (1 / 3)
    return nodules[:, :3] + away * reach[:, None]


def _negatives(cube, places):
    """Those of the places (n, 3) that are FREE_MM from every nodule of a cube and outside what counts neither way."""
    apart = [np.linalg.norm(places[:, None] - spheres[:, :3], axis=2) - spheres[:, 3] / 2 for spheres in (cube.nodules, cube.ignored)]
    return places[(apart[0] > FREE_MM).all(axis=1) & (apart[1] > 1.0).all(axis=1)]
