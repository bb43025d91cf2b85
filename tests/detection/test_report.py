"""What the reader of findings gets: files to look at, and warnings."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from lungadv.data.lungs import extent_mm
from lungadv.data.scan import AIR, Scan
from lungadv.detection.detect import COLUMNS, detect
from lungadv.detection.report import contact_sheet, scan_warnings, write_findings, write_json, write_markups


def test_findings_and_contact_sheet_are_files_to_look_at(weights, tmp_path, scan_of):
    scan = scan_of(40)
    findings = detect(scan, weights)
    write_findings(findings, tmp_path / "findings.csv")
    again = pd.read_csv(tmp_path / "findings.csv", dtype={"seriesuid": str})
    pd.testing.assert_frame_equal(again, findings, rtol=1e-5, check_dtype=False)
    contact_sheet(scan, findings, tmp_path / "sheet.png")
    assert matplotlib.image.imread(tmp_path / "sheet.png")[..., :3].std() > 0.05


def test_the_contact_sheet_shows_a_finding_in_its_ring(tmp_path, ball_at):
    place, diameter = (9.0, -6.0, 8.0), 10.0
    finding = pd.DataFrame([["ball", *place, 0.9, 0.1, diameter]], columns=COLUMNS)
    contact_sheet(ball_at(place, diameter, (1.0, 1.0, 1.0)), finding, tmp_path / "sheet.png")
    image = matplotlib.image.imread(tmp_path / "sheet.png")[..., :3]
    rows, columns = np.nonzero(np.abs(image - [0.902, 0.624, 0]).max(axis=2) < 0.15)  # the ring's orange
    (top, bottom), (left, right) = (rows.min(), rows.max()), (columns.min(), columns.max())
    across = bottom - top
    assert across > 20 and abs(right - left - across) <= 2  # a whole ring
    y, x = np.indices(image.shape[:2])
    away = np.hypot(y - (top + bottom) / 2, x - (left + right) / 2) / (across / 2)
    pixel = across / 2 / (diameter / 2 + 3)  # of the sheet, in one mm
    assert np.hypot(rows - (top + bottom) / 2, columns - (left + right) / 2).min() > (diameter / 2 + 2) * pixel
    assert image[away < 0.4].min() > 0.5 and image[(away > 0.75) & (away < 0.85)].max() < 0.4
    assert image[(away > 1.2) & (away < 1.5)].max() < 0.4  # lung around it


def test_a_scan_named_as_a_formula_is_written_as_a_text_and_drawn(tmp_path, ball_at):
    uid = r"=1+1 $\bad$"
    finding = pd.DataFrame([[uid, 9.0, -6.0, 8.0, 0.9, 0.1, 10.0]], columns=COLUMNS)
    write_findings(finding, tmp_path / "findings.csv")
    assert pd.read_csv(tmp_path / "findings.csv")["seriesuid"].tolist() == [f"'{uid}"]
    contact_sheet(replace(ball_at((9.0, -6.0, 8.0), 10.0, (1.0, 1.0, 1.0)), uid=uid), finding, tmp_path / "sheet.png")
    assert matplotlib.image.imread(tmp_path / "sheet.png")[..., :3].std() > 0.05


def test_markups_hold_the_findings_in_lps_mm_and_say_so(tmp_path):
    rows = [["1.2", 10.5, -20.0, -130.25, 0.93, 0.1, 8.0], ["1.2", 1.0, 2.0, 3.0, 0.2, 0.5, 4.0]]
    write_markups(pd.DataFrame(rows, columns=COLUMNS), tmp_path / "findings.mrk.json")
    (markups,) = json.loads((tmp_path / "findings.mrk.json").read_text())["markups"]
    assert markups["coordinateSystem"] == "LPS" and markups["type"] == "Fiducial"
    assert [point["position"] for point in markups["controlPoints"]] == [[10.5, -20.0, -130.25], [1.0, 2.0, 3.0]]
    assert markups["controlPoints"][0]["label"] == "1: p 0.93" and "8.0 mm" in markups["controlPoints"][0]["description"]


def test_json_holds_the_findings_and_what_they_were_made_from(weights, tmp_path, scan_of):
    scan = scan_of(9)
    findings, said = detect(scan, weights), scan_warnings(scan, weights)
    write_json(scan, findings, weights, said, tmp_path / "findings.json")
    content = json.loads((tmp_path / "findings.json").read_text())
    assert content["seriesuid"] == "1.2.3" and content["coordinates"] == "LPS mm" and content["warnings"] == said and len(said) == 1
    assert content["size"] == [60, 60, 9] and content["spacing_mm"] == [2.0, 2.0, 2.5]
    assert content["weights"]["profile"] == "quick" and content["weights"]["seed"] == 3
    pd.testing.assert_frame_equal(pd.DataFrame(content["findings"]), findings[COLUMNS[1:]], atol=1e-5, check_dtype=False)


def test_weights_of_the_tiny_profile_are_called_useless(weights, scan_of, remake):
    remake(profile="tiny")
    assert any("profile tiny" in sentence and "mean nothing" in sentence for sentence in scan_warnings(scan_of(40), weights))


def test_a_slab_is_called_a_slab(weights, scan_of):
    (said,) = scan_warnings(scan_of(9), weights)
    assert "only 22 mm: a slab, not a chest" in said
    assert scan_warnings(scan_of(40), weights) == []


def test_thick_padding_does_not_make_a_chest_of_a_slab(weights, scan_of):
    slab = scan_of(9)
    hu = np.pad(slab.hu, ((40, 40), (20, 20), (20, 20)), constant_values=AIR)
    padded = Scan(hu, slab.spacing, tuple(slab.to_world([[-40, -20, -20]])[0]), slab.direction, slab.uid)
    assert extent_mm(padded) == extent_mm(slab) == pytest.approx(22.5)
    assert "a slab" in scan_warnings(padded, weights)[0]


def test_a_slab_is_one_from_foot_to_head_whatever_the_order_of_the_axes(scan_of):
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # the array's y runs from foot to head
    assert extent_mm(scan_of(9, direction=sagittal)) == pytest.approx(120)


def test_thick_slices_are_warned_of_and_searched(weights, scan_of):
    scan = scan_of(30, spacing=(2.0, 2.0, 5.0))
    (said,) = scan_warnings(scan, weights)
    assert "the slices are 5.0 mm apart: nodules smaller than 10 mm may be missed" in said
    assert len(detect(scan, weights)) == 2


def test_coarse_pixels_are_not_taken_for_thick_slices_whatever_the_order_of_the_axes(weights, scan_of):
    (said,) = scan_warnings(scan_of(60, spacing=(4.2, 4.2, 2.0)), weights)
    assert said.startswith("the pixels are 4.2 mm wide: nodules smaller than 8 mm may be missed")
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # the array's y runs from foot to head
    (said,) = scan_warnings(scan_of(60, spacing=(2.0, 5.0, 2.0), direction=sagittal), weights)
    assert said.startswith("the slices are 5.0 mm apart")


def test_little_lung_is_doubted_in_a_scan_as_tall_as_a_chest(weights, monkeypatch, scan_of):
    scan = scan_of(60)  # 150 mm
    mask = np.zeros(scan.hu.shape, bool)
    mask.flat[:11700] = True  # of 0.01 ml each
    monkeypatch.setattr("lungadv.detection.detect.lung_mask", lambda scan: mask)
    (said,) = scan_warnings(scan, weights)
    assert said.startswith("only 117 ml of lung: is this a chest?")
    mask.flat[:51000] = True
    assert scan_warnings(scan, weights) == []


def test_little_lung_is_doubted_in_a_slab_for_its_height(weights, monkeypatch, scan_of):
    scan = scan_of(30)  # 75 mm, which should hold 150 ml
    mask = np.zeros(scan.hu.shape, bool)
    monkeypatch.setattr("lungadv.detection.detect.lung_mask", lambda scan: mask)
    for millilitres, doubted in ((140, True), (160, False)):
        mask.flat[: 100 * millilitres] = True  # of 0.01 ml each
        said = scan_warnings(scan, weights)
        assert "a slab, not a chest" in said[0] and len(said) == 1 + doubted
        assert not doubted or said[1].startswith("only 140 ml of lung: is this a chest?")
