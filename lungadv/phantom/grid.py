"""The voxel grid of one simulated person, and the smooth fields on a coarse grid from which its organs are interpolated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

__all__ = ["NODE_SPACING", "Grid", "signed_distance", "smooth_noise", "smooth_union"]

NODE_SPACING = 5.0  # mm between the nodes of the coarse grid
SLAB = 8  # slices interpolated at a time: they stay in the processor's cache


@dataclass
class Grid:
    """The voxel grid of one person. Points are z, y, x in mm, from the middle of the field of view in y and x, from its lowest slice in z.

    `step` (3,), `size` (3,) and `start` (3,) are z, y, x in mm: side of a voxel, field of view, centre of voxel 0.
    `voxel` is the side in mm of a cube of a voxel's volume. The coarse grid has `coarse_shape` nodes (z, y, x) every NODE_SPACING mm.
    """

    shape: tuple[int, int, int]  # z y x
    spacing: tuple[float, float, float]  # mm, x y z

    def __post_init__(self) -> None:
        self.step = np.asarray(self.spacing, float)[::-1]
        self.size = np.asarray(self.shape) * self.step
        self.start = self.step / 2 - self.size * (0, 0.5, 0.5)
        self.voxel = float(self.step.prod() ** (1 / 3))
        self.coarse_shape = tuple(np.rint(self.size / NODE_SPACING).astype(int) + 5)  # of the field of view, whatever the spacing
        self.upsamplers = [
            _catmull_rom(start, step, n, low, m)
            for start, step, n, low, m in zip(self.start, self.step, self.shape, self.coarse_start, self.coarse_shape, strict=True)
        ]

    @property
    def coarse_start(self) -> np.ndarray:
        """Node 0 of the coarse grid: (3,) mm."""
        return -self.size * (0, 0.5, 0.5) - 1.5 * NODE_SPACING

    def coarse_axes(self) -> list[np.ndarray]:
        """Broadcastable z, y, x of the coarse nodes, in mm."""
        axes = [low + NODE_SPACING * np.arange(m) for low, m in zip(self.coarse_start, self.coarse_shape, strict=True)]
        return np.meshgrid(*axes, indexing="ij", sparse=True)

    def upsample(self, coarse: np.ndarray, where: tuple[slice, ...] = np.s_[:, :, :]) -> np.ndarray:
        """A coarse field at the voxels of the box `where`: float32 (z, y, x)."""
        return next(self._slabs([coarse], where, self.shape[0]))[1][0]

    def upsample_slabs(
        self, fields: Sequence[np.ndarray], where: tuple[slice, ...] = np.s_[:, :, :]
    ) -> Iterator[tuple[tuple[slice, ...], list[np.ndarray]]]:
        """Coarse fields at SLAB slices of the box `where` at a time: yields (box, [float32 field, ...])."""
        return self._slabs(fields, where, SLAB)

    def _slabs(self, fields, where, depth):
        """Catmull-Rom interpolation, one sparse matrix an axis: a sparse product does not depend on the number of threads."""
        rows = [upsampler[part] for upsampler, part in zip(self.upsamplers, where, strict=True)]
        used = tuple(slice(part.indices.min(), part.indices.max() + 1) for part in rows)  # the nodes around these voxels
        z, y, x = (part[:, nodes] for part, nodes in zip(rows, used, strict=True))
        planes = [_multiply(1, y, _multiply(2, x, np.asarray(field[used], np.float32))) for field in fields]
        first = where[0].indices(self.shape[0])[0]
        for k in range(0, z.shape[0], depth):
            part = z[k : k + depth]
            yield (slice(first + k, first + k + part.shape[0]), *where[1:]), [_multiply(0, part, plane) for plane in planes]

    def sample(self, coarse: np.ndarray, points: np.ndarray) -> np.ndarray:
        """A coarse field at points (N, 3) in mm, trilinear: (N,)."""
        return ndimage.map_coordinates(coarse, ((points - self.coarse_start) / NODE_SPACING).T, order=1, mode="nearest")

    def box_around(self, coarse: np.ndarray, margin: float) -> tuple[tuple[slice, ...], list[np.ndarray]] | None:
        """`box` of what lies less than `margin` mm outside a coarse signed distance; None when nothing does."""
        points = self.coarse_start + NODE_SPACING * np.argwhere(coarse < margin)
        return self.box(points.min(0), points.max(0)) if len(points) else None

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in mm -> voxel coordinates (..., 3), z, y, x."""
        return (points - self.start) / self.step

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, ...], list[np.ndarray]] | None:
        """Slices of the voxels between two corners (3,) in mm, and their broadcastable z, y, x in mm; None outside the field of view."""
        first = np.maximum(np.floor(self.to_index(low)).astype(int), 0)
        last = np.minimum(np.ceil(self.to_index(high)).astype(int) + 1, self.shape)
        if (last <= first).any():
            return None
        axes = [s + d * np.arange(a, b, dtype=np.float32) for s, d, a, b in zip(self.start, self.step, first, last, strict=True)]
        return tuple(slice(a, b) for a, b in zip(first, last, strict=True)), np.meshgrid(*axes, indexing="ij", sparse=True)

    def plane_axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Broadcastable y, x in mm of the voxels of a slice."""
        _, y, x = self.box(-np.full(3, 1e4), np.full(3, 1e4))[1]
        return y[0], x[0]


def _catmull_rom(start, step, n, low, m):
    """Sparse (n, m): the values at start + step * i from nodes at low + NODE_SPACING * j."""
    position = (start + step * np.arange(n) - low) / NODE_SPACING
    base = np.floor(position).astype(int)
    t = position - base
    weights = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1) / 2
    columns = np.clip(base[:, None] + np.arange(-1, 3), 0, m - 1)
    rows = np.repeat(np.arange(n), 4)
    return sparse.csr_array((weights.ravel().astype(np.float32), (rows, columns.ravel())), shape=(n, m))


def _multiply(axis, matrix, field):
    """A sparse matrix times one axis of a field."""
    field = np.moveaxis(field, axis, 0)
    flat = matrix @ field.reshape(len(field), -1)
    return np.ascontiguousarray(np.moveaxis(flat.reshape(-1, *field.shape[1:]), 0, axis))


def signed_distance(implicit: np.ndarray) -> np.ndarray:
    """A coarse field that is negative inside a surface and zero on it, divided by its slope: mm near the surface, within [-60, 60]."""
    slope = np.sqrt(sum(g**2 for g in np.gradient(implicit, NODE_SPACING)))
    return np.clip(implicit / np.maximum(slope, 1e-3), -60, 60)  # an outlier, where the slope vanishes, would ring when interpolated


def smooth_noise(grid: Grid, rng: np.random.Generator, length: float) -> np.ndarray:
    """A smooth random field of unit variance on the coarse grid; `length` mm is the sigma of the Gaussian that smooths it."""
    field = ndimage.gaussian_filter(rng.standard_normal(grid.coarse_shape), length / NODE_SPACING, mode="wrap")
    return field / field.std()


def smooth_union(a: np.ndarray, b: np.ndarray, width: float = 8.0) -> np.ndarray:
    """The union of two signed distances in mm, with a fillet of about `width` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + h * (a - b) - width * h * (1 - h)
