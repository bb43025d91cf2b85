"""Real scans: LIDC-IDRI-0001 as LUNA16 and as DICOM, and others."""

import shutil

import pandas as pd
import pytest

from lungadv.data.io.read import read_scan
from lungadv.data.manifest import read_manifest
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import HEADER, report_of, take
from tests.data.real_files import REAL, UID, real


@real
def test_the_real_lidc_case_as_luna16_takes_its_type_and_outline(tmp_path, out):
    src = tmp_path / "luna"
    (src / "subset0").mkdir(parents=True)
    for suffix in (".mhd", ".zraw"):
        (src / "subset0" / f"{UID}{suffix}").symlink_to(REAL / "lidc_idri_0001" / f"{UID}{suffix}")
    shutil.copy(REAL / "lidc_idri_0001" / "069.xml", src)
    shutil.copy(REAL / "luna16_tables" / "annotations.csv", src)
    shutil.copy(REAL / "luna16_tables" / "annotations_excluded_LIDC-IDRI-0001_only.csv", src / "annotations_excluded.csv")
    found = take(src, "luna16", out)
    assert (found["taken"], found["nodules"], found["by_type"]) == (1, 1, {"solid": 1})
    assert report_of(out)["reason"][0] == "" and found["left_out_rows"] == 1185  # of the other scans
    assert report_of(out)["reason"].str.contains("its scan is not there").sum() == 600  # of the 601 scans with nodules
    data = read_manifest(out)
    votes = read_scan(REAL / "lidc_idri_0001" / f"{UID}_nodule_votes.nii.gz").hu >= 2
    labels = data.labels(UID) > 0
    assert 2 * (labels & votes).sum() / (labels.sum() + votes.sum()) > 0.99


@real
def test_real_dicom_is_taken_or_refused_with_a_reason(tmp_path, out):
    (tmp_path / "real").mkdir()
    for name in ("cip_ct64", "lung_pet_ct_dx_A0002", "lidc_idri_0001"):
        shutil.copytree(REAL / name, tmp_path / "real" / name)
    take(tmp_path / "real", "dicom", out)
    lines = report_of(out).set_index("path")
    assert lines.loc["cip_ct64/ct-64Dicom", "status"] == lines.loc["lidc_idri_0001/dicom", "status"] == "taken"
    assert lines.loc["lung_pet_ct_dx_A0002/dicom", "status"] == "taken"
    assert lines.loc["lung_pet_ct_dx_A0002/dicom", "reason"] == "covers only 24 mm: a slab, not a chest"
    assert lines.loc["lidc_idri_0001/dicom", "reason"] == "covers only 22 mm: a slab, not a chest"
    assert lines.loc["cip_ct64/ct-64Dicom", "reason"] == ""
    manifest = pd.read_csv(out, dtype=str).set_index("path")
    assert manifest.loc["lung_pet_ct_dx_A0002/dicom", "shape"] == "3 512 512"  # three slices of 8 mm
    assert manifest.loc["lidc_idri_0001/dicom", ["kernel", "kvp", "thickness"]].tolist() == ["STANDARD", "120.0", "2.5"]


@real
def test_a_real_reading_says_which_slices_are_missing(tmp_path, out):
    shutil.copytree(REAL / "lidc_idri_0001" / "dicom", tmp_path / "real" / "dicom")
    shutil.copy(REAL / "lidc_idri_0001" / "069.xml", tmp_path / "real")
    said = "9 slices are here, from z -125 to -105 mm; the reading needs z -242.5 to -150 mm too"
    with pytest.raises(InputError, match=f"slices are missing: {said}"):
        take(tmp_path / "real", "lidc", out)


@real
def test_a_real_scan_with_another_header_is_the_same_scan(tmp_path, out):
    (tmp_path / "real").mkdir()
    cropped = [f"totalsegmentator/{name}.nii.gz" for name in ("abdomen_example_ct_sm", "thorax_ct_cropped")]
    for path in ("cip_ct64/ct-64.nrrd", "cip_ct64/ct-64-transformed.nrrd", *cropped):
        shutil.copy(REAL / path, tmp_path / "real")
    (tmp_path / "real" / "annotations.csv").write_text(f"{HEADER}\n")
    take(tmp_path / "real", "luna16", out)
    reasons = report_of(out).set_index("seriesuid")["reason"]
    assert reasons["ct-64"] == "" and reasons["ct-64-transformed"] == "holds the same voxels as 'ct-64.nrrd': keep one of them"
    assert reasons["abdomen_example_ct_sm"] == "covers only 90 mm: a slab, not a chest"  # the lungs' bases are in it
    assert reasons["thorax_ct_cropped"] == "a side cuts through 190 cm2 of lung: a part of a chest"
