"""A scan on the coarse grid around its lungs, on which the candidate networks work."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from lungadv.data.patches import resample
from lungadv.data.scan import AIR, Scan, to_unit
from lungadv.utils.errors import InputError
from lungadv.utils.lengths import whole_voxels

__all__ = ["MARGIN_MM", "crop_to_lungs", "locate_nodules", "lung_grid", "share_on_grid", "unit_volume"]

MARGIN_MM = 10.0  # around the lungs
LUNG_GROWTH_MM = 5.0  # nodules on the pleura lie at the rim of the lungs


def crop_to_lungs(scan: Scan, lungs: np.ndarray) -> Scan:
    """The scan where its lungs (bool (z, y, x)) are, and MARGIN_MM and a voxel around them, with air beyond the scan.

    A grid on it depends on the lungs alone, whatever else the scan shows and however it is padded.
    """
    spans = [np.flatnonzero(lungs.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    reach = np.ceil(MARGIN_MM / np.array(scan.spacing[::-1])).astype(int) + 1
    low, high = (np.array([span[end] for span in spans]) for end in (0, -1))
    low, high = low - reach, high + reach + 1
    inner = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
    beyond = [(max(-a, 0), max(b - side, 0)) for a, b, side in zip(low, high, lungs.shape, strict=True)]
    return replace(scan, hu=np.pad(scan.hu[inner], beyond, constant_values=AIR), origin=tuple(scan.to_world([low])[0]))


def lung_grid(scan: Scan, lungs: np.ndarray, spacing: float) -> tuple[Scan, np.ndarray]:
    """The box around the lungs (bool (z, y, x) on the scan's voxels) plus MARGIN_MM, on a straight grid every `spacing` mm.

    Returns the cropped Scan, whose sides are multiples of 4, and the lungs on it, bool (D, H, W), grown by LUNG_GROWTH_MM.
    Raises InputError if there are no lungs.
    """
    if not lungs.any():
        raise InputError(f"scan '{scan.uid}': no lungs were found in it; is it a chest CT in HU?")
    grid = resample(crop_to_lungs(scan, lungs), spacing)
    mask = resample(crop_to_lungs(replace(scan, hu=1000 * lungs.astype(np.int16)), lungs), spacing).hu > 300
    mask = ndimage.binary_dilation(mask, iterations=whole_voxels(LUNG_GROWTH_MM, spacing))
    inside = np.argwhere(mask)
    pad = round(MARGIN_MM / spacing)
    low = np.maximum(inside.min(0) - pad, 0)
    high = np.minimum(inside.max(0) + 1 + pad, mask.shape)
    size = -(-(high - low) // 4) * 4  # the networks halve the sides twice
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    fill = [(0, s - (b - a)) for s, a, b in zip(size, low, high, strict=True)]
    hu = np.pad(grid.hu[box], fill, constant_values=AIR)
    origin = tuple(grid.to_world([low])[0])
    return Scan(hu, grid.spacing, origin, grid.direction, scan.uid), np.pad(mask[box], fill)


def unit_volume(grid: Scan) -> torch.Tensor:
    """A scan's HU in [0, 1], float32 (D, H, W)."""
    return torch.from_numpy(to_unit(grid.hu.astype(np.float32)))


def share_on_grid(outlines: Scan, grid: Scan) -> np.ndarray:
    """The share in [0, 1] of each voxel of a lung grid that lies within outlines, float32 (D, H, W).

    outlines: a Scan from `crop_to_lungs` of 1000 within them and 0 elsewhere; grid: the Scan of `lung_grid`.
    """
    whole = resample(outlines, grid.spacing[0])
    low = np.round(whole.to_voxel([grid.origin])[0]).astype(int)
    part = whole.hu[tuple(slice(a, a + side) for a, side in zip(low, grid.hu.shape, strict=True))].clip(0, 1000) / np.float32(1000)
    return np.pad(part, [(0, side - have) for side, have in zip(grid.hu.shape, part.shape, strict=True)])


def locate_nodules(grid: Scan, annotations: pd.DataFrame) -> pd.DataFrame:
    """The scan's rows of `annotations` with z, y, x and radius in voxels of its grid.

    Those outside the grid are left out, with a message on stderr.
    """
    nodules = annotations[annotations["seriesuid"] == grid.uid].copy()
    nodules[["z", "y", "x"]] = grid.to_voxel(nodules[["coordX", "coordY", "coordZ"]].to_numpy(float))
    nodules["radius"] = nodules["diameter_mm"] / 2 / grid.spacing[0]
    inside = ((nodules[["z", "y", "x"]] >= 0) & (nodules[["z", "y", "x"]] <= np.array(grid.hu.shape) - 1)).all(axis=1)
    if not inside.all():
        outside = f"{(~inside).sum()} of {len(nodules)} nodules"
        print(f"scan '{grid.uid}': {outside} lie outside the lungs' box and are left out", file=sys.stderr)
    return nodules[inside]
