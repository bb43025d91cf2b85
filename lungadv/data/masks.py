"""Masks of nodules, on arrays and tensors alone: the distance to an outline, its soft rim, and the diameter."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

__all__ = ["diameter_mm", "signed_distance", "soft_edge", "soft_mask"]

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


def diameter_mm(mask: torch.Tensor, spacing: float) -> torch.Tensor:
    """Diameter (N,) in mm of the sphere that has the volume where the masks (N, 1, P, P, P) exceed 1/2; voxels of `spacing` mm."""
    volume = (mask > 0.5).flatten(1).sum(1) * spacing**3
    return (6 / math.pi * volume) ** (1 / 3)
