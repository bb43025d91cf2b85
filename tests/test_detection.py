import json
import os
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save
from scipy import ndimage
from typer.testing import CliRunner

from lungadv import candidates, ct, detection, lungs, runs
from lungadv.cli import app

LOAD_NETWORKS = candidates.load_networks
REAL = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).resolve().parents[2] / "shared" / "real_ct")
SLAB = REAL / "lidc_idri_0001" / "dicom"


def scan_of(slices, spacing=(2.0, 2.0, 2.5), direction=None):
    """Air with one bright ball at (0, 0, 0) mm."""
    hu = np.full((slices, 60, 60), -900, np.int16)
    extent = np.array([60, 60, slices]) * spacing
    direction = np.eye(3) if direction is None else direction
    scan = ct.Scan(hu, spacing, tuple(direction @ (-extent / 2)), direction, "1.2.3")
    voxels = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), -1).reshape(-1, 3)
    hu.reshape(-1)[np.linalg.norm(scan.to_world(voxels), axis=1) < 8] = 50
    return scan


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder that looks like weights, and networks that are certain of what is bright."""
    strategy = tmp_path / "fpr" / detection.STRATEGY
    strategy.mkdir(parents=True)
    (strategy / "weights.safetensors").touch()
    (strategy / "provenance.json").write_text(json.dumps({"settings": vars(runs.load_settings("tiny"))}))
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "networks.json").touch()
    points = pd.DataFrame([[30.0, 0, 0, 0.9, "blob", np.nan], [0, 0, 0, 0.4, "rpn", 16.0]])
    points.columns = ["coordX", "coordY", "coordZ", "score", "source", "diameter_mm"]
    monkeypatch.setattr("lungadv.lungs.lung_mask", lambda scan: scan.hu < -500)
    monkeypatch.setattr("lungadv.candidates.load_networks", lambda folder: folder)
    monkeypatch.setattr("lungadv.candidates.detect", lambda networks, scan, lungs, settings: points)
    monkeypatch.setattr("lungadv.fpr.load_weights", lambda folder: None)

    def predict(network, patches):
        middle = torch.as_tensor(patches)[:, 0, 7:9, 7:9, 7:9].mean((1, 2, 3))
        return middle, 1 - middle

    monkeypatch.setattr("lungadv.fpr.predict", predict)
    return tmp_path


def test_findings_are_the_candidates_scored_again_most_probable_first(weights):
    findings = detection.detect(scan_of(40), weights)
    assert list(findings.columns) == detection.COLUMNS
    assert findings.seriesuid.tolist() == ["1.2.3"] * 2
    assert findings.coordX.tolist() == [0.0, 30.0]
    assert findings.probability[0] == pytest.approx((50 + 1000) / 1400, abs=0.01)
    assert findings.uncertainty[0] == pytest.approx(1 - findings.probability[0])


def test_findings_and_contact_sheet_are_files_to_look_at(weights, tmp_path):
    scan = scan_of(40)
    findings = detection.detect(scan, weights)
    detection.write_findings(findings, tmp_path / "findings.csv")
    again = pd.read_csv(tmp_path / "findings.csv", dtype={"seriesuid": str})
    pd.testing.assert_frame_equal(again, findings, rtol=1e-5, check_dtype=False)
    detection.contact_sheet(scan, findings, tmp_path / "sheet.png")
    assert matplotlib.image.imread(tmp_path / "sheet.png")[..., :3].std() > 0.05


def test_a_scan_without_candidates_is_an_error(weights, monkeypatch):
    monkeypatch.setattr("lungadv.candidates.detect", lambda *_: pd.DataFrame(columns=["coordX", "coordY", "coordZ"]))
    with pytest.raises(runs.InputError, match="no candidate was found in scan '1.2.3'"):
        detection.detect(scan_of(40), weights)


def test_a_scan_without_lungs_is_an_error(weights, monkeypatch):
    monkeypatch.setattr("lungadv.lungs.lung_mask", lambda scan: np.zeros(scan.hu.shape, bool))
    with pytest.raises(runs.InputError, match="no lungs were found in scan '1.2.3'"):
        detection.detect(scan_of(40), weights)


def broken(folder, network):
    """Make the folder one with weights of candidate generation that are not what networks.json says."""
    facts = {"width": 4, "anchors": 3, "scans": 1, "threshold": 0.5}
    (folder / "candidates" / "networks.json").write_text(json.dumps(facts))
    (folder / "candidates" / "blob.safetensors").write_bytes(network)


@pytest.mark.parametrize("network", [b"no tensors", save({"weight": torch.zeros(3)})], ids=["corrupt", "mismatched"])
def test_broken_weights_are_named(weights, monkeypatch, network):
    monkeypatch.setattr("lungadv.candidates.load_networks", LOAD_NETWORKS)
    broken(weights, network)
    ct.write_scan(scan_of(40), weights / "scan.mhd")
    names = [str(weights / "scan.mhd"), "--out", str(weights / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, ["detect", *names])
    assert result.exit_code == 1 and not (weights / "findings.csv").exists()
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(f"error: the weights in {weights} cannot be loaded")


def test_a_slab_is_called_a_slab():
    assert "only 22 mm: a slab, not a chest" in detection.coverage_warning(scan_of(9))
    assert detection.coverage_warning(scan_of(40)) is None


def test_a_slab_is_one_from_foot_to_head_whatever_the_order_of_the_axes():
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # the array's y runs from foot to head
    assert detection.extent_mm(scan_of(9, direction=sagittal)) == pytest.approx(120)


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(runs.InputError, match="holds no weights"):
        detection.detect(scan_of(40), tmp_path)


def test_weights_by_default_are_the_latest_quick_run_or_an_error_with_the_remedy(weights, monkeypatch):
    monkeypatch.setattr(detection, "__file__", str(weights / "nowhere" / "detection.py"))
    monkeypatch.setenv("LUNGADV_RUNS", str(weights / "runs"))
    with pytest.raises(runs.InputError, match="make reproduce"):
        detection.default_weights()
    run = weights / "runs" / "phantom-quick-1"
    run.mkdir(parents=True)
    for name in ("fpr", "candidates"):
        (weights / name).rename(run / name)
    assert detection.default_weights() == run


def test_markups_hold_the_findings_in_lps_mm_and_say_so(tmp_path):
    rows = [["1.2", 10.5, -20.0, -130.25, 0.93, 0.1, 8.0], ["1.2", 1.0, 2.0, 3.0, 0.2, 0.5, np.nan]]
    detection.write_markups(pd.DataFrame(rows, columns=detection.COLUMNS), tmp_path / "findings.mrk.json")
    (markups,) = json.loads((tmp_path / "findings.mrk.json").read_text())["markups"]
    assert markups["coordinateSystem"] == "LPS" and markups["type"] == "Fiducial"
    assert [point["position"] for point in markups["controlPoints"]] == [[10.5, -20.0, -130.25], [1.0, 2.0, 3.0]]
    assert markups["controlPoints"][0]["label"] == "1: p 0.93" and "8.0 mm" in markups["controlPoints"][0]["description"]
    assert "nan" not in markups["controlPoints"][1]["description"]


# With trained weights.


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
    scan = ct.read_scan(weights / "datasets" / row.path)
    voxels = scan.to_voxel(findings[["coordX", "coordY", "coordZ"]].to_numpy())
    assert len(findings) > 0 and (voxels > -0.5).all() and (voxels < np.array(scan.hu.shape) - 0.5).all()
    assert findings.probability.between(0, 1).all() and findings.probability.is_monotonic_decreasing
    assert "slab" not in said


@pytest.mark.skipif(not SLAB.is_dir(), reason=f"no real CT at {SLAB}: LUNGADV_REAL_CT names the folder that holds it")
def test_findings_in_a_real_slab_lie_inside_the_body(chain, tmp_path):
    findings, said = run_detect(SLAB, tmp_path, chain[0] / "phantom-tiny-0")
    assert "slab" in said
    scan = ct.read_scan(SLAB)
    near_lungs = ndimage.distance_transform_edt(~lungs.lung_mask(scan), sampling=scan.spacing[::-1]) < 10
    voxels = scan.to_voxel(findings[["coordX", "coordY", "coordZ"]].to_numpy()).round().astype(int)
    assert len(findings) > 0 and near_lungs[tuple(voxels.T)].all()
