"""The list of bad inputs in perf/bad_inputs.py: each gets one line that names the file and what is wrong."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("bad_inputs", Path(__file__).parents[1] / "perf" / "bad_inputs.py")
bad_inputs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bad_inputs)
SAYS = {
    "truncated .zraw": ("scan.zraw", "cut short"),
    "header and data size differ": ("scan.zraw", "its header says"),
    ".mhd naming a file outside its folder": ("scan.mhd", "outside its folder"),
    "missing slice": ("series", "slices are missing"),
    "duplicate slice": ("copy.dcm", "remove the duplicate"),
    "two series mixed": ("series", "holds 2 series"),
    "SeriesInstanceUID that is a path": ("0001.dcm", "not digits and dots"),
    "localizer": ("0001.dcm", "is a localizer"),
    "gantry tilt": ("series", "a tilted gantry"),
    "colour image": ("0001.dcm", "no grey CT image"),
    "4D image": ("scan.mhd", "4-dimensional"),
    "missing rescale": ("0001.dcm", "no RescaleIntercept"),
    "NaN": ("scan.nrrd", "not finite"),
    "spacing 0": ("scan.mhd", "correct the header"),
    "unit direction missing": ("scan.mhd", "add 'TransformMatrix"),
    "empty folder": ("folder", "holds no DICOM series"),
    "text renamed .dcm": ("notes.dcm", "no DICOM file"),
    "text renamed .dcm beside slices, ingested": ("notes.dcm", "was read without it"),
    "CSV with missing column": ("annotations.csv", "no column diameter_mm"),
    "CSV ids read as numbers": ("annotations.csv, line 2", "keep the ids as text"),
    "CSV with comma decimals": ("annotations.csv, line 2", "decimals written with a comma"),
    "CSV with duplicate rows": ("annotations.csv, line 3", "list each row once"),
    "nodule outside the volume": ("annotations.csv, line 5", "lies outside scan '1.2.3'"),
    "annotation of an unknown scan": ("annotations.csv: line 6", "its scan is not there"),
    "coordinates that fit only after an LPS/RAS flip": ("annotations.csv, line 2", "fit as x and y negated (RAS instead of LPS)"),
    "coordinates with x and y negated that stay inside": ("annotations.csv", "4 do as x and y negated (RAS instead of LPS)"),
    "coordinates that fit only after an x/z swap": ("annotations.csv, line 2", "fit as x and z swapped"),
    "the same voxels under two names": ("copy.mhd", "holds the same voxels as 'subset0/1.2.0.mhd': keep one of them"),
    "XML with entity expansion": ("reading.xml", "unfold without end"),
    "zip with ../ paths": ("scan.zip", "would leave the folder"),
    "patient in two splits": ("manifest.csv, line 3", "patient 'P1' is in nlst and train"),
    "checksum changed since ingest": ("1.2.0.zraw", "has changed since it was read"),
    "disk full while writing the store": ("made", "make room and call again"),
}


def test_every_case_is_here():
    assert list(SAYS) == list(bad_inputs.CASES)


@pytest.mark.parametrize("name", SAYS)
def test_a_bad_input_gets_one_line_with_file_and_reason(name):
    said = bad_inputs.message(name)
    assert all(part in said for part in SAYS[name]) and "\n" not in said and "Traceback" not in said
