import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from lungadv import ct, detection, runs


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


def test_no_candidate_is_no_finding(weights, monkeypatch):
    monkeypatch.setattr("lungadv.candidates.detect", lambda *_: pd.DataFrame(columns=["coordX", "coordY", "coordZ"]))
    findings = detection.detect(scan_of(40), weights)
    assert findings.empty and list(findings.columns) == detection.COLUMNS


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
