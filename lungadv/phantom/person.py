"""What one simulated person consists of: pose, surfaces of the organs, fissures, and the centre lines of bones, vessels and airways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungadv.phantom.grid import Grid

__all__ = ["MIDLINE", "TABLE_CURVATURE", "Fissure", "Person", "Pose", "apex_shift"]

MIDLINE = 4.0  # mm: x between the lungs
TABLE_CURVATURE = 6e-4  # 1/mm: the table rises by this times x^2 at its sides


@dataclass
class Pose:
    """How the patient lies: the body's frame is turned about the long axis by `rotation` (radians) in the scanner's frame."""

    rotation: float

    def to_body(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y, x in mm (broadcastable) of the scanner's frame -> of the body's."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        return c * y - s * x, s * y + c * x

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3), z, y, x in mm of the body's frame -> of the scanner's."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        z, y, x = np.moveaxis(np.asarray(points, float), -1, 0)
        return np.stack([z, c * y + s * x, c * x - s * y], -1)


@dataclass
class Fissure:
    """A sheet z(y, x) between two lobes, in the body's frame."""

    side: int  # -1 right, 1 left
    height: float  # z at the chest's centre, mm
    slope: float  # dz / dy
    middle: float  # y of the chest's centre, mm
    wave: np.ndarray  # (3,) in [-1, 1]
    above: Fissure | None = None  # the fissure at which this one ends

    def level(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """z in mm of the sheet at y, x (mm)."""
        wave = 5 * self.wave[0] * np.sin(x / 35 + 3 * self.wave[1]) + 3 * np.sin(y / 30 + 3 * self.wave[2])
        return self.height + self.slope * (y - self.middle) + wave

    def exists(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Whether the sheet exists at y, x (mm): bool."""
        free = self.above is None or self.level(y, x) > self.above.level(y, x)
        return (np.sign(x) == self.side) & (np.abs(x) > 12) & free


@dataclass
class Person:
    """One simulated person.

    Surfaces are signed distances on the coarse grid, float64 (z, y, x) in mm, negative inside. Lines are (points (N, 3) mm, radii (N,) mm).
    `half_axes`, `middle`, `spine`, `fissures` and `ribs` are in the body's frame, the rest in the scanner's.
    """

    half_axes: tuple[float, float]  # mm, x and y, of the inner chest wall
    height: float  # mm of the field of view
    middle: float  # y of the chest's centre, mm
    pose: Pose
    spine: tuple[float, float]  # y, x of the vertebral bodies' centre, mm
    back: float  # y of the skin that lies on the table, mm
    skin: np.ndarray
    muscle: np.ndarray
    breast: np.ndarray
    chest_wall: np.ndarray  # its inner side
    mediastinum: np.ndarray
    diaphragm: np.ndarray  # negative below it
    heart: np.ndarray
    groove: np.ndarray  # signed distance of the plane between atria and ventricles
    stomach: np.ndarray
    texture: np.ndarray  # noise that all soft tissue shares
    great_vessels: list[tuple[np.ndarray, np.ndarray]]  # lines; the last one is the oesophagus
    airway: list[tuple[np.ndarray, np.ndarray]]  # lines of trachea, right and left main bronchus
    hilum: np.ndarray  # (2, 3) mm: right, left
    fissures: list[Fissure]
    ribs: tuple[np.ndarray, np.ndarray]  # segments (N, 2, 3) mm of bone, and of cartilage

    def lung_surfaces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three coarse distances whose maximum is negative in the lungs."""
        return self.chest_wall, -self.mediastinum, -self.diaphragm

    def lung_distance(self, grid: Grid, points: np.ndarray) -> np.ndarray:
        """Signed distance (N,) in mm of points (N, 3) from the surface of the lungs, negative inside."""
        wall, mediastinum, diaphragm = (grid.sample(field, points) for field in (self.chest_wall, self.mediastinum, self.diaphragm))
        return np.maximum.reduce([wall, -mediastinum, -diaphragm])

    def nearby_fissures(self, point: np.ndarray) -> list[tuple[float, Fissure]]:
        """The fissures above or below a point (3,), each with the point's distance in mm along its normal."""
        y, x = self.pose.to_body(*point[1:])
        near = [fissure for fissure in self.fissures if fissure.exists(y, x)]
        return [((point[0] - fissure.level(y, x)) / np.hypot(1, fissure.slope), fissure) for fissure in near]


def apex_shift(t: np.ndarray) -> np.ndarray:
    """How far the axis of a lung lies from the midline at relative height t, as a share of the half width."""
    return 0.40 * np.clip(t, 0, 1) ** 2
