"""Scans written as MetaImage and DICOM, read back and by other programs."""

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_series, write_volume
from lungadv.data.scan import Scan, ScanError
from lungadv.utils.errors import InputError
from tests.data.made_scans import DIRECTIONS, noise_scan, phantom_scan


@pytest.mark.parametrize("packed, suffix", [(True, "zraw"), (False, "raw")])
def test_a_volume_reads_back_packed_or_not(tmp_path, packed, suffix):
    scan = noise_scan()
    write_volume(scan.hu, scan, tmp_path / "a.mhd", packed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", f"a.{suffix}"]
    assert (read_scan(tmp_path / "a.mhd").hu == scan.hu).all()


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_write_and_read_back(tmp_path, direction):
    scan = noise_scan(direction)
    write_scan(scan, tmp_path / "1.2.840.3.mhd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.2.840.3.mhd", "1.2.840.3.zraw"]
    again = read_scan(tmp_path / "1.2.840.3.mhd")
    assert (again.hu == scan.hu).all() and again.hu.dtype == np.int16 and again.uid == "1.2.840.3"
    assert np.allclose(again.origin, scan.origin) and np.allclose(again.spacing, scan.spacing)
    assert np.allclose(again.direction, scan.direction)


@pytest.mark.parametrize("name", ["straight", "flipped", "permuted", "rotated", "oblique"])
def test_dicom_series_is_read_alike_by_itk(tmp_path, name):
    scan = phantom_scan(name)
    write_series(scan, tmp_path / "series")
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
    write_series(scan, tmp_path / "series")
    again = read_scan(tmp_path / "series")
    assert again.uid == scan.uid
    index = again.to_voxel(scan.to_world(np.argwhere(np.ones(scan.hu.shape))))  # a mirrored scan's slices come back in reverse order
    assert np.allclose(index, index.round(), atol=1e-3)
    assert (again.hu[tuple(index.round().astype(int).T)] == scan.hu.ravel()).all()


def test_dicom_slices_are_decoded_alike_by_pydicom(tmp_path):
    scan = phantom_scan("rotated")
    write_series(scan, tmp_path / "series")
    for z, path in enumerate(sorted((tmp_path / "series").iterdir())):
        file = pydicom.dcmread(path)
        assert (file.pixel_array * file.RescaleSlope + file.RescaleIntercept == scan.hu[z]).all() and file.RescaleType == "HU"
        assert np.allclose(file.ImagePositionPatient, scan.to_world([[z, 0, 0]])[0], atol=1e-6)
        assert np.allclose(file.PixelSpacing, (scan.spacing[1], scan.spacing[0])) and np.isclose(file.SliceThickness, scan.spacing[2])
        assert (file.SeriesInstanceUID, file.InstanceNumber, file.PatientPosition) == (scan.uid, z + 1, "HFS")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy: install dicom3tools")
@pytest.mark.parametrize("name", ["straight", "oblique"])
def test_dicom_series_obeys_the_standard(tmp_path, name):
    write_series(phantom_scan(name), tmp_path / "series")
    paths = sorted((tmp_path / "series").iterdir())
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        assert _complaints("dciodvfy", path) == ["CTImage"]  # the kind of object, and neither an Error nor a Warning
    assert _complaints("dcentvfy", *paths) == []


def _complaints(tool, *paths):
    result = subprocess.run([tool, *map(str, paths)], capture_output=True, encoding="latin-1")
    return (result.stdout + result.stderr).splitlines()


def test_one_scan_gives_the_same_dicom_bytes(tmp_path):
    scan = phantom_scan("rotated")
    write_series(scan, tmp_path / "one")
    time.sleep(1.1)  # files that hold the time would differ now
    write_series(scan, tmp_path / "two")
    one, two = ([(path.name, path.read_bytes()) for path in sorted((tmp_path / name).iterdir())] for name in ("one", "two"))
    assert len(one) == len(scan.hu) and one == two


@pytest.mark.parametrize("uid", ["noise", "", "1..2", "1.2.", "1.02", "1.2\n", "1." + "2" * 54])
def test_a_uid_that_dicom_refuses_is_refused(tmp_path, uid):
    with pytest.raises(ScanError, match="at most 55 digits"):
        write_series(Scan(noise_scan().hu, (1, 1, 1), (0, 0, 0), np.eye(3), uid), tmp_path / "series")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(image, name, **_):
        Path(name).write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(RuntimeError):
        write_scan(noise_scan(), tmp_path / "a.mhd")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    """SimpleITK says so in words of its own: of DICOM, that it does not support the type."""
    scan, (before, slices) = noise_scan(), (sitk.WriteImage, [])

    def half(image, path, **terms):
        before(image, path, **terms)
        raise RuntimeError("File cannot be written")

    def execute(self, image):
        slices.append(image)
        Path(self.GetFileName()).write_bytes(b"half")
        if len(slices) == 3:
            raise RuntimeError("DICOM does not support this component type")

    monkeypatch.setattr(sitk, "WriteImage", half)
    monkeypatch.setattr(sitk.ImageFileWriter, "Execute", execute)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    for write, path in ((write_scan, tmp_path / "a.mhd"), (write_series, tmp_path / "series")):
        with pytest.raises(InputError, match=f"no space is left on the disk of '{tmp_path}': make room"):
            write(replace(scan, uid="1.2.3"), path)
    assert list(tmp_path.iterdir()) == [] and len(slices) == 3 and capfd.readouterr() == ("", "")
