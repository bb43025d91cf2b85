"""Nodules cut out of their scans: the patch times a soft mask, and the mask."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lungadv.data.dataset import Data
from lungadv.data.masks import soft_mask
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, to_unit
from lungadv.utils.errors import InputError

__all__ = ["cut_out", "cut_out_dataset"]


def cut_out(
    scan: Scan, labels: np.ndarray, centers_mm: Sequence, size: int, spacing: float, edge: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the labelled nodules out of a scan.

    Nodule k, from 1 in `labels` (uint8 (z, y, x)), has its centre in row k - 1 of `centers_mm` (N, 3), x, y, z.
    `edge` is the width in mm of the masks' soft rim, see `soft_mask`.

    Returns nodules and masks, each (N, 1, size, size, size) float32 in [0, 1] with voxels of `spacing` mm; nodule = mask * patch.
    Raises InputError when a nodule has no voxel of the cube in the segmentation.
    """
    masks = torch.zeros(len(centers_mm), 1, size, size, size)
    for k, center in enumerate(centers_mm):
        label = Scan((labels == k + 1).astype(np.int16), scan.spacing, scan.origin, scan.direction, scan.uid)
        share = extract_patches(label, [center], size, spacing)[0, 0].numpy()
        inside = share > (0.5 if share.max() > 0.5 else share.max() / 2)  # the latter of a nodule thinner than a voxel
        if not inside.any():
            raise InputError(f"scan {scan.uid}: nodule {k + 1} has no voxel in its segmentation; both must have the same rows")
        masks[k, 0] = torch.from_numpy(soft_mask(inside, spacing, edge))
    return masks * to_unit(extract_patches(scan, centers_mm, size, spacing)), masks


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
            pairs.append(cut_out(part.open_scan(uid), part.labels(uid), centers, size, spacing, edge))
            tables.append(rows)
    if not pairs:
        raise InputError(f"data set '{dataset}' has no annotated nodule: the synthesizer needs nodules with their segmentation")
    nodules, masks = (torch.cat(cubes) for cubes in zip(*pairs, strict=True))
    return nodules, masks, pd.concat(tables, ignore_index=True)
