"""A run's networks exported as a folder of weights, and their model card."""

import json

import pandas as pd
import pytest
import torch
import yaml

from lungadv.data.io.read import read_scan
from lungadv.detection.detect import detect
from lungadv.detection.networks import load_networks
from lungadv.detection.weights import is_weights, load_detector, read_provenance, shipped_folder
from lungadv.pipeline.export import export_weights
from lungadv.pipeline.model_card import model_card
from lungadv.pipeline.runs import Run
from lungadv.settings import load_settings
from lungadv.training.strategies import BASELINE, STRATEGIES
from lungadv.utils.errors import InputError
from lungadv.utils.files import sha256


def test_shipped_weights_find_what_the_run_finds_and_their_card_says_what_they_are(chain, tmp_path):
    run = Run("tiny", 0, "phantom", load_settings("tiny"), chain[0] / "phantom-tiny-0")
    target = export_weights(run, tmp_path / "weights")
    assert is_weights(target) and sum(path.stat().st_size for path in target.rglob("*")) < 10 * 2**20
    scans = pd.read_csv(run.path("datasets", "scans.csv"), dtype=str)
    scan = read_scan(run.path("datasets", scans[scans["dataset"] == "nlst"]["path"].iloc[0]))
    pd.testing.assert_frame_equal(detect(scan, target), detect(scan, run.folder))
    card = (target / "MODEL_CARD.md").read_text()
    made = json.loads(run.path("fpr", BASELINE, "provenance.json").read_text())
    training = scans[scans["dataset"] == "train"]
    table = pd.read_csv(run.path("benchmarks", "table2.csv"))
    cpm = table[table["strategy"] == STRATEGIES[BASELINE].label]["cpm"].iloc[0]
    for text in ("Not for clinical use", "no scan of a patient", made["commit"], f"{len(training)} scans", f"{cpm:.3f} ("):
        assert text in card
    assert sha256(target / "candidates" / "blob.safetensors") in card
    assert export_weights(run, target) == target  # again


def test_large_weights_are_shipped_in_bfloat16(chain, tmp_path, monkeypatch):
    run = Run("tiny", 0, "phantom", load_settings("tiny"), chain[0] / "phantom-tiny-0")
    stages = run.path("candidates"), run.path("fpr", BASELINE)
    whole = sum(path.stat().st_size for stage in stages for path in stage.glob("*.safetensors"))
    monkeypatch.setattr("lungadv.pipeline.export.MAX_EXPORT_MIB", 0.85 * whole / 2**20)
    target = export_weights(run, tmp_path / "weights")
    assert "stored in bfloat16" in (target / "MODEL_CARD.md").read_text()
    detector = load_detector(target)
    assert next(detector.fpr_network.parameters()).dtype == torch.float32
    _, calibration = load_networks(run.path("candidates"))
    assert detector.calibration.scores["blob"].tolist() == calibration.scores["blob"].tolist()


def front_matter(card):
    """What a model card says between its lines of dashes."""
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front)


def test_the_card_begins_with_hugging_faces_front_matter(chain):
    run = Run("tiny", 0, "phantom", load_settings("tiny"), chain[0] / "phantom-tiny-0")
    front = front_matter(model_card(run, run.folder, read_provenance(run.folder)[1], False))
    assert front["license"] == "apache-2.0" and front["library_name"] == "lungadv" and "not-for-clinical-use" in front["tags"]
    table = pd.read_csv(run.path("benchmarks", "table2.csv"))
    expected = table[table["strategy"] == STRATEGIES[BASELINE].label].set_index("benchmark")["cpm"]
    (model,) = front["model-index"]
    said = {result["dataset"]["name"]: result["metrics"][0]["value"] for result in model["results"]}
    assert model["name"] == BASELINE and said == pytest.approx(expected.to_dict(), abs=5e-4) and len(said) == 2


def test_the_shipped_card_says_the_same_cpm_in_front_matter_and_table():
    card = (shipped_folder() / "MODEL_CARD.md").read_text(encoding="utf-8")
    for result in front_matter(card)["model-index"][0]["results"]:
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {result['dataset']['name']} |")]
        assert f"| {result['metrics'][0]['value']:.3f} (" in row


def test_the_card_says_how_to_make_the_weights_again(chain):
    run = Run("tiny", 0, "phantom", load_settings("tiny"), chain[0] / "phantom-tiny-0")
    provenance = read_provenance(run.folder)[1]
    card = model_card(run, run.folder, provenance, False)
    assert f"`git checkout {provenance['commit']} && make reproduce weights PROFILE=tiny SEED=0` makes this folder again" in card


def test_an_unfinished_run_is_not_shipped(run, tmp_path):
    with pytest.raises(InputError, match="candidates is missing: finish `make reproduce PROFILE=tiny SEED=0` first"):
        export_weights(run, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
