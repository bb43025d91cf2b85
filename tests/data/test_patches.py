"""Patches and resampled scans against SimpleITK."""

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from lungadv.data.io.read import read_scan
from lungadv.data.patches import _grid_points, _sample_oblique, extract_patches, resample
from lungadv.data.scan import AIR, Scan, ScanError
from tests.data.made_scans import DIRECTIONS, noise_scan, sitk_patch, to_sitk
from tests.data.real_files import REAL, UID, real


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("size, spacing", [(8, 0.625), (7, 1.25)])
def test_patches_are_itks_trilinear_samples(direction, size, spacing):
    scan = noise_scan(direction)
    centres = scan.to_world(np.random.default_rng(2).uniform([6, 8, 8], [13, 18, 24], (5, 3)))
    patches = extract_patches(scan, centres, size, spacing)
    assert patches.shape == (5, 1, size, size, size) and patches.dtype.is_floating_point
    for patch, centre in zip(patches.numpy(), centres, strict=True):
        assert np.abs(patch[0] - sitk_patch(scan, centre, size, spacing)).max() < 0.1


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_patches_over_the_edge_are_air_outside(direction):
    scan = noise_scan(direction)
    for voxel in ([0, 0, 0], [19, 12.3, 33], [25, 30, 40], [-500, 0, 0]):
        centre = scan.to_world([voxel])
        patch, reference = extract_patches(scan, centre, 12, 1.1)[0, 0].numpy(), sitk_patch(scan, centre[0], 12, 1.1)
        assert (np.abs(patch - reference) < 0.1).mean() > 0.995  # a sample on a face may fall to either side
    assert (patch == AIR).all()


def test_patch_far_from_the_first_voxel_keeps_its_precision():
    scan = noise_scan(shape=(6, 6, 4000))
    centre = scan.to_world([[3, 3, 3900.37]])
    assert np.abs(extract_patches(scan, centre, 4, 0.5)[0, 0].numpy() - sitk_patch(scan, centre[0], 4, 0.5)).max() < 0.1


def test_no_centres_give_no_patches_and_bad_ones_an_error():
    scan = noise_scan()
    assert extract_patches(scan, np.empty((0, 3)), 8).shape == (0, 1, 8, 8, 8)
    for bad in ([[0, 0, np.nan]], [0, 0, 0], [[1, 2]]):
        with pytest.raises(ScanError):
            extract_patches(scan, bad, 8)


class Lazy:
    """An array that gives slices only, as one on a disk does."""

    def __init__(self, array):
        self.array, self.shape, self.ndim, self.dtype = array, array.shape, array.ndim, array.dtype

    def __getitem__(self, index):
        assert all(isinstance(part, slice) for part in index) and len(index) == 3
        return self.array[index]


@pytest.mark.parametrize("name", ["straight", "permuted", "oblique"])
def test_patches_of_an_array_that_is_read_slice_by_slice(name):
    scan = noise_scan(DIRECTIONS[name])
    lazy = Scan(Lazy(scan.hu), scan.spacing, scan.origin, scan.direction, "lazy")
    centres = scan.to_world([[9, 12, 15], [0, 0, 0], [-90, 0, 0]])
    assert (extract_patches(lazy, centres, 8) == extract_patches(scan, centres, 8)).all()


@pytest.mark.parametrize("spacing, step, size", [((0.7, 0.7, 1.25), 0.625, 32), ((1.25,) * 3, 1.25, 32), ((0.6, 0.65, 0.77), 2.5, 7)])
def test_patches_along_the_axes_equal_the_general_ones_but_for_rounding(spacing, step, size):
    scan = noise_scan(spacing=spacing, shape=(40, 50, 60))
    centres = scan.to_world(np.random.default_rng(1).uniform(-5, 60, (20, 3)))
    grid = _grid_points(np.linalg.inv(scan.direction * scan.spacing) * step, (size,) * 3)
    starts = scan.to_voxel(centres - (size - 1) / 2 * step)[:, ::-1]
    general = np.array([_sample_oblique(scan.hu, start, grid) for start in starts])
    patches = extract_patches(scan, centres, size, step)[:, 0].numpy()
    assert general.std() > 100 and np.abs(patches - general).max() < 0.002  # HU
    assert ((patches == AIR) == (general == AIR)).all()


@pytest.mark.parametrize("name", ["straight", "flipped", "oblique"])
def test_resample_to_a_finer_grid_is_itks(name):
    scan = noise_scan(DIRECTIONS[name], spacing=(2.0, 2.0, 2.5))
    fine = resample(scan, 1.0)
    assert (fine.direction == np.eye(3)).all() and fine.spacing == (1, 1, 1)
    grid = to_sitk(fine)
    reference = sitk.GetArrayFromImage(sitk.Resample(to_sitk(scan), grid, sitk.Transform(), sitk.sitkLinear, AIR, sitk.sitkFloat32))
    assert (np.abs(fine.hu - reference) <= 0.6).mean() > 0.99
    corners = fine.to_voxel(scan.to_world(np.array([[0, 0, 0], [19, 25, 33], [19, 0, 33]])))
    assert (corners >= -0.5).all() and (corners <= np.array(fine.hu.shape) - 0.5).all()  # it covers the scan


@pytest.mark.parametrize("name", ["straight", "flipped", "permuted"])
def test_resample_to_half_is_the_mean_of_blocks(name):
    scan = noise_scan(DIRECTIONS[name], spacing=(1.25,) * 3, shape=(12, 16, 20))
    half = resample(scan, 2.5)
    blocks = scan.hu.reshape(6, 2, 8, 2, 10, 2).mean(axis=(1, 3, 5))
    centres = scan.to_world(np.argwhere(np.ones(blocks.shape)) * 2 + 0.5)
    index = half.to_voxel(centres)
    assert np.allclose(index, index.round(), atol=1e-6) and half.hu.size == blocks.size
    assert np.abs(half.hu[tuple(index.round().astype(int).T)] - blocks.ravel()).max() <= 1


@real
def test_lidc_nodule_lies_where_luna16_says():
    scan = read_scan(REAL / "lidc_idri_0001" / f"{UID}.mhd")
    assert scan.hu.shape == (107, 512, 512) and scan.uid == UID and scan.spacing == (0.703125, 0.703125, 2.5)
    assert scan.hu.min() >= -1024 and scan.hu.max() == 3071 and scan.hu[0, 0, 0] == AIR
    nodule = [[56.208405, 86.343413, -115.867579]]
    assert np.allclose(scan.to_voxel(nodule), [[70.7, 367.0, 316.0]], atol=0.06)
    patch = extract_patches(scan, nodule, 32, 0.625)[0, 0].numpy()
    assert patch[12:20, 12:20, 12:20].mean() > -100 and np.abs(patch - sitk_patch(scan, nodule[0], 32, 0.625)).max() < 0.1


def test_patches_are_cut_without_simpleitk():
    code = """
import sys
sys.modules["SimpleITK"] = sys.modules["pydicom"] = None  # importing them fails
import numpy as np
import lungadv.data.io.read, lungadv.data.io.write
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan
scan = Scan(np.zeros((4, 4, 4), np.int16), (1, 1, 1), (0, 0, 0), np.eye(3), "a")
print(extract_patches(scan, [[1, 1, 1]], 2, 1).sum().item())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert result.stdout == "0.0\n", result.stderr
