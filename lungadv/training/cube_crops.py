"""Real nodules to learn from: cubes of 50 mm around them, what else is in each, and crops of candidate generation from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from lungadv.data.hits import radius_mm
from lungadv.data.lung_grid import unit_volume
from lungadv.data.nodule_cubes import EXCLUDED, Cubes, load_cube
from lungadv.data.patches import resample
from lungadv.data.scan import Scan
from lungadv.data.slices import thicken
from lungadv.data.tables import XYZ
from lungadv.training.candidate_crops import crop_with_nodules, vary_brightness
from lungadv.utils.errors import InputError
from lungadv.utils.files import sha256

__all__ = ["SMALLEST_LEARNT_MM", "CubeGrid", "NoduleCube", "cube_crops", "cube_grids", "read_nodule_cubes", "vary_thickness"]

SMALLEST_LEARNT_MM = 5.0  # diameter of the mask; smaller nodules, of which LUNA16 lists some and not others, count neither way
SAME_MM = 2.0  # an excluded finding nearer than this to the edge of a nodule is that nodule
THICKNESS_MM = (1.25, 5.0)  # of slices
OFFSET_MM = 15.0  # by which a crop is shifted, so that nothing follows from where in it a nodule lies
VARIANTS = 3  # of each cube: its own slices, and others that are thicker


@dataclass(frozen=True, eq=False)
class NoduleCube:
    """A cube and what is known of the things in it. Places are LPS mm, then diameters in mm."""

    name: str  # the cube's file
    scan: Scan
    nodules: np.ndarray  # (n, 4); the first is the cube's own
    ignored: np.ndarray  # (n, 4): excluded findings, and nodules under SMALLEST_LEARNT_MM but the cube's own
    false_positives: np.ndarray  # (n, 3): what a published detector took for a nodule
    kind: str = ""  # of the cube's own nodule, as the manifest's column "type" names it


def read_nodule_cubes(cubes: Cubes, desc: str = "cubes") -> list[NoduleCube]:
    """Every cube of a manifest's part, with the nodules of its series that lie in it, and what is none. desc: names the progress bar.

    An excluded finding on a nodule is left out. Raises InputError for a cube whose sha256 is not the manifest's, and ScanError as
    `load_cube` does.
    """
    table = cubes.table.assign(diameter_mm=cubes.table["diameter_mm"].astype(float))
    table[XYZ] = table[XYZ].astype(float)
    others = cubes.not_nodules.assign(**{name: cubes.not_nodules[name].astype(float) for name in (*XYZ, "diameter_mm")})
    by_series = {uid: rows for uid, rows in table[table["world_ok"] != "False"].groupby("seriesuid")}
    by_cube = {path: rows for path, rows in others.groupby("path")}
    made = []
    for row in tqdm(table.to_dict("records"), desc=desc):
        if sha256(row["path"]) != row["sha256"]:
            raise InputError(f"'{row['path']}' is not the cube that was ingested (its sha256 differs): bring it back, or ingest again")
        scan, own = load_cube(row)[0], _spheres(table[table["path"] == row["path"]])
        more = _spheres(by_series.get(row["seriesuid"], table[:0]))
        more = more[(more != own).any(axis=1) & _inside(scan, more)] if row["world_ok"] != "False" else more[:0]
        known = by_cube.get(row["path"], others[:0])
        excluded = known["kind"] == EXCLUDED
        small = more[:, 3] < SMALLEST_LEARNT_MM
        nodules = np.concatenate([own, more[~small]])
        ignored = np.concatenate([_apart(_spheres(known[excluded]), nodules), more[small]])
        made.append(NoduleCube(row["path"], scan, nodules, ignored, known.loc[~excluded, XYZ].to_numpy(float), row.get("type", "")))
    return made


def _spheres(table):
    """A table's places and diameters, (n, 4); a diameter that is not known stands for the usual one."""
    return np.c_[table[XYZ].to_numpy(float).reshape(-1, 3), 2 * radius_mm(table["diameter_mm"])]


def _inside(scan, spheres):
    """Which spheres (n, 4) have their middle in a cube."""
    voxels = scan.to_voxel(spheres[:, :3])
    return ((voxels > -0.5) & (voxels < np.array(scan.hu.shape) - 0.5)).all(axis=1)


def _apart(findings, nodules):
    """The findings (n, 4) that lie on none of the nodules (m, 4)."""
    distance = np.linalg.norm(findings[:, None, :3] - nodules[:, :3], axis=2)
    return findings[(distance > nodules[:, 3] / 2 + SAME_MM).all(axis=1)]


@dataclass(frozen=True, eq=False)
class CubeGrid:
    """A cube on the grid of candidate generation."""

    volume: torch.Tensor  # (D, H, W) float16 in [0, 1]
    nodules: np.ndarray  # (n, 4): z, y, x, radius in voxels
    ignored: np.ndarray  # (n, 4), likewise: what counts neither way


def cube_grids(cubes: Sequence[NoduleCube], spacing: float, rng: np.random.Generator) -> list[CubeGrid]:
    """VARIANTS of each cube on grids of `spacing` mm that begin at other places, all but the first of thick slices in two of three cases.

    A cube's own nodule under SMALLEST_LEARNT_MM counts neither way.
    """
    grids = []
    for cube in cubes:
        small = cube.nodules[:, 3] < SMALLEST_LEARNT_MM
        for variant in range(VARIANTS):
            share = 2 / 3 if variant else 0.0
            hu = vary_thickness(torch.from_numpy(cube.scan.hu.astype(np.float32)), cube.scan.spacing[2], share, rng)
            low = rng.integers(0, round(spacing), 3)
            inner = hu.round().to(torch.int16).numpy()[tuple(slice(a, None) for a in low)]
            grid = resample(replace(cube.scan, hu=inner, origin=tuple(cube.scan.to_world([low])[0])), spacing)
            nodules, ignored = cube.nodules[~small], np.concatenate([cube.ignored, cube.nodules[small]])
            grids.append(CubeGrid(unit_volume(grid).half(), _voxels(grid, nodules), _voxels(grid, ignored)))
    return grids


def vary_thickness(volume: torch.Tensor, spacing: float, share: float, rng: np.random.Generator) -> torch.Tensor:
    """A volume (..., D, H, W) as it is or, in `share` of the calls, of slices that are THICKNESS_MM thick; spacing: mm along D."""
    if rng.random() >= share:
        return volume
    return thicken(volume, spacing, rng.uniform(*THICKNESS_MM), rng.random())


def _voxels(grid, spheres):
    """Spheres (n, 4) in LPS mm as z, y, x, radius in voxels of a grid."""
    return np.c_[grid.to_voxel(spheres[:, :3]), spheres[:, 3] / 2 / grid.spacing[0]]


def cube_crops(
    grids: Sequence[CubeGrid], size: int, count: int, rng: np.random.Generator
) -> tuple[torch.Tensor, list[np.ndarray], list[np.ndarray]]:
    """Random crops, float32 (count, 1, size, size, size) in [0, 1], their nodules, and what counts neither way, (n, 4) each.

    A crop lies anywhere within OFFSET_MM of its cube's middle, with air beyond the cube. It is flipped, turned in the slice, changed a
    little in contrast and made noisier.
    """
    volumes, nodules, ignored = [], [], []
    for grid in (grids[k] for k in rng.integers(len(grids), size=count)):
        reach = OFFSET_MM / 50.0 * len(grid.volume)
        start = np.round((np.array(grid.volume.shape) - size) / 2 + rng.uniform(-reach, reach, 3)).astype(int)
        crop, inside = crop_with_nodules(grid.volume.float(), grid.nodules, start, size)
        near = np.concatenate([grid.ignored, grid.nodules]) - [*start, 0]
        outside = ~((near[:, :3] >= 0) & (near[:, :3] <= size - 1)).all(axis=1)
        outside[: len(grid.ignored)] = True  # what is ignored stays ignored, wherever it lies
        crop, inside, near = _turn_in_slice(crop, inside, near[outside], rng)
        volumes.append(vary_brightness(crop, rng))
        nodules.append(inside)
        ignored.append(near)
    return torch.stack(volumes)[:, None], nodules, ignored


def _turn_in_slice(crop, nodules, ignored, rng):
    """A crop, its nodules and what is ignored in it, (n, 4) each, flipped along random axes and, in half of the cases, y for x."""
    flips, swap = rng.random(3) < 0.5, rng.random() < 0.5
    axes = [0, 2, 1] if swap else [0, 1, 2]

    def moved(spheres):
        spheres = np.c_[spheres[:, :3][:, axes], spheres[:, 3]]
        spheres[:, np.flatnonzero(flips)] = len(crop) - 1 - spheres[:, np.flatnonzero(flips)]
        return spheres

    return crop.permute(axes).flip(np.flatnonzero(flips).tolist()), moved(nodules), moved(ignored)
