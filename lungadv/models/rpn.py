"""A region-proposal head on the ResUNet: anchors, box coding and the loss (Faster R-CNN, Ren et al. 2015), by MONAI."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lungadv.models.resunet import RARE_LOGIT, ResUNet, inside_any

__all__ = ["RPN", "RPNLoss", "anchor_boxes", "anchor_sides", "box_coder"]

NEITHER = -3  # the match of an anchor that counts neither way; MONAI's matcher uses -1 and -2
IGNORED_MARGIN = 1.5  # voxels around what counts neither way


class RPN(nn.Module):
    """A ResUNet with a region-proposal head on its half-resolution maps.

    width: channels of the ResUNet's finest level; anchors: boxes at each voxel of the maps.
    """

    def __init__(self, width: int, anchors: int):
        super().__init__()
        self.backbone = ResUNet(width)
        self.shared = nn.Sequential(
            nn.Conv3d(2 * width, 4 * width, 3, padding=1, bias=False), nn.BatchNorm3d(4 * width), nn.ReLU(inplace=True)
        )
        self.objectness = nn.Conv3d(4 * width, anchors, 1)
        self.boxes = nn.Conv3d(4 * width, 6 * anchors, 1)
        for head, bias in ((self.objectness, RARE_LOGIT), (self.boxes, 0.0)):  # start from "none here" and from the anchors themselves
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Volumes (N, 1, D, H, W) in [0, 1] -> objectness logits (N, M) and box codes (N, M, 6) of M anchors (see `anchor_boxes`)."""
        _, half = self.backbone(x)
        maps = self.shared(half)
        return _anchor_rows(self.objectness(maps), 1)[..., 0], _anchor_rows(self.boxes(maps), 6)


def _anchor_rows(maps, values):
    """(N, A * values, D, H, W) -> (N, D * H * W * A, values), the order of MONAI's anchors."""
    n, channels = maps.shape[:2]
    return maps.reshape(n, channels // values, values, -1).permute(0, 3, 1, 2).reshape(n, -1, values)


def anchor_sides(edges_mm: Sequence[float], spacing: float) -> list[int]:
    """The sides of the anchors in voxels of `spacing` mm; even, since MONAI rounds half a side."""
    return [max(2, 2 * round(edge / spacing / 2)) for edge in edges_mm]


def anchor_boxes(volume: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Anchor cubes (M, 6) in voxels, corner to corner, on the half-resolution grid of a volume (N, 1, D, H, W)."""
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    half = volume.new_empty(1, 1, *(side // 2 for side in volume.shape[2:]))
    return AnchorGeneratorWithAnchorShape((1,), [(side,) * 3 for side in sides])(volume[:1], [half])[0]


def box_coder() -> Any:
    """MONAI's box coding, with unit weights."""
    from monai.apps.detection.utils.box_coder import BoxCoder

    return BoxCoder(weights=(1.0,) * 6)


class RPNLoss:
    """Objectness loss on sampled anchors plus the smooth L1 loss of the boxes' codes.

    sides: of the anchors in voxels; generator: draws the anchors that the objectness loss is taken of.
    Anchors are matched by ATSS (Zhang et al. 2020).
    """

    def __init__(self, sides: Sequence[int], generator: torch.Generator):
        from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
        from monai.apps.detection.utils.hard_negative_sampler import HardNegativeSampler

        self.sides, self.generator, self.coder = list(sides), generator, box_coder()
        self.matcher = ATSSMatcher(num_candidates=4, center_in_gt=False)
        self.sampler = HardNegativeSampler(batch_size_per_image=64, positive_fraction=0.25, min_neg=16, pool_size=10)

    def __call__(
        self, network: nn.Module, volumes: torch.Tensor, nodules: Sequence[np.ndarray], ignored: Sequence[np.ndarray] | None = None
    ) -> torch.Tensor:
        """The loss, a scalar, of `network` on volumes (N, 1, D, H, W) with nodules (n, 4) in each: z, y, x, radius in voxels.

        ignored: likewise; an anchor without a nodule whose middle lies there counts neither way.
        """
        objectness, codes = network(volumes)
        anchors = anchor_boxes(volumes, self.sides)
        truth = [_nodule_boxes(inside).to(volumes.device) for inside in nodules]
        matches = [self.matcher(boxes, anchors, [len(anchors)], len(self.sides))[1] for boxes in truth]
        if ignored is not None:
            middles = (anchors[:, :3] + anchors[:, 3:]) / 2
            nowhere = [inside_any(middles, spheres, IGNORED_MARGIN) for spheres in ignored]
            matches = [match.where((match >= 0) | ~out, NEITHER) for match, out in zip(matches, nowhere, strict=True)]
        value = self._objectness_loss(objectness, matches)
        for boxes, match, code in zip(truth, matches, codes, strict=True):
            hit = match >= 0
            if hit.any():
                value = value + F.smooth_l1_loss(code[hit], self.coder.encode_single(boxes[match[hit]], anchors[hit])) / len(truth)
        return value

    def _objectness_loss(self, objectness, matches):
        """Binary cross-entropy of objectness logits (N, M) on sampled anchors.

        matches: of each sample (M,), below 0 for no nodule, NEITHER for what is not to be sampled.
        """
        labels = [(match >= 0).float().masked_fill(match == NEITHER, -1.0) for match in matches]
        with torch.random.fork_rng(devices=[]):  # the sampler draws from torch's global generator
            torch.manual_seed(torch.randint(2**31, (), generator=self.generator).item())
            positive, negative = self.sampler(labels, objectness.detach().sigmoid().flatten())
        chosen = torch.cat([torch.cat(positive), torch.cat(negative)]).bool().reshape(2, -1).any(0)
        return F.binary_cross_entropy_with_logits(objectness.flatten()[chosen], torch.cat(labels)[chosen])


def _nodule_boxes(nodules):
    """Nodules (n, 4) as boxes (n, 6), corner to corner, in voxels."""
    centres, radius = torch.tensor(nodules, dtype=torch.float32).split([3, 1], dim=1)
    return torch.cat([centres - radius, centres + radius], dim=1)
