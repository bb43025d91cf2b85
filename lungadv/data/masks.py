"""Masks of nodules, on arrays and tensors alone: how much of a voxel a nodule covers, what it adds to it, and its diameter."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

__all__ = ["diameter_mm", "foreground", "signed_distance", "soft_edge", "soft_mask", "surroundings"]

NEARBY_MM = 2.5  # sigma of the Gaussian that says what lies around a nodule: as wide as its soft rim
Distance = TypeVar("Distance", np.ndarray, torch.Tensor)


def signed_distance(inside: np.ndarray, spacing: float | Sequence[float]) -> np.ndarray:
    """Distance in mm, float64 (D, H, W), of each voxel to the outline of a mask, bool (D, H, W); positive inside.

    `spacing` is the voxels' in mm, one number or z, y, x. The outline runs half-way between voxels.
    """
    spacing = np.broadcast_to(spacing, 3)
    return np.where(inside, _distance_out(inside, spacing), -_distance_out(~inside, spacing))


def _distance_out(inside, spacing):
    """Distance in mm from each voxel of a mask, half-way to the nearest voxel outside included, to that voxel's near side."""
    distance, nearest = distance_transform_edt(inside, spacing, return_indices=True)
    steps = np.abs(nearest - np.indices(inside.shape)).max(axis=0)
    return distance * (1 - 0.5 / np.maximum(steps, 1))


def soft_edge(distance: Distance, edge: float) -> Distance:
    """The coverage in [0, 1] of a voxel at a signed distance in mm to a nodule's outline, positive inside: numpy or torch, any shape.

    It rises linearly over `edge` mm, as wide as the point spread blurs a sharp outline, and is 1/2 on the outline itself.
    """
    return (0.5 + distance / edge).clip(0, 1)


def soft_mask(inside: np.ndarray, spacing: float, edge: float) -> np.ndarray:
    """The `soft_edge` of a mask, bool (D, H, W) with voxels of `spacing` mm, as float32 in [0, 1]."""
    return soft_edge(signed_distance(inside, spacing), edge).astype(np.float32)


def surroundings(patch: np.ndarray, mask: np.ndarray, spacing: float, wall: np.ndarray | None = None) -> np.ndarray:
    """What would lie under a nodule: the voxels outside its mask, carried on under it by a normalised Gaussian of NEARBY_MM.

    patch, mask: float (D, H, W) with voxels of `spacing` mm, the mask in [0, 1]. Where no voxel outside is near, it is their mean.
    wall: bool (D, H, W), where the wall of the chest is known: it stays as it is, and is not carried on into the lung.
    """
    outside = ((mask == 0) & (True if wall is None else ~wall)).astype(np.float32)
    sums, weights = (gaussian_filter(values, NEARBY_MM / spacing, mode="nearest") for values in (patch * outside, outside))
    mean = (patch * outside).sum() / max(outside.sum(), 1)
    lung = np.where(weights > 1e-3, sums / np.maximum(weights, 1e-3), mean)
    return lung if wall is None else np.where(wall, patch, lung)


def foreground(patch: np.ndarray, mask: np.ndarray, spacing: float, wall: np.ndarray | None = None) -> np.ndarray:
    """A nodule without what lies around it: patch - (1 - mask) * surroundings, within [0, mask]; float32 (D, H, W).

    patch, mask: (D, H, W) in [0, 1] with voxels of `spacing` mm; wall as of `surroundings`. In the rim a voxel is a mixture of nodule and
    lung. Multiplying it by the mask would fade the nodule twice; so the lung's share is taken off instead, and `blend` puts another
    background in its place. In the wall there is no lung, and the voxel is taken as bright as it is.
    """
    return np.clip(patch - (1 - mask) * surroundings(patch, mask, spacing, wall), 0, mask).astype(np.float32)


def diameter_mm(mask: torch.Tensor, spacing: float) -> torch.Tensor:
    """Diameter (N,) in mm of the sphere that has the volume where the masks (N, 1, P, P, P) exceed 1/2; voxels of `spacing` mm."""
    volume = (mask > 0.5).flatten(1).sum(1) * spacing**3
    return (6 / math.pi * volume) ** (1 / 3)
