"""Shared by the tests of detection: a scan of one ball, candidates at random, and a folder that looks like weights."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from lungadv.data.scan import Scan
from lungadv.detection.candidates import Calibration
from lungadv.settings import as_dict, load_settings
from lungadv.training.strategies import BASELINE


@pytest.fixture
def random_raw():
    """A function that makes `count` candidates of each source in each of `scans` scans, anywhere in a cube of 60 mm."""

    def make(scans, count, seed=0):
        rng = np.random.default_rng(seed)
        tables = []
        for uid in range(scans):
            for source in ("blob", "rpn"):
                table = pd.DataFrame(rng.uniform(0, 60, (count, 3)), columns=["coordX", "coordY", "coordZ"])
                columns = {"seriesuid": str(uid), "score": rng.random(count), "source": source, "diameter_mm": rng.uniform(4, 9, count)}
                tables.append(table.assign(**columns))
        return pd.concat(tables, ignore_index=True)

    return make


@pytest.fixture
def scan_of():
    """A function that makes a scan of air with one bright ball of 16 mm at (0, 0, 0) mm."""

    def make(slices, spacing=(2.0, 2.0, 2.5), direction=None):
        hu = np.full((slices, 60, 60), -900, np.int16)
        extent = np.array([60, 60, slices]) * spacing
        direction = np.eye(3) if direction is None else direction
        scan = Scan(hu, spacing, tuple(direction @ (-extent / 2)), direction, "1.2.3")
        voxels = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), -1).reshape(-1, 3)
        hu.reshape(-1)[np.linalg.norm(scan.to_world(voxels), axis=1) < 8] = 50
        return scan

    return make


@pytest.fixture
def ball_at():
    """A function that makes a scan of a ball in lung, with soft edges, and a flat chest wall at x = `wall` mm."""

    def make(place, diameter, spacing, wall=None, core=40.0, blur=0.5):
        shape = np.round(70 / np.array(spacing[::-1])).astype(int)
        scan = Scan(np.zeros(shape, np.int16), spacing, (-35.0, -35.0, -35.0), np.eye(3), "ball")
        points = scan.to_world(np.indices(shape).reshape(3, -1).T)
        inside = 1 / (1 + np.exp((np.linalg.norm(points - place, axis=1) - diameter / 2) / blur))
        if wall is not None:
            inside = np.maximum(inside, points[:, 0] > wall)
        hu = -860 + (core + 860) * inside + np.random.default_rng(0).normal(0, 20, len(points))
        return Scan(hu.reshape(shape).astype(np.int16), spacing, scan.origin, np.eye(3), "ball")

    return make


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder that looks like weights, and networks that are certain of what is bright; what is dark, and what lies in it, is lung."""
    strategy = tmp_path / "fpr" / BASELINE
    strategy.mkdir(parents=True)
    (strategy / "weights.safetensors").touch()
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "networks.json").touch()
    made = {"profile": "quick", "seed": 3, "data": "phantom", "settings": as_dict(load_settings("tiny"))}
    for folder in (strategy, tmp_path / "candidates"):
        (folder / "provenance.json").write_text(json.dumps(made))
    points = pd.DataFrame([[30.0, 0, 0, 0.9, "blob", np.nan], [0, 0, 0, 0.4, "rpn", 16.0]])
    points.columns = ["coordX", "coordY", "coordZ", "score", "source", "diameter_mm"]

    def predict(network, patches):
        middle = torch.as_tensor(patches)[:, 0, 7:9, 7:9, 7:9].mean((1, 2, 3))
        return middle, 1 - middle

    monkeypatch.setattr("lungadv.detection.detect.lung_mask", lambda scan: ndimage.binary_fill_holes(scan.hu < -500))
    monkeypatch.setattr("lungadv.detection.detect.find_candidates", lambda *_: points)
    monkeypatch.setattr("lungadv.detection.detect.predict", predict)
    monkeypatch.setattr("lungadv.detection.weights.load_networks", lambda folder: ({}, Calibration({}, 1)))
    monkeypatch.setattr("lungadv.detection.weights.load_network", lambda folder: None)
    monkeypatch.setattr("lungadv.detection.weights.predict", predict)
    return tmp_path


@pytest.fixture
def remake(weights):
    """A function that changes what the provenance of the weights says, in one stage's folder or in both."""

    def change(*stages, **changes):
        for stage in stages or ("candidates", f"fpr/{BASELINE}"):
            path = weights / stage / "provenance.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change
