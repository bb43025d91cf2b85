"""Diameters of balls in lung, on a wall, of ground glass, and of nothing."""

import numpy as np
import pytest

from lungadv.detection.measure import MIN_DIAMETER_MM, measure_diameters


@pytest.mark.parametrize("diameter", [5.0, 9.0, 16.0, 24.0])
@pytest.mark.parametrize("spacing, tolerance", [((0.7, 0.7, 1.25), 0.6), ((0.7, 0.7, 2.5), 1.0)])
def test_the_diameter_of_a_ball_is_its_own(diameter, spacing, tolerance, ball_at):
    scan = ball_at([1.0, -2.0, 0.5], diameter, spacing)
    measured = measure_diameters(scan, np.array([[1.0, -2.0, 0.5], [2.5, -2.0, 0.5], [1.0, -3.0, 2.0]]))  # 1.5 and 1.8 mm off
    assert np.abs(measured - diameter).max() < tolerance


def test_the_diameter_of_a_ball_on_the_wall_or_of_ground_glass_is_its_own(ball_at):
    assert measure_diameters(ball_at([0, 0, 0], 12.0, (0.7, 0.7, 1.25), wall=5.0), [[0, 0, 0]])[0] == pytest.approx(12, abs=1)
    assert measure_diameters(ball_at([0, 0, 0], 12.0, (0.7, 0.7, 1.25), core=-620.0), [[0, 0, 0]])[0] == pytest.approx(12, abs=1)


def test_there_is_a_diameter_whatever_is_there(scan_of):
    scan = scan_of(40)
    measured = measure_diameters(scan, [[30, 20, 10], [500, 0, 0], [0, 0, 0]])  # lung, outside the scan, the ball
    assert (measured[:2] == MIN_DIAMETER_MM).all() and measured[2] == pytest.approx(16, abs=1)
    assert measure_diameters(scan, np.empty((0, 3))).shape == (0,)
