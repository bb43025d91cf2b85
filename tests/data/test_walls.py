"""Depth and normal of places in a box and in a ball of lung."""

import numpy as np
import pytest

from lungadv.data.scan import Scan
from lungadv.data.walls import REACH_MM, on_wall, wall_context


def scan_of(shape, spacing, direction=None):
    return Scan(np.zeros(shape, np.int16), spacing, (-20.0, 5.0, 100.0), np.eye(3) if direction is None else direction, "toy")


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([1.0, -1.0, 1.0]), np.eye(3)[[1, 0, 2]]])
def test_depth_and_normal_under_a_flat_wall(direction):
    scan = scan_of((60, 50, 50), (1.5, 1.5, 1.0), direction)
    lungs = np.zeros(scan.hu.shape, bool)
    lungs[:, :, 10:] = True  # the wall is half-way between columns 9 and 10
    points = scan.to_world([[30, 25, 12], [30, 25, 14.25], [30, 25, 35], [30, 25, 8]])
    depth, inward, medial = np.split(wall_context(lungs, scan, points), [1, 4], axis=1)
    assert depth[:, 0] == pytest.approx([2.5 * 1.5, 4.75 * 1.5, REACH_MM, -1.5 * 1.5], abs=0.6)
    assert inward[[0, 1, 3]] == pytest.approx(np.tile(direction[:, 0], (3, 1)), abs=1e-6)
    assert not inward[2].any() and not medial[2].any()


def test_normals_of_a_ball_point_to_its_middle():
    scan = scan_of((60, 60, 60), (1.0, 1.0, 1.0))
    index = np.indices(scan.hu.shape) - 29.5
    lungs = (index**2).sum(0) < 25**2
    away = np.array([[0.6, 0.0, 0.8], [-0.8, 0.6, 0.0], [0.58, -0.58, 0.57]])  # z, y, x
    points = scan.to_world(29.5 + 21 * away)
    found = wall_context(lungs, scan, points)
    assert found[:, 0] == pytest.approx([4.0] * 3, abs=0.8)
    assert (found[:, 1:4] * -away[:, ::-1]).sum(axis=1).min() > 0.97


def test_a_scan_that_is_all_lung_has_no_wall_but_its_border():
    scan = scan_of((64, 64, 64), (1.0, 1.0, 1.0))
    found = wall_context(np.ones(scan.hu.shape, bool), scan, scan.to_world([[32, 32, 32], [32, 32, 3]]))
    assert found[0].tolist() == [REACH_MM, 0, 0, 0, 0] and found[1, 0] == pytest.approx(3.5, abs=0.6)
    assert wall_context(np.ones(scan.hu.shape, bool), scan, np.empty((0, 3))).shape == (0, 5)


def test_the_three_walls_of_a_lung_are_told_apart():
    scan = scan_of((60, 60, 100), (1.0, 1.0, 1.0))
    lungs = np.zeros(scan.hu.shape, bool)
    lungs[10:50, 10:50, 5:40] = lungs[10:50, 10:50, 60:95] = True
    points = scan.to_world([[30, 30, 7], [30, 30, 37], [12, 30, 25], [30, 30, 92]])  # outer, inner, lower and the other outer face
    assert wall_context(lungs, scan, points)[:, 4] == pytest.approx([1, -1, 0, 1], abs=0.05)


def test_a_nodule_is_on_the_wall_when_its_ball_reaches_it():
    assert on_wall(np.array([2.0, 5.0, -1.0]), np.array([6.0, 8.0, 6.0])).tolist() == [True, False, True]
