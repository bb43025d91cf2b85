"""The scanner against closed forms and exact projections: noise, dose, spectra, streaks, point spread, artefacts."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import iradon, radon

from lungadv import scanner

SPACING = (1.25, 1.25, 1.25)


def water(nz=24, n=128, spacing=1.25, half=(60, 60)):
    """A water ellipse with half axes (y, x) mm in air."""
    axis = (np.arange(n) - (n - 1) / 2) * spacing
    inside = (axis[:, None] / half[0]) ** 2 + (axis / half[1]) ** 2 < 1
    return np.where(inside, 0.0, -1000.0).astype(np.float32)[None].repeat(nz, 0)


def draw(hu, photons=3e4, kernel="soft", spacing=SPACING, seed=0):
    return scanner.noise(hu, spacing, photons, kernel, np.random.default_rng(seed))


def centre(image, half=8):
    ny, nx = image.shape[1:]
    return image[:, ny // 2 - half : ny // 2 + half, nx // 2 - half : nx // 2 + half]


@pytest.mark.parametrize("kernel", scanner.KERNELS)
def test_noise_at_the_centre_of_a_disc_has_the_variance_of_filtered_back_projection(kernel):
    sigma = centre(draw(water(48), kernel=kernel)).std()
    transmitted = 3e4 * np.exp(-120 * scanner.MU_WATER)
    variance = (1 / transmitted + (scanner.ELECTRONIC / transmitted) ** 2) / scanner.VIEWS  # of one line integral
    f = np.linspace(1e-4, 0.4, 4000)
    energy = 2 * np.sum((f * scanner.apodisation(kernel, f)) ** 2) * (f[1] - f[0])
    expected = 1000 / scanner.MU_WATER * np.pi * np.sqrt(variance * 1.25 * energy)
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
    for kernel in scanner.KERNELS:
        roi = centre(draw(water(24, n, 0.7), kernel=kernel, spacing=spacing), n // 4)
        power = (np.abs(np.fft.fft2(roi)) ** 2).mean(0)
        radial = np.array([power[(f >= a) & (f < b)].mean() for a, b in zip(edges[:-1], edges[1:], strict=True)])
        expected = scanner.noise_power(kernel, middle)
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
    assert from_long_rays / from_short_rays == pytest.approx(np.exp((150 - 90) * scanner.MU_WATER), rel=0.25)


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
    spread = scanner.blur(point, spacing, kernel)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    for axis, sigma in ((0, spacing[2] / 2.355), (1, scanner.KERNELS[kernel][3]), (2, scanner.KERNELS[kernel][3])):
        profile = spread.sum(tuple({0, 1, 2} - {axis}))
        mm = (np.arange(len(profile)) - len(profile) // 2) * spacing[2 - axis]
        assert np.sqrt((profile * mm**2).sum()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("thickness", [0.8, 2.0, 4.0])
def test_the_point_spread_along_z_follows_the_slice_thickness(thickness):
    point = np.zeros((31, 9, 9), np.float32)
    point[15, 4, 4] = 1
    profile = scanner.blur(point, (1.0, 1.0, 0.8), "soft", thickness).sum((1, 2))
    assert np.sqrt((profile * ((np.arange(31) - 15) * 0.8) ** 2).sum()) == pytest.approx(thickness / 2.355, rel=0.01)


def test_thick_slices_have_less_noise_and_share_it_with_their_neighbours():
    body, dose = water(48), 1e6  # so high that electronic noise is nothing

    def scan(thickness):
        return scanner.noise(body, SPACING, dose, "soft", np.random.default_rng(0), thickness)

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
    scans = [scanner.acquire(body, SPACING, 1e4, "soft", np.random.default_rng(0), **more) for more in ({}, {"thickness": 1.25})]
    assert np.array_equal(*scans)


def test_acquire_gives_clipped_int16():
    body = water(4)
    body[:, 60:64, 60:64] = 9000
    image = scanner.acquire(body, SPACING, 1e4, "standard", np.random.default_rng(0))
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
        scanner.acquire(water(2), **arguments, rng=np.random.default_rng(0))


# Artefacts.


def axes(n, finer=1, spacing=1.25):
    """y, x in mm from the rotation centre of an n x n slice, each voxel split into `finer` parts."""
    part = (np.arange(finer) - (finer - 1) / 2) / finer
    axis = ((np.arange(n)[:, None] - (n + 1) // 2 + part) * spacing).ravel()
    return np.meshgrid(axis, axis, indexing="ij", sparse=True)


def distance(n, y, x):
    """The distance (mm) of every voxel of a slice from a point."""
    fy, fx = axes(n)
    return np.hypot(fy - y, fx - x)


def disc(n, y, x, radius, finer=8):
    """The share of a disc in each voxel (n, n)."""
    fy, fx = axes(n, finer)
    return (np.hypot(fy - y, fx - x) < radius).reshape(n, finer, n, finer).mean((1, 3)).astype(np.float32)


RODS = ((8, -20, 3.0), (8, 20, 3.0))  # y, x, radius in mm


def rods(n=112, nz=1):
    """A water disc of 60 mm radius in air, in HU, and two rods in it, both (nz, n, n)."""
    body = 1000 * disc(n, 0, 0, 60) - 1000
    metal = sum(disc(n, *rod) for rod in RODS)
    return body[None].repeat(nz, 0), metal[None].repeat(nz, 0)


def between(n=112):
    """Voxels of the line between the rods, and those far from it, inside the body."""
    y, x = axes(n)
    return (np.abs(y - 8) < 1.5) & (np.abs(x) < 12), (np.hypot(y, x) < 55) & (y < -25) & (np.abs(x) < 15)


def blurred(image):
    return scanner.blur(np.asarray(image, np.float32)[None], SPACING, "soft")[0]


@pytest.mark.parametrize(("material", "hu"), [("titanium", 15_800), ("steel", 45_000)])
def test_attenuation_is_that_of_tables(material, hu):
    independent = {"water": 0.1929, "titanium": 0.5361, "steel": 0.8164}  # cm^2/g at 70 keV, xraylib
    for name in ("water", material):
        assert scanner.attenuation(name, 70.0) * 10 / scanner.DENSITY[name] == pytest.approx(independent[name], rel=0.03)
    assert scanner.attenuation("water", scanner.REFERENCE) == pytest.approx(scanner.MU_WATER, rel=0.001)
    assert 1000 * (scanner.attenuation(material, scanner.REFERENCE) / scanner.MU_WATER - 1) == pytest.approx(hu, rel=0.02)


def test_water_correction_is_exact_for_water_and_falls_short_behind_metal():
    water, metal = np.linspace(0, 12, 7), np.linspace(0.1, 12, 7)
    assert scanner.corrected(scanner.measured(water, 0, "steel")) == pytest.approx(water, abs=1e-4)
    read = scanner.corrected(scanner.measured(4.0, metal, "steel")) - 4
    assert (read < metal).all() and (np.diff(read) > 0).all()
    assert (np.diff(read / metal) < 0).all()  # the more metal, the smaller the part of it that is seen


def test_no_metal_changes_nothing():
    body, metal = rods(nz=3)
    assert np.array_equal(scanner.metal(body, SPACING, np.zeros_like(metal)), body)
    metal[[0, 2]] = 0
    image = scanner.metal(body.astype(np.int16), SPACING, metal > 0.5)
    assert image.dtype == np.float32
    assert np.array_equal(image[[0, 2]], body.astype(np.int16)[[0, 2]])
    assert np.abs(image[1] - body[1]).max() > 1000


@pytest.mark.parametrize("material", ["titanium", "steel"])
def test_two_rods_have_the_dark_band_of_exact_projections(material):
    """Chords of discs in closed form, the logarithm of many energies, back-projected by scikit-image on a grid three times as fine."""
    n, finer = 112, 3
    body, metal = rods(n)
    theta, cell = np.arange(360) * np.pi / 360, 1.25 / finer
    side = finer * n
    s = (np.arange(2 * side) - side) * cell  # mm from the rotation centre
    shift = cell * (finer - 1) / 2  # skimage turns about a fine pixel, the first of the coarse voxel in the middle

    def chords(y, x, radius):
        t = s[:, None] - ((x + shift) * np.cos(theta) - (y + shift) * np.sin(theta))
        return 2 * np.sqrt(np.maximum(radius**2 - t**2, 0))

    depth = sum(chords(*rod) for rod in RODS)
    water = (chords(0, 0, 60) - depth) * scanner.MU_WATER
    depth *= scanner.attenuation(material, scanner.REFERENCE)
    error = scanner.corrected(scanner.measured(water, depth, material)) - water - depth
    exact = iradon(error, np.degrees(theta), circle=False, output_size=side) / cell * 1000 / scanner.MU_WATER
    exact = blurred(exact.reshape(n, finer, n, finer).mean((1, 3)))
    true = (1 - metal) * (body + 1000) - 1000 + metal * 1000 * (scanner.attenuation(material, scanner.REFERENCE) / scanner.MU_WATER)
    error = blurred((scanner.metal(body, SPACING, metal, material) - true)[0])
    band, far = between(n)
    assert error[band].mean() < -100 and error[band].mean() == pytest.approx(exact[band].mean(), rel=0.05)
    assert np.abs(error[far]).max() < 0.1 * np.abs(error[band].mean())
    away = np.all([distance(n, *rod[:2]) > 6 for rod in RODS], axis=0)
    assert np.corrcoef(error[away], exact[away])[0, 1] > 0.94


def test_rays_through_metal_are_noisy_and_never_endless():
    body, metal = rods(nz=4)
    slab = np.zeros_like(body, bool)
    slab[:, 50:58, 30:80] = True  # steel that lets nothing through
    clean, shadow, dark = (
        scanner.noise(hu, SPACING, 3e4, "soft", np.random.default_rng(0))
        for hu in (body, scanner.metal(body, SPACING, metal, "steel"), scanner.metal(body, SPACING, slab, "steel"))
    )
    band, far = between()
    assert shadow[:, band].std() > 1.5 * clean[:, band].std()
    assert shadow[:, far].std() < 1.5 * clean[:, far].std()
    assert np.isfinite(dark).all() and dark.std() < 2000


def test_metal_in_a_finished_scan_has_the_point_spread_of_its_kernel():
    body, metal = rods(nz=5)
    before = scanner.metal(body, SPACING, metal) - body
    after = scanner.metal(body, SPACING, metal, kernel="soft") - body
    assert after == pytest.approx(scanner.blur(before, SPACING, "soft"), abs=0.05)


def person(n=112):
    """A chest-like slice in HU: lungs with a heart and a nodule."""
    image = -1000 + 150 * disc(n, 0, 0, 60) + 890 * disc(n, 5, -15, 20) + 890 * disc(n, 25, 28, 5)
    return ndimage.gaussian_filter(image, 1.0)[None]


@pytest.mark.parametrize("speed", [(0, 50, 0), (0, 0, 50), (0, 30, -40)])
def test_motion_is_that_of_views_taken_one_after_the_other(speed):
    """Each state projected by scikit-image in its own share of the half rotation, all back-projected together."""
    image, views, states = person(), 360, 6
    degrees = -((np.arange(views) + 0.5) * 180 / views - 90)  # y points down

    def back(sinogram):
        return iradon(sinogram, degrees, circle=False, output_size=image.shape[1])

    share = views // states
    parts = []
    for k in range(states):
        voxels = np.array(speed[1:]) * 0.25 * ((k + 0.5) / states - 0.5) / 1.25
        state = ndimage.shift(image[0] + 1000, voxels, mode="nearest")
        parts.append(radon(state, degrees[k * share : (k + 1) * share], circle=False))
    exact = back(np.hstack(parts)) - back(radon(image[0] + 1000, degrees, circle=False))
    change = (scanner.motion(image, SPACING, speed, states=states) - image)[0]
    assert np.corrcoef(change.ravel(), exact.ravel())[0, 1] > 0.98
    assert (change * exact).sum() / (exact**2).sum() == pytest.approx(1, abs=0.08)


def test_what_rests_stays_as_it_is():
    image = person().repeat(8, 0)
    assert np.array_equal(scanner.motion(image, SPACING, (0, 0, 0)), image)
    assert scanner.motion(image, SPACING, (11, 0, 0)) == pytest.approx(image, abs=0.01)  # alike along z
    assert scanner.motion(np.full((8, 64, 64), 40, np.int16), SPACING, (11, 40, 40)) == pytest.approx(40, abs=0.01)
    assert np.array_equal(scanner.motion(image, SPACING, (0, 50, 0), where=np.zeros_like(image)), image)


def test_motion_keeps_the_mean_and_the_middle_of_the_path():
    image = person()
    moved = scanner.motion(image, SPACING, (0, 40, 30))
    assert moved.mean() == pytest.approx(image.mean(), abs=1)
    mass = np.clip(moved[0] + 850, 0, None) * (distance(112, 25, 28) < 14)
    y, x = axes(112)
    centroid = [(mass * axis).sum() / mass.sum() for axis in (y, x)]
    assert centroid == pytest.approx([25, 28], abs=1)


def test_only_the_heart_beats():
    image = person()
    where = np.clip((30 - distance(112, 5, -15)) / 8, 0, 1)[None]
    heart, all_of_it = (np.abs(scanner.motion(image, SPACING, (0, 0, 50), where=w) - image)[0] for w in (where, None))
    nodule = distance(112, 25, 28) < 8
    assert heart[where[0] > 0.5].mean() == pytest.approx(all_of_it[where[0] > 0.5].mean(), rel=0.2)
    assert heart[nodule].mean() < 0.25 * all_of_it[nodule].mean()  # streaks of the heart alone


@pytest.mark.parametrize("radius", [20.0, 40.4, 55.0])
def test_a_bad_column_draws_a_ring_at_its_distance(radius):
    n = 112
    image = scanner.rings(np.full((2, n, n), 40, np.int16), SPACING, radius, 0.01)
    assert image.dtype == np.float32 and np.array_equal(image[0], image[1])
    ring, r = image[0] - 40, distance(n, 0, 0)
    profile = ndimage.mean(ring, np.rint(r / 1.25), np.arange(n // 2))
    assert np.abs(profile).argmax() * 1.25 == pytest.approx(radius, abs=1.25)
    inside = r < 66
    for turned in (np.roll(ring[::-1], 1, 0), ring.T):  # the centre is voxel n / 2
        assert np.abs(turned - ring)[inside].max() < 0.05 * ring[inside].max()
    sinogram = np.zeros((2 * n + 1, 360))
    for s in (radius / 1.25 + n, n - radius / 1.25):
        base = int(s)
        sinogram[base] += 0.005 * (base + 1 - s)
        sinogram[base + 1] += 0.005 * (s - base)
    exact = iradon(sinogram, np.arange(360) / 2, circle=False, output_size=n) / 1.25 * 1000 / scanner.MU_WATER
    assert np.corrcoef(ring[inside], exact[inside])[0, 1] > 0.94
    assert np.corrcoef(blurred(ring)[inside], blurred(exact)[inside])[0, 1] > 0.97


def test_rings_are_linear_in_the_offset_and_add_up():
    air = np.zeros((1, 96, 96))
    one, two = (scanner.rings(air, SPACING, r, 0.005) for r in (20.0, 33.0))
    assert scanner.rings(air, SPACING, [20.0, 33.0], [0.01, -0.005]) == pytest.approx(2 * one - two, abs=0.01)


BODY = np.zeros((4, 48, 48), np.float32)


@pytest.mark.parametrize(
    ("artefact", "arguments", "name"),
    [
        *((scanner.metal, {"mask": BODY, "spacing": spacing}, "spacing") for spacing in ((1, 1), (1, -1, 1))),
        (scanner.metal, {"mask": BODY, "material": "gold"}, "material"),
        (scanner.metal, {"mask": BODY, "kernel": "hard"}, "kernel"),
        *((scanner.metal, {"mask": mask}, "mask") for mask in (BODY[0], BODY + 2, BODY - 1, BODY + np.nan)),
        *((scanner.metal, {"mask": BODY, "hu": hu}, "hu") for hu in (BODY[0], BODY + np.nan)),
        *((scanner.motion, {"speed_mm_s": speed}, "speed_mm_s") for speed in ((1, 2), (0, np.nan, 0), (1e4, 0, 0))),
        *((scanner.motion, {"rotation_s": rotation}, "rotation_s") for rotation in (0, -1, np.nan, np.inf)),
        *((scanner.motion, {"states": states}, "states") for states in (1, 0, 2.5, np.nan)),
        *((scanner.motion, {"where": where}, "where") for where in (BODY[0], BODY + 2)),
        *((scanner.rings, {"radius_mm": radius, "offset": 0.01}, "radius_mm") for radius in (-1, 500, np.nan)),
        *((scanner.rings, {"radius_mm": [5, 9, 12], "offset": offset}, "offset") for offset in (np.nan, np.inf, [0.1, 0.2])),
        (scanner.rings, {"radius_mm": 5, "offset": 0.01, "kernel": "hard"}, "kernel"),
    ],
)
def test_an_artefact_that_cannot_be_is_named(artefact, arguments, name):
    with pytest.raises(ValueError, match=name):
        artefact(**({"hu": BODY, "spacing": SPACING} | arguments))
