"""A network over a whole volume, tile by tile, without a seam."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lungadv.utils.device import get_device

__all__ = ["HALO", "TILE_VOXELS", "sliding_window", "tiles"]

HALO = 24  # voxels, a multiple of 4: a network sees 22 voxels around each
TILE_VOXELS = 4_000_000  # halo included, that a network is given at once

Box = tuple[slice, slice, slice]


def tiles(shape: Sequence[int], max_voxels: int = TILE_VOXELS) -> list[tuple[Box, Box]]:
    """Cut a volume of `shape` (D, H, W), multiples of 4, into tiles: pairs of the core and the core with its halo.

    Cores fill the volume and do not overlap. Sides are cut into equal parts of 16 voxels at least.
    Of the ways that keep a tile at `max_voxels`, the one with the fewest voxels to compute is taken; if there is none, the smallest tiles.
    """
    ways = [_ways_to_cut(side) for side in shape]
    costs = [[np.array(cost, float) for cost in zip(*way, strict=True)] for way in ways]
    counts, seen = (functools.reduce(np.multiply.outer, [cost[k] for cost in costs]) for k in (0, 2))
    allowed = seen <= max(max_voxels, seen.min())
    best = np.unravel_index(np.where(allowed, counts * seen, np.inf).argmin(), seen.shape)
    axes = [_cut(side, way[k][1]) for side, way, k in zip(shape, ways, best, strict=True)]
    return [tuple(zip(*boxes, strict=True)) for boxes in itertools.product(*axes)]


def _ways_to_cut(side):
    """The ways to cut a side: (number of parts, their length, their length with the halo)."""
    lengths = sorted({-(-side // count // 4) * 4 for count in range(1, max(side // 16, 1) + 1)}, reverse=True)
    return [(-(-side // length), length, min(side, length + 2 * HALO)) for length in lengths]


def _cut(side, length):
    """Pairs of slices along one side: a part, and the part with its halo."""
    starts = range(0, side, length)
    return [(slice(k, min(k + length, side)), slice(max(k - HALO, 0), min(k + length + HALO, side))) for k in starts]


@torch.no_grad()
def sliding_window(network: nn.Module, volume: torch.Tensor, max_voxels: int = TILE_VOXELS) -> Iterator[tuple[Box, Box, Box, Any]]:
    """What a network makes of a volume (D, H, W) in [0, 1], tile by tile, see `tiles`.

    Yields slices of the core in the volume, of the core in its tile, and of the tile in the volume. The network's answer to the tile
    (1, 1, d, h, w) comes last. The halo is wider than what a network sees, so that tiles leave no seam.
    The memory is that of one tile, whatever the volume.
    """
    device = get_device()
    network.to(device)
    for core, seen in tiles(volume.shape, max_voxels):
        inner = tuple(slice(part.start - tile.start, part.stop - tile.start) for part, tile in zip(core, seen, strict=True))
        yield core, inner, seen, network(volume[seen][None, None].to(device))
    network.cpu()
