"""Nodules cut out of their scans: how much of each voxel a nodule covers, and what it adds to the voxel."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import find_objects
from tqdm import tqdm

from lungadv.data.dataset import Data
from lungadv.data.masks import foreground, signed_distance, soft_edge
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, to_unit
from lungadv.utils.errors import InputError

__all__ = ["cut_out", "cut_out_dataset"]

RESOLUTION_MM = 0.01  # of distances that are kept as whole numbers
REACH_MM = 5.0  # distances outside a nodule are not told apart beyond


def nodule_distance(
    inside: np.ndarray, scan: Scan, center: Sequence[float], size: int, spacing: float, lungs: np.ndarray | None = None, base: float = 0.0
) -> np.ndarray:
    """Signed distance in mm to a nodule's outline, (size, size, size) every `spacing` mm around `center`, not below -REACH_MM.

    inside, lungs: bool (z, y, x) on the scan's voxels, the first with at least one. The distance is taken on them and interpolated: a
    mask resampled first would have a stepped outline. A nodule too thin for the grid has its middle on it. With `lungs`, the wall within
    `base` mm of the nodule lies on its outline, see `cut_out`.
    """
    voxel = scan.spacing[::-1]
    (box,) = find_objects(inside.astype(np.uint8))
    reach = [int(REACH_MM / step) + 1 for step in voxel]
    low = [max(part.start - margin, 0) for part, margin in zip(box, reach, strict=True)]
    near = tuple(slice(start, part.stop + margin) for start, part, margin in zip(low, box, reach, strict=True))
    exact = signed_distance(np.pad(inside[near], 1), voxel)
    if lungs is not None and not lungs[near].all():
        wall = signed_distance(np.pad(~lungs[near], 1, mode="edge"), voxel)
        exact = np.maximum(exact, np.minimum(exact + base, wall).clip(max=0))
    fine = (exact / RESOLUTION_MM).clip(-REACH_MM / RESOLUTION_MM, 30_000).round().astype(np.int16)
    field = Scan(fine, scan.spacing, scan.to_world([np.array(low) - 1.0])[0], scan.direction, scan.uid)
    distance = extract_patches(field, [center], size, spacing)[0, 0].numpy() * RESOLUTION_MM
    thin = max(RESOLUTION_MM - distance.max(), 0) if distance.max() > -REACH_MM else 0
    return (distance + thin).clip(min=-REACH_MM)


def cut_out(
    scan: Scan, labels: np.ndarray, centers_mm: Sequence, size: int, spacing: float, edge: float, lungs: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the labelled nodules out of a scan.

    Nodule k, from 1 in `labels` (uint8 (z, y, x)), has its centre in row k - 1 of `centers_mm` (N, 3), x, y, z.
    `edge` is the width in mm of the masks' soft rim, see `soft_edge`. lungs: bool (z, y, x), where they are known. A nodule on the wall
    then takes half of the wall in its rim along. Else the blurred wall of another place would part it from its base by a dark line.

    Returns nodules and masks, each (N, 1, size, size, size) float32 in [0, 1] with voxels of `spacing` mm; see `foreground`.
    Raises InputError when a nodule has no voxel of the cube in the segmentation.
    """
    patches = to_unit(extract_patches(scan, centers_mm, size, spacing))
    walls = [None] * len(patches) if lungs is None else _walls(scan, ~lungs & (labels == 0), centers_mm, size, spacing)
    nodules, masks = torch.zeros_like(patches), torch.zeros_like(patches)
    for k, center in enumerate(centers_mm):
        inside = labels == k + 1
        distance = nodule_distance(inside, scan, center, size, spacing, lungs, edge / 2) if inside.any() else np.array(-REACH_MM)
        if distance.max() == -REACH_MM:
            raise InputError(f"scan {scan.uid}: nodule {k + 1} has no voxel in its segmentation; both must have the same rows")
        mask = soft_edge(distance, edge).astype(np.float32)
        nodules[k, 0] = torch.from_numpy(foreground(patches[k, 0].numpy(), mask, spacing, walls[k]))
        masks[k, 0] = torch.from_numpy(mask)
    return nodules, masks


def _walls(scan, wall, centers_mm, size, spacing):
    """Where a mask, bool (z, y, x), of the wall lies around each centre: bool (N, size, size, size)."""
    share = Scan(np.where(wall, 2, 0).astype(np.int16), scan.spacing, scan.origin, scan.direction, scan.uid)
    return (extract_patches(share, centers_mm, size, spacing)[:, 0] >= 1).numpy()


def cut_out_dataset(data: Data, dataset: str, size: int, spacing: float, edge: float) -> tuple[torch.Tensor, torch.Tensor, pd.DataFrame]:
    """Cut all nodules of a data set out, see `cut_out`.

    Returns nodules and masks, each (N, 1, size, size, size) in [0, 1], and a table with one row of annotations each.
    Raises InputError when the data set has no annotated nodule, and as `cut_out`.
    """
    part, tables, pairs = data.of(dataset), [], []
    for uid in tqdm(part.uids, desc="cutting nodules out", mininterval=2):
        rows = part.annotations[part.annotations["seriesuid"] == uid]
        if len(rows):
            centers = rows[["coordX", "coordY", "coordZ"]].to_numpy(float)
            pairs.append(cut_out(part.open_scan(uid), part.labels(uid), centers, size, spacing, edge, part.lungs(uid)))
            tables.append(rows)
    if not pairs:
        raise InputError(f"data set '{dataset}' has no annotated nodule: the synthesizer needs nodules with their segmentation")
    nodules, masks = (torch.cat(cubes) for cubes in zip(*pairs, strict=True))
    return nodules, masks, pd.concat(tables, ignore_index=True)
