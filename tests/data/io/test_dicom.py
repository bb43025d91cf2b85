"""DICOM series: found, chosen, described, checked and read."""

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from lungadv.data.io.dicom import find_series, read_slices
from lungadv.data.io.read import read_header, read_scan
from lungadv.data.io.write import write_scan
from lungadv.data.scan import AIR, ScanError
from tests.data.made_scans import phantom_scan, write_dicom
from tests.data.real_files import REAL, UID, real


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
    assert np.abs(read_scan(tmp_path / "series").hu - expected).max() <= 0.5 + 1e-6


def test_slices_are_found_by_content_and_ordered_by_position(tmp_path):
    scan = write_dicom(tmp_path / "series", lambda dataset, z: setattr(dataset, "InstanceNumber", (7 * z) % 20))
    names = np.random.default_rng(0).permutation(len(scan.hu))
    (tmp_path / "series" / "below").mkdir()
    for k, path in zip(names, sorted((tmp_path / "series").glob("*.dcm")), strict=True):
        path.rename(tmp_path / "series" / ("below" if k % 2 else ".") / (f"I{k}" if k % 3 else f"scan.{k}.txt"))
    for name in ("notes.txt", ".DS_Store", "LICENSE", "list.xml"):
        (tmp_path / "series" / name).write_text("no DICOM")
    again = read_scan(tmp_path / "series")
    assert (again.hu == scan.hu).all() and np.allclose(again.to_world([[3, 4, 5]]), scan.to_world([[3, 4, 5]]), atol=1e-4)
    header = read_header(tmp_path / "series")
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
    again = read_scan(tmp_path / "series")
    expected = hu.copy()
    expected[:, 0, :5] = AIR
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
    again = read_scan(folder)
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
    assert (read_scan(tmp_path / "one").hu == one.hu).all()
    with pytest.raises(ScanError, match=rf"4 series: {one.uid} \(CT, 20 files\).*series="):
        read_scan(tmp_path)
    for uid in (one.uid, one.uid + ".9"):
        assert read_scan(tmp_path, series=uid).uid == uid
    with pytest.raises(ScanError, match="no series 1.2, but 4 series"):
        read_scan(tmp_path, series="1.2")
    for uid, reason in ((one.uid + ".8", "localizer"), (one.uid + ".7", "modality PT")):
        with pytest.raises(ScanError, match=reason):
            read_scan(tmp_path, series=uid)
    found, refused = find_series(tmp_path / "one")
    first, second = next(info for info in found if info.uid == one.uid), find_series(tmp_path / "two")[0][0]
    assert len(found) == 3 and refused == {} and second.uid == one.uid + ".9"
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
    (found,), refused = find_series(tmp_path / "one")
    assert len(found.files) == 20 and {path.name for path in refused} == {"note.dcm", "cut.dcm"}
    again = read_slices(found)
    assert (again.hu == scan.hu).all() and again.uid == scan.uid
    with pytest.raises(ScanError, match="'(note|cut).dcm'"):
        read_scan(tmp_path / "one")
    (tmp_path / "one" / "0021.dcm").symlink_to(tmp_path / "gone.dcm")  # a slice that is no longer there
    assert {path.name for path in find_series(tmp_path / "one")[1]} == {"note.dcm", "cut.dcm", "0021.dcm"}
    write_scan(scan, tmp_path / "a.mhd")
    with pytest.raises(ScanError, match="a.mhd': is one scan, .* leave out the series 1.2"):
        read_scan(tmp_path / "a.mhd", series="1.2")


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
    with pytest.raises(ScanError, match=reason) as error:
        read_scan(tmp_path / "series")
    assert "series" in str(error.value) and "\n" not in str(error.value)


def test_files_that_may_be_damaged_slices_are_named(tmp_path):
    for name in ("note.dcm", "IM0004", "1.2.3.4", "a.IMA"):
        write_dicom(tmp_path / name / "series")
        (tmp_path / name / "series" / name).write_text("text renamed")
        with pytest.raises(ScanError, match=f"'{name}' is no DICOM file"):
            read_scan(tmp_path / name / "series")
    write_dicom(tmp_path / "series")
    for path, reason in (("0003.dcm", "slices are missing"), ("0020.dcm", None)):
        (tmp_path / "series" / path).rename(tmp_path / path)
        if reason:
            with pytest.raises(ScanError, match=reason):
                read_scan(tmp_path / "series")
            (tmp_path / path).rename(tmp_path / "series" / path)
    assert len(read_scan(tmp_path / "series").hu) == 19
    copy = pydicom.dcmread(tmp_path / "series" / "0004.dcm")
    copy.SOPInstanceUID = "1.2.3"
    copy.save_as(tmp_path / "series" / "copy.dcm")
    with pytest.raises(ScanError, match="two slices at .* mm, '0004.dcm' and 'copy.dcm'"):
        read_scan(tmp_path / "series")


@real
def test_dicom_slices_equal_the_mhd():
    whole = read_scan(REAL / "lidc_idri_0001" / f"{UID}.mhd")
    slab = read_scan(REAL / "lidc_idri_0001" / "dicom")
    first = round(whole.to_voxel([slab.origin])[0, 0])
    assert slab.hu.shape == (9, 512, 512) and slab.uid == UID
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
    with pytest.raises(ScanError, match=reason) as error:
        read_scan(folder)
    assert folder.name in str(error.value)
