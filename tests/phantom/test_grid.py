"""The coarse grid: fields brought to the voxels, boxes of voxels."""

import numpy as np
import pytest

from lungadv.phantom.grid import Grid, signed_distance, smooth_union


@pytest.fixture
def grid():
    return Grid((64, 80, 96), (2.5, 2.5, 2.5))


def ball(grid, radius):
    """The signed distance of a ball of `radius` mm on the coarse grid."""
    z, y, x = grid.coarse_axes()
    return np.sqrt((z - 80) ** 2 + y**2 + x**2) - radius


def test_a_ball_keeps_its_volume(grid):
    inside = grid.upsample(ball(grid, 50)) < 0
    assert inside.sum() * 2.5**3 == pytest.approx(4 / 3 * np.pi * 50**3, rel=0.02)


def test_slabs_and_boxes_are_parts_of_the_whole_field(grid):
    field = ball(grid, 30)
    whole = grid.upsample(field)
    where, _ = grid.box_around(field, 5.0)
    assert np.array_equal(grid.upsample(field, where), whole[where])
    for here, (part,) in grid.upsample_slabs([field], where):
        assert np.array_equal(part, whole[here])
    points = grid.start + grid.step * np.argwhere(np.abs(whole) < 5)[::50]
    assert grid.sample(field, points) == pytest.approx(whole[np.abs(whole) < 5][::50], abs=0.5)


def test_a_box_outside_the_field_of_view_is_none(grid):
    assert grid.box(np.full(3, 900.0), np.full(3, 950.0)) is None and grid.box_around(ball(grid, -1000), 5.0) is None
    where, (z, y, x) = grid.box(np.array([10.0, -5, -5]), np.array([20.0, 5, 5]))
    assert grid.to_index(np.array([z[0, 0, 0], y[0, 0, 0], x[0, 0, 0]])) == pytest.approx([s.start for s in where])


def test_a_signed_distance_is_in_mm_and_a_union_holds_both(grid):
    z, y, x = grid.coarse_axes()
    squared = z**2 / 40**2 + y**2 / 40**2 + x**2 / 40**2 - 1  # negative inside, but not in mm
    distance = signed_distance(squared)
    near = np.abs(distance) < 5
    assert np.abs(distance - (np.sqrt(z**2 + y**2 + x**2) - 40))[near].max() < 2
    assert (smooth_union(distance, ball(grid, 20)) <= np.minimum(distance, ball(grid, 20)) + 1e-9).all()
