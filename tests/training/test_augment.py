"""Every symmetry of the cube, against numpy."""

from itertools import permutations, product

import numpy as np
import torch

from lungadv.training.augment import center_crop, crop, cube_symmetry, random_cube_symmetry


def test_a_symmetry_orders_the_axes_then_flips_them():
    cubes = torch.arange(2 * 3 * 4**3).reshape(2, 3, 4, 4, 4)
    for axes, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        expected = cubes.numpy().transpose(0, 1, *(2 + axis for axis in axes))
        expected = expected[(..., *(slice(None, None, -1 if flip else 1) for flip in flips))]
        assert np.array_equal(cube_symmetry(cubes, axes, flips), expected)
        assert np.array_equal(cube_symmetry(cubes[0, 0], np.array(axes), np.array(flips)), expected[0, 0])


def test_random_symmetries_are_all_48_and_follow_their_generator():
    drawn = [random_cube_symmetry(torch.Generator().manual_seed(seed)) for seed in range(1000)]
    assert len({(*axes, *flips) for axes, flips in drawn}) == 48
    assert drawn == [random_cube_symmetry(torch.Generator().manual_seed(seed)) for seed in range(1000)]


def test_crops_by_hand():
    cube = torch.arange(5**3).reshape(1, 5, 5, 5)
    assert torch.equal(crop(cube, (1, 0, 2), 3), cube[:, 1:4, 0:3, 2:5])
    assert torch.equal(center_crop(cube, 3), cube[:, 1:4, 1:4, 1:4]) and torch.equal(center_crop(cube, 5), cube)
