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


@pytest.mark.parametrize("spacing", [(1.25, 1.25, 1.25), (2.5, 0.7, 0.7)])
def test_signed_distance_of_a_ball_and_of_a_plane(spacing):
    shape = (24, 64, 64) if spacing[0] > 2 else (40, 40, 40)
    z, y, x = (np.arange(n) * step - (n - 1) * step / 2 for n, step in zip(shape, spacing, strict=True))
    true = 8 - np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    error = (signed_distance(true > 0, spacing) - true)[np.abs(true) < 3]
    assert abs(error.mean()) < 0.15 and np.abs(error).mean() < 0.4
    plane = np.zeros(shape, bool)
    plane[:5] = True  # the outline is half-way between slices 4 and 5
    assert np.allclose(signed_distance(plane, spacing)[:, 3, 3], (4.5 - np.arange(shape[0])) * spacing[0])


def test_soft_edge_takes_numbers_of_numpy_and_torch_alike():
    distance = np.linspace(-3, 3, 25)
    assert np.allclose(soft_edge(distance, 2.0), soft_edge(torch.from_numpy(distance), 2.0).numpy())
    assert soft_edge(np.array([-1.1, -1, 0, 0.5, 1, 9]), 2.0).tolist() == [0, 0, 0.5, 0.75, 1, 1]
