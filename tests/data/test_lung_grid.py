"""The grid around the lungs against balls at known places."""

from dataclasses import replace

import numpy as np
import pytest

from lungadv.data.lung_grid import crop_to_lungs, lung_grid, share_on_grid
from lungadv.data.scan import AIR, Scan
from lungadv.utils.errors import InputError

STRAIGHT = np.eye(3)
TURNED = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # the array's y runs along the body, its x to the right


def chest(balls=(), spacing=(1.25, 1.5, 2.0), direction=STRAIGHT, shape=(40, 50, 60)):
    """A scan of air-filled lungs with soft balls at world positions (sigma 3.5 mm), and its lungs."""
    scan = Scan(np.zeros(shape, np.int16), spacing, (-31.0, 17.0, 250.0), direction, "1.2.3")
    world = scan.to_world(np.indices(shape).reshape(3, -1).T)
    hu = np.full(len(world), -850.0)
    for ball in balls:
        hu += 850 * np.exp(-np.sum((world - ball) ** 2, axis=1) / (2 * 3.5**2))
    lungs = np.zeros(shape, bool)
    lungs[11:-5, 17:-6, 18:-8] = True  # far enough in that the grid is cut
    return Scan(hu.reshape(shape).astype(np.int16), spacing, scan.origin, direction, "1.2.3"), lungs


@pytest.mark.parametrize("direction", [STRAIGHT, np.diag([1.0, -1.0, -1.0]), TURNED])
@pytest.mark.parametrize("spacing", [(1.25, 1.5, 2.0), (0.7, 0.7, 2.6)])
def test_a_ball_is_on_the_grid_where_it_is_in_the_world(direction, spacing):
    scan, _ = chest(spacing=spacing, direction=direction)
    ball = scan.to_world([[18.3, 26.4, 33.8]])[0]
    grid, mask = lung_grid(*chest([ball], spacing, direction), 2.5)
    weight = grid.hu + 850.0
    weight[weight < 60] = 0
    centre = (np.argwhere(weight) * weight[weight > 0][:, None]).sum(0) / weight.sum()
    assert np.abs(grid.to_world([centre])[0] - ball).max() < 1.25
    brightest = grid.to_world([np.unravel_index(grid.hu.argmax(), grid.hu.shape)])[0]
    assert np.abs(brightest - ball).max() <= 1.25 + max(spacing) / 2
    assert mask[tuple(grid.to_voxel([ball]).round().astype(int)[0])]


@pytest.mark.parametrize("before, after", [((3, 1, 7), (2, 11, 5)), ((0, 40, 1), (1, 0, 0))])
def test_padding_of_a_scan_leaves_the_grid_as_it_is(before, after):
    scan, lungs = chest(spacing=(0.8, 0.9, 1.7))
    origin = tuple(scan.to_world([-np.array(before)])[0])
    pads = list(zip(before, after, strict=True))
    padded = replace(scan, hu=np.pad(scan.hu, pads, constant_values=AIR), origin=origin)
    (grid, mask), (other, same) = (lung_grid(*pair, 2.5) for pair in ((scan, lungs), (padded, np.pad(lungs, pads))))
    assert np.array_equal(grid.hu, other.hu) and np.array_equal(mask, same) and np.allclose(grid.origin, other.origin)


def test_the_grid_covers_lungs_and_margin_in_multiples_of_four():
    scan, lungs = chest()
    grid, mask = lung_grid(scan, lungs, 2.5)
    assert grid.hu.shape == mask.shape and all(side % 4 == 0 for side in mask.shape) and grid.spacing == (2.5,) * 3
    voxels = grid.to_voxel(scan.to_world(np.argwhere(lungs)))
    assert mask[tuple(voxels.round().astype(int).T)].all()
    marked = scan.to_voxel(grid.to_world(np.argwhere(mask)))
    outside = np.maximum(marked - (np.argwhere(lungs).max(0)), np.argwhere(lungs).min(0) - marked) * np.array(scan.spacing[::-1])
    assert outside.max() <= 5 + 2.5  # grown by about 5 mm, no more


def test_no_lungs_is_an_input_error():
    scan, lungs = chest()
    with pytest.raises(InputError, match="scan '1.2.3': no lungs"):
        lung_grid(scan, lungs & False, 2.5)


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_the_share_of_an_outline_lies_where_the_ball_is(direction):
    scan, lungs = chest(direction=direction)
    balls = scan.to_world([[18.0, 26.0, 33.0]])
    scan, _ = chest(balls, direction=direction)
    grid, _ = lung_grid(scan, lungs, 2.5)
    outlines = Scan(np.where(scan.hu > -500, 1000, 0).astype(np.int16), scan.spacing, scan.origin, scan.direction, scan.uid)
    share = share_on_grid(crop_to_lungs(outlines, lungs), grid)
    assert share.shape == grid.hu.shape and 0 <= share.min() and share.max() <= 1
    volume = share.sum() * 2.5**3
    assert volume == pytest.approx((scan.hu > -500).sum() * np.prod(scan.spacing), rel=0.1)
    centre = (np.argwhere(share > 0) * share[share > 0][:, None]).sum(0) / share.sum()
    assert np.abs(grid.to_world([centre])[0] - balls[0]).max() < 1
