"""A scan with its geometry: Hounsfield units, world and voxel coordinates, and the window that networks see."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lungadv.utils.errors import printable

__all__ = ["AIR", "HU_MAX", "HU_MIN", "LOWEST_HU", "Scan", "ScanError", "as_points", "to_hu", "to_unit"]

HU_MIN, HU_MAX = -1000, 400  # the window that is mapped to [0, 1]
AIR = -1000  # HU of what lies outside a scan
LOWEST_HU = -1024  # stored values below it are padding (-2000, -2048, -3024, ...), not tissue
Values = TypeVar("Values")  # a numpy array or a torch tensor


class ScanError(ValueError):
    """A scan that cannot be used: one line that names it, what is wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.split())))


def to_unit(hu: Values) -> Values:
    """HU (numpy or torch, any shape and type) to float32 in [0, 1]: HU_MIN to 0, HU_MAX to 1, clipped."""
    width = HU_MAX - HU_MIN
    hu = hu.float() if hasattr(hu, "float") else np.asarray(hu, dtype=np.float32)
    return (hu / width - HU_MIN / width).clip(0, 1)


def to_hu(unit: Values) -> Values:
    """[0, 1] (numpy or torch, any shape) back to HU: the inverse of `to_unit` inside the window."""
    return unit * (HU_MAX - HU_MIN) + HU_MIN


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT volume and its place in the patient.

    hu: int16 (z, y, x), a numpy array or one that is read from a disk slice by slice.
    spacing, origin: mm in x, y, z. direction: 3 x 3, columns are the array's x, y, z axes in LPS.
    uid: the SeriesInstanceUID or the file's name. padded: how many voxels were padding in the file and are AIR here.
    notes: what its reader should know, such as rounded positions of slices; a sentence each.
    Raises ScanError when the shapes or the geometry do not make sense.
    """

    hu: np.ndarray
    spacing: tuple
    origin: tuple
    direction: np.ndarray
    uid: str
    padded: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("spacing", "origin"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "direction", np.asarray(self.direction, dtype=float))
        problem = _array_problem(self.hu) or _geometry_problem(self)
        if problem:
            raise ScanError(f"scan '{self.uid}': {problem}")

    def to_voxel(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) in x, y, z mm to fractional voxels (N, 3) in z, y, x; 0 is the centre of the first voxel."""
        return (as_points(points) - self.origin) @ np.linalg.inv(self.direction * self.spacing).T[:, ::-1]

    def to_world(self, voxels: np.ndarray) -> np.ndarray:
        """Fractional voxels (N, 3) in z, y, x to world points (N, 3) in x, y, z mm."""
        return as_points(voxels)[:, ::-1] @ (self.direction * self.spacing).T + self.origin


def as_points(points: np.ndarray) -> np.ndarray:
    """Points as float64 (N, 3). Raises ScanError for another shape."""
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ScanError(f"expected points of shape (N, 3), got {points.shape}")
    return points


def _array_problem(hu):
    dtype, shape = getattr(hu, "dtype", None), np.shape(hu)
    if len(shape) != 3 or dtype != np.int16 or 0 in shape:
        return f"expected a three-dimensional int16 array of HU, got {getattr(hu, 'dtype', type(hu))} {shape}"
    return None


def _geometry_problem(scan):
    spacing, origin, direction = scan.spacing, scan.origin, scan.direction
    if len(spacing) != 3 or not all(0.01 <= value <= 50 for value in spacing):
        return f"spacing {spacing} is not three lengths in mm between 0.01 and 50: correct the header"
    if len(origin) != 3 or not np.isfinite(origin).all():
        return f"origin {origin} is not three finite numbers: correct the header"
    if direction.shape != (3, 3) or not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        return f"direction {direction.tolist()} is not three perpendicular unit axes (tilted gantry?): resample it to straight slices first"
    return None
