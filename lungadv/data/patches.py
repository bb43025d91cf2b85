"""Patches from a scan, and scans on other grids: trilinear samples at the points of a straight grid in the patient."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F

from lungadv.data.scan import AIR, Scan, ScanError, as_points

__all__ = ["extract_patches", "resample", "upright_axes"]


def _needed_range(ends, count):
    """First and last voxel, exclusive, of an axis of `count` voxels that points between `ends` need."""
    first, last = np.floor(np.min(ends)), np.ceil(np.max(ends))
    return int(np.clip(first, 0, count - 1)), int(np.clip(last, 0, count - 1)) + 1


def _grid_points(steps, size):
    """Points of a grid of `size` (z, y, x) points, as voxels from the first one: float32 (D, H, W, 3) in x, y, z order."""
    counts = [torch.arange(count, dtype=torch.float32) for count in size]
    along = torch.from_numpy(steps.T.astype(np.float32))  # (axis x, y, z; voxel x, y, z)
    return counts[0][:, None, None, None] * along[2] + counts[1][:, None, None] * along[1] + counts[2][:, None] * along[0]


def _sample_oblique(hu, start, grid):
    """Trilinear values (D, H, W) of `hu` (z, y, x) at start + grid; start (3,) and grid (D, H, W, 3) are voxels in x, y, z.

    `grid_sample` counts in single precision and in shares of the volume, so it is given only the voxels that the points need.
    """
    size = np.array(hu.shape[::-1])
    corners = grid[:: grid.shape[0] - 1 or 1, :: grid.shape[1] - 1 or 1, :: grid.shape[2] - 1 or 1].reshape(-1, 3).numpy() + start
    first, last = np.array([_needed_range(ends, count) for ends, count in zip(corners.T, size, strict=True)]).T
    crop = np.ascontiguousarray(hu[tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))], dtype=np.float32)
    count = torch.from_numpy((last - first).astype(np.float32))
    points = grid + torch.from_numpy((start - first).astype(np.float32))
    normal = points * (2 / count) + (1 / count - 1)
    values = F.grid_sample(torch.from_numpy(crop)[None, None], normal[None], padding_mode="border", align_corners=False)[0, 0]
    if (corners < -0.5).any() or (corners > size - 0.5).any():
        low, high = torch.from_numpy(-0.5 - first), torch.from_numpy(size - 0.5 - first)
        values[((points < low) | (points > high)).any(dim=-1)] = AIR
    return values.numpy()


def _axis_weights(start, step, points, count):
    """Of points along an axis of `count` voxels: the slice they need, their two neighbours and weights in it, which lie outside."""
    grid = np.arange(points, dtype=np.float32) * np.float32(step)
    first, last = _needed_range(grid[[0, -1]] + start, count)
    points, length = grid + np.float32(start - first), np.float32(last - first)
    normal = points * (2 / length) + (1 / length - 1)  # rounded as grid_sample does
    at = (((normal + 1) * length - 1) / 2).clip(0, length - 1)
    low = np.floor(at)
    neighbours = low.astype(int), np.minimum(low.astype(int) + 1, last - first - 1)
    return slice(first, last), neighbours, (low + 1 - at, at - low), (points < -0.5 - first) | (points > count - 0.5 - first)


def _sample_aligned(hu, start, step, axes, values):
    """Fill `values` (D, H, W) with those of `hu` (z, y, x) where LPS x, y, z run along its `axes` (0: x), from `start` by `step` voxels.

    A trilinear weight is the product of one weight an axis, so one axis after the other is interpolated between two neighbours.
    """
    size, count = values.shape, np.array(hu.shape)[2 - axes]
    x, y, z = (_axis_weights(*along) for along in zip(start, step, size[::-1], count, strict=True))
    where = [None] * 3
    for axis, (part, *_) in zip(axes, (x, y, z), strict=True):
        where[2 - axis] = part
    crop = np.asarray(hu[tuple(where)]).transpose(2 - axes[::-1]).astype(np.float32)
    for axis, (_, neighbours, weights, _) in ((2, x), (1, y), (0, z)):
        low, high = (crop.take(at, axis) for at in neighbours)
        near, far = (np.expand_dims(weight, [other for other in range(3) if other != axis]) for weight in weights)
        low *= near
        high *= far
        crop = np.add(low, high, out=low)
    values[:] = crop
    values[z[3]], values[:, y[3]], values[:, :, x[3]] = AIR, AIR, AIR


def _grid_sampler(scan, size, spacing) -> Callable:
    """A function that fills float32 `values` (D, H, W) with the scan's trilinear values on a straight LPS grid: fill(start, values).

    start: voxel (x, y, z) of the grid's first point. The grid has `size` (z, y, x) points every `spacing` (x, y, z) mm.
    Only slices of `scan.hu` are read.
    """
    steps = np.linalg.inv(scan.direction * scan.spacing) * spacing  # (voxel x, y, z; LPS x, y, z)
    axes = np.abs(steps).argmax(axis=0)  # the array axis along LPS x, y, z
    aligned = np.zeros_like(steps)
    aligned[axes, range(3)] = steps[axes, range(3)]
    if np.abs(steps - aligned).max() < 1e-7:
        return lambda start, values: _sample_aligned(scan.hu, start[axes], aligned[axes, range(3)], axes, values)
    grid = _grid_points(steps, size)
    return lambda start, values: np.copyto(values, _sample_oblique(scan.hu, start, grid))


def extract_patches(scan: Scan, centers_mm: np.ndarray, size: int = 64, spacing: float = 0.625) -> torch.Tensor:
    """Cut cubes of `size` voxels every `spacing` mm around world points (N, 3) in x, y, z mm.

    Returns float32 HU (N, 1, size, size, size), axes z, y, x along LPS whatever the scan's direction, trilinear, air outside the scan.
    The centre lies between the two middle voxels of an even size. Raises ScanError for centres that are not finite (N, 3).
    """
    centers = as_points(centers_mm)
    if not np.isfinite(centers).all():
        raise ScanError(f"scan '{scan.uid}': a patch centre is not finite")
    starts = scan.to_voxel(centers - (size - 1) / 2 * spacing)[:, ::-1]
    fill = _grid_sampler(scan, (size,) * 3, (spacing,) * 3)
    patches = np.empty((len(centers), 1, size, size, size), dtype=np.float32)
    for patch, start in zip(patches, starts, strict=True):
        fill(start, patch[0])
    return torch.from_numpy(patches)


def upright_axes(direction: np.ndarray) -> tuple[tuple, tuple]:
    """The order and the flips of an array's axes (z, y, x) after which they run along the patient's, as nearly as may be.

    direction: (3, 3) as of a Scan. `array.transpose(order)[flips]` has z to the head, y to the back and x to the left (LPS).
    """
    along = direction[::-1, ::-1]  # rows: z, y, x of the patient; columns: z, y, x of the array
    order = max(permutations(range(3)), key=lambda order: np.abs(along[range(3), order]).sum())
    return order, tuple(slice(None, None, 1 if along[k, axis] > 0 else -1) for k, axis in enumerate(order))


def _outer_box(scan):
    """The corners (x, y, z mm), lowest and highest, of the straight box around the scan's outer faces."""
    corners = np.array(np.meshgrid(*[(-0.5, count - 0.5) for count in scan.hu.shape], indexing="ij")).reshape(3, -1).T
    world = scan.to_world(corners)
    return world.min(0), world.max(0)


def _block_mean(scan, block):
    """The scan averaged over blocks of (x, y, z) voxels."""
    if (block == 1).all():
        return scan
    volume = torch.from_numpy(scan.hu.astype(np.float32))[None, None]
    mean = F.avg_pool3d(volume, tuple(block[::-1].tolist()), ceil_mode=True)[0, 0]
    origin = scan.to_world([(block[::-1] - 1) / 2])[0]
    return Scan(mean.round().short().numpy(), tuple(scan.spacing * block), tuple(origin), scan.direction, scan.uid)


def resample(scan: Scan, spacing: float | tuple) -> Scan:
    """The scan on a straight LPS grid every `spacing` mm (a number, or x, y, z) that covers it.

    Where the grid is coarser than the scan, whole blocks of voxels are averaged first; then trilinear. Air outside the scan.
    """
    spacing = np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    step = np.abs(scan.direction).T @ spacing  # the grid's spacing along the array's x, y, z
    low, high = _outer_box(scan)
    fine = _block_mean(scan, np.maximum(np.round(step / scan.spacing), 1).astype(int))
    size = np.maximum(np.ceil((high - low) / spacing - 1e-3), 1).astype(int)
    first = low + spacing / 2
    hu = np.empty(size[::-1], dtype=np.int16)
    for z in range(0, size[2], 16):  # in slabs, to bound the memory
        slab = hu[z : z + 16]
        start = fine.to_voxel([first + [0, 0, z * spacing[2]]])[0, ::-1]
        values = np.empty(slab.shape, dtype=np.float32)
        _grid_sampler(fine, slab.shape, spacing)(start, values)
        slab[:] = np.rint(values)
    return Scan(hu, tuple(spacing), tuple(first), np.eye(3), scan.uid)
