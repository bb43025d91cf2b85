"""Scans of every kind against SimpleITK, and the real ones."""

import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from lungadv.data.io.dicom import find_series
from lungadv.data.io.read import FILE_KINDS, read_header, read_scan
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.patches import extract_patches
from lungadv.data.scan import AIR, ScanError
from tests.data.io.made_files import assert_read_as_by_itk, assert_refused
from tests.data.made_scans import DIRECTIONS, noise_scan, sitk_patch, to_sitk
from tests.data.real_files import REAL, UID, real


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
def test_every_kind_and_direction_is_read_as_by_itk(tmp_path, direction, packed):
    scan = noise_scan(direction)
    for kind in (".mhd", ".mha", ".nrrd", ".nhdr", ".nii", ".nii.gz"):
        path = tmp_path / f"a.b{kind}"
        sitk.WriteImage(to_sitk(scan), str(path), useCompression=packed)
        again = assert_read_as_by_itk(path)
        assert (again.hu == scan.hu).all() and (again.uid, again.padded) == ("a.b", 0)
        header = read_header(path)
        assert header.hu.shape == scan.hu.shape and np.allclose(header.to_world([[3, 4, 5]]), again.to_world([[3, 4, 5]]))


@pytest.mark.parametrize("kind", [".mha", ".nrrd", ".nii"])
def test_every_type_of_voxel_is_read_as_by_itk(tmp_path, kind):
    image = sitk.Clamp(to_sitk(noise_scan()), lowerBound=0, upperBound=100)
    for voxel in (sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkFloat32, sitk.sitkFloat64):
        sitk.WriteImage(sitk.Cast(image, voxel), str(tmp_path / f"a{kind}"))
        assert_read_as_by_itk(tmp_path / f"a{kind}")


def test_padding_becomes_air_and_is_counted(tmp_path):
    hu = np.full((4, 5, 6), -2048, np.int16)
    hu[1:3] = [[[-1024]], [[70]]]
    hu[3, 0] = -3024
    hu[3, 1] = -2000
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "a.mhd"))
    scan = read_scan(tmp_path / "a.mhd")
    assert (tmp_path / "a.raw").exists() and np.unique(scan.hu).tolist() == [-1024, AIR, 70] and scan.padded == 60


def test_float_voxels_are_rounded(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), -700.6, np.float32)), str(tmp_path / "a.nrrd"))
    assert (read_scan(tmp_path / "a.nrrd").hu == -701).all()


@real
def test_other_geometries():
    nifti = read_scan(REAL / "totalsegmentator" / "abdomen_example_ct_sm.nii.gz")
    assert np.allclose(np.abs(nifti.direction), np.eye(3)) and nifti.direction[0, 0] == -1 and nifti.uid == "abdomen_example_ct_sm"
    mha = read_scan(REAL / "elastix" / "3DCT_lung_baseline_small.mha")
    assert mha.spacing == (2.732, 2.732, 5.0) and mha.origin[2] == -1432 and mha.hu.min() >= -1024
    straight, turned = (read_scan(REAL / "cip_ct64" / f"ct-64{kind}.nrrd") for kind in ("", "-transformed"))
    assert (straight.hu == turned.hu).all() and np.isclose(turned.direction[0, 0], np.cos(np.radians(20)))
    series = read_scan(REAL / "cip_ct64" / "ct-64Dicom")
    assert (series.hu == straight.hu).all() and np.allclose(series.to_world([[5, 6, 7]]), straight.to_world([[5, 6, 7]]), atol=1e-3)
    for scan in (straight, turned):
        patch, centre = extract_patches(scan, scan.to_world([[40, 30, 20]]), 24, 3.0)[0, 0].numpy(), scan.to_world([[40, 30, 20]])[0]
        assert np.abs(patch - sitk_patch(scan, centre, 24, 3.0)).max() < 0.1


@real
def test_every_real_file_is_read_or_refused_as_its_readme_says():
    volumes = {
        f"lidc_idri_0001/{UID}.mhd": ((107, 512, 512), (0.703125, 0.703125, 2.5)),
        f"lidc_idri_0001/{UID}_nodule_votes.nii.gz": ((107, 512, 512), (0.703125, 0.703125, 2.5)),
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
        scan = read_scan(REAL / name)
        assert scan.hu.shape == shape and np.allclose(scan.spacing, spacing, atol=1e-3), name
        if not (REAL / name).is_dir():
            image = sitk.ReadImage(str(REAL / name))
            values = np.rint(sitk.GetArrayFromImage(image))
            assert (np.where(values < -1024, AIR, values) == scan.hu).all() and scan.padded == (values < -1024).sum()
            corner = np.array(shape) - 1
            assert np.allclose(scan.to_world([corner]), image.TransformIndexToPhysicalPoint(corner[::-1].tolist()), atol=1e-2)
    slices = {file for name in volumes for file in (REAL / name).glob("*")}
    for file in sorted(REAL.rglob("*")):
        if file.is_file() and not file.name.lower().endswith(FILE_KINDS) and file not in slices:
            said = "holds the voxels alone" if file.suffix == ".zraw" else "no scan file"  # tables, annotations, licences
            with pytest.raises(ScanError, match=said):
                read_scan(file)
    for folder, reason in (("lidc_xml", "no DICOM series"), (".", "3 series")):
        with pytest.raises(ScanError, match=reason):
            read_scan(REAL / folder)
    (info,), refused = find_series(REAL / "lidc_idri_0001" / "dicom")
    assert refused == {}
    assert (info.uid, info.patient, info.manufacturer, info.kernel) == (UID, "LIDC-IDRI-0001", "GE MEDICAL SYSTEMS", "STANDARD")
    assert (info.kvp, info.mas, info.thickness) == (120, 228, 2.5)
    assert sorted(z for _, _, z in info.positions) == [*np.arange(-125, -104, 2.5)]


def test_what_is_no_scan_gets_one_clear_line(tmp_path):
    for name, reason in (("text.csv", "no scan file"), ("text.zip", "cannot be unpacked")):
        (tmp_path / name).write_text("hello\n")
        assert_refused(tmp_path / name, reason)
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "no DICOM series")
    assert_refused(tmp_path / "missing.mhd", "does not exist")


LATIN = os.fsdecode(b"M\xfcller")  # a name that is not UTF-8


def test_a_file_whose_name_is_no_text_is_refused_and_one_below_such_a_folder_read(tmp_path):
    """SimpleITK ends the process at such a name."""
    scan, folder = noise_scan(), tmp_path / LATIN
    folder.mkdir()
    for kind in (".mhd", ".mha", ".nrrd", ".nhdr", ".nii.gz"):
        (tmp_path / kind).mkdir()
        sitk.WriteImage(to_sitk(scan), str(tmp_path / kind / f"a{kind}"))
        (tmp_path / kind).rename(folder / kind)
        assert (read_scan(folder / kind / f"a{kind}").hu == scan.hu).all()
        (folder / kind / f"a{kind}").rename(folder / kind / f"{LATIN}{kind}")
        with pytest.raises(ScanError, match=r"M\\xfcller.*': has a name that is not UTF-8 text, .*: rename it"):
            read_scan(folder / kind / f"{LATIN}{kind}")
    for write in (write_scan, write_series):
        with pytest.raises(ScanError, match=r"M\\xfcller.* cannot be written, .* rename it"):
            write(replace(scan, uid="1.2"), folder / "b.mhd")
    write_series(replace(scan, uid="1.2"), tmp_path / "series")
    with zipfile.ZipFile(folder / f"{LATIN}.zip", "w") as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, path.name)
    (tmp_path / "series").rename(folder / LATIN)
    assert (read_scan(folder / LATIN).hu == read_scan(folder / f"{LATIN}.zip").hu).all()


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1b[2Jb", "a\x85b"])
def test_a_name_that_would_break_the_lines_of_a_table_is_refused(tmp_path, name):
    sitk.WriteImage(to_sitk(noise_scan()), str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").rename(tmp_path / f"{name}.mha")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.write(tmp_path / f"{name}.mha", f"{name}.mha")
    for path in (tmp_path / f"{name}.mha", tmp_path / "scan.zip"):
        with pytest.raises(ScanError, match="has a name with a line break or another control character: rename it") as error:
            read_scan(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [".mhd", ".nhdr"])
@pytest.mark.parametrize("said, there", [("utf-8", "utf-8"), ("latin-1", "latin-1"), ("latin-1", "utf-8")])
def test_a_data_file_may_be_named_beyond_ascii(tmp_path, kind, said, there):
    scan, header = noise_scan(), tmp_path / f"data{kind}"
    sitk.WriteImage(to_sitk(scan), str(header))
    data = next(path for path in tmp_path.iterdir() if path != header)
    name = f"Müller{data.suffix}"
    data.rename(tmp_path / os.fsdecode(name.encode(there)))
    header.write_bytes(header.read_bytes().replace(data.name.encode(), name.encode(said)))
    assert (read_scan(header).hu == scan.hu).all()
