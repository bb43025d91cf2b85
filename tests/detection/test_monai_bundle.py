"""The detector as a MONAI bundle: MONAI's own tools read, verify and run it."""

import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.io.write import write_scan
from lungadv.detection.detect import detect
from lungadv.detection.monai_bundle import write_bundle
from lungadv.detection.weights import is_weights, shipped_folder
from lungadv.utils.files import repo_root, sha256

REQUIRED = {  # by MONAI's specification of metadata.json
    "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright",
    "network_data_format", "schema",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    """The shipped weights as a bundle."""
    result = CliRunner().invoke(app, ["export", str(tmp_path / "bundle"), "--format", "monai"])
    assert result.exit_code == 0, result.output
    return tmp_path / "bundle"


def test_a_bundle_holds_what_monai_asks_for(bundle):
    assert REQUIRED <= set(json.loads((bundle / "configs" / "metadata.json").read_text()))
    assert is_weights(bundle / "models")
    for path in shipped_folder().rglob("*.safetensors"):
        assert sha256(bundle / "models" / path.relative_to(shipped_folder())) == sha256(path)
    assert (bundle / "LICENSE").read_text() == (repo_root() / "LICENSE").read_text()
    assert "Not for clinical use" in (bundle / "docs" / "README.md").read_text()
    assert (bundle / "docs" / "MODEL_CARD.md").exists()


def test_monai_verifies_the_network_of_a_bundle(bundle, monkeypatch):
    from monai.bundle import verify_net_in_out

    monkeypatch.chdir(bundle)
    files = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json"}
    verify_net_in_out(net_id="network_def", device="cpu", **files)
    with pytest.raises(ValueError, match="output channel number `2` doesn't match: `3`"):  # it would see another network
        verify_net_in_out(net_id="network_def", device="cpu", **files, **{"_meta_#network_data_format#outputs#pred#num_channels": 3})


def test_monai_runs_a_bundle_and_it_writes_the_findings(weights, scan_of, tmp_path, monkeypatch):
    from monai.bundle import run

    scan = scan_of(40)
    write_scan(scan, tmp_path / "scan.mhd")
    write_bundle(weights, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path / "bundle")
    run(config_file="configs/inference.json", scan=str(tmp_path / "scan.mhd"), out=str(tmp_path / "findings.csv"))
    found, expected = pd.read_csv(tmp_path / "findings.csv"), detect(scan, weights)
    assert found.seriesuid.tolist() == ["scan"] * len(expected)
    pd.testing.assert_frame_equal(found.iloc[:, 1:], expected.iloc[:, 1:], rtol=1e-5, check_dtype=False)


def test_no_pickle_is_in_a_bundle(bundle):
    assert {path.suffix for path in (bundle / "models").rglob("*") if path.is_file()} == {".safetensors", ".json"}
    assert torch.__version__.startswith(json.loads((bundle / "configs" / "metadata.json").read_text())["pytorch_version"])
