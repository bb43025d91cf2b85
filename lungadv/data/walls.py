"""Where a place lies to the surface of the lungs: how deep under it, which way is inwards, and at which wall."""

import numpy as np
from scipy.ndimage import gaussian_filter

from lungadv.data.masks import signed_distance
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan

__all__ = ["INWARD", "REACH_MM", "WALL", "WALL_MM", "on_wall", "wall_context"]

INWARD = ["inwardX", "inwardY", "inwardZ"]
WALL = ["depth_mm", *INWARD, "medial"]  # columns of tables
WALL_MM = 5.0  # a site is at the wall within it: juxta-pleural nodules have their centres there
REACH_MM = 16.0  # a wall farther away is not looked for
STEP_MM = 1.0
SMOOTH_MM = 2.0  # sigma of the Gaussian that evens out the mask's steps


def wall_context(lungs: np.ndarray, scan: Scan, points: np.ndarray) -> np.ndarray:
    """Depth in mm, inward normal and wall of world points (N, 3) x, y, z in mm: (N, 5) in the order of WALL.

    lungs: bool (z, y, x) on the scan's voxels. The depth is the distance to the nearest wall, within +-REACH_MM, negative outside
    the lungs. The normal is a unit vector in world x, y, z that points into the lung; zero where no wall is near. `medial` is its cosine
    with the level way to the middle of the lungs: near 1 at the chest wall, 0 at the diaphragm, -1 at the mediastinum.
    """
    middle = _middle(lungs, scan)
    mask = Scan(lungs.astype(np.int16), scan.spacing, scan.origin, scan.direction, scan.uid)
    size = 2 * round(REACH_MM / STEP_MM)
    context = np.zeros((len(points), len(WALL)))
    for row, point in zip(context, points, strict=True):
        inside = extract_patches(mask, [point], size, STEP_MM)[0, 0].numpy() > 0.5
        if inside.all():
            row[0] = REACH_MM
        else:
            row[:4] = _central_depth_and_slope(inside)
            level = (middle - point) * (1, 1, 0)
            row[4] = row[1:4] @ level / max(np.linalg.norm(level), 1e-6)
    return context


def _middle(lungs, scan):
    """The middle (3,) in world mm of the box around the lungs."""
    inside = [np.flatnonzero(lungs.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return scan.to_world([[(along[0] + along[-1]) / 2 if len(along) else 0 for along in inside]])[0]


def _central_depth_and_slope(inside):
    """Signed distance at the middle of a cube, bool (D, D, D), and its unit gradient along x, y, z; zero where it is flat."""
    distance = np.clip(signed_distance(inside, STEP_MM), -REACH_MM, REACH_MM)
    smooth, low = gaussian_filter(distance, SMOOTH_MM / STEP_MM), len(inside) // 2 - 1
    corners = smooth[(slice(low, low + 2),) * 3]  # the eight voxels around the middle
    slope = np.array([np.diff(corners, axis=axis).mean() for axis in (2, 1, 0)])
    depth = distance[(slice(low, low + 2),) * 3].mean()
    return depth, *slope / max(np.linalg.norm(slope), 1e-6)


def on_wall(depth: np.ndarray, diameter: np.ndarray) -> np.ndarray:
    """Whether nodules of `diameter` mm with centres at `depth` mm under the lungs' surface touch it: bool, of the shape of both."""
    return depth < diameter / 2
