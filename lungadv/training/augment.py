"""Crops, and the 48 symmetries of the cube: each deterministic, with the random draw beside it."""

from collections.abc import Sequence

import torch

__all__ = ["center_crop", "crop", "cube_symmetry", "random_cube_symmetry"]


def crop(cubes: torch.Tensor, start: Sequence[int], size: int) -> torch.Tensor:
    """A view (..., size, size, size) of cubes (..., Q, Q, Q) that begins at voxel `start` (z, y, x)."""
    z, y, x = start
    return cubes[..., z : z + size, y : y + size, x : x + size]


def center_crop(cubes: torch.Tensor, size: int) -> torch.Tensor:
    """The middle (..., size, size, size) of cubes (..., Q, Q, Q)."""
    return crop(cubes, ((cubes.shape[-1] - size) // 2,) * 3, size)


def cube_symmetry(cubes: torch.Tensor, axes: Sequence[int], flips: Sequence[bool]) -> torch.Tensor:
    """Cubes (..., P, P, P), their last three axes in the order `axes`, a permutation of 0, 1, 2, then reversed where `flips` is true."""
    first = cubes.ndim - 3
    turned = cubes.permute(*range(first), *(first + int(axis) for axis in axes))
    return turned.flip([first + axis for axis, flip in enumerate(flips) if flip])


def random_cube_symmetry(generator: torch.Generator) -> tuple[list[int], list[bool]]:
    """Axes and flips of one of the 48 symmetries of the cube, all as likely; `generator` is on the CPU."""
    axes = torch.randperm(3, generator=generator).tolist()
    return axes, (torch.rand(3, generator=generator) < 0.5).tolist()
