"""Artefacts against exact projections: metal, motion, rings."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import iradon, radon

from lungadv.phantom import artefacts, scanner
from lungadv.phantom.beam_hardening import REFERENCE, attenuation, correct_water, measure
from lungadv.phantom.projection import MU_WATER

SPACING = (1.25, 1.25, 1.25)


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


def test_no_metal_changes_nothing():
    body, metal = rods(nz=3)
    assert np.array_equal(artefacts.metal(body, SPACING, np.zeros_like(metal)), body)
    metal[[0, 2]] = 0
    image = artefacts.metal(body.astype(np.int16), SPACING, metal > 0.5)
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
    water = (chords(0, 0, 60) - depth) * MU_WATER
    depth *= attenuation(material, REFERENCE)
    error = correct_water(measure(water, depth, material)) - water - depth
    exact = iradon(error, np.degrees(theta), circle=False, output_size=side) / cell * 1000 / MU_WATER
    exact = blurred(exact.reshape(n, finer, n, finer).mean((1, 3)))
    true = (1 - metal) * (body + 1000) - 1000 + metal * 1000 * (attenuation(material, REFERENCE) / MU_WATER)
    error = blurred((artefacts.metal(body, SPACING, metal, material) - true)[0])
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
        for hu in (body, artefacts.metal(body, SPACING, metal, "steel"), artefacts.metal(body, SPACING, slab, "steel"))
    )
    band, far = between()
    assert shadow[:, band].std() > 1.5 * clean[:, band].std()
    assert shadow[:, far].std() < 1.5 * clean[:, far].std()
    assert np.isfinite(dark).all() and dark.std() < 2000


def test_metal_in_a_finished_scan_has_the_point_spread_of_its_kernel():
    body, metal = rods(nz=5)
    before = artefacts.metal(body, SPACING, metal) - body
    after = artefacts.metal(body, SPACING, metal, kernel="soft") - body
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
    change = (artefacts.motion(image, SPACING, speed, states=states) - image)[0]
    assert np.corrcoef(change.ravel(), exact.ravel())[0, 1] > 0.98
    assert (change * exact).sum() / (exact**2).sum() == pytest.approx(1, abs=0.08)


def test_what_rests_stays_as_it_is():
    image = person().repeat(8, 0)
    assert np.array_equal(artefacts.motion(image, SPACING, (0, 0, 0)), image)
    assert artefacts.motion(image, SPACING, (11, 0, 0)) == pytest.approx(image, abs=0.01)  # alike along z
    assert artefacts.motion(np.full((8, 64, 64), 40, np.int16), SPACING, (11, 40, 40)) == pytest.approx(40, abs=0.01)
    assert np.array_equal(artefacts.motion(image, SPACING, (0, 50, 0), where=np.zeros_like(image)), image)


def test_motion_keeps_the_mean_and_the_middle_of_the_path():
    image = person()
    moved = artefacts.motion(image, SPACING, (0, 40, 30))
    assert moved.mean() == pytest.approx(image.mean(), abs=1)
    mass = np.clip(moved[0] + 850, 0, None) * (distance(112, 25, 28) < 14)
    y, x = axes(112)
    centroid = [(mass * axis).sum() / mass.sum() for axis in (y, x)]
    assert centroid == pytest.approx([25, 28], abs=1)


def test_only_the_heart_beats():
    image = person()
    where = np.clip((30 - distance(112, 5, -15)) / 8, 0, 1)[None]
    heart, all_of_it = (np.abs(artefacts.motion(image, SPACING, (0, 0, 50), where=w) - image)[0] for w in (where, None))
    nodule = distance(112, 25, 28) < 8
    assert heart[where[0] > 0.5].mean() == pytest.approx(all_of_it[where[0] > 0.5].mean(), rel=0.2)
    assert heart[nodule].mean() < 0.25 * all_of_it[nodule].mean()  # streaks of the heart alone


@pytest.mark.parametrize("radius", [20.0, 40.4, 55.0])
def test_a_bad_column_draws_a_ring_at_its_distance(radius):
    n = 112
    image = artefacts.rings(np.full((2, n, n), 40, np.int16), SPACING, radius, 0.01)
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
    exact = iradon(sinogram, np.arange(360) / 2, circle=False, output_size=n) / 1.25 * 1000 / MU_WATER
    assert np.corrcoef(ring[inside], exact[inside])[0, 1] > 0.94
    assert np.corrcoef(blurred(ring)[inside], blurred(exact)[inside])[0, 1] > 0.97


def test_rings_are_linear_in_the_offset_and_add_up():
    air = np.zeros((1, 96, 96))
    one, two = (artefacts.rings(air, SPACING, r, 0.005) for r in (20.0, 33.0))
    assert artefacts.rings(air, SPACING, [20.0, 33.0], [0.01, -0.005]) == pytest.approx(2 * one - two, abs=0.01)


BODY = np.zeros((4, 48, 48), np.float32)


@pytest.mark.parametrize(
    ("artefact", "arguments", "name"),
    [
        *((artefacts.metal, {"mask": BODY, "spacing": spacing}, "spacing") for spacing in ((1, 1), (1, -1, 1))),
        (artefacts.metal, {"mask": BODY, "material": "gold"}, "material"),
        (artefacts.metal, {"mask": BODY, "kernel": "hard"}, "kernel"),
        *((artefacts.metal, {"mask": mask}, "mask") for mask in (BODY[0], BODY + 2, BODY - 1, BODY + np.nan)),
        *((artefacts.metal, {"mask": BODY, "hu": hu}, "hu") for hu in (BODY[0], BODY + np.nan)),
        *((artefacts.motion, {"speed_mm_s": speed}, "speed_mm_s") for speed in ((1, 2), (0, np.nan, 0), (1e4, 0, 0))),
        *((artefacts.motion, {"rotation_s": rotation}, "rotation_s") for rotation in (0, -1, np.nan, np.inf)),
        *((artefacts.motion, {"states": states}, "states") for states in (1, 0, 2.5, np.nan)),
        *((artefacts.motion, {"where": where}, "where") for where in (BODY[0], BODY + 2)),
        *((artefacts.rings, {"radius_mm": radius, "offset": 0.01}, "radius_mm") for radius in (-1, 500, np.nan)),
        *((artefacts.rings, {"radius_mm": [5, 9, 12], "offset": offset}, "offset") for offset in (np.nan, np.inf, [0.1, 0.2])),
        (artefacts.rings, {"radius_mm": 5, "offset": 0.01, "kernel": "hard"}, "kernel"),
    ],
)
def test_an_artefact_that_cannot_be_is_named(artefact, arguments, name):
    with pytest.raises(ValueError, match=name):
        artefact(**({"hu": BODY, "spacing": SPACING} | arguments))
