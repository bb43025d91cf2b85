"""How large a finding is: the sphere that fits its border best, measured in the scan."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan

__all__ = ["MIN_DIAMETER_MM", "measure_diameters"]

CUBE, CUBE_MM = 64, 0.8  # voxels a side of the cube that is measured in, mm between them
REACH_MM = 20.0  # of a ray: half the largest diameter that is measured
MAX_SHIFT_MM = 5.0  # of a finding's centre
MAX_STEP_MM = 2.0  # of the centre from one fit to the next
MIN_DIAMETER_MM = 2.0  # what is smaller cannot be told apart in a CT
LUNG_HU, FULL_HU = -850, 100  # of air-filled lung where there is too little of it; what is brighter counts as this (calcium, contrast)
MIN_CONTRAST_HU = 40  # of a border above the lung
RAY_STEP_MM = 0.5
FITS = 5


def measure_diameters(scan: Scan, centres_mm: ArrayLike) -> np.ndarray:
    """The diameters in mm, (N,), of what lies at world points (N, 3): of the sphere that fits its border best.

    From MIN_DIAMETER_MM to 2 REACH_MM. The border is where rays from the centre fall below half the way from the lung to the centre's
    HU. Rays that run on into the chest wall or a vessel are left out. The sphere's centre becomes the next centre, four times.
    Of part-solid nodules this measures the solid part.
    """
    rays = _directions(200)
    return np.array([_diameter(_smooth_cube(scan, centre), rays) for centre in np.asarray(centres_mm, float).reshape(-1, 3)])


def _directions(count):
    """`count` directions (count, 3), evenly over the sphere: a Fibonacci lattice."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    across = np.sqrt(1 - z**2)
    return np.stack([z, across * np.sin(angle), across * np.cos(angle)], axis=1)


def _smooth_cube(scan, centre):
    """A cube of HU around a world point, with little noise."""
    return ndimage.gaussian_filter(extract_patches(scan, centre[None], CUBE, CUBE_MM).numpy()[0, 0], 0.5 / CUBE_MM)


def _diameter(cube, rays):
    """The diameter in mm of what lies in the middle of a cube of HU."""
    lung = np.median(cube[cube < -500]) if (cube < -500).mean() > 0.01 else LUNG_HU
    middle = centre = np.full(3, (CUBE - 1) / 2)
    for _ in range(FITS):
        core = min(np.median(_sample(cube, centre, rays[::4], np.array([0.0, 1.0]))), FULL_HU)
        reach = _border_distances(cube, centre, rays, max((core + lung) / 2, lung + MIN_CONTRAST_HU))
        border = (reach <= 1.5 * np.quantile(reach, 0.4)) & (reach < REACH_MM)
        if border.sum() < 20:  # no border to see
            return max(2 * float(np.quantile(reach, 0.4)), MIN_DIAMETER_MM)
        shift, radius = _fit_sphere(rays[border] * reach[border, None])
        centre = middle + _shorten(centre - middle + _shorten(shift, MAX_STEP_MM / CUBE_MM), MAX_SHIFT_MM / CUBE_MM)
    return max(2 * float(np.clip(radius, reach[border].min(), reach[border].max())), MIN_DIAMETER_MM)


def _fit_sphere(points):
    """Centre (3,) and radius of the sphere nearest to points (N, 3), by linear least squares."""
    (*shift, rest), *_ = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)
    return np.array(shift), np.sqrt(max(rest + np.dot(shift, shift), 0))


def _sample(cube, centre, rays, distances):
    """HU (rays, distances) along rays (R, 3) at distances in mm from a centre in voxels."""
    points = centre + rays[:, None] * (distances / CUBE_MM)[:, None]
    return ndimage.map_coordinates(cube, points.reshape(-1, 3).T, order=1, mode="nearest").reshape(len(rays), -1)


def _border_distances(cube, centre, rays, level):
    """How far, in mm, each ray goes before the HU fall below a level; REACH_MM at most. (R,)"""
    values = _sample(cube, centre, rays, np.arange(0, REACH_MM + RAY_STEP_MM, RAY_STEP_MM))
    below = values < level
    after = np.where(below.any(axis=1), below.argmax(axis=1), values.shape[1] - 1)
    here, there = (values[np.arange(len(rays)), np.maximum(k, 0)] for k in (after - 1, after))
    fraction = np.where(here > there, np.clip((here - level) / np.maximum(here - there, 1e-6), 0, 1), 1)
    return np.where(below[:, 0], 0, np.minimum((after - 1 + fraction) * RAY_STEP_MM, REACH_MM))


def _shorten(vector, longest):
    """A vector, shortened where it is longer than that."""
    return vector * min(1, longest / max(np.linalg.norm(vector), 1e-9))
