"""Training crops of candidate generation: cut from the lung grids, augmented, with the nodules in each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from tqdm import tqdm

from lungadv.data.dataset import Data
from lungadv.data.disk_array import DiskArray, write_array
from lungadv.data.lung_grid import crop_to_lungs, locate_nodules, lung_grid, share_on_grid, unit_volume
from lungadv.training.augment import cube_symmetry

__all__ = [
    "LUNG",
    "MAX_NOISE",
    "TrainingGrid",
    "candidate_crops",
    "crop_with_nodules",
    "nodule_contrast",
    "nodule_spheres",
    "training_grids",
    "vary_brightness",
]

RARE_TYPES = ("ground_glass", "part_solid")  # under-represented in training: what the second network is fine-tuned on
LUNG = 0.1  # unit value of lung tissue, -860 HU
FADED_CONTRAST = (0.1, 0.5)  # what a faded nodule keeps of its contrast; ground glass has 0.12 to 0.46 of that of a solid nodule
MAX_NOISE = 0.02  # of a crop, standard deviation in [0, 1]: training scans have a soft kernel, others need not


@dataclass(frozen=True, eq=False)
class TrainingGrid:
    """A training scan on its lung grid."""

    # (2, D, H, W) float16: the scan in [0, 1], and what nodules of other types than RARE_TYPES add to the lung
    volumes: torch.Tensor | DiskArray
    lungs: np.ndarray | DiskArray  # (n, 3) voxels of the lungs, z, y, x
    nodules: pd.DataFrame  # type, and z, y, x, radius in voxels


def training_grids(data: Data, spacing: float, folder: Path) -> list[TrainingGrid]:
    """Every scan of `data` on its lung grid of `spacing` mm; volumes and lungs are files in `folder`, of which crops are read."""
    grids = []
    for uid in tqdm(data.uids, desc="scans to the coarse grid"):
        scan, labels, lungs = data.scan(uid), data.labels(uid), data.lungs(uid)
        grid, mask = lung_grid(scan, lungs, spacing)
        common = ~data.annotations.loc[data.annotations["seriesuid"] == uid, "type"].isin(RARE_TYPES).to_numpy()
        nodules, volume = locate_nodules(grid, data.annotations), unit_volume(grid)
        outlines = crop_to_lungs(replace(scan, hu=1000 * np.isin(labels, 1 + np.flatnonzero(common)).astype(np.int16)), lungs)
        centres = nodule_spheres(nodules[~nodules["type"].isin(RARE_TYPES)])[:, :3]
        added = nodule_contrast(volume.numpy(), share_on_grid(outlines, grid), centres)
        volumes = write_array(np.stack([volume.numpy(), added]).astype(np.float16), folder / f"{len(grids)}.volumes")
        grids.append(TrainingGrid(volumes, write_array(np.argwhere(mask).astype(np.int16), folder / f"{len(grids)}.lungs"), nodules))
    return grids


def nodule_contrast(volume: np.ndarray, share: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """What nodules add to the lung around them, float32 (D, H, W): their share of each voxel times how much brighter than LUNG they are.

    volume, share: (D, H, W) in [0, 1]; centres: (n, 3), z, y, x in voxels. A nodule's brightness is that at its centre.
    """
    voxels, added = np.argwhere(share > 0), np.zeros(volume.shape, np.float32)
    if len(centres):
        middle = tuple(np.round(centres).astype(int).T)
        brighter = (volume[middle] - LUNG).clip(0) / share[middle].clip(0.5)
        at = tuple(voxels.T)
        added[at] = share[at] * brighter[cKDTree(centres).query(voxels)[1]]
    return added


def nodule_spheres(nodules: pd.DataFrame) -> np.ndarray:
    """A table with z, y, x, radius in voxels as an array (n, 4)."""
    return nodules[["z", "y", "x", "radius"]].to_numpy(float)


def candidate_crops(
    grids: Sequence[TrainingGrid],
    size: int,
    batch_size: int,
    rng: np.random.Generator,
    max_scale: float = 1.0,
    faded: float = 0.5,
    rare: float = 0.0,
) -> Iterator[tuple[torch.Tensor, list[np.ndarray]]]:
    """Endless batches of crops, float32 (N, 1, size, size, size) in [0, 1], and the nodules of each, (n, 4): z, y, x, radius in voxels.

    Every other crop is around a nodule, the rest lie anywhere in the lungs.
    Crops are flipped, changed a little in contrast and made noisier. A `max_scale` above 1 also makes them up to that much larger or
    smaller, and turns them by right angles.
    faded: share of the crops in which nodules of other types than RARE_TYPES are made as faint as ground glass, of which training has few.
    rare: share of the crops around a nodule that are around one of RARE_TYPES, where there is any.
    """
    everywhere = [grid.lungs for grid in grids]
    nodules = [np.c_[nodule_spheres(grid.nodules), grid.nodules["type"].isin(RARE_TYPES)] for grid in grids]
    of_rare = [rows[rows[:, 4] == 1] for rows in nodules]
    while True:
        volumes, contents = [], []
        for k in range(batch_size):
            wanted = [of_rare] * (rng.random() < rare) + [nodules] if k % 2 == 0 else []
            places = next(places for places in (*wanted, everywhere) if any(map(len, places)))
            i = rng.choice([i for i, rows in enumerate(places) if len(rows)])
            side = round(size / max_scale ** rng.uniform(-1, 1))
            centre = places[i][rng.integers(len(places[i])), :3] + rng.uniform(-side / 4, side / 4, 3)
            (crop, added), inside = crop_with_nodules(grids[i].volumes, nodules[i][:, :4], np.round(centre).astype(int) - side // 2, side)
            lost = 1 - rng.uniform(*FADED_CONTRAST) if rng.random() < faded else 0
            crop, inside = _resize(crop.float() - lost * added.float(), inside, size)
            crop, inside = _random_symmetry(crop, inside, rng, turn=max_scale > 1)
            volumes.append(vary_brightness(crop, rng))
            contents.append(inside)
        yield torch.stack(volumes)[:, None].to(memory_format=torch.channels_last_3d), contents


def crop_with_nodules(
    volume: torch.Tensor | DiskArray, nodules: np.ndarray, start: np.ndarray, size: int
) -> tuple[torch.Tensor, np.ndarray]:
    """The cube (..., size, size, size) of a volume (..., D, H, W) from voxel `start` (z, y, x), zero (air) beyond the volume.

    The nodules (n, 4), z, y, x, radius, whose centre lies in it come with it, in its coordinates.
    """
    low = np.clip(start, 0, volume.shape[-3:])
    high = np.clip(start + size, 0, volume.shape[-3:])
    inner = torch.as_tensor(volume[(..., *(slice(a, b) for a, b in zip(low, high, strict=True)))])
    pads = [p for a, b, s in zip(low[::-1], high[::-1], start[::-1], strict=True) for p in (a - s, s + size - b)]
    moved = nodules - [*start, 0]
    return F.pad(inner, [int(p) for p in pads]), moved[_inside(moved, size)]


def _inside(nodules, size):
    """Which nodules (n, 4) have their centre in a cube of `size` voxels a side."""
    return ((nodules[:, :3] >= 0) & (nodules[:, :3] <= size - 1)).all(axis=1)


def _resize(crop, nodules, size):
    """A cube brought to `size` voxels a side, and its nodules (n, 4) with it; those whose centre comes to lie outside are left out."""
    ratio = size / len(crop)
    moved = np.c_[ratio * (nodules[:, :3] + 0.5) - 0.5, ratio * nodules[:, 3]]
    crop = F.interpolate(crop[None, None], size=(size,) * 3, mode="trilinear")[0, 0]
    return crop, moved[_inside(moved, size)]


def _random_symmetry(crop, nodules, rng, turn):
    """A cube and its nodules (n, 4) under a random symmetry of the cube; without `turn` it is flipped alone."""
    axes, flips = rng.permutation(3) if turn else np.arange(3), rng.random(3) < 0.5
    moved = np.c_[nodules[:, :3][:, axes], nodules[:, 3]]
    moved[:, np.flatnonzero(flips)] = len(crop) - 1 - moved[:, np.flatnonzero(flips)]
    return cube_symmetry(crop, axes, flips), moved


def vary_brightness(crop: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A cube (D, H, W) in [0, 1] with other contrast and with noise, clipped to [0, 1]."""
    noise = rng.uniform(0, MAX_NOISE) * rng.standard_normal(crop.shape, dtype=np.float32)
    return (crop * rng.uniform(0.8, 1.1) + torch.from_numpy(noise)).clamp(0, 1)
