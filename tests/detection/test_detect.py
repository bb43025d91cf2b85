"""From a scan to findings, with networks whose answers are known and with trained ones."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan
from lungadv.data.lungs import lung_mask
from lungadv.data.scan import Scan
from lungadv.detection.detect import COLUMNS, classify, deduplicate, detect
from lungadv.detection.weights import shipped_folder
from lungadv.utils.errors import InputError
from lungadv.utils.files import real_folder

REAL = real_folder()
SLAB = REAL / "lidc_idri_0001" / "dicom"
CHEST = REAL / "lidc_idri_0001" / "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192.mhd"


def test_findings_are_the_candidates_scored_again_most_probable_first(weights, scan_of):
    findings = detect(scan_of(40), weights)
    assert list(findings.columns) == COLUMNS
    assert findings.seriesuid.tolist() == ["1.2.3"] * 2
    assert findings.coordX.tolist() == [0.0, 30.0]
    assert findings.probability[0] == pytest.approx((50 + 1000) / 1400, abs=0.01)
    assert findings.uncertainty[0] == pytest.approx(1 - findings.probability[0])


def test_a_scan_without_candidates_is_an_error(weights, monkeypatch, scan_of):
    monkeypatch.setattr("lungadv.detection.detect.find_candidates", lambda *_: pd.DataFrame(columns=["coordX", "coordY", "coordZ"]))
    with pytest.raises(InputError, match="no candidate was found in scan '1.2.3'"):
        detect(scan_of(40), weights)


def test_a_scan_without_lungs_is_an_error(weights, monkeypatch, scan_of):
    monkeypatch.setattr("lungadv.detection.detect.lung_mask", lambda scan: np.zeros(scan.hu.shape, bool))
    with pytest.raises(InputError, match="no lungs were found in scan '1.2.3'"):
        detect(scan_of(40), weights)


@pytest.mark.parametrize("hu", [-1000, 0])
def test_an_empty_scan_is_called_empty(weights, hu, scan_of):
    scan = scan_of(40)
    with pytest.raises(InputError, match=f"scan '1.2.3' is empty: all its voxels are {hu} HU"):
        detect(Scan(np.full_like(scan.hu, hu), scan.spacing, scan.origin, scan.direction, "1.2.3"), weights)


def abdomen():
    """A body of soft tissue in air, with gas in its bowel and no lung."""
    z, y, x = np.indices((60, 80, 100)) * 4.0 - np.array([118, 158, 198])[:, None, None, None]
    hu = np.full(z.shape, -1000.0)
    hu[(x / 170) ** 2 + (y / 120) ** 2 < 1] = 40
    for cx, cy, cz in ((60, -60, -40), (-70, -50, 0), (-20, -70, 60)):
        hu[(x - cx) ** 2 + (y - cy) ** 2 + ((z - cz) / 2) ** 2 < 20**2] = -980
    hu += np.random.default_rng(0).normal(0, 15, hu.shape)
    return Scan(hu.clip(-1024, 3000).astype(np.int16), (4.0, 4.0, 4.0), (0, 0, 0), np.eye(3), "abdomen")


def test_a_scan_of_an_abdomen_has_no_lungs_and_no_findings(weights, monkeypatch, tmp_path):
    monkeypatch.setattr("lungadv.detection.detect.lung_mask", lung_mask)
    write_scan(abdomen(), tmp_path / "abdomen.mhd")
    names = ["detect", str(tmp_path / "abdomen.mhd"), "--out", str(tmp_path / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, names)
    assert result.exit_code == 1 and not (tmp_path / "findings.csv").exists()
    assert result.stderr == "error: no lungs were found in scan 'abdomen': give a CT of the chest, in HU\n"


def test_the_weight_of_a_patch_is_that_of_its_mirror_images(monkeypatch):
    monkeypatch.setattr("lungadv.detection.detect.predict", lambda network, patches: (patches[:, 0, 0, 0, 0], patches[:, 0, 0, 0, 1]))
    patches = torch.arange(2 * 8.0).reshape(2, 1, 2, 2, 2)
    probability, uncertainty = classify(None, patches)  # a corner: each of the eight in turn
    assert probability.tolist() == uncertainty.tolist() == [3.5, 11.5]


def test_a_finding_inside_a_more_probable_one_is_left_out():
    table = pd.DataFrame({"coordX": [0.0, 4.0, 9.0, 30.0, 39.0], "coordY": 0.0, "coordZ": 0.0, "diameter_mm": [10.0, 12.0, 6.0, 36.0, 8.0]})
    # what is left out hides nothing, and nothing hides what is more than MAX_SAME_MM away
    assert deduplicate(table)["coordX"].tolist() == [0.0, 9.0, 30.0, 39.0]


def run_detect(scan, folder, weights):
    """Call `lungadv detect` on a scan's file; returns its findings and what it said on stderr."""
    out = folder / "findings.csv"
    result = CliRunner().invoke(app, ["detect", str(scan), "--out", str(out), "--weights", str(weights)])
    assert result.exit_code == 0, result.output
    return pd.read_csv(out, dtype={"seriesuid": str}), result.stderr


def test_findings_of_trained_weights_lie_inside_the_scan(chain, tmp_path):
    weights = chain[0] / "phantom-tiny-0"
    scans = pd.read_csv(weights / "datasets" / "scans.csv", dtype={"seriesuid": str})
    row = scans[scans.dataset == "nlst"].iloc[0]
    findings, said = run_detect(weights / "datasets" / row.path, tmp_path, weights)
    scan = read_scan(weights / "datasets" / row.path)
    voxels = scan.to_voxel(findings[["coordX", "coordY", "coordZ"]].to_numpy())
    assert len(findings) > 0 and (voxels > -0.5).all() and (voxels < np.array(scan.hu.shape) - 0.5).all()
    assert findings.probability.between(0, 1).all() and findings.probability.is_monotonic_decreasing
    assert "slab" not in said


@pytest.mark.skipif(not CHEST.is_file(), reason=f"no real CT at {CHEST}: LUNGADV_REAL_CT names the folder that holds it")
def test_shipped_weights_find_a_real_nodule(tmp_path):
    findings, _ = run_detect(CHEST, tmp_path, shipped_folder())
    first = findings.head(8)[["coordX", "coordY", "coordZ"]].to_numpy()
    nodule, diameter = (56.208, 86.343, -115.868), 23.35  # its row in LUNA16's annotations.csv
    assert np.linalg.norm(first - nodule, axis=1).min() < diameter / 2


@pytest.mark.skipif(not SLAB.is_dir(), reason=f"no real CT at {SLAB}: LUNGADV_REAL_CT names the folder that holds it")
def test_findings_in_a_real_slab_lie_inside_the_body(chain, tmp_path):
    findings, said = run_detect(SLAB, tmp_path, chain[0] / "phantom-tiny-0")
    assert "slab" in said
    scan = read_scan(SLAB)
    near_lungs = ndimage.distance_transform_edt(~lung_mask(scan), sampling=scan.spacing[::-1]) < 10
    voxels = scan.to_voxel(findings[["coordX", "coordY", "coordZ"]].to_numpy()).round().astype(int)
    assert len(findings) > 0 and near_lungs[tuple(voxels.T)].all()
