"""The soft rim of masks, and the diameter that they give, against balls and a plane."""

import numpy as np
import pytest
import torch

from lungadv.data.masks import diameter_mm, signed_distance, soft_edge, soft_mask


def ball(diameter, size, spacing):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


@pytest.mark.parametrize("diameter", [6.0, 9.0, 14.0, 25.0])
@pytest.mark.parametrize("spacing", [0.625, 1.25])
def test_diameter_of_a_ball(diameter, spacing):
    mask = soft_mask(ball(diameter, 48, spacing), spacing, 3.0)
    assert diameter_mm(torch.from_numpy(mask)[None, None], spacing).item() == pytest.approx(diameter, rel=0.05)


def test_soft_mask_is_a_ramp_of_the_stated_width():
    inside = np.zeros((24, 24, 24), bool)
    inside[:, :, :12] = True  # the outline lies between voxels 11 and 12
    row = soft_mask(inside, 1.0, 4.0)[12, 12]
    assert np.allclose(row[8:16], [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])


def test_signed_distance_of_a_plane_is_half_a_voxel_beside_it():
    inside = np.zeros((8, 8, 8), bool)
    inside[..., :4] = True
    assert np.allclose(signed_distance(inside, 2.0)[4, 4], [7, 5, 3, 1, -1, -3, -5, -7])


def test_the_edge_is_the_same_rule_for_arrays_and_tensors():
    distance = np.linspace(-5, 5, 41)
    ramp = soft_edge(distance, 3.0)
    assert ramp[20] == 0.5 and ramp.min() == 0 and ramp.max() == 1
    assert np.allclose(soft_edge(torch.from_numpy(distance), 3.0).numpy(), ramp)
