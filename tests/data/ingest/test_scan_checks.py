"""Slabs, crops, volumes without air, masks of another grid."""

import numpy as np
import pytest

from lungadv.data import lungs
from lungadv.data.ingest import scan_checks
from lungadv.data.ingest.scan_checks import coverage_remarks
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_volume
from lungadv.data.scan import Scan
from tests.data.ingest.folders import ORIGIN, SPACING, luna16, report_of, scan_of, take


def test_what_is_no_whole_chest_is_taken_and_said(tmp_path, out):
    found = take(luna16(tmp_path / "luna", 5), "luna16", out)
    assert set(report_of(out)["reason"]) == {"covers only 40 mm: a slab, not a chest; no lungs found"}
    said = next(sentence for sentence in found["left_out"] if "whole chest" in sentence)
    first = "No whole chest is in 5 of 5 scans: 'subset0/1.2.0.mhd' (covers only 40 mm: a slab, not a chest; no lungs found), "
    assert said.startswith(first) and said.endswith(", and 2 more that the report names.")


def test_lungs_too_small_for_the_coarse_search_are_found_on_all_voxels(phantoms, monkeypatch):
    scan, searched = read_scan(next(phantoms.glob("*.mhd"))), []
    mask = lungs.lung_mask
    monkeypatch.setattr(lungs, "lung_mask", lambda each: searched.append(each) or mask(each))
    assert coverage_remarks(scan) == [] and len(searched) == 1
    coarse = searched[0]
    corners = [[0, 0, 0], np.array(coarse.hu.shape) - 1]
    steps = np.array(coarse.spacing[::-1]) / scan.spacing[::-1]
    assert np.allclose(coarse.to_world(corners), scan.to_world(corners * steps))  # the same body, with fewer voxels
    small = np.zeros(scan.hu.shape, bool)
    small[30, 40, 40] = True
    monkeypatch.setattr(lungs, "lung_mask", lambda each: small if each is scan else np.zeros(each.hu.shape, bool))
    assert coverage_remarks(scan) == []


@pytest.mark.parametrize("axis, end", [(0, 0), (1, -1), (2, 0), (2, -1)])
def test_a_crop_says_how_much_lung_its_side_cuts(phantoms, monkeypatch, axis, end):
    scan = read_scan(next(phantoms.glob("*.mhd")))  # voxels of 2.5 mm
    mask = np.zeros(scan.hu.shape, bool)
    mask[20:41, 20:41, 20:41] = True
    np.moveaxis(mask, axis, 0)[end][20:42, 20:41] = True
    monkeypatch.setattr(lungs, "lung_mask", lambda each: mask)
    monkeypatch.setattr(scan_checks, "COARSE_MM", 2.5)
    assert coverage_remarks(scan) == []  # 22 x 21 voxels of 2.5 mm: 29 cm2
    np.moveaxis(mask, axis, 0)[end][20:42, 41:43] = True
    assert coverage_remarks(scan) == ["a side cuts through 32 cm2 of lung: a part of a chest"]


def test_a_lung_mask_of_another_grid_refuses_its_scan(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    (src / "seg-lungs-LUNA16").mkdir()
    short = Scan(scan_of("1.2.0").hu[:19], SPACING, ORIGIN, np.eye(3), "1.2.0")
    write_volume(np.ones(short.hu.shape, np.uint8), short, src / "seg-lungs-LUNA16" / "1.2.0.mhd")
    assert take(src, "luna16", out)["taken"] == 1
    assert "seg-lungs-LUNA16/1.2.0.mhd' does not lie on the scan's grid" in report_of(out)["reason"][0]


def test_a_volume_without_air_is_no_ct(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    raw = Scan((scan_of("1.2.1").hu + 1024).astype(np.int16), SPACING, ORIGIN, np.eye(3), "1.2.1")  # its intercept left out
    write_scan(raw, src / "subset1" / "1.2.1.mhd")
    assert take(src, "luna16", out)["taken"] == 1 and "1.2.1.mhd' holds no air, its lowest value is 24" in report_of(out)["reason"][1]
