"""Folders of weights: broken, mixed, of another version, shipped with the package."""

import json
import math
import resource
import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from typer.testing import CliRunner

import lungadv
from lungadv.cli import app
from lungadv.data.io.write import write_scan
from lungadv.detection.detect import detect
from lungadv.detection.networks import load_networks
from lungadv.detection.weights import default_weights, load_detector, shipped_folder
from lungadv.models.dense_unet import FPR, predict
from lungadv.settings import as_dict, load_settings
from lungadv.training.checkpoint import load_network, save_network
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root


def broken(folder, network):
    """Make the folder one with weights of candidate generation that are not what networks.json says."""
    facts = {"width": 4, "anchors": 3, "scans": 1, "threshold": 0.5}
    (folder / "candidates" / "networks.json").write_text(json.dumps(facts))
    (folder / "candidates" / "blob.safetensors").write_bytes(network)


@pytest.mark.parametrize("network", [b"no tensors", save({"weight": torch.zeros(3)})], ids=["corrupt", "mismatched"])
def test_broken_weights_are_named(weights, monkeypatch, network, scan_of):
    monkeypatch.setattr("lungadv.detection.weights.load_networks", load_networks)
    broken(weights, network)
    write_scan(scan_of(40), weights / "scan.mhd")
    names = [str(weights / "scan.mhd"), "--out", str(weights / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, ["detect", *names])
    assert result.exit_code == 1 and not (weights / "findings.csv").exists()
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(f"error: the weights in {weights} cannot be loaded")


FACTS = {"width": 4, "anchors": 3, "scans": 1}


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a":' * 5000, *(json.dumps(FACTS | {name: value}) for name in FACTS for value in (None, -1, 0, 1.5, True, "4", 10**9))],
)
def test_what_a_file_says_of_a_network_is_not_taken_on_trust(tmp_path, text):
    """A width of 10**9 would take all memory."""
    (tmp_path / "networks.json").write_text(text)
    with pytest.raises(InputError, match=f"'{tmp_path}/networks.json' (is not of a network|cannot be read as JSON|holds no names)"):
        load_networks(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    network = FPR("evidence", 4)
    save_network(network, tmp_path)
    assert load_network(tmp_path).unet.width == 4
    with torch.no_grad():
        network.head[0].bias[1] = value
    save_network(network, tmp_path)
    with pytest.raises(InputError, match="weights.safetensors' holds values of 'head.0.bias' that are not finite"):
        load_network(tmp_path)


def test_weights_that_keep_the_crop_in_voxels_are_read(weights, remake):
    settings = as_dict(load_settings("tiny"))
    assert settings["candidates"].pop("crop") == 40.0
    remake(settings=settings | {"candidates": settings["candidates"] | {"crop_size": 16}})
    assert load_detector(weights).candidates == load_settings("tiny").candidates


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64 - 1])
def test_a_header_of_gigabytes_is_refused_before_memory_is_taken(tmp_path, length):
    save_network(FPR("evidence", 4), tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SafetensorError):
        load_network(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"profile": "full"}, "profile full and quick"),
        ({"seed": 4}, "seed 4 and 3"),
        ({"settings": as_dict(load_settings("full"))}, "other settings of patch"),
    ],
)
def test_networks_of_two_runs_do_not_fit_together(weights, changes, said, scan_of, remake):
    remake("candidates", **changes)
    with pytest.raises(InputError, match=f"mixes the networks of two runs .{said}.: give candidates/ and fpr/ of one run"):
        detect(scan_of(40), weights)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{}", "lacks profile"),
        ("{garbage", "is no provenance"),
        ("[]", "is no provenance"),
        ('{"a":' * 5000, "is no provenance"),
        ("3", "is no provenance"),
        ('{"profile": "quick", "seed": 1, "settings": 3}', "is no provenance"),
        ('{"profile": "quick", "seed": 1, "settings": {"patch": {"size": 32}}}', "lacks patch.spacing"),
        ('{"profile": "quick", "seed": 1, "settings": {"patch": {"size": 32, "spacing": 1.25}}}', "lacks candidates.spacing"),
        ('{"profile": "quick", "seed": 1, "settings": {"patch_size": 32, "patch_spacing": 1.25}}', "lacks patch.size"),
        ('{"profile": "quick", "seed": 1, "settings": {"patch": 32}}', "is no provenance"),
    ],
)
def test_weights_of_another_version_are_named_in_one_line(weights, tmp_path, text, said, scan_of):
    file = weights / "candidates" / "provenance.json"
    file.write_text(text)
    write_scan(scan_of(40), tmp_path / "scan.mhd")
    names = [str(tmp_path / "scan.mhd"), "--out", str(tmp_path / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, ["detect", *names])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith(f"error: '{file}' {said}"), result.stderr


def test_a_size_of_patches_that_the_network_does_not_take_is_named(weights, monkeypatch, remake):
    monkeypatch.setattr("lungadv.detection.weights.predict", predict)
    monkeypatch.setattr("lungadv.detection.weights.load_network", lambda folder: FPR("evidence", 4).eval())
    assert load_detector(weights).patch.size == 16
    settings = load_settings("tiny")
    remake(settings=as_dict(replace(settings, patch=replace(settings.patch, size=30))))
    with pytest.raises(InputError, match=f"the weights in {weights} cannot be loaded"):
        load_detector(weights)


def test_a_folder_without_weights_is_an_error(tmp_path, scan_of):
    with pytest.raises(InputError, match="holds no weights"):
        detect(scan_of(40), tmp_path)


def test_weights_by_default_are_the_latest_quick_run_or_an_error_with_the_remedy(weights, monkeypatch):
    monkeypatch.setattr("lungadv.detection.weights.shipped_folder", lambda: weights / "nowhere")
    monkeypatch.setenv("LUNGADV_RUNS", str(weights / "runs"))
    with pytest.raises(InputError, match="make reproduce"):
        default_weights()
    run = weights / "runs" / "phantom-quick-1"
    run.mkdir(parents=True)
    for name in ("fpr", "candidates"):
        (weights / name).rename(run / name)
    assert default_weights() == run


def test_the_package_holds_the_weights_folder_whatever_is_in_it():
    patterns = tomllib.loads((repo_root() / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["lungadv"]
    assert "weights/**" in patterns and shipped_folder() == Path(lungadv.__file__).parent / "weights"
