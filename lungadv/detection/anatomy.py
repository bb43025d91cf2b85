"""Which marks can be of the lung at all: by where the lungs are and by what a mark lies in, whatever its probability.

Candidate generation looks a little beyond the lungs, since nodules on the pleura are at their rim. So it also meets ribs, vertebrae and
the mediastinum. A mark goes when its middle is farther outside the lungs than a nodule's can be. It goes as well when its middle is outside
at all and lies in something dense that is longer than any nodule: bone, vessels full of contrast agent.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan
from lungadv.data.walls import wall_context

__all__ = ["in_lungs"]

OUTSIDE_MM, OUTSIDE_SHARE = 3.0, 0.2  # of the lungs, closed over nodules on the pleura: in mm or, of a large mark, a share of its diameter
DENSE_HU = 200  # bone and contrast agent; soft tissue is below
SIDE, STEP_MM = 48, 1.5  # of the cube in which something dense is followed, voxels and mm
LONGEST_MM = 40.0  # along an axis: a calcified nodule is shorter, a rib or a vertebra with its arch is longer
NEAR_MM = 3.0  # from the middle of a mark to what it lies in


def in_lungs(scan: Scan, lungs: np.ndarray, centres_mm: ArrayLike, diameters_mm: ArrayLike) -> np.ndarray:
    """Which marks at world points (N, 3), LPS mm, of diameters (N,) can be of the lung: bool (N,).

    lungs: bool (z, y, x) on the scan's voxels.
    """
    centres = np.asarray(centres_mm, float).reshape(-1, 3)
    outside = np.maximum(OUTSIDE_MM, OUTSIDE_SHARE * np.asarray(diameters_mm, float))
    depth = wall_context(lungs, scan, centres)[:, 0]
    possible = depth >= -outside
    for k in np.flatnonzero(possible & (depth < 0)):
        possible[k] = not _in_something_long(scan, centres[k])
    return possible


def _in_something_long(scan, centre):
    """Whether a world point lies in a dense thing that is longer than LONGEST_MM along an axis."""
    middle = extract_patches(scan, centre[None], 4, NEAR_MM / 2)
    if middle.max() < DENSE_HU:
        return False
    cube = ndimage.gaussian_filter(extract_patches(scan, centre[None], SIDE, STEP_MM)[0, 0].numpy(), 0.5)
    pieces, _ = ndimage.label(cube > DENSE_HU)
    reach = round(NEAR_MM / STEP_MM)
    inner = pieces[(slice(SIDE // 2 - reach, SIDE // 2 + reach),) * 3]
    counts = np.bincount(inner.ravel())
    counts[0] = 0
    if counts.max() < 0.25 * inner.size:
        return False
    (box,) = (part for part in ndimage.find_objects((pieces == counts.argmax()).astype(np.uint8)) if part)
    return max(part.stop - part.start for part in box) * STEP_MM > LONGEST_MM
