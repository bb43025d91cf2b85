"""The scanner against closed forms: noise, dose, spectra, streaks, point spread."""

import numpy as np
import pytest
from scipy import ndimage

from lungadv.phantom.projection import KERNELS, MU_WATER, apodisation, noise_power
from lungadv.phantom.recipe import check_recipe
from lungadv.phantom.scanner import ELECTRONIC, VIEWS, acquire, blur, noise
from lungadv.phantom.simulate import simulate_anatomy

SPACING = (1.25, 1.25, 1.25)


def water(nz=24, n=128, spacing=1.25, half=(60, 60)):
    """A water ellipse with half axes (y, x) mm in air."""
    axis = (np.arange(n) - (n - 1) / 2) * spacing
    inside = (axis[:, None] / half[0]) ** 2 + (axis / half[1]) ** 2 < 1
    return np.where(inside, 0.0, -1000.0).astype(np.float32)[None].repeat(nz, 0)


def draw(hu, photons=3e4, kernel="soft", spacing=SPACING, seed=0):
    return noise(hu, spacing, photons, kernel, np.random.default_rng(seed))


def centre(image, half=8):
    ny, nx = image.shape[1:]
    return image[:, ny // 2 - half : ny // 2 + half, nx // 2 - half : nx // 2 + half]


@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_at_the_centre_of_a_disc_has_the_variance_of_filtered_back_projection(kernel):
    sigma = centre(draw(water(48), kernel=kernel)).std()
    transmitted = 3e4 * np.exp(-120 * MU_WATER)
    variance = (1 / transmitted + (ELECTRONIC / transmitted) ** 2) / VIEWS  # of one line integral
    f = np.linspace(1e-4, 0.4, 4000)
    energy = 2 * np.sum((f * apodisation(kernel, f)) ** 2) * (f[1] - f[0])
    expected = 1000 / MU_WATER * np.pi * np.sqrt(variance * 1.25 * energy)
    assert sigma == pytest.approx(expected, rel=0.08)


def test_a_quarter_of_the_dose_doubles_the_noise():
    body = water(half=(75, 75))
    full, quarter = (centre(draw(body, photons)).std() for photons in (3e4, 7.5e3))
    assert 1.95 < quarter / full < 2.3


def test_noise_power_follows_the_kernel_and_its_peak_rises_from_soft_to_sharp():
    spacing, n = (0.7, 0.7, 0.7), 192
    f = np.hypot(np.fft.fftfreq(n // 2, 0.7)[:, None], np.fft.fftfreq(n // 2, 0.7))
    edges = np.arange(0.02, 0.66, 0.02)
    middle = (edges[1:] + edges[:-1]) / 2
    peaks = []
    for kernel in KERNELS:
        roi = centre(draw(water(24, n, 0.7), kernel=kernel, spacing=spacing), n // 4)
        power = (np.abs(np.fft.fft2(roi)) ** 2).mean(0)
        radial = np.array([power[(f >= a) & (f < b)].mean() for a, b in zip(edges[:-1], edges[1:], strict=True)])
        expected = noise_power(kernel, middle)
        measured, expected = radial / radial.sum(), expected / expected.sum()
        assert np.abs(measured - expected).sum() < 0.12  # shares of power out of place
        peaks.append(middle[np.convolve(measured, np.ones(3) / 3, "same").argmax()])
        assert peaks[-1] == pytest.approx(middle[expected.argmax()], abs=0.05)
    assert peaks[0] < peaks[1] < peaks[2]


def test_a_wide_body_streaks_from_side_to_side():
    power = (np.abs(np.fft.fft2(centre(draw(water(half=(45, 75))), 20))) ** 2).mean(0)
    f = np.fft.fftfreq(40, 1.25)
    fy, fx = f[:, None], f
    band = (np.hypot(fy, fx) > 0.1) & (np.hypot(fy, fx) < 0.35)
    from_long_rays, from_short_rays = (power[band & wedge].mean() for wedge in (np.abs(fy) > 3 * np.abs(fx), np.abs(fx) > 3 * np.abs(fy)))
    assert from_long_rays / from_short_rays == pytest.approx(np.exp((150 - 90) * MU_WATER), rel=0.25)


def test_noise_is_unbiased_independent_between_slices_and_set_by_the_generator():
    body = water()
    image = draw(body)
    assert abs(centre(image, 20).mean()) < 0.05 * image.std()
    assert abs(np.corrcoef(image[:-1].ravel(), image[1:].ravel())[0, 1]) < 0.02
    assert np.array_equal(image, draw(body)) and not np.array_equal(image, draw(body, seed=1))


@pytest.mark.parametrize(("kernel", "spacing"), [("soft", (1.25, 1.25, 1.25)), ("sharp", (0.7, 0.7, 1.0)), ("soft", (0.4, 0.4, 0.8))])
def test_the_point_spread_has_the_stated_width(kernel, spacing):
    point = np.zeros((15, 31, 31), np.float32)
    point[7, 15, 15] = 1
    spread = blur(point, spacing, kernel)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    for axis, sigma in ((0, spacing[2] / 2.355), (1, KERNELS[kernel][3]), (2, KERNELS[kernel][3])):
        profile = spread.sum(tuple({0, 1, 2} - {axis}))
        mm = (np.arange(len(profile)) - len(profile) // 2) * spacing[2 - axis]
        assert np.sqrt((profile * mm**2).sum()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("thickness", [0.8, 2.0, 4.0])
def test_the_point_spread_along_z_follows_the_slice_thickness(thickness):
    point = np.zeros((31, 9, 9), np.float32)
    point[15, 4, 4] = 1
    profile = blur(point, (1.0, 1.0, 0.8), "soft", thickness).sum((1, 2))
    assert np.sqrt((profile * ((np.arange(31) - 15) * 0.8) ** 2).sum()) == pytest.approx(thickness / 2.355, rel=0.01)


def test_thick_slices_have_less_noise_and_share_it_with_their_neighbours():
    body, dose = water(48), 1e6  # so high that electronic noise is nothing

    def scan(thickness):
        return noise(body, SPACING, dose, "soft", np.random.default_rng(0), thickness)

    thin, double, fourfold = (centre(scan(t), 20) for t in (None, 2.5, 5.0))
    assert thin.std() / double.std() == pytest.approx(np.sqrt(2), rel=0.04)
    assert thin.std() / fourfold.std() == pytest.approx(2, rel=0.06)
    assert fourfold[[0, -1]].std() == pytest.approx(fourfold.std(), rel=0.1)  # the outermost slices too
    for image, ratio in ((double, 2), (fourfold, 4)):
        variance = (ratio**2 - 1) / 2.355**2  # of the filter, in slices
        measured = np.corrcoef(image[:-1].ravel(), image[1:].ravel())[0, 1]
        assert measured == pytest.approx(np.exp(-1 / (4 * variance)), abs=0.06)


def test_slices_as_thick_as_their_spacing_are_the_default():
    body = water(6)
    scans = [acquire(body, SPACING, 1e4, "soft", np.random.default_rng(0), **more) for more in ({}, {"thickness": 1.25})]
    assert np.array_equal(*scans)


def test_acquire_gives_clipped_int16():
    body = water(4)
    body[:, 60:64, 60:64] = 9000
    image = acquire(body, SPACING, 1e4, "standard", np.random.default_rng(0))
    assert image.dtype == np.int16 and image.shape == body.shape
    assert image.min() >= -1024 and image.max() == 3071


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"kernel": "hard"}, "kernel"),
        *(({"photons": photons}, "photons") for photons in (-1, 0, np.nan, np.inf)),
        *(({"spacing": spacing}, "spacing") for spacing in ((1, 1, 0), (1, 1), (1, np.nan, 1), (np.inf, 1, 1))),
        *(({"thickness": thickness}, "thickness") for thickness in (0, -1.25, 1.0, np.nan, np.inf)),
    ],
)
def test_bad_input_is_named(change, name):
    arguments = {"spacing": SPACING, "photons": 3e4, "kernel": "soft"} | change
    with pytest.raises(ValueError, match=name):
        acquire(water(2), **arguments, rng=np.random.default_rng(0))


def test_low_dose_noise_is_that_of_a_low_dose_scan():
    recipe = check_recipe({"shape": (54, 220, 264), "spacing": (1.25, 1.25, 5.0)})  # a large chest in few slices
    grid, person, _, hu, lungs = simulate_anatomy(recipe, 0, 0)
    thin = noise(hu, (1.25, 1.25, 1.25), 3e4, "soft", np.random.default_rng(0))  # as if the slices were 1.25 mm thick
    assert 16 < thin[ndimage.binary_erosion(lungs > 0, iterations=2)].std() < 25
    assert 26 < thin[grid.upsample(person.heart) < -8].std() < 38
