"""ct against SimpleITK, hand-computed geometry and, where they are at hand, real scans (LUNGADV_REAL_CT)."""

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
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
    lazy = ct.Scan(Lazy(scan.hu), scan.spacing, scan.origin, scan.direction, "lazy")
    centres = scan.to_world([[9, 12, 15], [0, 0, 0], [-90, 0, 0]])
    assert (ct.extract_patches(lazy, centres, 8) == ct.extract_patches(scan, centres, 8)).all()


@pytest.mark.parametrize("spacing, step, size", [((0.7, 0.7, 1.25), 0.625, 32), ((1.25,) * 3, 1.25, 32), ((0.6, 0.65, 0.77), 2.5, 7)])
def test_patches_along_the_axes_equal_the_general_ones_but_for_rounding(spacing, step, size):
    scan = noise_scan(spacing=spacing, shape=(40, 50, 60))
    centres = scan.to_world(np.random.default_rng(1).uniform(-5, 60, (20, 3)))
    grid = ct._grid(np.linalg.inv(scan.direction * scan.spacing) * step, (size,) * 3)
    starts = scan.to_voxel(centres - (size - 1) / 2 * step)[:, ::-1]
    general = np.array([ct._sample(scan.hu, start, grid) for start in starts])
    patches = ct.extract_patches(scan, centres, size, step)[:, 0].numpy()
    assert general.std() > 100 and np.abs(patches - general).max() < 0.002  # HU
    assert ((patches == ct.AIR) == (general == ct.AIR)).all()


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


@pytest.mark.parametrize("packed, suffix", [(True, "zraw"), (False, "raw")])
def test_a_volume_reads_back_packed_or_not(tmp_path, packed, suffix):
    scan = noise_scan()
    ct.write_volume(scan.hu, scan, tmp_path / "a.mhd", packed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", f"a.{suffix}"]
    assert (ct.read_scan(tmp_path / "a.mhd").hu == scan.hu).all()


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


# ---- files of every kind against SimpleITK ----

VOXELS = np.random.default_rng(3).integers(-1000, 1500, (4, 5, 6), dtype=np.int16)
MHD = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
    "TransformMatrix": "0 1 0 -1 0 0 0 0 1", "Offset": "1 2 3", "ElementSpacing": "0.7 0.8 2", "DimSize": "6 5 4",
    "ElementType": "MET_SHORT", "ElementDataFile": "a.raw",
}  # fmt: skip
NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "6 5 4", "endian": "little", "encoding": "raw",
    "space directions": "(0,0.7,0) (-0.8,0,0) (0,0,2)", "space origin": "(1,2,3)", "data file": "a.raw",
}  # fmt: skip


def write_mhd(path, **changes):
    """A header by hand: MHD with other fields (None: without); its voxels have to be written beside it."""
    fields = {name: value for name, value in (MHD | changes).items() if value is not None}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last one
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))
    return path


def write_nrrd(path, data=b"", **changes):
    fields = NRRD | {name.replace("_", " "): value for name, value in changes.items()}
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    path.write_bytes(("NRRD0004\n# by hand\n" + "".join(lines) + "\n").encode() + data)
    return path


def write_nifti(path, voxels=VOXELS, **fields):
    """A NIfTI by SimpleITK, with other header fields: name=(format, byte, value)."""
    image = sitk.GetImageFromArray(voxels)
    image.SetDirection(DIRECTIONS["oblique"].ravel().tolist())
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    for kind, at, *values in fields.values():
        struct.pack_into("<" + kind, content, at, *values)
    path.write_bytes(content)
    return path


def assert_read_as_by_itk(path):
    image, scan = sitk.ReadImage(str(path)), ct.read_scan(path)
    assert (np.rint(sitk.GetArrayFromImage(image)) == scan.hu).all() and scan.hu.dtype == np.int16
    voxels = np.array([[0, 0, 0], [3, 4, 5], [0, 9, 2]])
    world = [image.TransformIndexToPhysicalPoint(voxel[::-1].tolist()) for voxel in voxels]
    assert np.allclose(scan.to_world(voxels), world, atol=1e-3)
    return scan


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
def test_every_kind_and_direction_is_read_as_by_itk(tmp_path, direction, packed):
    scan = noise_scan(direction)
    for kind in (".mhd", ".mha", ".nrrd", ".nhdr", ".nii", ".nii.gz"):
        path = tmp_path / f"a.b{kind}"
        sitk.WriteImage(to_sitk(scan), str(path), useCompression=packed)
        again = assert_read_as_by_itk(path)
        assert (again.hu == scan.hu).all() and (again.uid, again.padded) == ("a.b", 0)
        header = ct.read_header(path)
        assert header.hu.shape == scan.hu.shape and np.allclose(header.to_world([[3, 4, 5]]), again.to_world([[3, 4, 5]]))


@pytest.mark.parametrize("kind", [".mha", ".nrrd", ".nii"])
def test_every_type_of_voxel_is_read_as_by_itk(tmp_path, kind):
    image = sitk.Clamp(to_sitk(noise_scan()), lowerBound=0, upperBound=100)
    for voxel in (sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkFloat32, sitk.sitkFloat64):
        sitk.WriteImage(sitk.Cast(image, voxel), str(tmp_path / f"a{kind}"))
        assert_read_as_by_itk(tmp_path / f"a{kind}")


def test_headers_written_by_hand_are_read_as_by_itk(tmp_path):
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "big.raw").write_bytes(VOXELS.astype(">i2").tobytes())
    (tmp_path / "late.raw").write_bytes(b"start" + VOXELS.tobytes())
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(VOXELS.tobytes()))
    for z, plane in enumerate(VOXELS):
        (tmp_path / f"{z}.raw").write_bytes(plane.tobytes())
    for k, changes in enumerate((
        {}, {"BinaryDataByteOrderMSB": "True", "ElementDataFile": "big.raw"}, {"HeaderSize": "5", "ElementDataFile": "late.raw"},
        {"HeaderSize": "-1", "ElementDataFile": "late.raw"}, {"ElementDataFile": "LIST\n0.raw\n1.raw\n2.raw\n3.raw"},
        {"Offset": None, "Position": "1 2 3", "Comment": "any"},
    )):  # fmt: skip
        assert (assert_read_as_by_itk(write_mhd(tmp_path / f"{k}.mhd", **({"HeaderSize": None} | changes))).hu == VOXELS).all()
    for k, changes in enumerate((
        {}, {"space": "RAS"}, {"space": "left-anterior-superior"}, {"endian": "big", "data_file": "big.raw"},
        {"byte_skip": "5", "data_file": "late.raw"}, {"byte_skip": "-1", "data_file": "late.raw"},
        {"encoding": "gzip", "data_file": "a.raw.gz"},
    )):  # fmt: skip
        assert (assert_read_as_by_itk(write_nrrd(tmp_path / f"{k}.nhdr", **changes)).hu == VOXELS).all()


@pytest.mark.parametrize("fields", [
    {"no sform": ("h", 254, 0)}, {"no qform": ("h", 252, 0)}, {"slope": ("2f", 112, 2.0, -24.0)}, {"unscaled": ("2f", 112, 0.0, 0.0)},
    {"one time": ("8h", 40, 4, 6, 5, 4, 1, 1, 1, 1)},
], ids=str)  # fmt: skip
def test_nifti_headers_are_read_as_by_itk(tmp_path, fields):
    path = write_nifti(tmp_path / "a.nii", VOXELS // 4, **fields)
    if "one time" in fields:
        assert (ct.read_scan(path).hu == VOXELS // 4).all()
    else:
        assert_read_as_by_itk(path)


def test_a_gzip_of_several_members_is_one_file(tmp_path):
    content = write_nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + b"\0" * 100)
    assert (ct.read_scan(tmp_path / "a.nii.gz").hu == VOXELS).all()


def test_padding_becomes_air_and_is_counted(tmp_path):
    hu = np.full((4, 5, 6), -2048, np.int16)
    hu[1:3] = [[[-1024]], [[70]]]
    hu[3, 0] = -3024
    hu[3, 1] = -2000
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "a.mhd"))
    scan = ct.read_scan(tmp_path / "a.mhd")
    assert (tmp_path / "a.raw").exists() and np.unique(scan.hu).tolist() == [-1024, ct.AIR, 70] and scan.padded == 60


def test_float_voxels_are_rounded(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), -700.6, np.float32)), str(tmp_path / "a.nrrd"))
    assert (ct.read_scan(tmp_path / "a.nrrd").hu == -701).all()


def bad_files(folder):
    """One file of each kind of trouble: path and what its error must say."""
    good, size = noise_scan(), VOXELS.nbytes
    for name in ("short", "lost", "damaged"):
        ct.write_scan(good, folder / f"{name}.mhd")
    content = (folder / "short.zraw").read_bytes()
    (folder / "short.zraw").write_bytes(content[:2000])
    (folder / "damaged.zraw").write_bytes(content[:5000] + bytes(100) + content[5100:])
    (folder / "lost.zraw").unlink()
    for name, length in (("a", size), ("less", size - 1), ("more", size + 1)):
        (folder / f"{name}.raw").write_bytes(VOXELS.tobytes().ljust(length)[:length])
    packed = zlib.compress(VOXELS.tobytes())
    (folder / "less.zraw").write_bytes(zlib.compress(VOXELS.tobytes()[:-2]))
    (folder / "more.zraw").write_bytes(zlib.compress(VOXELS.tobytes() + b"xx"))
    (folder / "half.zraw").write_bytes(packed[: len(packed) // 2])
    (folder / "outside").mkdir()
    (folder / "outside" / "a.raw").write_bytes(VOXELS.tobytes())
    (folder / "in").mkdir()
    (folder / "in" / "link.raw").symlink_to(folder / "outside" / "a.raw")
    (folder / "in" / "circle.raw").symlink_to(folder / "in" / "circle.raw")
    (folder / "empty").mkdir()
    said = {
        "short.mhd": "cut short", "lost.mhd": "not beside it", "damaged.mhd": "cannot be unpacked", "missing.mhd": "does not exist",
        "empty": "no DICOM series",
    }  # fmt: skip

    def mhd(name, reason, **changes):
        said[name] = reason
        write_mhd(folder / name, **changes)

    mhd("raw_short.mhd", "too few", ElementDataFile="less.raw")
    mhd("raw_long.mhd", "too many", ElementDataFile="more.raw")
    for name, reason in (("less", "cut short"), ("more", "more voxels"), ("half", "cannot be unpacked")):
        mhd(f"z_{name}.mhd", reason, CompressedData="True", ElementDataFile=f"{name}.zraw")
    mhd("z_says.mhd", "too few", CompressedData="True", CompressedDataSize="9999", ElementDataFile="less.zraw")
    mhd("absolute.mhd", "outside its folder", ElementDataFile=folder / "a.raw")
    mhd("in/up.mhd", "outside its folder", ElementDataFile="../a.raw")
    mhd("in/linked.mhd", "outside its folder", ElementDataFile="link.raw")
    mhd("in/circle.mhd", "data file", ElementDataFile="circle.raw")
    mhd("in/listed.mhd", "outside its folder", ElementDataFile="LIST\n../a.raw\n../a.raw")
    mhd("list_short.mhd", "too many", ElementDataFile="LIST\na.raw\na.raw")
    mhd("list_odd.mhd", "lists 3 files", ElementDataFile="LIST\na.raw\na.raw\na.raw")
    mhd("huge.mhd", "more than this reads", DimSize="10000 10000 10000")
    mhd("promises.mhd", "too few", DimSize="1000 1000 1000")
    mhd("z_promises.mhd", "too few", DimSize="1000 1000 1000", CompressedData="True", ElementDataFile="less.zraw")
    mhd("negative.mhd", "at least two slices", DimSize="6 5 -4")
    mhd("words.mhd", "DimSize", DimSize="6 5 four")
    mhd("flat.mhd", "2-dimensional", NDims="2")
    mhd("no_direction.mhd", "TransformMatrix = 1 0 0", TransformMatrix=None)
    mhd("no_offset.mhd", "no field 'Offset'", Offset=None)
    mhd("no_spacing.mhd", "no field 'ElementSpacing'", ElementSpacing=None)
    mhd("zero_spacing.mhd", "spacing", ElementSpacing="0.7 0.8 0")
    mhd("thick.mhd", "spacing", ElementSpacing="1 1 700")
    mhd("singular.mhd", "perpendicular", TransformMatrix="1 0 0 1 0 0 0 0 1")
    mhd("infinite.mhd", "Offset", Offset="1 2 inf")
    mhd("colour.mhd", "3 values a voxel", ElementNumberOfChannels="3")
    mhd("type.mhd", "MET_FLUFF", ElementType="MET_FLUFF")
    mhd("ascii.mhd", "as text", BinaryData="False")
    mhd("twice.mhd", "two lines 'DimSize'", DimSize="6 5 4\nDimSize = 6 5 3")
    for name, reason, changes in (
        ("nrrd_up", "outside its folder", {"data_file": "../a.raw"}),
        ("nrrd_short", "too few", {"data_file": "less.raw"}),
        ("nrrd_long", "too many", {"data_file": "more.raw"}),
        ("nrrd_space", "space: left-posterior", {"space": None}),
        ("nrrd_scanner", "where left is", {"space": "scanner-xyz"}),
        ("nrrd_axes", "space directions", {"space_directions": None}),
        ("nrrd_singular", "perpendicular", {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}),
        ("nrrd_zero", "spacing", {"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}),
        ("nrrd_text", "encoding", {"encoding": "ascii"}),
        ("nrrd_huge", "more than this reads", {"sizes": "10000 10000 10000"}),
        ("nrrd_skip", "skips", {"byte_skip": "-2"}),
    ):
        said[f"{name}.nhdr"] = reason
        write_nrrd(folder / f"{name}.nhdr", **changes)
    said["no_voxels.nrrd"] = "too few"
    write_nrrd(folder / "no_voxels.nrrd", data_file=None)
    for name, reason, fields in (
        ("no_position", "qform and sform code 0", {"codes": ("2h", 252, 0, 0)}),
        ("moved", "more than 0.5 mm apart", {"qoffset": ("f", 268, 9.0)}),
        ("metres", "mm", {"units": ("B", 123, 1)}),
        ("singular", "perpendicular", {"q": ("h", 252, 0), "srow": ("8f", 280, *[1, 0, 0, 0] * 2)}),
        ("nan", "not finite", {"q": ("h", 252, 0), "srow": ("f", 280, np.nan)}),
        ("slope", "slope", {"slope": ("f", 112, np.inf)}),
        ("no_slope", "slope", {"slope": ("2f", 112, 0.0, -1024.0)}),
        ("huge", "more than this reads", {"size": ("3h", 42, 10000, 10000, 10000)}),
        ("promises", "too few", {"size": ("3h", 42, 1000, 1000, 500)}),
        ("long", "too many", {"size": ("h", 46, 3)}),
        ("offset", "begin at byte", {"offset": ("f", 108, 0.0)}),
        ("rgb", "type '128'", {"type": ("h", 70, 128)}),
        ("time", "4-dimensional", {"size": ("8h", 40, 4, 6, 5, 2, 2, 1, 1, 1)}),
        ("pair", "NIfTI-1", {"magic": ("4s", 344, b"ni1")}),
    ):
        said[f"{name}.nii"] = said[f"{name}_packed.nii.gz"] = reason
        content = write_nifti(folder / f"{name}.nii", **fields).read_bytes()
        (folder / f"{name}_packed.nii.gz").write_bytes(gzip.compress(content))
    said["long_packed.nii.gz"] = "more voxels"
    for kind, reason in (
        ("mhd", "ElementDataFile"), ("mha", "ElementDataFile"), ("nrrd", "no NRRD"), ("nii", "NIfTI-1"), ("nii.gz", "NIfTI-1"),
        ("csv", "no scan file"), ("zip", "cannot be unpacked"),
    ):  # fmt: skip
        said[f"text.{kind}"] = reason
        (folder / f"text.{kind}").write_text("hello\n")
    array = np.zeros((4, 5, 6), np.float32)
    array[2, 2, 2] = np.nan
    for name, reason, voxels, vector in (
        ("nan.nrrd", "not finite", array, False),
        ("large.nrrd", "no HU", np.full((4, 5, 6), 70_000, np.int32), False),
        ("flat.nrrd", "2-dimensional", np.zeros((5, 6), np.int16), False),
        ("rgb.nrrd", "4-dimensional (vector", np.zeros((4, 5, 6, 3), np.int16), True),
        ("rgb.mha", "3 values", np.zeros((4, 5, 6, 3), np.int16), True),
        ("time.mha", "4-dimensional", np.zeros((2, 4, 5, 6), np.int16), False),
    ):
        said[name] = reason
        sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=vector), str(folder / name))
    return said


def test_bad_files_get_one_clear_line(tmp_path):
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(ct.ScanError) as error:
            ct.read_scan(tmp_path / name)
        text = str(error.value)
        assert Path(name).stem in text and reason in text and "\n" not in text and "Traceback" not in text, (name, text)


def test_a_data_file_of_another_length_is_named_from_the_header_alone(tmp_path):
    bad_files(tmp_path)
    for name in ("short.mhd", "raw_short.mhd", "raw_long.mhd", "promises.nii", "no_voxels.nrrd", "z_promises.mhd"):
        with pytest.raises(ct.ScanError, match="too few|too many"):
            ct.read_header(tmp_path / name)


# ---- DICOM and zip ----


def write_dicom(folder, edit=None, scan=None):
    """A DICOM series of which pydicom has edited each slice: edit(dataset, z)."""
    scan = scan or phantom_scan("rotated")
    ct.write_series(scan, folder)
    for z, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        if edit:
            edit(dataset, z)
        dataset.save_as(path)
    return scan


def store(dataset, values):
    dataset.PixelData = values.astype(np.uint16 if dataset.PixelRepresentation == 0 else np.int16).tobytes()


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    stored = np.random.default_rng(0).integers(0, 2000, phantom_scan("rotated").hu.shape)
    slopes, intercepts = 0.5 + 0.05 * np.arange(len(stored)), -1000.0 + np.arange(len(stored))

    def edit(dataset, z):
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slopes[z], intercepts[z], "US"
        store(dataset, stored[z])

    write_dicom(tmp_path / "series", edit)
    expected = stored * slopes[:, None, None] + intercepts[:, None, None]
    assert np.abs(ct.read_scan(tmp_path / "series").hu - expected).max() <= 0.5 + 1e-6


def test_slices_are_found_by_content_and_ordered_by_position(tmp_path):
    scan = write_dicom(tmp_path / "series", lambda dataset, z: setattr(dataset, "InstanceNumber", (7 * z) % 20))
    names = np.random.default_rng(0).permutation(len(scan.hu))
    (tmp_path / "series" / "below").mkdir()
    for k, path in zip(names, sorted((tmp_path / "series").glob("*.dcm")), strict=True):
        path.rename(tmp_path / "series" / ("below" if k % 2 else ".") / (f"I{k}" if k % 3 else f"scan.{k}.txt"))
    for name in ("notes.txt", ".DS_Store", "LICENSE", "list.xml"):
        (tmp_path / "series" / name).write_text("no DICOM")
    again = ct.read_scan(tmp_path / "series")
    assert (again.hu == scan.hu).all() and np.allclose(again.to_world([[3, 4, 5]]), scan.to_world([[3, 4, 5]]), atol=1e-4)
    header = ct.read_header(tmp_path / "series")
    assert header.hu.shape == scan.hu.shape and (header.origin, header.spacing) == (again.origin, again.spacing)


@pytest.mark.parametrize("signed", [True, False])
def test_twelve_bits_and_padding_values(tmp_path, signed):
    scan = phantom_scan("straight")
    hu = np.clip(scan.hu, -1000, 1000)

    def edit(dataset, z):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (16, 15, 1) if signed else (12, 11, 0)
        dataset.RescaleIntercept = -1024
        stored = hu[z].astype(int) + 1024
        stored[0, :5] = -2000 if signed else 4095 if z % 2 else 3
        dataset.add_new("PixelPaddingValue", "US", 63536 if signed else 3)
        if not signed:
            stored[0, :5] = 3
            stored |= 0x3000  # bits that belong to no pixel
        store(dataset, stored)

    write_dicom(tmp_path / "series", edit, scan)
    again = ct.read_scan(tmp_path / "series")
    expected = hu.copy()
    expected[:, 0, :5] = ct.AIR
    assert (again.hu == expected).all() and again.padded == 5 * len(hu)


@pytest.mark.parametrize("syntax", ["RLE", "JPEG2000", "JPEG", "big endian", "implicit"])
def test_transfer_syntaxes(tmp_path, syntax):
    folder = tmp_path / "series"
    scan = write_dicom(folder)
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        if syntax == "RLE":
            dataset.compress(pydicom.uid.RLELossless)
            dataset.save_as(path)
        elif syntax == "big endian":
            dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
            pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False)
        elif syntax == "implicit":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True)
        else:
            image, writer = sitk.ReadImage(str(path)), sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.UseCompressionOn()
            writer.SetCompressor(syntax)
            writer.SetFileName(str(path))
            writer.Execute(image)
    again = ct.read_scan(folder)
    assert (again.hu == scan.hu).all() and np.allclose(again.to_world([[3, 4, 5]]), scan.to_world([[3, 4, 5]]), atol=1e-4)


def test_a_series_is_chosen_by_uid_and_described(tmp_path):
    one = write_dicom(tmp_path / "one", lambda dataset, z: dataset.update({"KVP": "120", "XRayTubeCurrent": "400", "ExposureTime": "500"}))

    def other(dataset, z):
        dataset.SeriesInstanceUID, dataset.ConvolutionKernel, dataset.Exposure = one.uid + ".9", "B40f", "77"

    write_dicom(tmp_path / "two", other)
    localizer = pydicom.dcmread(tmp_path / "one" / "0001.dcm")
    localizer.SeriesInstanceUID, localizer.ImageType = one.uid + ".8", ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    localizer.save_as(tmp_path / "one" / "localizer.dcm")
    pet = pydicom.dcmread(tmp_path / "one" / "0001.dcm")
    pet.SeriesInstanceUID, pet.Modality = one.uid + ".7", "PT"
    pet.save_as(tmp_path / "one" / "pet.dcm")
    assert (ct.read_scan(tmp_path / "one").hu == one.hu).all()
    with pytest.raises(ct.ScanError, match=rf"4 series: {one.uid} \(CT, 20 files\).*series="):
        ct.read_scan(tmp_path)
    for uid in (one.uid, one.uid + ".9"):
        assert ct.read_scan(tmp_path, series=uid).uid == uid
    with pytest.raises(ct.ScanError, match="no series 1.2, but 4 series"):
        ct.read_scan(tmp_path, series="1.2")
    for uid, reason in ((one.uid + ".8", "localizer"), (one.uid + ".7", "modality PT")):
        with pytest.raises(ct.ScanError, match=reason):
            ct.read_scan(tmp_path, series=uid)
    found = {info.uid: info for info in ct.read_series_info(tmp_path)}
    first, second = found[one.uid], ct.read_series_info(tmp_path, one.uid + ".9")[0]
    assert len(found) == 4 and second == found[one.uid + ".9"]
    assert (first.patient, first.study, first.kvp, first.mas, first.kernel) == (one.uid, one.uid + ".1", 120, 200, "")
    assert (second.mas, second.kernel, second.frame_of_reference) == (77, "B40f", one.uid + ".2") and np.isnan(second.kvp)
    assert np.isclose(first.thickness, one.spacing[2]) and first.manufacturer == "lungadv"
    assert np.allclose(first.positions, one.to_world([[z, 0, 0] for z in range(20)]), atol=1e-4) and len(first.files) == 20
    assert first.sops == tuple(f"{one.uid}.3.{z + 1}" for z in range(20))


def test_series_are_found_and_read_whatever_lies_beside_them(tmp_path):
    scan = write_dicom(tmp_path / "one")
    (tmp_path / "one" / "note.dcm").write_text("text renamed")
    write_dicom(tmp_path / "one" / "below")
    (tmp_path / "one" / "cut.dcm").write_bytes((tmp_path / "one" / "0001.dcm").read_bytes()[:500])
    (found,), refused = ct.find_series(tmp_path / "one")
    assert len(found.files) == 20 and {path.name for path in refused} == {"note.dcm", "cut.dcm"}
    again = ct.read_slices(found)
    assert (again.hu == scan.hu).all() and again.uid == scan.uid
    with pytest.raises(ct.ScanError, match="'(note|cut).dcm'"):
        ct.read_scan(tmp_path / "one")
    (tmp_path / "one" / "0021.dcm").symlink_to(tmp_path / "gone.dcm")  # a slice that is no longer there
    assert {path.name for path in ct.find_series(tmp_path / "one")[1]} == {"note.dcm", "cut.dcm", "0021.dcm"}
    ct.write_scan(scan, tmp_path / "a.mhd")
    with pytest.raises(ct.ScanError, match="a.mhd': is one scan, .* leave out the series 1.2"):
        ct.read_scan(tmp_path / "a.mhd", series="1.2")


def bad_series():
    """Edits of a series, each with what its error must say."""

    def on(chosen, **values):
        def edit(dataset, z):
            for name, value in values.items():
                if z in chosen:
                    setattr(dataset, name, value)

        return edit

    def without(name):
        return lambda dataset, z: delattr(dataset, name)

    def tilt(dataset, z):
        dataset.ImagePositionPatient[1] += 0.2 * z

    def pad(dataset, z):
        dataset.add_new("PixelPaddingValue", "SS", 40)
        store(dataset, np.full((26, 34), 40))

    def deflate(dataset, z):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian

    every = range(20)
    return {
        "slope": ("has no RescaleSlope", without("RescaleSlope")),
        "intercept": ("has no RescaleIntercept", without("RescaleIntercept")),
        "zero slope": ("RescaleSlope 0", on([3], RescaleSlope=0)),
        "type": ("type OD", on(every, RescaleType="OD")),
        "position": ("no ImagePositionPatient", without("ImagePositionPatient")),
        "orientation": ("no ImageOrientationPatient", without("ImageOrientationPatient")),
        "spacing": ("no PixelSpacing", without("PixelSpacing")),
        "zero spacing": ("spacing", on(every, PixelSpacing=[0, 0])),
        "unequal": ("different PixelSpacing", on([4], PixelSpacing=[0.5, 0.5])),
        "tilted": (r"aslant by \d\.\d degrees .a tilted gantry", tilt),
        "localizer inside": ("is a localizer", on([7], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        "all localizers": ("is a localizer", on(every, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        "turned": ("different orientations", on([7], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
        "mr": ("modality MR", on(every, Modality="MR")),
        "colour": ("no grey CT image", on([2], PhotometricInterpretation="RGB", SamplesPerPixel=3)),
        "frames": ("several frames", on(every, NumberOfFrames=2)),
        "mixed": ("2 series", on([3, 4, 5], SeriesInstanceUID="1.2.3")),
        "mixed frames": ("frames of reference", on([3, 4, 5], FrameOfReferenceUID="1.2.3")),
        "uid": ("no SeriesInstanceUID", without("SeriesInstanceUID")),
        "bits": ("stores 16 of 32 bits", on([2], BitsAllocated=32)),
        "short": ("bytes of pixels", lambda dataset, z: setattr(dataset, "PixelData", dataset.PixelData[:-2])),
        "long": ("bytes of pixels", lambda dataset, z: setattr(dataset, "PixelData", dataset.PixelData + b"\0\0")),
        "huge": ("more than this reads|too short", on(every, Rows=60000, Columns=60000)),
        "padding": ("stands for 40 HU, tissue", pad),
        "deflated": ("deflated", deflate),
        "video": ("cannot be decompressed|cannot be read", lambda dataset, z: _encapsulate(dataset, pydicom.uid.MPEG2MPML)),
        "broken": ("cannot be decompressed", lambda dataset, z: _encapsulate(dataset, pydicom.uid.JPEG2000Lossless)),
    }  # fmt: skip


def _encapsulate(dataset, syntax):
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([b"no image at all " * 200])
    dataset["PixelData"].is_undefined_length = True


@pytest.mark.parametrize("trouble", bad_series())
def test_bad_series_get_one_clear_line(tmp_path, trouble):
    reason, edit = bad_series()[trouble]
    write_dicom(tmp_path / "series", edit)
    with pytest.raises(ct.ScanError, match=reason) as error:
        ct.read_scan(tmp_path / "series")
    assert "series" in str(error.value) and "\n" not in str(error.value)


def test_files_that_may_be_damaged_slices_are_named(tmp_path):
    for name in ("note.dcm", "IM0004", "1.2.3.4", "a.IMA"):
        write_dicom(tmp_path / name / "series")
        (tmp_path / name / "series" / name).write_text("text renamed")
        with pytest.raises(ct.ScanError, match=f"'{name}' is no DICOM file"):
            ct.read_scan(tmp_path / name / "series")
    write_dicom(tmp_path / "series")
    for path, reason in (("0003.dcm", "slices are missing"), ("0020.dcm", None)):
        (tmp_path / "series" / path).rename(tmp_path / path)
        if reason:
            with pytest.raises(ct.ScanError, match=reason):
                ct.read_scan(tmp_path / "series")
            (tmp_path / path).rename(tmp_path / "series" / path)
    assert len(ct.read_scan(tmp_path / "series").hu) == 19
    copy = pydicom.dcmread(tmp_path / "series" / "0004.dcm")
    copy.SOPInstanceUID = "1.2.3"
    copy.save_as(tmp_path / "series" / "copy.dcm")
    with pytest.raises(ct.ScanError, match="two slices at .* mm, '0004.dcm' and 'copy.dcm'"):
        ct.read_scan(tmp_path / "series")


def test_a_zip_of_any_kind(tmp_path):
    scan = write_dicom(tmp_path / "deep" / "series")
    for kind in (".mhd", ".mha", ".nhdr", ".nii.gz"):
        (tmp_path / kind).mkdir()
        sitk.WriteImage(to_sitk(scan), str(tmp_path / kind / f"a{kind}"))
    before = set(Path(tempfile.gettempdir()).iterdir())
    for folder, uid in ((".mhd", "a"), (".mha", "a"), (".nhdr", "a"), (".nii.gz", "a"), ("deep", scan.uid)):
        path = Path(shutil.make_archive(str(tmp_path / f"z{folder}"), "zip", tmp_path / folder))
        again, header = ct.read_scan(path), ct.read_header(path)
        assert (again.hu == scan.hu).all() and again.uid == uid and header.spacing == again.spacing
    assert set(Path(tempfile.gettempdir()).iterdir()) <= before  # nothing is left behind
    path = Path(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path, "."))
    with pytest.raises(ct.ScanError, match="scans, such as"):
        ct.read_scan(path)


def test_bad_zips_get_one_clear_line(tmp_path):
    inside = write_nifti(tmp_path / "a.nii").read_bytes()
    link = zipfile.ZipInfo("link.raw")
    link.external_attr = 0o120777 << 16
    for name, members, reason in (
        ("up", {"../a.nii": inside}, "would leave"),
        ("deep", {"b/../../a.nii": inside}, "would leave"),
        ("root", {"/a.nii": inside}, "would leave"),
        ("drive", {"C:/a.nii": inside}, "would leave"),
        ("back", {"..\\a.nii": inside}, "would leave"),
        ("link", {link: "/etc/passwd"}, "is a link"),
        ("nothing", {}, "no DICOM series"),
        ("bad", {"a.nii": inside[:-3]}, "a.nii.*too few"),
        ("case", {"a.nii": inside, "A.nii": inside}, "one name"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        with pytest.raises(ct.ScanError, match=reason) as error:
            ct.read_scan(tmp_path / f"{name}.zip")
        assert f"{name}.zip" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path.parent / "a.nii").exists()
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", inside)
        archive.writestr("b.nii", inside)
    content = (tmp_path / "bomb.zip").read_bytes()
    (tmp_path / "bomb.zip").write_bytes(content.replace(struct.pack("<I", len(inside)), struct.pack("<I", 0xFFFFFFF0)))
    with pytest.raises(ct.ScanError, match="bomb.zip.*unpacks to more"):
        ct.read_scan(tmp_path / "bomb.zip")
    (tmp_path / "cut.zip").write_bytes(content[:100])
    with pytest.raises(ct.ScanError, match="cannot be unpacked"):
        ct.read_scan(tmp_path / "cut.zip")


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


@real
def test_dicom_slices_equal_the_mhd():
    whole = ct.read_scan(REAL / "lidc_idri_0001" / f"{LIDC}.mhd")
    slab = ct.read_scan(REAL / "lidc_idri_0001" / "dicom")
    first = round(whole.to_voxel([slab.origin])[0, 0])
    assert slab.hu.shape == (9, 512, 512) and slab.uid == LIDC
    assert (slab.hu == whole.hu[first : first + 9]).all() and np.isclose(slab.spacing[2], 2.5)


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
def test_other_geometries():
    nifti = ct.read_scan(REAL / "totalsegmentator" / "abdomen_example_ct_sm.nii.gz")
    assert np.allclose(np.abs(nifti.direction), np.eye(3)) and nifti.direction[0, 0] == -1 and nifti.uid == "abdomen_example_ct_sm"
    mha = ct.read_scan(REAL / "elastix" / "3DCT_lung_baseline_small.mha")
    assert mha.spacing == (2.732, 2.732, 5.0) and mha.origin[2] == -1432 and mha.hu.min() >= -1024
    straight, turned = (ct.read_scan(REAL / "cip_ct64" / f"ct-64{kind}.nrrd") for kind in ("", "-transformed"))
    assert (straight.hu == turned.hu).all() and np.isclose(turned.direction[0, 0], np.cos(np.radians(20)))
    series = ct.read_scan(REAL / "cip_ct64" / "ct-64Dicom")
    assert (series.hu == straight.hu).all() and np.allclose(series.to_world([[5, 6, 7]]), straight.to_world([[5, 6, 7]]), atol=1e-3)
    for scan in (straight, turned):
        patch, centre = ct.extract_patches(scan, scan.to_world([[40, 30, 20]]), 24, 3.0)[0, 0].numpy(), scan.to_world([[40, 30, 20]])[0]
        assert np.abs(patch - sitk_patch(scan, centre, 24, 3.0)).max() < 0.1


@real
def test_every_real_file_is_read_or_refused_as_its_readme_says():
    volumes = {
        f"lidc_idri_0001/{LIDC}.mhd": ((107, 512, 512), (0.703125, 0.703125, 2.5)),
        f"lidc_idri_0001/{LIDC}_nodule_votes.nii.gz": ((107, 512, 512), (0.703125, 0.703125, 2.5)),
        "lidc_idri_0001/dicom": ((9, 512, 512), (0.703125, 0.703125, 2.5)),
        "lung_pet_ct_dx_A0002/dicom": ((3, 512, 512), (0.6465, 0.6465, 8)),
        **dict.fromkeys(
            (f"cip_ct64/{name}" for name in ("ct-64.nrrd", "ct-64-transformed.nrrd", "lm-64.nrrd", "lm-64-transformed.nrrd", "ct-64Dicom")),
            ((79, 64, 64), (4.1719, 4.1719, 3.9873)),
        ),
        "totalsegmentator/thorax_ct_cropped.nii.gz": ((112, 102, 122), (1.5, 1.5, 1.5)),
        "totalsegmentator/abdomen_example_ct_sm.nii.gz": ((30, 101, 122), (3, 3, 3)),
        "elastix/3DCT_lung_baseline_small.mha": ((64, 78, 57), (2.732, 2.732, 5)),
    }
    for name, (shape, spacing) in volumes.items():
        scan = ct.read_scan(REAL / name)
        assert scan.hu.shape == shape and np.allclose(scan.spacing, spacing, atol=1e-3), name
        if not (REAL / name).is_dir():
            image = sitk.ReadImage(str(REAL / name))
            values = np.rint(sitk.GetArrayFromImage(image))
            assert (np.where(values < -1024, ct.AIR, values) == scan.hu).all() and scan.padded == (values < -1024).sum()
            corner = np.array(shape) - 1
            assert np.allclose(scan.to_world([corner]), image.TransformIndexToPhysicalPoint(corner[::-1].tolist()), atol=1e-2)
    slices = {file for name in volumes for file in (REAL / name).glob("*")}
    for file in sorted(REAL.rglob("*")):
        if file.is_file() and str(file.relative_to(REAL)) not in volumes and file not in slices:
            with pytest.raises(ct.ScanError, match="no scan file"):  # tables, annotations, licences; the voxels beside an .mhd
                ct.read_scan(file)
    for folder, reason in (("lidc_xml", "no DICOM series"), (".", "3 series")):
        with pytest.raises(ct.ScanError, match=reason):
            ct.read_scan(REAL / folder)
    (info,) = ct.read_series_info(REAL / "lidc_idri_0001")
    assert (info.uid, info.patient, info.manufacturer, info.kernel) == (LIDC, "LIDC-IDRI-0001", "GE MEDICAL SYSTEMS", "STANDARD")
    assert (info.kvp, info.mas, info.thickness) == (120, 228, 2.5)
    assert sorted(z for _, _, z in info.positions) == [*np.arange(-125, -104, 2.5)]


# ---- fuzzing, in a process of its own ----


def test_damaged_headers_give_a_scan_or_one_clear_error(tmp_path):
    """Neither a crash nor a hang nor a blow-up: each read has 2 seconds, the process half a GiB more than it starts with."""
    result = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0 and result.stdout.count("fuzzed") == 7, result.stdout[-2000:] + result.stderr[-4000:]


def fuzz(folder):
    import faulthandler
    import resource

    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    words = [b"0", b"-1", b"3", b"4096", b"99999999", b"1e999", b"nan", b"", b"LIST", b"..", b"\0", b"9" * 5000, b"(", b"=", b":", b"\n"]
    piece = st.one_of(st.sampled_from(words), st.binary(min_size=1, max_size=4))
    change = st.tuples(st.sampled_from(["byte", "insert", "delete", "word", "line"]), st.integers(0, 2**16), piece)

    def damaged(content, head, changes):
        """The content with its first `head` bytes changed."""
        start = content[:head]
        for kind, at, new in changes:
            at = at % (len(start) + 1)
            if kind == "byte":
                start = start[:at] + new + start[at + len(new) :]
            elif kind == "insert":
                start = start[:at] + new + start[at:]
            elif kind == "delete":
                start = start[:at] + start[at + 1 + len(new) :]
            elif kind == "word":
                found = list(re.finditer(rb"[^\s,()]+", start)) or [re.match(b"", start)]
                start = start[: found[at % len(found)].start()] + new + start[found[at % len(found)].end() :]
            else:
                lines = start.split(b"\n")
                lines[at % len(lines)] = new
                start = b"\n".join(lines)
        return start + content[head:]

    (folder / "a.raw").write_bytes(VOXELS.tobytes())
    image = sitk.GetImageFromArray(VOXELS)
    sitk.WriteImage(image, str(folder / "b.mha"), useCompression=True)
    sitk.WriteImage(image, str(folder / "b.nrrd"), useCompression=True)
    (folder / "b.nii.gz").write_bytes(gzip.compress(write_nifti(folder / "b.nii").read_bytes(), 0))
    series = folder / "series"
    ct.write_series(ct.Scan(VOXELS, (1, 1, 2), (0, 0, 0), np.eye(3), "1.2.3"), series)
    targets = {
        write_mhd(folder / "b.mhd"): 10_000, folder / "b.mha": 400, write_nrrd(folder / "b.nhdr"): 10_000, folder / "b.nrrd": 400,
        folder / "b.nii": 352, folder / "b.nii.gz": 400, series / "0002.dcm": 2000,
    }  # fmt: skip
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**29,) * 2)

    def check(path, content, head):
        outcomes = {"read": 0, "refused": 0}

        @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(change, min_size=1, max_size=3))
        def read(changes):
            path.write_bytes(damaged(content, head, changes))
            faulthandler.dump_traceback_later(2, exit=True)
            try:
                ct.read_scan(series if path.parent == series else path)
                outcomes["read"] += 1
            except ct.ScanError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
                outcomes["refused"] += 1
            finally:
                faulthandler.cancel_dump_traceback_later()

        read()
        return outcomes

    for path, head in targets.items():
        content = path.read_bytes()
        print("fuzzed", path.name, check(path, content, head))
        path.write_bytes(content)


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]))
