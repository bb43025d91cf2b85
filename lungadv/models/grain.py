"""Grain: what a decoder leaves out of an image, as smooth random fields that follow from a few numbers of a code."""

import torch
import torch.nn.functional as F
from torch import nn

from lungadv.models.cubes import resample

__all__ = ["GRAINS", "Grain", "fine_deviation"]

GRAINS = 8  # numbers of a code that say its grain
SIDE, STEP_MM = 32, 1.25  # voxels of a field, and mm between them
KERNEL = (0.25, 0.5, 0.25)
PASSES = (2, 1)  # smoothings of the outline's field, whose errors reach over several voxels, and of the appearance's


class Grain(nn.Module):
    """Numbers (N, GRAINS) to two random fields (N, 2, P, P, P) of about unit deviation: the same numbers, the same fields.

    The first is for the outline, the second for appearance. They are sums of fixed fields in mm: a nodule of any size has grain of
    one fineness.
    """

    def __init__(self):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        fields = [_smooth(torch.randn(GRAINS, 1, *[SIDE + 2 * passes] * 3, generator=draws), passes) for passes in PASSES]
        self.register_buffer("fields", torch.cat([field / field.std() for field in fields], dim=1) / GRAINS**0.5, persistent=False)

    def fineness(self, size: int, spacing: float) -> float:
        """The `fine_deviation` of the fields for appearance, at `size` voxels of `spacing` mm a side."""
        fields = self(GRAINS**0.5 * torch.eye(GRAINS, device=self.fields.device), size, spacing)[:, 1:]
        return fine_deviation(fields, torch.ones_like(fields, dtype=torch.bool))

    def forward(self, numbers: torch.Tensor, size: int, spacing: float) -> torch.Tensor:
        """The fields at `size` voxels of `spacing` mm a side."""
        mixed = torch.einsum("ng,gczyx->nczyx", numbers, self.fields)
        steps = numbers.new_full((len(numbers),), STEP_MM), size, numbers.new_full((len(numbers),), spacing)
        return resample(mixed, *steps)


def fine_deviation(volumes: torch.Tensor, inside: torch.Tensor) -> float:
    """The deviation of what is finest in volumes (N, 1, P, P, P): of a voxel less the mean of its six neighbours, where all are `inside`.

    inside: bool, alike. It is 1.48 times the median absolute value, so that grain counts and the few edges do not; 0 of no voxel.
    """
    sums = [F.conv3d(F.pad(part, (1,) * 6), _cross(part)) for part in (volumes, inside.to(volumes))]
    fine = (volumes - sums[0] / 6)[inside & (sums[1] == 6)]
    return 1.4826 * fine.abs().median().item() if len(fine) else 0.0


def _cross(like):
    """The kernel (1, 1, 3, 3, 3) that sums the six neighbours of a voxel."""
    steps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).abs().sum(1)
    return (steps == 1).reshape(1, 1, 3, 3, 3).to(like)


def _smooth(fields, passes):
    """Fields (N, 1, Q, Q, Q) after some convolutions with KERNEL along every axis, without a border: 2 voxels less a side for each."""
    for _ in range(passes):
        for shape in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
            fields = F.conv3d(fields, torch.tensor(KERNEL).reshape(1, 1, *shape))
    return fields
