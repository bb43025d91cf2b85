"""Findings as a DICOM structured report: read again by pydicom and highdicom, and checked by dciodvfy."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pydicom
import pytest
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.scan import Scan
from lungadv.detection.detect import COLUMNS
from lungadv.detection.structured_report import read_images, write_sr
from lungadv.detection.weights import shipped_folder

needs_highdicom = pytest.mark.skipif(
    not importlib.util.find_spec("highdicom"), reason="highdicom is not installed: pip install 'lungadv[sr]'"
)
ROWS = [["1.2.40", 1.25, 2.5, 3.0, 0.93, 0.1, 8.0], ["1.2.40", -4.0, 0.125, -6.5, 0.25, 0.75, 2.0]]


@pytest.fixture
def series(tmp_path):
    """The folder of ten slices at z = -7, -5, ..., 11 mm."""
    write_series(Scan(np.zeros((10, 12, 14), np.int16), (1, 1, 2), (-5, -6, -7), np.eye(3), "1.2.40"), tmp_path / "series")
    return tmp_path / "series"


@pytest.fixture
def report(series, tmp_path):
    """The report of two findings in that series."""
    write_sr(read_images(series, None), pd.DataFrame(ROWS, columns=COLUMNS), shipped_folder(), tmp_path / "findings.dcm")
    return tmp_path / "findings.dcm"


@needs_highdicom
def test_the_report_gives_back_the_findings(report):
    import highdicom

    groups = highdicom.sr.srread(report).content.get_volumetric_roi_measurement_groups()
    read = []
    for group in groups:
        surface = group.roi.graphic_data  # (6, 3): the ends of its axes
        certainty, uncertainty, diameter = (measured.value for measured in group.get_measurements())
        read.append([*surface.mean(axis=0), certainty / 100, uncertainty, diameter])
        assert np.linalg.norm(surface - surface.mean(axis=0), axis=1) == pytest.approx(np.full(6, diameter / 2), abs=1e-4)
    assert np.array(read) == pytest.approx(np.array([row[1:] for row in ROWS]), abs=1e-4)
    assert [group.tracking_identifier for group in groups] == ["finding 1", "finding 2"]


@needs_highdicom
def test_a_finding_refers_to_the_slices_that_it_reaches(report):
    import highdicom

    groups = highdicom.sr.srread(report).content.get_volumetric_roi_measurement_groups()
    named = [sorted(image.referenced_sop_instance_uid for image in group.roi[1:]) for group in groups]
    # from z = -1 to 7 mm slices 4 to 8, from -7.5 to -5.5 mm slice 1; `write_series` numbers them so
    assert named == [[f"1.2.40.3.{k}" for k in (4, 5, 6, 7, 8)], ["1.2.40.3.1"]]


@needs_highdicom
def test_the_report_is_of_the_patient_and_says_what_it_is_not_for(report):
    dataset = pydicom.dcmread(report)
    assert dataset.PatientID == "1.2.40" and dataset.StudyInstanceUID == "1.2.40.1" and dataset.Modality == "SR"
    assert "Not for clinical use" in dataset.SeriesDescription
    assert (dataset.CompletionFlag, dataset.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    texts = [item.TextValue for item in dataset.ContentSequence if "TextValue" in item]
    assert any(text.startswith("lungadv detect ") and text.endswith("Not for clinical use") for text in texts)
    assert len(dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence) > 0


@needs_highdicom
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed: apt-get install dicom3tools")
def test_dciodvfy_finds_no_error(report):
    shown = subprocess.run(["dciodvfy", report], capture_output=True, text=True)
    lines = (shown.stdout + shown.stderr).splitlines()
    assert shown.returncode == 0 and lines[0] == "Comprehensive3DSR"
    assert [line for line in lines if line.startswith("Error")] == []


def call_detect(scan, folder, weights, *more):
    names = ["detect", scan, "--out", folder / "findings.csv", "--sr", folder / "findings.dcm", "--weights", weights, *more]
    return CliRunner().invoke(app, [str(name) for name in names])


@needs_highdicom
def test_detect_writes_a_report_beside_the_table(weights, scan_of, tmp_path):
    import highdicom

    write_series(scan_of(40), tmp_path / "series")
    result = call_detect(tmp_path / "series", tmp_path, weights)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "findings.csv")
    groups = highdicom.sr.srread(tmp_path / "findings.dcm").content.get_volumetric_roi_measurement_groups()
    centres = [group.roi.graphic_data.mean(axis=0) for group in groups]
    assert np.array(centres) == pytest.approx(table[["coordX", "coordY", "coordZ"]].to_numpy(), abs=1e-3)


@needs_highdicom
def test_a_report_of_what_is_no_dicom_folder_is_refused_before_the_search(weights, scan_of, tmp_path):
    write_scan(scan_of(40), tmp_path / "scan.mhd")
    result = call_detect(tmp_path / "scan.mhd", tmp_path, weights)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "a DICOM SR refers to its images" in result.stderr and "leave out --sr" in result.stderr
    assert not (tmp_path / "findings.csv").exists()


@needs_highdicom
def test_what_slices_lack_of_patient_and_study_is_empty_in_the_report(series, tmp_path):
    for file in series.iterdir():
        dataset = pydicom.dcmread(file)
        for name in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            del dataset[name]
        dataset.save_as(file)
    write_sr(read_images(series, None), pd.DataFrame(ROWS, columns=COLUMNS), shipped_folder(), tmp_path / "findings.dcm")
    report = pydicom.dcmread(tmp_path / "findings.dcm")
    assert not report.PatientName and not report.StudyDate and report.PatientID == "1.2.40"


@needs_highdicom
def test_slices_without_a_frame_of_reference_are_refused(weights, series, tmp_path):
    for file in series.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.FrameOfReferenceUID
        dataset.save_as(file)
    result = call_detect(series, tmp_path, weights)
    assert result.exit_code == 1 and "has slices without FrameOfReferenceUID" in result.stderr


def test_without_highdicom_the_remedy_is_named(weights, series, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    result = call_detect(series, tmp_path, weights)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "pip install 'lungadv[sr]'" in result.stderr and not (tmp_path / "findings.csv").exists()
