"""Patches of nodules and of what is none, cut from the same cubes, so that no network can tell the two by where they come from.

A cube of 50 mm has its nodule in the middle. Beside it a patch must be small to hold no nodule and to lie inside the cube: 16 mm fit
beside a nodule of 10 mm, even when they are stored larger by `shift_margin` for random shifts. Nothing is cut where a cube has no voxels.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from lungadv.data.hits import hits
from lungadv.data.nodule_cubes import EXCLUDED, FALSE_POSITIVE, Cubes, load_cube
from lungadv.data.patches import extract_patches
from lungadv.data.positions import background_positions, shift_margin, wall_columns, world_positions
from lungadv.data.scan import Scan
from lungadv.data.tables import LUNA16, SMALLEST_MM, XYZ
from lungadv.data.walls import WALL

__all__ = ["cube_lung", "cut_cube_patches", "findings_in", "fitting_places"]

LUNG_HU, VESSEL_MM = -500, 4.0  # lung is darker; what is thinner than twice the second does not part it
OFFSET = 0.3  # a patch's centre is off the nodule's by this share of its diameter at most, and by OFFSET_MM
OFFSET_MM = 3.0
TRIES = 8  # positions tried for each that is wanted
COLUMNS = [*LUNA16, "patient", "path", "kind", "label", "type", *WALL, "has_both"]


def cube_lung(scan: Scan, nodule: np.ndarray) -> np.ndarray:
    """The lung in a cube, bool (z, y, x): what is dark, closed over vessels, and the nodule (bool, of the same shape)."""
    lung, voxel = (scan.hu < LUNG_HU) | nodule, scan.spacing[::-1]
    grown = np.pad(distance_transform_edt(~lung, voxel) <= VESSEL_MM, 1, mode="edge")
    return lung | (distance_transform_edt(grown, voxel)[1:-1, 1:-1, 1:-1] > VESSEL_MM)


def fitting_places(scan: Scan, width: float) -> np.ndarray:
    """Where a patch of `width` mm may have its centre and lie inside the cube: bool (z, y, x)."""
    voxel = np.array(scan.spacing[::-1])
    reach = np.ceil(width / 2 / voxel).astype(int)
    inside = np.zeros(scan.hu.shape, dtype=bool)
    inside[tuple(slice(margin, count - margin) for margin, count in zip(reach, scan.hu.shape, strict=True))] = True
    return inside


def findings_in(cubes: Cubes, cube: dict, scan: Scan) -> pd.DataFrame:
    """What lies in a cube beside its own nodule: the series' other nodules and the excluded findings, LUNA16 columns.

    cube: a row of `cubes.table`; scan: as of `load_cube`. An empty diameter is -1, see `hits.radius_mm`.
    """
    others = cubes.table[(cubes.table["seriesuid"] == cube["seriesuid"]) & (cubes.table["path"] != cube["path"])]
    listed = cubes.not_nodules[(cubes.not_nodules["path"] == cube["path"]) & (cubes.not_nodules["kind"] == EXCLUDED)]
    found = pd.concat([others[LUNA16], listed[LUNA16]], ignore_index=True)
    voxels = scan.to_voxel(world_positions(found))
    return found[((voxels > -0.5) & (voxels < np.array(scan.hu.shape) - 0.5)).all(axis=1)].reset_index(drop=True)


def cut_cube_patches(
    cubes: Cubes, size: int, spacing: float, *, positives: int, negatives: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, torch.Tensor, torch.Tensor]:
    """Up to so many patches of each nodule of SMALLEST_MM and more, and of lung beside it, all inside its cube.

    Args:
        cubes: of one data set.
        size: voxels of a patch of `spacing` mm; they are stored larger by `shift_margin` on every side.
        positives, negatives: of a cube, at most. The first positive has the nodule within half a voxel of its middle.
        rng: draws the offsets of nodules and the places of the others.

    Returns a table, a row a patch, int16 HU (N, 1, Q, Q, Q), and the masks of the rows of kind "nodule", uint8 (M, 1, Q, Q, Q). Columns:
    LUNA16's (the patch's centre and the nodule's diameter; NaN for others), patient, path, kind ("nodule", "background" or
    FALSE_POSITIVE), label (1 or 0), type, those of WALL, and has_both: whether the cube gives both labels. What lies beside a nodule holds
    no part of it, of another nodule, or of an excluded finding.
    """
    stored = size + 2 * shift_margin(spacing)
    tables, patches, masks = [], [], []
    for cube in tqdm(cubes.table[cubes.table["diameter_mm"] >= SMALLEST_MM].to_dict("records"), desc="patches of cubes", mininterval=2):
        scan, inside = load_cube(cube)
        fits, lung = fitting_places(scan, stored * spacing), cube_lung(scan, inside)
        nodule = _offset_centres(cube, scan, fits, positives, rng)
        others = _places_beside(cubes, cube, scan, inside, lung, fits, stored * spacing, negatives, rng)
        rows = pd.concat([nodule, others], ignore_index=True)
        known = {"seriesuid": cube["seriesuid"], "patient": cube["patient"], "path": cube["path"], "has_both": rows["label"].nunique() == 2}
        tables.append(rows.assign(**known, **wall_columns(lung, scan, world_positions(rows))))
        patches.append(extract_patches(scan, world_positions(rows), stored, spacing).round().to(torch.int16))
        outline = replace(scan, hu=inside.astype(np.int16))
        masks.append((extract_patches(outline, world_positions(nodule), stored, spacing) > 0.5).to(torch.uint8))
    if not tables:
        empty = torch.empty((0, 1, *(stored,) * 3), dtype=torch.int16)
        return pd.DataFrame(columns=COLUMNS), empty, empty.to(torch.uint8)
    return pd.concat(tables, ignore_index=True)[COLUMNS], torch.cat(patches), torch.cat(masks)


def _offset_centres(cube, scan, fits, count, rng):
    """A place within half a voxel of the nodule's middle, and others at random offsets from it, where a patch fits."""
    steps = rng.standard_normal((TRIES * count, 3))
    steps *= (rng.random(len(steps)) ** (1 / 3) * min(OFFSET * cube["diameter_mm"], OFFSET_MM) / np.linalg.norm(steps, axis=1))[:, None]
    steps[:1] = rng.uniform(-0.5, 0.5, 3) * scan.spacing  # as negatives lie: interpolated noise tells how far a place is from voxels
    places = _kept(np.array([cube[name] for name in XYZ]) + steps, scan, fits)[:count]
    known = {"kind": "nodule", "label": 1, "type": cube["type"], "diameter_mm": cube["diameter_mm"]}
    return pd.DataFrame(places, columns=XYZ).assign(**known)


def _kept(places, scan, allowed):
    """Those of world positions (N, 3) whose voxel is `allowed`, bool (z, y, x)."""
    voxels = np.rint(scan.to_voxel(places)).astype(int)
    inside = ((voxels >= 0) & (voxels < allowed.shape)).all(axis=1)
    inside[inside] = allowed[tuple(voxels[inside].T)]
    return places[inside]


def _places_beside(cubes, cube, scan, inside, lung, fits, width, count, rng):
    """A detector's false positives and random places of lung, whose patch fits and holds nothing of a finding: up to `count`."""
    findings = findings_in(cubes, cube, scan)
    false = cubes.not_nodules[(cubes.not_nodules["path"] == cube["path"]) & (cubes.not_nodules["kind"] == FALSE_POSITIVE)]
    free = _free_of_nodule(inside, scan, width) & fits
    false = _kept(world_positions(false), scan, free)
    false = false[~hits(false, world_positions(findings), findings["diameter_mm"]).any(axis=1)][:count]
    places = np.empty((0, 3))
    if (lung & free).any():
        places = background_positions(lung & free, scan, findings, width, count - len(false), rng, inside.astype(np.uint8))
        places = _kept(places, scan, fits)
    kinds = [FALSE_POSITIVE] * len(false) + ["background"] * len(places)
    return pd.DataFrame(np.concatenate([false, places]), columns=XYZ).assign(kind=kinds, label=0, type="", diameter_mm=np.nan)


def _free_of_nodule(inside, scan, width):
    """Where a patch of `width` mm may have its centre and hold no voxel of the nodule: bool (z, y, x)."""
    voxels, reach = np.argwhere(inside), np.ceil(width / 2 / np.array(scan.spacing[::-1])).astype(int)
    blocked = np.zeros(inside.shape, dtype=bool)
    low, high = np.maximum(voxels.min(axis=0) - reach, 0), voxels.max(axis=0) + reach + 1
    blocked[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return ~blocked
