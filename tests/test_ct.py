"""ct against SimpleITK, hand-computed geometry and, where they are at hand, real scans (LUNGADV_REAL_CT)."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from lungadv import ct

REAL = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).resolve().parents[2] / "shared" / "real_ct")
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans at {REAL}: set LUNGADV_REAL_CT")
LIDC = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"


def rotation(axis, degrees):
    """A rotation matrix about an axis."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def noise_scan(direction=None, spacing=(0.7, 0.9, 2.0), shape=(20, 26, 34), seed=0):
    """A scan of noise: any error of geometry shows."""
    hu = np.random.default_rng(seed).integers(-1000, 1500, shape, dtype=np.int16)
    return ct.Scan(hu, spacing, (-30.5, 12.25, -280), np.eye(3) if direction is None else direction, "noise")


def to_sitk(scan):
    image = sitk.GetImageFromArray(scan.hu)
    image.SetSpacing(scan.spacing)
    image.SetOrigin(scan.origin)
    image.SetDirection(scan.direction.ravel().tolist())
    return image


def sitk_patch(scan, centre, size, spacing):
    """The same patch by SimpleITK."""
    origin = np.array(centre) - (size - 1) / 2 * spacing
    grid = ((size,) * 3, sitk.Transform(), sitk.sitkLinear, origin.tolist(), (spacing,) * 3, np.eye(3).ravel().tolist())
    return sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(to_sitk(scan), sitk.sitkFloat64), *grid, ct.AIR))


DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "mirrored": np.diag([1.0, 1.0, -1.0]),
    "permuted": np.eye(3)[[2, 0, 1]],
    "rotated": rotation([0, 0, 1], 20),
    "oblique": rotation([1, 2, 3], 35),
}


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_coordinates_agree_with_itk_both_ways(direction):
    scan = noise_scan(direction)
    voxels = np.random.default_rng(1).uniform(-5, 40, (50, 3))
    world = np.array([to_sitk(scan).TransformContinuousIndexToPhysicalPoint(voxel[::-1].tolist()) for voxel in voxels])
    assert np.allclose(scan.to_world(voxels), world, atol=1e-9)
    assert np.allclose(scan.to_voxel(world), voxels, atol=1e-9)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("size, spacing", [(8, 0.625), (7, 1.25)])
def test_patches_are_itks_trilinear_samples(direction, size, spacing):
    scan = noise_scan(direction)
    centres = scan.to_world(np.random.default_rng(2).uniform([6, 8, 8], [13, 18, 24], (5, 3)))
    patches = ct.extract_patches(scan, centres, size, spacing)
    assert patches.shape == (5, 1, size, size, size) and patches.dtype.is_floating_point
    for patch, centre in zip(patches.numpy(), centres, strict=True):
        assert np.abs(patch[0] - sitk_patch(scan, centre, size, spacing)).max() < 0.1


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_patches_over_the_edge_are_air_outside(direction):
    scan = noise_scan(direction)
    for voxel in ([0, 0, 0], [19, 12.3, 33], [25, 30, 40], [-500, 0, 0]):
        centre = scan.to_world([voxel])
        patch, reference = ct.extract_patches(scan, centre, 12, 1.1)[0, 0].numpy(), sitk_patch(scan, centre[0], 12, 1.1)
        assert (np.abs(patch - reference) < 0.1).mean() > 0.995  # a sample on a face may fall to either side
    assert (patch == ct.AIR).all()


def test_patch_far_from_the_first_voxel_keeps_its_precision():
    scan = noise_scan(shape=(6, 6, 4000))
    centre = scan.to_world([[3, 3, 3900.37]])
    assert np.abs(ct.extract_patches(scan, centre, 4, 0.5)[0, 0].numpy() - sitk_patch(scan, centre[0], 4, 0.5)).max() < 0.1


def test_no_centres_give_no_patches_and_bad_ones_an_error():
    scan = noise_scan()
    assert ct.extract_patches(scan, np.empty((0, 3)), 8).shape == (0, 1, 8, 8, 8)
    for bad in ([[0, 0, np.nan]], [0, 0, 0], [[1, 2]]):
        with pytest.raises(ct.ScanError):
            ct.extract_patches(scan, bad, 8)


@pytest.mark.parametrize("name", ["straight", "flipped", "oblique"])
def test_resample_to_a_finer_grid_is_itks(name):
    scan = noise_scan(DIRECTIONS[name], spacing=(2.0, 2.0, 2.5))
    fine = ct.resample(scan, 1.0)
    assert (fine.direction == np.eye(3)).all() and fine.spacing == (1, 1, 1)
    grid = to_sitk(fine)
    reference = sitk.GetArrayFromImage(sitk.Resample(to_sitk(scan), grid, sitk.Transform(), sitk.sitkLinear, ct.AIR, sitk.sitkFloat32))
    assert (np.abs(fine.hu - reference) <= 0.6).mean() > 0.99
    corners = fine.to_voxel(scan.to_world(np.array([[0, 0, 0], [19, 25, 33], [19, 0, 33]])))
    assert (corners >= -0.5).all() and (corners <= np.array(fine.hu.shape) - 0.5).all()  # it covers the scan


@pytest.mark.parametrize("name", ["straight", "flipped", "permuted"])
def test_resample_to_half_is_the_mean_of_blocks(name):
    scan = noise_scan(DIRECTIONS[name], spacing=(1.25,) * 3, shape=(12, 16, 20))
    half = ct.resample(scan, 2.5)
    blocks = scan.hu.reshape(6, 2, 8, 2, 10, 2).mean(axis=(1, 3, 5))
    centres = scan.to_world(np.argwhere(np.ones(blocks.shape)) * 2 + 0.5)
    index = half.to_voxel(centres)
    assert np.allclose(index, index.round(), atol=1e-6) and half.hu.size == blocks.size
    assert np.abs(half.hu[tuple(index.round().astype(int).T)] - blocks.ravel()).max() <= 1


def test_unit_window():
    assert ct.to_unit(np.array([-1000, 400, -32768, 32767], np.int16)).tolist() == [0, 1, 0, 1]
    assert np.isclose(ct.to_unit(np.float32(-972)) - ct.to_unit(np.float32(-1000)), 0.02)  # eps 0.02 is 28 HU
    assert np.allclose(ct.to_hu(ct.to_unit(np.arange(-1000, 401))), np.arange(-1000, 401))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_write_and_read_back(tmp_path, direction):
    scan = noise_scan(direction)
    ct.write_scan(scan, tmp_path / "1.2.840.3.mhd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.2.840.3.mhd", "1.2.840.3.zraw"]
    again = ct.read_scan(tmp_path / "1.2.840.3.mhd")
    assert (again.hu == scan.hu).all() and again.hu.dtype == np.int16 and again.uid == "1.2.840.3"
    assert np.allclose(again.origin, scan.origin) and np.allclose(again.spacing, scan.spacing)
    assert np.allclose(again.direction, scan.direction)


def phantom_scan(name):
    """Noise whose geometry has decimals, with a uid that DICOM accepts."""
    spacing, origin = (0.703125, 2 / 3, 1.2345), (-173.1234567, 12.25, -1280.04)
    return ct.Scan(noise_scan().hu, spacing, origin, DIRECTIONS[name], "1.2.826.0.1.3680043.10.1.5")


@pytest.mark.parametrize("name", ["straight", "flipped", "permuted", "rotated", "oblique"])
def test_dicom_series_is_read_alike_by_itk(tmp_path, name):
    scan = phantom_scan(name)
    ct.write_series(scan, tmp_path / "series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series"), scan.uid))
    image = reader.Execute()
    assert (sitk.GetArrayFromImage(image) == scan.hu).all()
    assert np.allclose(image.GetSpacing(), scan.spacing, rtol=0, atol=1e-6)
    assert np.allclose(image.GetOrigin(), scan.origin, rtol=0, atol=1e-6)
    assert np.allclose(image.GetDirection(), scan.direction.ravel(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["rotated", "mirrored"])
def test_dicom_series_round_trip(tmp_path, name):
    scan = phantom_scan(name)
    ct.write_series(scan, tmp_path / "series")
    again = ct.read_scan(tmp_path / "series")
    assert again.uid == scan.uid
    index = again.to_voxel(scan.to_world(np.argwhere(np.ones(scan.hu.shape))))  # a mirrored scan's slices come back in reverse order
    assert np.allclose(index, index.round(), atol=1e-3)
    assert (again.hu[tuple(index.round().astype(int).T)] == scan.hu.ravel()).all()


def test_dicom_slices_are_decoded_alike_by_pydicom(tmp_path):
    scan = phantom_scan("rotated")
    ct.write_series(scan, tmp_path / "series")
    for z, path in enumerate(sorted((tmp_path / "series").iterdir())):
        file = pydicom.dcmread(path)
        assert (file.pixel_array * file.RescaleSlope + file.RescaleIntercept == scan.hu[z]).all() and file.RescaleType == "HU"
        assert np.allclose(file.ImagePositionPatient, scan.to_world([[z, 0, 0]])[0], atol=1e-6)
        assert np.allclose(file.PixelSpacing, (scan.spacing[1], scan.spacing[0])) and np.isclose(file.SliceThickness, scan.spacing[2])
        assert (file.SeriesInstanceUID, file.InstanceNumber, file.PatientPosition) == (scan.uid, z + 1, "HFS")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy: install dicom3tools")
@pytest.mark.parametrize("name", ["straight", "oblique"])
def test_dicom_series_obeys_the_standard(tmp_path, name):
    ct.write_series(phantom_scan(name), tmp_path / "series")
    paths = sorted((tmp_path / "series").iterdir())
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        assert _complaints("dciodvfy", path) == ["CTImage"]  # the kind of object, and neither an Error nor a Warning
    assert _complaints("dcentvfy", *paths) == []


def _complaints(tool, *paths):
    result = subprocess.run([tool, *map(str, paths)], capture_output=True, encoding="latin-1")
    return (result.stdout + result.stderr).splitlines()


def test_one_scan_gives_the_same_dicom_bytes(tmp_path):
    scan = phantom_scan("rotated")
    ct.write_series(scan, tmp_path / "one")
    time.sleep(1.1)  # files that hold the time would differ now
    ct.write_series(scan, tmp_path / "two")
    one, two = ([(path.name, path.read_bytes()) for path in sorted((tmp_path / name).iterdir())] for name in ("one", "two"))
    assert len(one) == len(scan.hu) and one == two


@pytest.mark.parametrize("uid", ["noise", "", "1..2", "1.2.", "1.02", "1.2\n", "1." + "2" * 54])
def test_a_uid_that_dicom_refuses_is_refused(tmp_path, uid):
    with pytest.raises(ct.ScanError, match="at most 55 digits"):
        ct.write_series(ct.Scan(noise_scan().hu, (1, 1, 1), (0, 0, 0), np.eye(3), uid), tmp_path / "series")
    assert list(tmp_path.iterdir()) == []


def test_a_header_has_the_scans_geometry(tmp_path):
    scan = noise_scan(DIRECTIONS["oblique"])
    ct.write_scan(scan, tmp_path / "a.mhd")
    header = ct.read_header(tmp_path / "a.mhd")
    assert header.hu.shape == scan.hu.shape and np.allclose(header.to_world([[3, 4, 5]]), scan.to_world([[3, 4, 5]]))
    (tmp_path / "a.zraw").unlink()
    with pytest.raises(ct.ScanError, match="not beside it"):
        ct.read_header(tmp_path / "a.mhd")


@pytest.mark.parametrize("kind", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_other_file_kinds(tmp_path, kind):
    scan = noise_scan(DIRECTIONS["oblique"])
    sitk.WriteImage(to_sitk(scan), str(tmp_path / f"a.b{kind}"))
    again = ct.read_scan(tmp_path / f"a.b{kind}")
    assert (again.hu == scan.hu).all() and again.uid == "a.b"
    assert np.allclose(again.to_world([[3, 4, 5]]), scan.to_world([[3, 4, 5]]), atol=1e-4)


def test_uncompressed_raw_and_padding(tmp_path):
    hu = np.full((4, 5, 6), -2048, np.int16)
    hu[1:3] = [[[-1024]], [[70]]]
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "a.mhd"))
    assert (tmp_path / "a.raw").exists()
    assert np.unique(ct.read_scan(tmp_path / "a.mhd").hu).tolist() == [-1024, ct.AIR, 70]


def test_float_voxels_are_rounded(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), -700.6, np.float32)), str(tmp_path / "a.nrrd"))
    assert (ct.read_scan(tmp_path / "a.nrrd").hu == -701).all()


def bad_files(folder):
    """One file of each kind of trouble: path and what its error must say."""
    good = noise_scan()
    for name in ("short", "lost", "short_raw"):
        ct.write_scan(good, folder / f"{name}.mhd")
    (folder / "short.zraw").write_bytes((folder / "short.zraw").read_bytes()[:2000])
    (folder / "lost.zraw").unlink()
    sitk.WriteImage(to_sitk(good), str(folder / "raw.mhd"))
    (folder / "raw.raw").write_bytes(b"\0" * 1000)
    (folder / "text.mhd").write_text("hello\n")
    (folder / "text.nrrd").write_text("hello\n")
    (folder / "text.csv").write_text("hello\n")
    (folder / "empty").mkdir()
    array = np.zeros((4, 5, 6), np.float32)
    array[2, 2, 2] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "nan.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 5, 6), 70_000, np.int32)), str(folder / "large.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.int16)), str(folder / "flat.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.int16), isVector=True), str(folder / "colour.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 4, 5, 6), np.int16), isVector=False), str(folder / "time.nrrd"))
    thick = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16))
    thick.SetSpacing((1, 1, 700))
    sitk.WriteImage(thick, str(folder / "thick.nrrd"))
    return {
        "short.mhd": "cut short", "lost.mhd": "not beside it", "raw.mhd": "cut short", "text.mhd": "ElementDataFile",
        "text.nrrd": "no NRRD file", "text.csv": "no scan file", "empty": "no DICOM series", "nan.nrrd": "finite",
        "large.nrrd": "no HU", "flat.nrrd": "2-dimensional", "colour.nrrd": "4-dimensional (vector", "time.nrrd": "4-dimensional",
        "thick.nrrd": "spacing", "missing.mhd": "does not exist",
    }  # fmt: skip


def test_bad_files_get_one_clear_line(tmp_path):
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(ct.ScanError) as error:
            ct.read_scan(tmp_path / name)
        text = str(error.value)
        assert Path(name).stem in text and reason in text and "\n" not in text and "Traceback" not in text, text


def test_a_short_data_file_is_named_from_the_header_alone(tmp_path):
    bad_files(tmp_path)
    for name in ("short.mhd", "raw.mhd"):
        with pytest.raises(ct.ScanError, match="cut short"):
            ct.read_header(tmp_path / name)


def test_inconsistent_scans_are_refused():
    hu = np.zeros((4, 5, 6), np.int16)
    for arguments in (
        (hu.astype(np.float32), (1, 1, 1), (0, 0, 0), np.eye(3)),
        (hu[0], (1, 1, 1), (0, 0, 0), np.eye(3)),
        (hu, (1, 1), (0, 0, 0), np.eye(3)),
        (hu, (1, 1, -1), (0, 0, 0), np.eye(3)),
        (hu, (1, 1, 1), (0, np.inf, 0), np.eye(3)),
        (hu, (1, 1, 1), (0, 0, 0), np.ones((3, 3))),
        (hu, (1, 1, 1), (0, 0, 0), np.eye(2)),
    ):
        with pytest.raises(ct.ScanError, match="'odd'"):
            ct.Scan(*arguments, "odd")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(image, name, **_):
        Path(name).write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(RuntimeError):
        ct.write_scan(noise_scan(), tmp_path / "a.mhd")
    assert list(tmp_path.iterdir()) == []


# ---- real scans ----


@real
def test_lidc_nodule_lies_where_luna16_says():
    scan = ct.read_scan(REAL / "lidc_idri_0001" / f"{LIDC}.mhd")
    assert scan.hu.shape == (107, 512, 512) and scan.uid == LIDC and scan.spacing == (0.703125, 0.703125, 2.5)
    assert scan.hu.min() >= -1024 and scan.hu.max() == 3071 and scan.hu[0, 0, 0] == ct.AIR
    nodule = [[56.208405, 86.343413, -115.867579]]
    assert np.allclose(scan.to_voxel(nodule), [[70.7, 367.0, 316.0]], atol=0.06)
    patch = ct.extract_patches(scan, nodule, 32, 0.625)[0, 0].numpy()
    assert patch[12:20, 12:20, 12:20].mean() > -100 and np.abs(patch - sitk_patch(scan, nodule[0], 32, 0.625)).max() < 0.1
    lungs = ct.lung_mask(scan)
    assert 3 < lungs.sum() * np.prod(scan.spacing) / 1e6 < 5 and lungs[71, 367, 316] and not lungs[:, :100].any()


@real
def test_dicom_slices_equal_the_mhd_and_give_a_slab_of_lung():
    whole = ct.read_scan(REAL / "lidc_idri_0001" / f"{LIDC}.mhd")
    slab = ct.read_scan(REAL / "lidc_idri_0001" / "dicom")
    first = round(whole.to_voxel([slab.origin])[0, 0])
    assert slab.hu.shape == (9, 512, 512) and slab.uid == LIDC
    assert (slab.hu == whole.hu[first : first + 9]).all() and np.isclose(slab.spacing[2], 2.5)
    lungs = ct.lung_mask(slab)
    assert all(0.1 < plane.mean() < 0.4 for plane in lungs)


@real
def test_dicom_gaps_duplicates_and_mixed_series(tmp_path):
    source = REAL / "lidc_idri_0001" / "dicom"
    files = sorted(source.iterdir(), key=lambda path: float(_position(path)))
    _expect(tmp_path / "gap", [*files[:4], *files[5:]], "2.50 to 5.00 mm apart")
    _expect(tmp_path / "twice", files, "two slices at", again=files[3])
    _expect(tmp_path / "single", files[:1], "single slice")
    _expect(tmp_path / "mixed", [*files, *(REAL / "lung_pet_ct_dx_A0002" / "dicom").iterdir()], "holds 2 series")


def _position(path):
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader.GetMetaData("0020|0032").split("\\")[2]


def _expect(folder, files, reason, again=None):
    folder.mkdir()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if again is not None:
        shutil.copyfile(again, folder / "again.dcm")
    with pytest.raises(ct.ScanError, match=reason) as error:
        ct.read_scan(folder)
    assert folder.name in str(error.value)


@real
def test_other_geometries_and_lungs():
    nifti = ct.read_scan(REAL / "totalsegmentator" / "abdomen_example_ct_sm.nii.gz")
    assert np.allclose(np.abs(nifti.direction), np.eye(3)) and nifti.direction[0, 0] == -1 and nifti.uid == "abdomen_example_ct_sm"
    assert ct.lung_mask(nifti).sum() * 27 / 1e6 < 0.3  # next to no lung in an abdomen
    mha = ct.read_scan(REAL / "elastix" / "3DCT_lung_baseline_small.mha")
    assert mha.spacing == (2.732, 2.732, 5.0) and mha.origin[2] == -1432 and mha.hu.min() >= -1024
    straight, turned = (ct.read_scan(REAL / "cip_ct64" / f"ct-64{kind}.nrrd") for kind in ("", "-transformed"))
    assert (straight.hu == turned.hu).all() and np.isclose(turned.direction[0, 0], np.cos(np.radians(20)))
    series = ct.read_scan(REAL / "cip_ct64" / "ct-64Dicom")
    assert (series.hu == straight.hu).all() and np.allclose(series.to_world([[5, 6, 7]]), straight.to_world([[5, 6, 7]]), atol=1e-3)
    for scan, name in ((straight, "lm-64"), (turned, "lm-64-transformed")):
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(REAL / "cip_ct64" / f"{name}.nrrd"))) > 0
        lungs = ct.lung_mask(scan)
        assert 2 * (lungs & labels).sum() / (lungs.sum() + labels.sum()) > 0.95
        patch, centre = ct.extract_patches(scan, scan.to_world([[40, 30, 20]]), 24, 3.0)[0, 0].numpy(), scan.to_world([[40, 30, 20]])[0]
        assert np.abs(patch - sitk_patch(scan, centre, 24, 3.0)).max() < 0.1
