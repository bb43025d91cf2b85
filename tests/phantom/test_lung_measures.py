"""Measures of lungs against closed forms."""

import numpy as np
import pytest
from scipy import fft, stats

from lungadv.phantom.lung_measures import (
    SCALES,
    SIZE,
    Lung,
    feature_aucs,
    grain,
    histogram,
    histogram_distance,
    patches_auc,
    spectral_slope,
    vesselness,
)


def power_law(exponent, seed=0):
    """Patches cut from wide fields of noise with power f^exponent in the plane."""
    f = np.hypot(fft.fftfreq(256)[:, None], fft.fftfreq(256))
    f[0, 0] = np.inf
    white = np.random.default_rng(seed).standard_normal((SIZE, 256, 256))
    field = fft.ifft2(fft.fft2(white) * f ** (exponent / 2)).real
    return np.stack([field[:, y : y + SIZE, x : x + SIZE] for y in range(0, 232, SIZE) for x in range(0, 232, SIZE)])


@pytest.mark.parametrize("exponent", [-1.0, -2.0, -3.0, -3.5])
def test_the_slope_of_power_law_noise_is_its_exponent(exponent):
    assert spectral_slope(power_law(exponent)) == pytest.approx(exponent, rel=0.1)


def test_the_distance_of_shifted_normals_is_the_shift_and_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = np.rint(rng.normal(-850, 30, 50_000)), np.rint(rng.normal(-815, 50, 50_000))
    distance = histogram_distance(histogram(a), histogram(b))
    assert distance == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-6)
    assert histogram_distance(histogram(a), histogram(a + 25)) == pytest.approx(25, abs=1e-6)


def test_what_is_brighter_than_blood_without_contrast_agent_counts_as_such_blood():
    vessels = np.array([-850.0, 50, 50]), np.array([-850.0, 180, 300])
    assert histogram_distance(*map(histogram, vessels)) == 0


def test_vesselness_of_a_tube_has_its_closed_form_and_a_sheet_has_none():
    z, y, x = np.meshgrid(*[np.arange(SIZE) - 12.0] * 3, indexing="ij")
    width, height, sigma = 3.0, 400, max(SCALES)
    axis = np.array([2.0, 1, 2]) / 3
    gap = z**2 + y**2 + x**2 - (z * axis[0] + y * axis[1] + x * axis[2]) ** 2
    tube = height * np.exp(-gap / (2 * width**2))
    expected = sigma**2 * height * width**2 / (width**2 + sigma**2) ** 2
    assert vesselness(tube[None]).max() == pytest.approx(expected, rel=0.05)
    assert vesselness(-tube[None]).max() < 0.2 * expected
    assert vesselness((height * np.exp(-(z**2) / (2 * width**2)))[None]).max() < 0.05 * expected


def test_grain_is_that_between_the_vessels():
    patches = np.random.default_rng(0).normal(-850, 20, (10, SIZE, SIZE, SIZE))
    patches[:, :, :8] += 900 * (np.arange(SIZE) % 5 == 0)
    assert grain(patches) == pytest.approx(20, rel=0.03)
    assert np.isnan(grain(np.zeros((1, SIZE, SIZE, SIZE))))


def test_other_patches_of_the_same_lung_cannot_be_told_apart_and_brighter_ones_can(chest):
    one, again = chest
    assert patches_auc(one, [again]) == pytest.approx(0.5, abs=0.12)
    brighter = Lung(one.histogram, one.vessels, again.patches + 60, one.by_height, one.by_depth)
    assert patches_auc(brighter, [one]) > 0.85
    telling = feature_aucs(brighter, [one])
    assert telling.iloc[0] > 0.8 and "quantile" in telling.index[0]
