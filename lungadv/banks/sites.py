"""Which background suits a nodule: one on the pleura goes to the pleura, at its depth; one in the lung goes where no wall is near."""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lungadv.data.walls import WALL_MM, on_wall

__all__ = ["align", "deal_sites", "fitting_sites"]

TOLERANCE_MM = 1.0  # by which a site on the wall may be deeper or shallower than the nodule
SAME_WALL = 0.35  # by which `medial` may differ
CLEARANCE_MM = 2.0  # of lung between a nodule in the free lung and the wall
SYMMETRIES = list(product(permutations(range(3)), product((False, True), repeat=3)))  # axes and flips of `cube_symmetry`


def fitting_sites(sites: pd.DataFrame, diameter: float, depth: float, medial: float) -> np.ndarray:
    """The rows of `sites` (of the columns WALL), as positions, that suit a nodule of `diameter` mm.

    depth (mm) and medial: where the nodule lies in its own lung, see `wall_context`. One that touches the wall suits sites of its depth,
    within TOLERANCE_MM, at the same wall: chest, diaphragm or mediastinum. Any other suits sites where it keeps clear of the wall.
    """
    found = sites["depth_mm"].to_numpy()
    if on_wall(depth, diameter):
        same_wall = np.abs(sites["medial"].to_numpy() - medial) <= SAME_WALL
        return np.flatnonzero(same_wall & (np.abs(found - depth) <= TOLERANCE_MM))
    return np.flatnonzero(found > diameter / 2 + CLEARANCE_MM)


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
