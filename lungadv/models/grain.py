"""Grain: what a decoder leaves out of an image, as smooth random fields that follow from a few numbers of a code."""

import torch
import torch.nn.functional as F
from torch import nn

from lungadv.models.cubes import resample

__all__ = ["GRAINS", "Grain"]

GRAINS = 8  # numbers of a code that say its grain
SIDE, STEP_MM = 32, 1.25  # voxels of a field, and mm between them
KERNEL = torch.tensor([0.25, 0.5, 0.25])


class Grain(nn.Module):
    """Numbers (N, GRAINS) to two random fields (N, 2, P, P, P) of about unit deviation: the same numbers, the same fields.

    The fields are sums of fixed ones, lightly smoothed, in mm: a nodule of any size has grain of one fineness.
    """

    def __init__(self):
        super().__init__()
        fields = torch.randn(2 * GRAINS, 1, *[SIDE + 2] * 3, generator=torch.Generator().manual_seed(0))
        for shape in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
            fields = F.conv3d(fields, KERNEL.reshape(1, 1, *shape))
        fields = fields / fields.std() / GRAINS**0.5
        self.register_buffer("fields", fields.reshape(GRAINS, 2, *[SIDE] * 3), persistent=False)

    def forward(self, numbers: torch.Tensor, size: int, spacing: float) -> torch.Tensor:
        """The fields at `size` voxels of `spacing` mm a side."""
        mixed = torch.einsum("ng,gczyx->nczyx", numbers, self.fields)
        steps = numbers.new_full((len(numbers),), STEP_MM), size, numbers.new_full((len(numbers),), spacing)
        return resample(mixed, *steps)
