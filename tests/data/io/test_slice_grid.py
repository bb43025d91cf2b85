"""Positions of slices that were rounded in their files: the series is read, told of, or refused."""

import math

import numpy as np
import pydicom
import pytest

from lungadv.data.io.read import read_header, read_scan
from lungadv.data.io.slice_grid import check_duplicates, fit_grid
from lungadv.data.scan import Scan, ScanError
from tests.data.ingest.folders import report_of, take
from tests.data.made_scans import DIRECTIONS, noise_scan, write_dicom

HALF_UP = {"half even": lambda z: round(z), "half up": lambda z: math.floor(z + 0.5)}


def rounded_series(folder, step, decimals, without=(), shift=0.0, rounding=round):
    """A series of 20 slices `step` mm apart, its positions rounded, some slices left out: the scan as it was."""
    scan = Scan(noise_scan().hu, (0.7, 0.7, step), (-30.5, 12.25, -306.25 + shift), np.eye(3), "1.2.3")

    def edit(dataset, z):
        x, y, height = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, rounding(float(height) * 10**decimals) / 10**decimals]

    write_dicom(folder, edit, scan)
    for z in without:
        (folder / f"{z + 1:04d}.dcm").unlink()
    return scan


@pytest.mark.parametrize("step, shift", [(0.625, 0), (0.625, 0.03), (1.25, 0), (1.25, 0.07), (0.9765625, 0)])
def test_positions_in_tenths_of_a_millimetre_are_read(tmp_path, step, shift):
    scan = rounded_series(tmp_path / "series", step, 1, shift=shift)
    again, header = read_scan(tmp_path / "series"), read_header(tmp_path / "series")
    assert (again.hu == scan.hu).all() and again.notes == () and header.spacing == again.spacing
    ends = [[0, 0, 0], [19, 0, 0]]
    assert abs(again.spacing[2] - step) < 0.006 and np.abs(again.to_world(ends) - scan.to_world(ends)).max() < 0.055


@pytest.mark.parametrize("rounding", HALF_UP.values(), ids=HALF_UP)
@pytest.mark.parametrize("shift", [0, 0.25])
def test_positions_in_whole_millimetres_are_read_with_a_note(tmp_path, rounding, shift):
    scan = rounded_series(tmp_path / "series", 2.5, 0, shift=shift, rounding=rounding)
    again = read_scan(tmp_path / "series")
    assert (again.hu == scan.hu).all() and abs(again.spacing[2] - 2.5) < 0.02
    assert np.abs(again.to_world([[10, 0, 0]]) - scan.to_world([[10, 0, 0]])).max() < 0.51
    (note,) = again.notes
    assert "mm) off a regular grid: were their positions rounded?" in note


@pytest.mark.parametrize("number", [3, 4, 5, 9, 20])
@pytest.mark.parametrize("step, decimals", [(0.625, 1), (1.25, 1), (2.5, 1), (2.5, 2)])
def test_a_missing_slice_is_refused_however_positions_are_rounded(number, step, decimals):
    for start in (0.0, 0.03, 0.07):
        for gap in range(1, number):
            heights = np.round(start + step * np.delete(np.arange(number + 1), gap), decimals)
            with pytest.raises(ScanError, match="mm apart .*: slices are missing"):
                fit_grid(heights)


def test_a_missing_slice_of_a_long_series_is_refused_in_whole_millimetres():
    for gap in range(1, 20):
        with pytest.raises(ScanError, match="slices are missing, positions were rounded to whole mm, or two"):
            fit_grid(np.rint(2.5 * np.delete(np.arange(21), gap)))


def test_too_coarse_positions_and_two_steps_are_refused():
    with pytest.raises(ScanError, match="1.00 to 2.00 mm apart .* positions were rounded to whole mm"):
        fit_grid(np.rint(1.25 * np.arange(20)))
    with pytest.raises(ScanError, match="2.50 to 3.00 mm apart"):
        fit_grid(np.cumsum([2.5] * 30 + [3.0] * 30))
    with pytest.raises(ScanError, match="2 times two slices at one place, first two slices at 1.00 mm, '1' and '2': .* exact ones"):
        check_duplicates(np.rint([0, 0.7, 1.4, 2.1, 2.3]), list("01234"))


def test_the_grid_of_exact_positions_is_that_of_its_ends():
    heights = np.array([0.1, 0.8, 1.5000001, 2.2, 2.9])
    assert fit_grid(heights) == (0.1, (2.9 - 0.1) / 4, "")


@pytest.mark.parametrize("direction", ["oblique", "permuted"])
def test_rounded_positions_of_slices_in_any_direction(tmp_path, direction):
    scan = Scan(noise_scan().hu, (0.7, 0.7, 2.5), (-30.5, 12.25, -306.25), DIRECTIONS[direction], "1.2.3")

    def edit(dataset, z):
        dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]

    write_dicom(tmp_path / "series", edit, scan)
    again = read_scan(tmp_path / "series")
    ends = [[0, 0, 0], [19, 25, 33]]
    assert (again.hu == scan.hu).all() and np.abs(again.to_world(ends) - scan.to_world(ends)).max() < 0.15


def test_a_last_digit_of_the_pixel_spacing_is_no_other_grid(tmp_path):
    def edit(dataset, z):
        dataset.PixelSpacing = [0.70312, 0.703125] if z % 2 else [0.703125, 0.703125]

    scan = write_dicom(tmp_path / "series", edit)
    again = read_scan(tmp_path / "series")
    assert (again.hu == scan.hu).all() and again.spacing[:2] == (0.703125, 0.703125)


def test_ingest_takes_rounded_positions_and_reports_the_note(tmp_path, out):
    rounded_series(tmp_path / "data" / "series", 2.5, 0)
    rounded_series(tmp_path / "data" / "gap", 2.5, 1, without=[7])
    for path in (tmp_path / "data" / "gap").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "1.2.4"
        dataset.save_as(path)
    assert take(tmp_path / "data", "dicom", out)["taken"] == 1
    lines = report_of(out).set_index("path")
    assert "off a regular grid: were their positions rounded?" in lines.loc["series", "reason"]
    assert "slices are missing" in lines.loc["gap", "reason"]
