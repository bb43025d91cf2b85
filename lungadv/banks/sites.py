"""Which background suits a nodule: one on the pleura goes to the pleura, at its depth; one in the lung goes where no wall is near.

None goes where vessels crowd, as real nodules do not: fused there it looks like one vessel more.
"""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment

from lungadv.data.scan import to_unit
from lungadv.data.walls import WALL_MM, on_wall

__all__ = ["CROWDED", "align", "crowding", "deal_sites", "fitting_sites"]

TOLERANCE_MM = 1.0  # by which a site on the wall may be deeper or shallower than the nodule
SAME_WALL = 0.35  # by which `medial` may differ
CLEARANCE_MM = 2.0  # of lung between a nodule in the free lung and the wall
CROWD_MM, SOFT_HU = 8.0, -600.0  # the ball around a site in which soft tissue is counted, and what is brighter than lung
CROWDED = 0.1  # of that ball; true nodules of validation scans, fused where it was more, were missed two to six times as often
SYMMETRIES = list(product(permutations(range(3)), product((False, True), repeat=3)))  # axes and flips of `cube_symmetry`


def fitting_sites(sites: pd.DataFrame, diameter: float, depth: float, medial: float) -> np.ndarray:
    """The rows of `sites` (of the columns WALL), as positions, that suit a nodule of `diameter` mm.

    depth (mm) and medial: where the nodule lies in its own lung, see `wall_context`. One that touches the wall suits sites of its depth,
    within TOLERANCE_MM, at the same wall: chest, diaphragm or mediastinum. Any other suits sites where it keeps clear of the wall.
    Sites whose column `crowding` is above CROWDED suit none.
    """
    found, calm = sites["depth_mm"].to_numpy(), sites["crowding"].to_numpy() <= CROWDED
    if on_wall(depth, diameter):
        same_wall = np.abs(sites["medial"].to_numpy() - medial) <= SAME_WALL
        return np.flatnonzero(calm & same_wall & (np.abs(found - depth) <= TOLERANCE_MM))
    return np.flatnonzero(calm & (found > diameter / 2 + CLEARANCE_MM))


def crowding(patches: torch.Tensor, depth: Sequence[float], spacing: float) -> np.ndarray:
    """How much of the ball of CROWD_MM around the middle of patches is soft tissue, beyond what a flat wall would take: (N,), about 0 to 1.

    patches: (N, 1, P, P, P) in [0, 1] with voxels of `spacing` mm, `depth` mm under the surface of the lungs (`wall_context`).
    """
    place = (np.indices(patches.shape[2:]) - (patches.shape[-1] - 1) / 2) * spacing
    ball = torch.from_numpy((place**2).sum(axis=0) <= CROWD_MM**2)
    soft = (patches[:, 0][:, ball] > to_unit(torch.tensor(SOFT_HU))).float().mean(dim=1).numpy()
    depth = np.clip(np.asarray(depth, float), -CROWD_MM, CROWD_MM)
    wall = (CROWD_MM - depth) ** 2 * (2 * CROWD_MM + depth) / (4 * CROWD_MM**3)  # the spherical cap that a wall at that depth cuts off
    return soft - wall


def align(inward: Sequence[float], target: Sequence[float]) -> tuple[tuple[int, ...], tuple[bool, ...], float]:
    """The symmetry of the cube that turns a normal `inward` (3,) nearest to `target` (3,), both unit vectors in x, y, z.

    Returns axes and flips for `cube_symmetry`, and the cosine of the angle that is left.
    """
    start, goal = np.asarray(inward)[::-1], np.asarray(target)[::-1]  # cubes are z, y, x
    cosines = [np.where(flips, -start[list(axes)], start[list(axes)]) @ goal for axes, flips in SYMMETRIES]
    best = int(np.argmax(cosines))
    return *SYMMETRIES[best], float(cosines[best])


def deal_sites(diameters: Sequence[float], depths: Sequence[float]) -> np.ndarray:
    """Which of N nodules goes to each of N sites at `depths` mm: positions (N,), so that they fit best as a whole.

    A nodule on a site within WALL_MM of the wall should touch it, any other should keep CLEARANCE_MM clear. A misfit costs its mm.
    """
    radius, depth = np.asarray(diameters)[None] / 2, np.asarray(depths)[:, None]
    gap = depth - radius
    misfit = np.where(depth <= WALL_MM, gap, CLEARANCE_MM - gap).clip(min=0)
    return linear_sum_assignment(misfit)[1]
