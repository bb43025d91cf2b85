"""Marks that cannot be of the lung are left out by anatomy; nodules of every kind stay, on the pleura and calcified as well."""

import numpy as np
import pytest
from scipy import ndimage

from lungadv.data.lungs import lung_mask
from lungadv.data.tables import XYZ
from lungadv.detection.anatomy import in_lungs
from lungadv.phantom.simulate import simulate

KINDS = ("solid", "fully_calcified", "part_solid", "ground_glass", "solid", "solid", "solid", "fully_calcified", "solid", "fully_calcified")


@pytest.fixture(scope="module", params=[0, 300], ids=["plain", "iodine"])
def chest(request):
    """A simulated chest with ten nodules, and its lungs as they are found."""
    recipe = {"shape": (120, 140, 160), "spacing": (1.8,) * 3, "photons": 1e5, "iodine": request.param}
    made = simulate(recipe | {"nodules": [{"type": kind} for kind in KINDS]}, 100, 1)
    return made, lung_mask(made.scan)


def marks_in(scan, mask, count=60):
    """World points at random in a mask."""
    return scan.to_world(np.random.default_rng(0).permutation(np.argwhere(mask))[:count])


def test_nodules_stay(chest):
    made, lungs = chest
    assert in_lungs(made.scan, lungs, made.nodules[XYZ], made.nodules["diameter_mm"]).all()


def test_marks_in_bone_beside_the_lungs_go(chest):
    made, lungs = chest
    dense = ndimage.gaussian_filter(made.scan.hu.astype(float), 0.7) > 350
    near = ndimage.distance_transform_edt(~lungs, made.scan.spacing[::-1]) < 8
    bone = marks_in(made.scan, dense & near & ~lungs & (made.labels == 0))
    assert len(bone) > 30
    assert in_lungs(made.scan, lungs, bone, np.full(len(bone), 8.0)).mean() < 0.1


def test_marks_in_the_mediastinum_and_the_chest_wall_go(chest):
    made, lungs = chest
    depth = ndimage.distance_transform_edt(~lungs, made.scan.spacing[::-1])
    wall = marks_in(made.scan, (depth > 5) & (depth < 9) & (made.scan.hu > -100) & (made.labels == 0))
    assert len(wall) > 30
    assert not in_lungs(made.scan, lungs, wall, np.full(len(wall), 8.0)).any()


def test_a_calcified_ball_at_the_rim_stays_and_a_calcified_rod_goes(ball_at):
    scan = ball_at((0.0, 0.0, 0.0), 15.0, (1.0, 1.0, 1.0), core=900.0)
    lungs = np.zeros(scan.hu.shape, bool)
    lungs[:, :, :34] = True  # up to 1 mm from the ball's middle
    assert in_lungs(scan, lungs, [[0, 0, 0]], [15.0]).all()
    scan.hu[30:40, 30:40] = 900
    assert not in_lungs(scan, lungs, [[0, 0, 0]], [15.0]).any()
    assert in_lungs(scan, np.ones_like(lungs), [[0, 0, 0]], [15.0]).all()  # in the lung it may be a vessel full of contrast agent


def test_a_large_mark_may_lie_farther_outside(ball_at):
    scan = ball_at((0.0, 0.0, 0.0), 26.0, (1.0, 1.0, 1.0))
    lungs = np.zeros(scan.hu.shape, bool)
    lungs[:, :, :31] = True  # up to 4.5 mm from the ball's middle
    assert in_lungs(scan, lungs, [[0, 0, 0], [0, 0, 0]], [26.0, 10.0]).tolist() == [True, False]


def test_no_mark_is_no_trouble(ball_at):
    scan = ball_at((0.0, 0.0, 0.0), 15.0, (1.0, 1.0, 1.0))
    assert len(in_lungs(scan, scan.hu < 0, np.empty((0, 3)), [])) == 0
