"""PET, segmentations, reports and localizers beside a CT: left out and counted; nothing of them is taken for a slice."""

import pandas as pd
import pydicom
import pytest

from lungadv.data.io.read import read_scan
from lungadv.data.manifest import read_manifest
from lungadv.data.scan import ScanError
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import HEADER, dicom, report_of, scan_of, take

SOP = "1.2.840.10008.5.1.4.1.1."
IMAGES = {  # modality, SOP class and what else differs from a slice of CT
    "PT": (SOP + "128", {}), "SEG": (SOP + "66.4", {"NumberOfFrames": 20, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}),
    "RTDOSE": (SOP + "481.2", {"NumberOfFrames": 20}), "DX": (SOP + "1.1", {}),
}  # fmt: skip
OBJECTS = {"SR": SOP + "88.22", "RTSTRUCT": SOP + "481.3", "PR": SOP + "11.1", "KO": SOP + "88.59", "REG": SOP + "66.1"}


def copy_as(source, target, uid, modality, sop_class, without=(), **values):
    """A slice written as another DICOM object."""
    dataset = pydicom.dcmread(source)
    dataset.SeriesInstanceUID, dataset.Modality = uid, modality
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    for name, value in values.items():
        setattr(dataset, name, value)
    for name in without:
        delattr(dataset, name)
    dataset.save_as(target)


def beside_ct(folder, apart=False):
    """One series of CT with every other kind beside it, in its own folder or each in another."""
    (source,) = dicom(folder, [("P1", "1.2.1")]).glob("P1/1.2.1/0001.dcm")

    def place(name):
        target = folder / "P1" / (name if apart else "1.2.1") / f"{name}.dcm"
        target.parent.mkdir(exist_ok=True)
        return target

    for number, (modality, (sop_class, values)) in enumerate(IMAGES.items()):
        for k in range(2):
            copy_as(source, place(f"{modality}{k}"), f"1.2.7.{number}", modality, sop_class, **values)
    pixels = ("Rows", "Columns", "PixelData", "ImagePositionPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    for number, (modality, sop_class) in enumerate(OBJECTS.items()):
        copy_as(source, place(modality), f"1.2.8.{number}", modality, sop_class, pixels)
    copy_as(source, place("scout"), "1.2.9.1", "CT", SOP + "2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    colour = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}
    copy_as(source, place("dose"), "1.2.9.2", "CT", SOP + "7", ("ImagePositionPatient",), **colour)
    return folder


@pytest.mark.parametrize("apart", [False, True], ids=["one folder", "a folder each"])
def test_other_modalities_are_left_out_and_counted(tmp_path, out, apart):
    src = beside_ct(tmp_path / "tcia", apart)
    found = take(src, "dicom", out)
    assert (found["taken"], found["refused"], found["left_out_files"]) == (1, 0, 0)
    counts = {**dict.fromkeys(IMAGES, 2 if apart else 1), **dict.fromkeys(OBJECTS, 1), "CT localizer": 1, "CT screen capture": 1}
    assert found["other_modalities"] == counts or apart
    assert set(found["other_modalities"]) == set(counts)
    (said,) = (sentence for sentence in found["left_out"] if sentence.startswith("Left out as no slices of CT: "))
    assert ("PT 1 series of 2 files" in said or apart) and "SR 1 series of 1 file" in said and "CT localizer 1 series" in said
    lines = report_of(out)
    assert lines["status"].value_counts()["taken"] == 1 and set(lines["status"]) == {"taken", "left out"}
    assert "PT, 2 files: only slices of CT are read" in set(lines["reason"]) or apart
    assert (read_manifest(out).scan("1.2.1").hu == scan_of("1.2.1").hu).all() and len(pd.read_csv(out)) == 1
    assert take(src, "dicom", out) == found | {"unchanged": True}


def test_detect_reads_the_ct_among_them(tmp_path):
    src = beside_ct(tmp_path / "tcia")
    assert (read_scan(src).hu == scan_of("1.2.1").hu).all()
    for path in src.rglob("0*.dcm"):
        path.unlink()
    with pytest.raises(ScanError, match="holds no series of CT slices, but 6 series: .*PT, 2 files"):
        read_scan(src)
    for path in src.rglob("*.dcm"):
        if path.stem not in OBJECTS:
            path.unlink()
    with pytest.raises(ScanError, match="holds no DICOM series of images, but 5 series: .*SR, 1 files"):
        read_scan(src)


def test_without_a_ct_one_line_counts_what_is_there(tmp_path, out):
    src = beside_ct(tmp_path / "tcia")
    for path in src.rglob("0*.dcm"):
        path.unlink()
    with pytest.raises(InputError, match="tcia' holds no series of CT slices. Left out .*: CT localizer 1 series .*PT 1 series of 2"):
        take(src, "dicom", out)
    assert not out.exists() and set(report_of(out)["status"]) == {"left out"}


def test_a_ct_in_place_of_another_modality_is_read_anew(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    slices, kept = sorted((src / "P2" / "1.2.2").iterdir()), {}
    for path in slices:
        kept[path] = path.read_bytes()
        copy_as(path, path, "1.2.2", "PT", SOP + "128")
    assert take(src, "dicom", out)["other_modalities"] == {"PT": 1}
    for path, content in kept.items():
        path.write_bytes(content)
    found = take(src, "dicom", out)
    assert found["taken"] == 2 and found["other_modalities"] == {}
    for path in slices:
        path.unlink()
    (src / "P2" / "1.2.2").rmdir()
    with pytest.raises(InputError, match="is gone since it was read"):
        take(src, "dicom", out)


def test_other_modalities_that_go_cost_nothing_and_their_rows_are_told(tmp_path, out):
    src = beside_ct(tmp_path / "tcia", apart=True)
    (tmp_path / "nodules.csv").write_text(f"{HEADER}\n1.2.1,-10,-12,-280,8\n1.2.7.0,-10,-12,-280,8\n")
    take(src, "dicom", out, tmp_path / "nodules.csv")
    assert "line 3: its series is no CT" in set(report_of(out)["reason"])
    (src / "P1" / "PT0" / "PT0.dcm").unlink()
    (src / "P1" / "PT0").rmdir()
    assert take(src, "dicom", out, tmp_path / "nodules.csv")["taken"] == 1


def test_uids_of_other_modalities_name_no_file(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    source = src / "P1" / "1.2.1" / "0001.dcm"
    for k, uid in enumerate(("../../x", "1.2/3", "")):
        copy_as(source, source.with_name(f"pet{k}.dcm"), uid, "PT", SOP + "128")
    copy_as(source, source.with_name("odd.dcm"), "1.2.5", "A B=1", SOP + "128")
    found = take(src, "dicom", out)
    assert (found["taken"], found["refused"]) == (1, 0) and found["other_modalities"] == {"PT": 3, "an unknown modality": 1}
    assert report_of(out)["seriesuid"].tolist().count("") == 3 and not list(tmp_path.rglob("x*"))


def test_a_localizer_or_a_pet_inside_the_series_of_ct_is_still_refused(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    source = src / "P2" / "1.2.2" / "0001.dcm"
    copy_as(source, source.with_name("scout.dcm"), "1.2.2", "CT", SOP + "2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    copy_as(source, source.with_name("report.dcm"), "1.2.2", "SR", SOP + "88.22", ("Rows", "Columns", "PixelData"))
    found = take(src, "dicom", out)
    assert (found["taken"], found["refused"], found["other_modalities"]) == (1, 1, {"SR": 1})
    assert "file 'scout.dcm' is a localizer, an overview image: remove it" in " ".join(report_of(out)["reason"])
