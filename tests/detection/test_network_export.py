"""The detector's networks as ONNX and TorchScript: run by their own programs, they give the findings of torch."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.scan import Scan
from lungadv.detection.detect import detect
from lungadv.detection.network_export import export_networks
from lungadv.detection.weights import Detector, load_detector, shipped_folder
from lungadv.utils.device import full_precision

NAMES = ("blob", "blob-ggo", "rpn", "fpr")


class Exported(nn.Module):
    """An exported network in the place of a network of lungadv."""

    output = "evidence"

    def __init__(self, run, name):
        super().__init__()
        self.run, self.name = run, name

    def forward(self, x):
        answers = self.run(x)
        return answers[0] if self.name == "fpr" else tuple(answers) if self.name == "rpn" else (answers[0], None)


def run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (taken,) = session.get_inputs()
    return lambda x: [torch.from_numpy(value) for value in session.run(None, {taken.name: x.contiguous().numpy()})]


def run_torchscript(path):
    network = torch.jit.load(path)

    def run(x):
        answer = network(x)
        return answer if isinstance(answer, tuple) else (answer,)

    return run


@pytest.fixture(scope="module")
def lung():
    """A scan of noisy lung with five bright balls of 6 to 14 mm in it, and where its lung is."""
    rng = np.random.default_rng(0)
    hu = rng.normal(-850, 40, (40, 48, 56))
    scan = Scan(np.zeros(hu.shape, np.int16), (1.5, 1.5, 1.5), (-40, -36, -30), np.eye(3), "lung")
    points = scan.to_world(np.indices(hu.shape).reshape(3, -1).T)
    for centre, radius in (((-20, -10, 0), 3), ((10, 12, 5), 4), ((25, -15, -10), 5), ((0, 0, 15), 7), ((-15, 15, -12), 4)):
        hu.reshape(-1)[np.linalg.norm(points - centre, axis=1) < radius] += 880
    hu[[0, -1]] = hu[:, [0, -1]] = hu[:, :, [0, -1]] = 50
    return Scan(hu.astype(np.int16), scan.spacing, scan.origin, scan.direction, "lung"), np.ones(hu.shape, bool)


@pytest.mark.parametrize("file_format, suffix, run", [("onnx", ".onnx", run_onnx), ("torchscript", ".pt", run_torchscript)])
def test_exported_networks_give_the_findings_of_torch(file_format, suffix, run, lung, tmp_path, monkeypatch):
    if file_format == "onnx":
        for package in ("onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lungadv[export]'")
    export_networks(shipped_folder(), tmp_path / "out", file_format)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{name}{suffix}" for name in NAMES), "calibration.safetensors", "detector.json", "MODEL_CARD.md",
    }  # fmt: skip
    with full_precision():
        expected = detect(lung[0], shipped_folder(), lung[1])
    networks = {name: Exported(run(tmp_path / "out" / f"{name}{suffix}"), name) for name in NAMES}
    own = load_detector(shipped_folder())
    other = Detector({name: networks[name] for name in NAMES[:3]}, own.calibration, networks["fpr"], own.candidates, own.patch)
    monkeypatch.setattr("lungadv.detection.detect.load_detector", lambda folder: other)
    found = detect(lung[0], shipped_folder(), lung[1])
    assert expected.probability.max() > 0.5 and expected.probability.nunique() > 10  # there is something to compare
    pd.testing.assert_frame_equal(found, expected, atol=1e-3, rtol=0)


def test_what_says_how_the_networks_are_used_names_them_all(tmp_path):
    export_networks(shipped_folder(), tmp_path / "out", "torchscript")
    said = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert said["not_for_clinical_use"] is True and set(said["networks"]) == set(NAMES)
    network = torch.jit.load(tmp_path / "out" / "fpr.pt")
    assert network(torch.zeros(3, 1, *[said["settings"]["patch"]["size"]] * 3)).shape == (3, 2)


def test_export_refuses_a_folder_that_is_there(tmp_path):
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--format", "torchscript"])
    assert result.exit_code == 1 and result.stderr == f"error: '{tmp_path}' is there already: name a new folder\n"


def test_without_onnx_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--format", "onnx"])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "pip install 'lungadv[export]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
