"""The lung mask: against the phantom's own lungs in whole, cut, turned and diseased chests, and on real scans."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from lungadv.data import lungs
from lungadv.data.io.read import read_scan
from lungadv.data.lungs import extent_mm, lung_mask, slab_remark
from lungadv.data.scan import AIR, Scan
from lungadv.data.tables import TYPES
from lungadv.phantom.simulate import simulate
from tests.data.real_files import REAL, UID, real

SPACING = (3.0, 3.0, 3.0)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def scan_of(hu, spacing=SPACING, direction=None):
    hu = np.ascontiguousarray(np.clip(np.rint(hu), -1024, 3071), dtype=np.int16)
    return Scan(hu, spacing, (0, 0, 0), np.eye(3) if direction is None else direction, "chest")


@pytest.fixture(scope="module")
def chest():
    """A whole chest on a table: HU and labels (3 left, 4 right)."""
    person = simulate({"shape": (100, 92, 117), "spacing": SPACING}, seed=100, index=0)
    return person.scan.hu, person.lungs


@pytest.fixture(scope="module")
def found(chest):
    return lung_mask(scan_of(chest[0]))


def test_it_finds_the_lungs_and_leaves_out_airways_bowel_and_table(chest, found):
    hu, truth = chest[0], chest[1] > 0
    assert dice(found, truth) > 0.97
    dark_elsewhere = (hu < -700) & ~ndimage.binary_dilation(truth, iterations=2)
    assert dark_elsewhere.sum() > 5_000 and found[dark_elsewhere].mean() < 1e-4


def test_nodules_lie_inside():
    nodules = [{"type": name, "diameter_mm": mm} for name, mm in zip(TYPES, (25, 22, 14, 12), strict=True)]
    person = simulate({"shape": (120, 110, 140), "spacing": (2.5,) * 3, "nodules": nodules, "photons": 1e4}, seed=101, index=0)
    mask = lung_mask(person.scan)
    assert dice(mask, person.lungs > 0) > 0.95
    assert mask[person.labels > 0].mean() > 0.97


def test_a_big_nodule_on_the_chest_wall_lies_inside(chest, found):
    hu, truth = chest[0].copy(), chest[1] == 4
    z = int(np.median(np.nonzero(truth)[0]))
    y, x = np.nonzero(truth[z])
    outermost = x.argmin()
    centre = np.array([z, y[outermost], x[outermost] + 2.5])  # 7.5 mm from the wall
    away = np.linalg.norm(np.stack(np.indices(hu.shape), -1) - centre, axis=-1) * SPACING[0]
    nodule = (away < 11.7) & truth
    hu[nodule] = 30
    mask = lung_mask(scan_of(hu))
    assert mask[nodule].mean() > 0.99
    assert (mask & ~found).sum() < 0.3 * nodule.sum()  # and no more of the wall than a margin


def test_flips_and_turns_make_no_difference(chest, found):
    hu = chest[0][::2, ::2, ::2]
    straight = lung_mask(scan_of(hu, (6, 6, 6)))
    for order, signs in list(product(permutations(range(3)), product((1, -1), repeat=3)))[::7]:
        flips = tuple(slice(None, None, sign) for sign in signs)
        direction = np.zeros((3, 3))
        for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
            direction[2 - world, 2 - axis] = sign
        mask = lung_mask(scan_of(hu.transpose(order)[flips], (6, 6, 6), direction))
        assert dice(mask, straight.transpose(order)[flips]) > 0.995  # blocks begin at the other end of a flipped axis


@pytest.mark.parametrize("slices", [(47, 54), (20, 28), (78, 86), (50, 52)], ids=str)
def test_a_slab_that_is_open_above_and_below(chest, slices):
    hu, truth = (values[slice(*slices)] for values in chest)
    assert dice(lung_mask(scan_of(hu)), truth > 0) > 0.96


@pytest.mark.parametrize("crop", [np.s_[:, :, :53], np.s_[:, :, 27:-27], np.s_[:, 27:, 27:], np.s_[:, :-40]], ids=str)
def test_lungs_that_are_cut_by_the_side_of_the_scan(chest, crop):
    hu, truth = (values[crop] for values in chest)
    assert dice(lung_mask(scan_of(hu)), truth > 0) > 0.95


def test_lungs_that_are_cut_by_a_padding_circle(chest):
    hu, truth = chest[0].copy(), chest[1] > 0
    y, x = np.mgrid[: hu.shape[1], : hu.shape[2]]
    outside = np.hypot(y - 46, x - 58) > 35
    hu[:, outside] = AIR
    assert dice(lung_mask(scan_of(hu)), truth & ~outside) > 0.95


def test_thick_and_thin_slices(chest):
    hu, truth = chest
    thick, coarse = (values[:99].reshape(33, 3, *hu.shape[1:]).mean(1) for values in (hu, truth > 0))
    assert dice(lung_mask(scan_of(thick, (3, 3, 9))), coarse > 0.5) > 0.95
    thin = np.repeat(hu[40:60], 4, axis=0)
    assert dice(lung_mask(scan_of(thin, (3, 3, 0.75))), np.repeat(truth[40:60] > 0, 4, axis=0)) > 0.97


def test_arms_and_a_blanket_beside_the_body(chest, found):
    hu = np.pad(chest[0], [(0, 0), (0, 0), (33, 33)], constant_values=-1000)
    y, x = np.mgrid[: hu.shape[1], : hu.shape[2]]
    for middle in (20, hu.shape[2] - 21):
        hu[:, np.hypot(y - 46, x - middle) < 12] = 40
    beside = (np.abs(y - 46) < 8) & ((x < 42) | (x >= hu.shape[2] - 42))
    hu[:, beside] = np.where(hu[:, beside] < -900, -850, hu[:, beside])  # folds of a blanket between arm and chest
    mask = lung_mask(scan_of(hu + np.random.default_rng(0).normal(0, 5, hu.shape)))
    assert dice(mask[:, :, 33:-33], found) > 0.98 and not mask[:, :, :33].any() and not mask[:, :, -33:].any()


def test_emphysema_and_low_dose_lose_no_lung_and_airways_do_not_leak(chest):
    hu, truth = chest[0].astype(float), chest[1] > 0
    rng = np.random.default_rng(0)
    holes = ndimage.gaussian_filter(rng.standard_normal(hu.shape), 2.5)
    lung = truth & (hu < -700)
    hu[lung] -= 60
    hu[lung & (holes > holes.std())] = -985
    mask = lung_mask(scan_of(hu + rng.normal(0, 60, hu.shape)))
    assert mask[truth].mean() > 0.97 and dice(mask, truth) > 0.95


def test_one_lung_alone(chest):
    hu, labels = chest
    assert dice(lung_mask(scan_of(np.where(labels == 3, 40, hu))), labels == 4) > 0.97


def test_a_small_second_lung(chest):
    hu, labels = chest
    apex = labels == 4
    apex[: np.nonzero(apex.any((1, 2)))[0][-1] - 13] = False
    mask = lung_mask(scan_of(np.where((labels == 4) & ~apex, 40, hu)))
    assert mask[apex].mean() > 0.97


def test_no_lung_no_mask(chest):
    hu, labels = chest
    below = np.nonzero((labels > 0).any((1, 2)))[0][0]
    assert below > 3
    even = [np.full((5, 20, 20), value) for value in (-1000, -850, 40)]
    for voxels in (hu[:below], np.where(labels > 0, 40, hu), *even):
        mask = lung_mask(scan_of(voxels))
        assert mask.shape == voxels.shape and mask.dtype == bool and not mask.any()


def test_it_leaves_the_scan_as_it_is(chest):
    scan = scan_of(chest[0][50:56])
    before = scan.hu.copy()
    lung_mask(scan)
    assert (scan.hu == before).all()


def test_a_part_of_a_chest_is_told_by_its_height():
    slices = np.full((9, 8, 8), -850, np.int16)
    slab = Scan(slices, (1.0, 1.0, 2.5), (0.0, 0.0, 0.0), np.eye(3), "slab")
    assert extent_mm(slab) == 22.5 and slab_remark(slab) == "covers only 22 mm: a slab, not a chest"
    chest = Scan(np.full((50, 8, 8), -850, np.int16), (1.0, 1.0, 2.5), (0.0, 0.0, 0.0), np.eye(3), "chest")
    assert slab_remark(chest) == ""
    chest.hu[:20] = AIR  # padding
    assert extent_mm(chest) == 75


def test_blocks_and_rays_by_hand():
    voxels = np.arange(24).reshape(2, 3, 4)
    assert (lungs._block_mean(voxels, (1, 2, 3))[0] == [[3, 5], [9, 11]]).all()
    row = np.array([[[0, 2, 0, 0, 1, 0]]])
    assert lungs._first_along(row, 2, -1).tolist() == [[[0, 2, 2, 2, 1, 1]]]
    assert lungs._first_along(row, 2, 1).tolist() == [[[2, 2, 1, 1, 1, 0]]]


# ---- real scans ----


def labels_of(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(REAL / path)))


@real
def test_every_voxel_of_the_real_nodule_lies_inside_and_a_slab_agrees_with_the_whole():
    whole, slab = read_scan(REAL / "lidc_idri_0001" / f"{UID}.mhd"), read_scan(REAL / "lidc_idri_0001" / "dicom")
    mask, votes = lung_mask(whole), labels_of(f"lidc_idri_0001/{UID}_nodule_votes.nii.gz")
    assert mask[votes >= 2].all() and mask[votes >= 1].mean() > 0.999
    assert 3.5 < mask.sum() * np.prod(whole.spacing) / 1e6 < 4 and not mask[:, :100].any()
    first = round(whole.to_voxel([slab.origin])[0, 0])
    assert dice(lung_mask(slab), mask[first : first + 9]) > 0.97


@real
@pytest.mark.parametrize("kind", ["", "-transformed"])
def test_dice_with_labels_of_others(kind):
    labels = labels_of(f"cip_ct64/lm-64{kind}.nrrd") > 0
    assert dice(lung_mask(read_scan(REAL / "cip_ct64" / f"ct-64{kind}.nrrd")), labels) > 0.95


@real
@pytest.mark.parametrize(
    ("path", "low", "high"),
    [
        ("elastix/3DCT_lung_baseline_small.mha", 3.0, 3.35),  # one lung, cut at the mediastinum, without the hilum
        ("totalsegmentator/thorax_ct_cropped.nii.gz", 1.6, 2.0),  # cut on every side
        ("totalsegmentator/abdomen_example_ct_sm.nii.gz", 0.08, 0.15),  # the bases of the lungs, and bowel
        ("lung_pet_ct_dx_A0002/dicom", 0.35, 0.5),  # three slices of 8 mm
    ],
)
def test_litres_in_crops(path, low, high):
    scan = read_scan(REAL / path)
    assert low < lung_mask(scan).sum() * np.prod(scan.spacing) / 1e6 < high


@real
def test_bowel_alone_is_no_lung():
    scan = read_scan(REAL / "totalsegmentator" / "abdomen_example_ct_sm.nii.gz")
    assert not lung_mask(scan_of(scan.hu[:15], scan.spacing, scan.direction)).any()
