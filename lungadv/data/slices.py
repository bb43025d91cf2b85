"""Thick slices: what a scanner that averages over several mm makes of a volume, read again on the volume's own grid."""

import numpy as np
import torch

__all__ = ["thicken"]


def thicken(volume: torch.Tensor, spacing: float, thickness: float, phase: float = 0.0) -> torch.Tensor:
    """Volumes (..., D, H, W) as slices of `thickness` mm along the first of their three axes would show them, float32 of the same shape.

    Slices lie `thickness` mm apart, each the mean over its own thickness; between their middles values are interpolated linearly.
    spacing: of the voxels along that axis, in mm; phase: in [0, 1], where the first slice begins, as a share of the thickness.
    """
    matrix = _slices(volume.shape[-3], spacing, thickness, phase)
    return torch.einsum("ab,...bhw->...ahw", matrix, volume.float())


def _slices(count, spacing, thickness, phase):
    """The matrix (count, count) that takes `count` voxels to slices and back."""
    edges = spacing * np.arange(count + 1)
    first = np.arange(thickness * (phase - 1), edges[-1], thickness)[:, None]
    share = np.minimum(edges[1:], first + thickness) - np.maximum(edges[:-1], first)
    share = share.clip(0)[(share > 1e-9).any(axis=1)]
    middle = share @ ((edges[:-1] + edges[1:]) / 2) / share.sum(axis=1)
    share /= share.sum(axis=1, keepdims=True)
    back = np.stack([np.interp((edges[:-1] + edges[1:]) / 2, middle, row) for row in np.eye(len(middle))], axis=1)
    return torch.from_numpy((back @ share).astype(np.float32))
