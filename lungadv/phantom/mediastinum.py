"""What lies between the lungs: the heart, the sheet of fat around spine and great vessels, and the central airways."""

import numpy as np

from lungadv.phantom.grid import Grid, signed_distance, smooth_noise, smooth_union
from lungadv.phantom.person import MIDLINE

__all__ = ["draw_great_vessels", "draw_heart", "draw_mediastinum", "enclose", "heart_bed"]

Line = tuple[np.ndarray, np.ndarray]


def draw_heart(
    grid: Grid, rng: np.random.Generator, axes: tuple[np.ndarray, ...], b: float, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """An egg along the heart's axis, and the plane between its atria and ventricles: coarse distances.

    `axes`: z, y, x in mm about the chest's centre; `b`: half depth of the chest in mm; `scale`: see `anatomy.Build`.
    """
    z, y, x = axes
    axis = np.array([rng.uniform(-0.75, -0.45), -0.55, 0.8])  # from the atria to the apex: down, forwards, to the left
    axis /= np.linalg.norm(axis)
    gap = [(z - 0.34 * grid.size[0]) / scale[0], (y + 0.30 * b) / scale[1], (x - 13 * scale[2]) / scale[2]]
    along = sum(c * d for c, d in zip(axis, gap, strict=True))
    across = np.sqrt(np.maximum(sum(d**2 for d in gap) - along**2, 0))
    bulk = rng.uniform(0.92, 1.1)
    taper = 1 + 0.22 * np.clip(along / 60, -1, 1)  # broad at the atria, narrow at the apex
    heart = signed_distance(np.sqrt((along / 62) ** 2 + (across * taper / 42) ** 2) / bulk - 1) + 2.5 * smooth_noise(grid, rng, 16)
    return heart, along + 12 + 0.3 * gap[1] + 2 * smooth_noise(grid, rng, 12)


def draw_mediastinum(
    grid: Grid,
    rng: np.random.Generator,
    axes: tuple[np.ndarray, ...],
    b: float,
    scale: np.ndarray,
    spine: tuple[float, float],
    heart: np.ndarray,
) -> np.ndarray:
    """Heart, spine, and between breastbone and spine a sheet of fat, wider around the great vessels: a coarse distance."""
    z, y, x = axes
    t = z / grid.size[0]
    backbone = np.sqrt(((x - spine[1]) / (21 * scale[2])) ** 2 + ((y - b + 22 * scale[1] - 4) / (19 * scale[1])) ** 2)
    backbone = signed_distance(backbone - 1 + 0 * z)
    ahead = np.clip((-0.35 * b - y) / (0.55 * b), 0, 1)  # 0 behind the heart's middle, 1 at the breastbone
    thick = 6 + 9 * np.exp(-(((y - 5) / (0.42 * b)) ** 2)) + 5 * ahead**2 + 14 * np.clip(t - 0.7, 0, 1) / 0.3
    sheet = np.abs(x - MIDLINE + 3 * smooth_noise(grid, rng, 25)) - scale[2] * thick
    return smooth_union(smooth_union(heart, backbone), sheet)


def enclose(
    mediastinum: np.ndarray,
    grid: Grid,
    rng: np.random.Generator,
    axes: tuple[np.ndarray, ...],
    lines: list[Line],
    hilum: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """The mediastinum with the tubes `lines` and the two hila (2, 3) in it, all in the body's frame: a coarse distance."""
    z, y, x = axes
    for points, radii in lines:
        mediastinum = smooth_union(mediastinum, _tube_distance(points, radii + 1.5, z, y, x), 5.0)
    for root in hilum:
        ball = np.sqrt(((z - root[0]) / 1.5) ** 2 + (y - root[1]) ** 2 + (x - root[2]) ** 2) - 10 * scale[2]
        mediastinum = smooth_union(mediastinum, ball, 10.0)
    return np.minimum(mediastinum + 1.2 * smooth_noise(grid, rng, 12), np.abs(x - MIDLINE) - 4)  # the lungs never touch


def heart_bed(heart: np.ndarray, z: np.ndarray) -> np.ndarray:
    """What lies below the heart, to whose underside the diaphragm rises: a coarse distance."""
    middle = z[np.argmin(heart, 0), 0, 0]
    return np.maximum(heart.min(0) + 9, z - middle)


def draw_great_vessels(
    height: float, b: float, middle: float, scale: np.ndarray, rng: np.random.Generator
) -> tuple[list[Line], list[Line], np.ndarray]:
    """Lines of the great vessels and, last, the oesophagus; of trachea and main bronchi; and the two hila (2, 3). Body's frame, mm."""

    def line(radius, *points):
        """z as a share of the height, y of the half depth, x in mm of a chest of scale 1."""
        points = np.array([(p[0] * height, middle + p[1] * b, p[2] * scale[2]) for p in points])
        return points + rng.normal(0, 0.8, (len(points), 3)), np.full(len(points), radius * scale[2])

    aorta = rng.uniform(0.9, 1.1)
    great_vessels = [
        line(15 * aorta, (0.46, -0.25, 4), (0.56, -0.32, -12), (0.66, -0.28, -12), (0.73, -0.12, -4)),  # ascending aorta
        line(12.5 * aorta, (0.73, -0.12, -4), (0.755, 0.10, 10), (0.72, 0.38, 21)),  # its arch
        line(11.5 * aorta, (0.72, 0.38, 21), (0.6, 0.52, 24), (0.3, 0.55, 20), (-0.05, 0.58, 12)),  # descending
        line(8, (0.48, -0.22, -26), (0.70, -0.2, -24), (0.86, -0.18, -22)),  # superior vena cava
        line(6.5, (0.86, -0.18, -22), (1.06, -0.12, -32)),  # right brachiocephalic vein
        line(6, (0.84, -0.2, -20), (0.89, -0.28, 4), (1.06, -0.1, 30)),  # left
        line(13, (0.50, -0.35, 14), (0.60, -0.12, 16)),  # pulmonary trunk
        line(9.5, (0.59, -0.10, 16), (0.585, 0.02, 30)),  # left pulmonary artery
        line(9.5, (0.57, -0.05, 10), (0.55, 0.0, -28)),  # right
        line(5, (0.76, -0.1, 0), (0.86, -0.1, 10), (1.0, -0.05, 16)),  # branches of the arch
        line(5.5, (0.75, -0.2, -8), (0.86, -0.2, -12), (1.0, -0.1, -20)),
        line(6, (1.05, 0.34, 4), (0.7, 0.36, 5), (0.4, 0.34, 8), (0.15, 0.3, 16)),  # oesophagus
    ]
    carina = (0.62, 0.16, 0)
    airway = [
        line(8, (1.05, 0.12, 0), (0.8, 0.12, -1), carina),
        line(6.2, carina, (0.57, 0.12, -17), (0.54, 0.11, -30)),
        line(5.4, carina, (0.56, 0.15, 21), (0.53, 0.14, 35)),
    ]
    hilum = np.array([(0.53 * height, middle + 0.06 * b, -33 * scale[2]), (0.545 * height, middle + 0.08 * b, 35 * scale[2])])
    return great_vessels, airway, hilum


def _tube_distance(points, radii, z, y, x):
    """Distance (mm) on broadcast axes to a polyline with radii."""
    best = np.inf
    for p, q, r in zip(points[:-1], points[1:], radii[:-1], strict=True):
        axis = q - p
        along = np.clip(((z - p[0]) * axis[0] + (y - p[1]) * axis[1] + (x - p[2]) * axis[2]) / (axis @ axis), 0, 1)
        gap = np.sqrt(sum((c - p[k] - along * axis[k]) ** 2 for k, c in enumerate((z, y, x))))
        best = np.minimum(best, gap - r)
    return best
