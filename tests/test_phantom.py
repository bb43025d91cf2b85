"""The phantom: tables against masks, values against types, streams against order and threads, bad recipes."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from lungadv import ct, phantom

TINY = {"shape": (64, 80, 96), "spacing": (2.5, 2.5, 2.5)}
FULL = {"shape": (120, 160, 176), "spacing": (1.25, 1.25, 1.25)}
NODULES = [{"type": kind, "diameter_mm": 10 + k} for k, kind in enumerate(phantom.TYPES)]
NODULES += [{"type": "solid", "diameter_mm": 14}, {"type": "solid"}]


@pytest.fixture(scope="module")
def person():
    return phantom.simulate(FULL | {"nodules": NODULES, "mimics": 6, "small_nodules": 2, "photons": 1.5e5}, seed=3, index=1)


def voxels(scan, table):
    return scan.to_voxel(table[["coordX", "coordY", "coordZ"]].to_numpy())


def test_it_is_a_scan_in_luna16_geometry(person):
    scan = person.scan
    assert scan.hu.dtype == np.int16 and scan.hu.shape == person.lungs.shape == person.labels.shape == FULL["shape"]
    assert np.array_equal(scan.direction, np.eye(3)) and all(scan.origin)
    assert scan.uid == "1.2.826.0.1.3680043.10.1.3.1"
    assert person.lungs.dtype == person.labels.dtype == np.uint8
    left, right = ((person.lungs == k).nonzero() for k in (3, 4))
    world = [scan.to_world(np.array(side).T)[:, 0].mean() for side in (left, right)]
    assert world[0] > world[1]  # x grows towards the patient's left
    assert min(len(left[0]), len(right[0])) > 0.3 * len(left[0])


def test_masks_agree_with_the_table(person):
    table, scan = person.nodules, person.scan
    assert list(table) == ["coordX", "coordY", "coordZ", "diameter_mm", "type", "attachment"]
    assert set(np.unique(person.labels)) == set(range(len(table) + 1))
    for k, (centre, diameter) in enumerate(zip(voxels(scan, table), table.diameter_mm, strict=True), start=1):
        mask = person.labels == k
        assert np.abs(np.argwhere(mask).mean(0) - centre).max() < 1
        equivalent = np.cbrt(mask.sum() * np.prod(scan.spacing) * 6 / np.pi)
        assert equivalent == pytest.approx(diameter, rel=0.15 if diameter >= 8 else 0.3)
    wanted = [n.get("diameter_mm") for n in NODULES[:-1]]
    assert table.diameter_mm.tolist()[: len(wanted)] == wanted
    assert table.type.tolist()[: len(NODULES)] == [n["type"] for n in NODULES]
    assert table.diameter_mm.iloc[-2:].between(3, 6).all()


def test_nodules_lie_in_the_lungs_and_apart(person):
    centres = voxels(person.scan, person.nodules)
    assert (person.lungs[tuple(np.rint(centres).astype(int).T)] > 0).all()
    assert (person.lungs[person.labels > 0] > 0).mean() > 0.97
    for k in range(1, len(centres) + 1):
        others = (person.labels > 0) & (person.labels != k)
        assert not (ndimage.binary_dilation(person.labels == k, iterations=1) & others).any()


def test_values_by_type(person):
    hu = person.scan.hu
    ranges = {"solid": (-80, 100), "fully_calcified": (250, 1050), "ground_glass": (-800, -400), "part_solid": (-720, -150)}
    for k, row in person.nodules.iterrows():
        mask = person.labels == k + 1
        if row.diameter_mm >= 10:
            inner = ndimage.binary_erosion(mask)
            low, high = ranges[row.type]
            assert low < hu[inner].mean() < high, row.type
    lungs = ndimage.binary_erosion((person.lungs > 0) & (person.labels == 0), iterations=2)
    assert -910 < np.median(hu[lungs]) < -800
    z, y, x = np.nonzero(lungs)
    front, back = (np.median(hu[z[part], y[part], x[part]]) for part in (y < np.quantile(y, 0.2), y > np.quantile(y, 0.8)))
    assert front + 20 < back  # denser where the patient lies


def test_a_classical_lung_mask_finds_these_lungs(person):
    found, truth = ct.lung_mask(person.scan), person.lungs > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.88


def test_low_dose_noise_is_that_of_a_low_dose_scan():
    recipe = phantom.check_recipe({"shape": (60, 176, 220), "spacing": (1.25, 1.25, 3.0)})  # a whole chest in few slices
    grid, person, _, hu, lungs = phantom.anatomy(recipe, 0, 0)
    grid_noise = phantom.scanner.noise(hu, (1.25, 1.25, 1.25), 3e4, "soft", np.random.default_rng(0))
    inside = ndimage.binary_erosion(lungs > 0, iterations=2)
    heart = grid.fine(person.heart) < -8
    assert 16 < grid_noise[inside].std() < 25
    assert 26 < grid_noise[heart].std() < 38


def test_mimics_are_listed_and_none_is_a_nodule(person):
    assert list(person.mimics) == ["coordX", "coordY", "coordZ", "diameter_mm", "kind"]
    assert len(person.mimics) == 6 and set(person.mimics.kind) <= set(phantom.MIMICS)
    near = np.clip(np.rint(voxels(person.scan, person.mimics)).astype(int), 0, np.array(person.labels.shape) - 1)
    assert (person.labels[tuple(near.T)] == 0).all()


def test_each_person_depends_on_seed_and_index_alone():
    first = phantom.simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 5)
    other = phantom.simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 6)
    np.random.seed(99)
    again = phantom.simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 5)
    assert np.array_equal(first.scan.hu, again.scan.hu) and first.nodules.equals(again.nodules) and first.mimics.equals(again.mimics)
    assert (first.scan.hu != other.scan.hu).mean() > 0.5
    assert (first.scan.hu != phantom.simulate(TINY, 1, 5).scan.hu).mean() > 0.5


def test_streams_are_disjoint():
    draws = [phantom.stream(s, i, part).random(200) for s, i in ((0, 0), (0, 1), (1, 0), (1, 1)) for part in ("noise", "nodules")]
    assert len(np.unique(np.concatenate(draws))) == 200 * len(draws)


def test_one_thread_or_two_give_the_same_voxels():
    script = (
        "import hashlib; from lungadv import phantom; "
        f"p = phantom.simulate({TINY | {'nodules': NODULES, 'mimics': 6}!r}, 0, 0); print(hashlib.sha256(p.scan.hu.tobytes()).hexdigest())"
    )
    digests = []
    for threads in ("1", "2"):
        env = os.environ | {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, encoding="utf-8")
        digests.append(done.stdout.strip())
    here = phantom.simulate(TINY | {"nodules": NODULES, "mimics": 6}, 0, 0).scan.hu
    assert digests == [hashlib.sha256(here.tobytes()).hexdigest()] * 2


def test_a_shifted_person_is_sharper_and_noisier():
    plain, shifted = (phantom.simulate(TINY | {"shift": shift}, 0, 0) for shift in (False, True))
    inner = ndimage.binary_erosion(plain.lungs > 0, iterations=2)
    assert shifted.scan.hu[inner].astype(float).std() > plain.scan.hu[inner].astype(float).std()
    assert np.array_equal(plain.lungs, shifted.lungs)


def test_diameters_follow_the_law():
    rng = np.random.default_rng(0)
    diameters = np.array([phantom.draw_diameter(rng) for _ in range(3000)])
    assert diameters.min() >= 6 and diameters.max() <= 30
    assert 0.55 < (diameters < 12).mean() < 0.9 and (diameters > 20).mean() > 0.02


def test_every_kind_of_mimic_can_be_drawn():
    recipe = phantom.check_recipe(TINY)
    grid, person, trees, hu, _ = phantom.anatomy(recipe, 0, 0)
    for k, kind in enumerate(phantom.MIMICS):
        rng = np.random.default_rng(k)
        before = hu.copy()
        centre, diameter = phantom.draw_mimic(hu, grid, person, phantom.Placer(grid, person, trees, rng), kind, trees, rng)
        changed = np.argwhere(np.abs(hu - before) > 20)
        assert len(changed) and 2 < diameter < 40
        assert np.linalg.norm((changed - grid.index(centre)) * 2.5, axis=1).min() < 6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"photons": -1}, "photons"),
        ({"photons": 0}, "photons"),
        ({"spacing": (1.25, 1.25, 0)}, "spacing"),
        ({"shape": (64, 80)}, "shape"),
        ({"shape": (40, 40, 40)}, "shape and spacing"),
        ({"nodules": [{"type": "liquid"}]}, "type 'liquid'"),
        ({"nodules": [{"type": "solid", "diameter_mm": 90}]}, "diameter_mm 90"),
        ({"nodules": [{"type": "solid", "diameter_mm": -3}]}, "diameter_mm -3"),
        ({"nodules": [{"type": "solid", "diameter_mm": 25}] * 120}, "more nodules than fit"),
        ({"mimics": -1}, "mimics"),
        ({"small_nodules": 1.5}, "small_nodules"),
        ({"dose": 3}, "'dose'"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(change, name):
    with pytest.raises(ValueError, match=name):
        phantom.simulate(TINY | change, 0, 0)
