"""Masks of nodules: their soft rim and their diameter, on arrays and tensors alone."""

import math

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

__all__ = ["diameter_mm", "soft_mask"]


def soft_mask(inside: np.ndarray, spacing: float, edge: float) -> np.ndarray:
    """A mask, bool (D, H, W) with voxels of `spacing` mm, as float32 in [0, 1].

    It rises linearly over `edge` mm across the outline and is 1/2 on the outline itself.
    """
    distance = np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside)) * spacing
    return np.clip(0.5 + distance / edge, 0, 1).astype(np.float32)


def diameter_mm(mask: torch.Tensor, spacing: float) -> torch.Tensor:
    """Diameter (N,) in mm of the sphere that has the volume where the masks (N, 1, P, P, P) exceed 1/2; voxels of `spacing` mm."""
    volume = (mask > 0.5).flatten(1).sum(1) * spacing**3
    return (6 / math.pi * volume) ** (1 / 3)
