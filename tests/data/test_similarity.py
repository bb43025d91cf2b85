"""Structural similarity against scikit-image's own mean."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from lungadv.data.similarity import ssim
from tests.evaluation.toy_models import random


def test_ssim_agrees_with_scikit_image():
    a = random(3, 1, 16, 16, 16)
    b = (a + 0.2 * random(3, 1, 16, 16, 16, seed=1)).clamp(0, 1)
    expected = [structural_similarity(x[0].numpy(), y[0].numpy(), data_range=1.0) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-5)


def test_ssim_in_a_region_averages_the_map_there():
    a = random(1, 1, 16, 16, 16)
    b = (a + 0.2 * random(1, 1, 16, 16, 16, seed=1)).clamp(0, 1)
    region = torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    region[..., 5:9, 4:12, 6:10] = True
    _, full = structural_similarity(a[0, 0].numpy(), b[0, 0].numpy(), data_range=1.0, full=True)
    assert ssim(a, b, region).item() == pytest.approx(full[region[0, 0].numpy()].mean(), abs=1e-5)


def test_ssim_of_no_patches_is_empty():
    assert ssim(torch.rand(0, 1, 8, 8, 8), torch.rand(0, 1, 8, 8, 8)).shape == (0,)
