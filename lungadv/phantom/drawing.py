"""Painting into a volume of HU: partial volumes of surfaces, tubes of any radius, ellipsoids, and a fine grain."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lungadv.phantom.grid import Grid

__all__ = ["capsule_coverage", "coverage", "paint", "paint_brighter", "smooth_grain", "sphere_diameter", "tube_coverage"]

BATCH = 100_000  # voxels that are evaluated as one array


def coverage(distance: np.ndarray, width: float) -> np.ndarray:
    """The share of a voxel inside a surface at a signed distance in mm, negative inside: [0, 1]. `width` mm is that of the edge."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)


def paint(hu: np.ndarray, share: np.ndarray, value: float) -> None:
    """Cover `hu` (z, y, x), in place, by a tissue of `value` HU: hu + share (value - hu), with `share` (z, y, x) in [0, 1]."""
    for k in range(len(hu)):  # slice by slice, which stays in the processor's cache
        if share[k].any():
            hu[k] += share[k] * (value - hu[k])


def paint_brighter(hu: np.ndarray, share: np.ndarray, value: np.ndarray | float) -> None:
    """As `paint`, but only where `value` is brighter than what is there; `value` may be a field (z, y, x)."""
    hu += share * np.maximum(value - hu, 0)


def sphere_diameter(share: np.ndarray, grid: Grid) -> float:
    """Diameter in mm of the sphere with the volume of a coverage."""
    return float(np.cbrt(share.sum() * grid.step.prod() * 6 / np.pi))


def smooth_grain(grid: Grid, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A grain of unit variance, float32 of `shape` (z, y, x), correlated over about 2.5 mm.

    It is drawn from a child of `rng`, which itself goes on as if it had not been used.
    """
    (own,) = rng.spawn(1)
    grain = ndimage.gaussian_filter(own.standard_normal(shape, np.float32), 1.25 / grid.step)
    return grain / max(grain.std(), 1e-6)


def tube_coverage(grid: Grid, lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Coverage of polylines (points (N, 3) mm, radii (N,) mm): float32 (z, y, x) in [0, 1]."""
    start, end = (np.concatenate([p[k] for p, _ in lines]) for k in (slice(None, -1), slice(1, None)))
    r0, r1 = (np.concatenate([r[k] for _, r in lines]) for k in (slice(None, -1), slice(1, None)))
    return capsule_coverage(grid, start, end, r0, r1)


def capsule_coverage(grid: Grid, start: np.ndarray, end: np.ndarray, r_start: np.ndarray, r_end: np.ndarray) -> np.ndarray:
    """Coverage of tapered tubes from `start` to `end` (N, 3) mm with radii (N,) mm: float32 (z, y, x) in [0, 1].

    Every cross-section has the area of its circle, also that of a tube thinner than a voxel. Pieces of tubes whose boxes have
    the same size are evaluated together.
    """
    out = np.zeros(grid.shape, np.float32)
    start, end, r_start, r_end = (np.asarray(a, np.float32) for a in (start, end, r_start, r_end))
    if not len(start):
        return out
    h = grid.voxel
    a, b, ra, rb = _cut(h, start, end, r_start, r_end)
    reach = np.maximum(np.maximum(ra, rb), h / 2) + 0.51 * h  # mm from the axis to where nothing is covered, and a little for rounding
    half = np.floor((np.abs(b - a) / 2 + reach[:, None]) / grid.step + 0.5).astype(int)  # of a box centred on a voxel
    kind = half @ (1, 1_000, 1_000_000)
    for one in np.unique(kind):
        members = np.flatnonzero(kind == one)
        size = half[members[0]]
        batch = max(1, BATCH // (2 * size + 1).prod())
        for i in range(0, len(members), batch):
            _draw_capsules(grid, out, size, *(v[members[i : i + batch]] for v in (a, b, ra, rb, reach)))
    return out


def _cut(h, start, end, r_start, r_end):
    """Cut tubes into pieces about as long as they are wide: start, end (M, 3) and radii (M,) of the pieces."""
    length = np.linalg.norm(end - start, axis=1)
    pieces = np.maximum(1, np.ceil(length / np.maximum(4 * h, 2 * np.maximum(r_start, r_end)))).astype(int)
    owner = np.repeat(np.arange(len(start)), pieces)
    order = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    t0, t1 = (order / pieces[owner]).astype(np.float32), ((order + 1) / pieces[owner]).astype(np.float32)
    a, b = (start[owner] + t[:, None] * (end - start)[owner] for t in (t0, t1))
    ra, rb = (r_start[owner] + t * (r_end - r_start)[owner] for t in (t0, t1))
    return a, b, ra, rb


def _draw_capsules(grid, out, half, a, b, ra, rb, reach):
    """Draw N capsules that all fit boxes of 2 half + 1 voxels (z, y, x): the maximum of their coverages.

    The soft edge of a voxel's width h adds pi h^2 / 12 to a cross-section, so a tube is drawn with sqrt(r^2 - h^2 / 12). Tubes
    thinner than h / sqrt(3) are drawn with h / 2 and cover the share 3 r^2 / h^2.
    """
    h = np.float32(grid.voxel)
    centre = np.rint(grid.to_index((a + b) / 2)).astype(int)
    index = [centre[:, k, None] + np.arange(-half[k], half[k] + 1) for k in range(3)]
    shape = [(-1, *np.where(np.arange(3) == k, 2 * half + 1, 1)) for k in range(3)]
    pos = [((grid.start[k] + grid.step[k] * index[k]).astype(np.float32) - a[:, k, None]).reshape(shape[k]) for k in range(3)]
    axis = b - a
    square = np.maximum((axis**2).sum(1), 1e-6)
    along = sum(pos[k] * (axis[:, k] / square)[:, None, None, None] for k in range(3))
    np.clip(along, 0, 1, out=along)
    gap = sum((pos[k] - along * axis[:, k, None, None, None]) ** 2 for k in range(3))
    near = np.flatnonzero(gap < (reach**2)[:, None, None, None])
    owner, *place = np.unravel_index(near, gap.shape)
    along, gap = along.reshape(-1)[near], np.sqrt(gap.reshape(-1)[near])
    radius = ra[owner] + along * (rb - ra)[owner]
    drawn = np.sqrt(np.maximum(radius**2 - h**2 / 12, h**2 / 4))
    share = np.clip((drawn - gap) / h + np.float32(0.5), 0, 1) * np.minimum(1, 3 * (radius / h) ** 2)
    z, y, x = place = [i[owner, k] for i, k in zip(index, place, strict=True)]
    inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(place, grid.shape, strict=True)])
    np.maximum.at(out.reshape(-1), ((z * grid.shape[1] + y) * grid.shape[2] + x)[inside], share[inside])
