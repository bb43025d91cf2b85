"""The 3-D ResUNet of candidate generation (section III-A of the paper), its heatmap targets and their focal loss."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import nn

from lungadv.utils.device import autocast

__all__ = ["ResUNet", "gaussian_heatmap", "heatmap_focal_loss", "heatmap_targets", "inside_any"]

RARE_LOGIT = -4.0  # nodules are rare: an untrained head answers "none here" everywhere


class ResBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut: (N, inputs, D, H, W) -> (N, outputs, D, H, W)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut = nn.Conv3d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both ways through a ReLU."""
        return F.relu(self.body(x) + self.shortcut(x))


class ResUNet(nn.Module):
    """A three-level 3-D ResUNet: volumes in [0, 1] -> a heatmap at full and maps at half resolution.

    width: channels of the finest level; each level down has twice as many.
    """

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, width, 3, padding=1, bias=False), nn.BatchNorm3d(width), nn.ReLU(inplace=True))
        self.middle, self.coarse = ResBlock(width, 2 * width), ResBlock(2 * width, 4 * width)
        self.lift_middle, self.up_middle = nn.Conv3d(4 * width, 2 * width, 1), ResBlock(2 * width, 2 * width)
        self.lift_full, self.up_full = nn.Conv3d(2 * width, width, 1), ResBlock(width, width)
        self.heat = nn.Conv3d(width, 1, 1)
        nn.init.zeros_(self.heat.weight)
        nn.init.constant_(self.heat.bias, RARE_LOGIT)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Volumes (N, 1, D, H, W), sides multiples of 4 -> logits (N, 1, D, H, W) and maps (N, 2 * width, D/2, H/2, W/2), float32."""
        with autocast(x.device):
            full = self.stem(2 * x - 1)
            half = self.middle(F.max_pool3d(full, 2))
            quarter = self.coarse(F.max_pool3d(half, 2))
            half = self.up_middle(half + F.interpolate(self.lift_middle(quarter), scale_factor=2))
            full = self.up_full(full + F.interpolate(self.lift_full(half), scale_factor=2))
        return self.heat(full.float()), half.float()


def gaussian_heatmap(shape: Sequence[int], centres: ArrayLike, sigma: float) -> torch.Tensor:
    """A heatmap, float32 (D, H, W) in [0, 1], with a Gaussian around each centre.

    shape: D, H, W; centres: (N, 3), z, y, x in voxels; sigma in voxels. Where Gaussians overlap the higher one counts.
    The voxels nearest to the centres are 1, so that each nodule has a peak.
    """
    axes = [torch.arange(side, dtype=torch.float32) for side in shape]
    heat, centres = torch.zeros(shape), np.asarray(centres).reshape(-1, 3)
    for centre in centres:
        z, y, x = (torch.exp(-((axis - float(c)) ** 2) / (2 * sigma**2)) for axis, c in zip(axes, centre, strict=True))
        heat = torch.maximum(heat, z[:, None, None] * y[:, None] * x)
    heat[tuple(np.round(centres).astype(int).T)] = 1
    return heat


def heatmap_targets(shape: Sequence[int], nodules: Sequence[np.ndarray], sigma: float) -> torch.Tensor:
    """The heatmaps (N, 1, D, H, W) of volumes of `shape` (D, H, W); nodules: (n, 4) of each, z, y, x, radius; sigma in voxels."""
    return torch.stack([gaussian_heatmap(shape, inside[:, :3], sigma) for inside in nodules])[:, None]


def inside_any(points: torch.Tensor, spheres: ArrayLike, margin: float) -> torch.Tensor:
    """Which points (..., 3) lie in one of the spheres (n, 4), z, y, x, radius, each grown by `margin`: bool (...)."""
    found = torch.zeros(points.shape[:-1], dtype=torch.bool, device=points.device)
    for *centre, radius in np.asarray(spheres, float).reshape(-1, 4):
        found |= ((points - points.new_tensor(centre)) ** 2).sum(-1) < (radius + margin) ** 2
    return found


def heatmap_focal_loss(logits: torch.Tensor, target: torch.Tensor, ignored: torch.Tensor | None = None) -> torch.Tensor:
    """The focal loss of a heatmap (Law and Deng 2018, Eq. 1): (N,), summed over voxels, per nodule of each sample, at least one.

    logits, target: (N, 1, D, H, W), the target in [0, 1]. Voxels near a centre cost less, by (1 - target)^4.
    ignored: bool of the same shape; there the loss is 0, but at peaks.
    """
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = logits.sigmoid()
    peak = target > 0.99
    loss = torch.where(peak, (1 - p) ** 2 * log_p, (1 - target) ** 4 * p**2 * log_q)
    if ignored is not None:
        loss = loss.masked_fill(ignored & ~peak, 0.0)
    return -loss.flatten(1).sum(1) / peak.flatten(1).sum(1).clamp(min=1)
