"""A run's networks trained on with cubes of real nodules, exported, and what they say of it."""

import json
import shutil

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lungadv.data.cube_dataset import without
from lungadv.data.ingest.run import ingest
from lungadv.data.nodule_cubes import Cubes
from lungadv.detection.detect import classify
from lungadv.detection.seen import read_seen
from lungadv.detection.weights import is_weights, load_detector
from lungadv.models.dense_unet import FPR
from lungadv.pipeline.export import export_weights
from lungadv.pipeline.real_weights import shift_threshold, train_on_cubes
from lungadv.pipeline.runs import REAL, Run
from lungadv.pipeline.stages.cube_datasets import HELD_BACK
from lungadv.settings import load_settings
from lungadv.training.strategies import BASELINE
from lungadv.utils.errors import InputError
from tests.data.made_cubes import clone

STAGES = ("datasets", "candidates", "patches", f"fpr/{BASELINE}")


@pytest.fixture(scope="module")
def made(chain, tmp_path_factory):
    """A tiny run trained on with twelve made cubes of six patients, and the manifest of these."""
    root = tmp_path_factory.mktemp("real")
    run = Run("tiny", 0, "phantom", load_settings("tiny"), root / "phantom-tiny-0")
    for stage in STAGES:
        shutil.copytree(chain[0] / "phantom-tiny-0" / stage, run.path(stage))
    clone(root / "clone")
    ingest(root / "clone", "nodule-cubes", root / "cubes.csv")
    table = pd.read_csv(root / "cubes.csv", dtype=str, keep_default_na=False)
    last = table["patient"] == table["patient"].iloc[-1]
    table.assign(dataset=["validation" if own else "train" for own in last]).to_csv(root / "cubes.csv", index=False)
    train_on_cubes(run, root / "cubes.csv")
    return run, root / "cubes.csv"


def test_the_networks_learn_from_cubes_and_are_measured(made):
    run, _ = made
    for stage in ("candidates", f"fpr/{BASELINE}"):
        weights = next(iter(run.path(stage).glob("*.safetensors"))).name
        assert run.path(REAL, stage, weights).read_bytes() != run.path(stage, weights).read_bytes()
    load_detector(run.path(REAL))
    nodules, benchmarks = (pd.read_csv(run.path(REAL, f"{name}.csv")) for name in ("nodules", "benchmarks"))
    assert nodules["nodules"].iloc[0] == 2 and nodules["proposed"].iloc[0] in (0, 0.5, 1)
    assert benchmarks["benchmark"].tolist() == ["in-house", "nlst"] and benchmarks["cpm"].between(0, 1).all()


def test_half_is_the_probability_of_one_false_positive_a_litre(made):
    operating = pd.read_csv(made[0].path(REAL, "operating.csv")).iloc[0]
    assert operating["above_half"] * operating["litres"] <= 1 * operating["litres"] and operating["threshold_at_one"] <= 0.5


class Brightness(FPR):
    """A network that takes bright patches for nodules."""

    def forward(self, x):
        out = torch.stack([torch.zeros(len(x)), 20 * x.mean((1, 2, 3, 4))], dim=1) + self.head[-1].bias
        return F.softplus(out.flip(1)) if self.output == "evidence" else out


@pytest.mark.parametrize("output", ["evidence", "logits"])
@pytest.mark.parametrize("allowed", [0, 7, 29])
def test_a_shifted_network_calls_as_many_patches_nodules_as_are_allowed_and_ranks_them_as_before(output, allowed):
    network, bright = Brightness(output, width=4).eval().requires_grad_(False), torch.randperm(30) / 30
    shift_threshold(network, torch.ones(30, 1, 8, 8, 8) * bright[:, None, None, None, None], allowed)
    above = classify(network, torch.ones(30, 1, 8, 8, 8) * bright[:, None, None, None, None])[0] > 0.5
    assert above.tolist() == (bright * 30 >= 29.5 - allowed).tolist()


def test_the_exported_weights_say_what_they_have_seen(made, tmp_path):
    run, _ = made
    target = export_weights(run, tmp_path / "weights", real=True)
    assert is_weights(target)
    seen = read_seen(target)
    assert "10 cubes of 5 patients for training" in seen.sources[1]
    assert any("trained on" in line for line in seen.warnings("1.2.0")) and any("chosen by" in line for line in seen.warnings("1.2.5"))
    card = (target / "MODEL_CARD.md").read_text(encoding="utf-8")
    for text in ("Not for clinical use", "| 6 mm and more | 2 |", "What these numbers do not say", "CUBES=cubes.csv", *seen.sources):
        assert text in card


def test_a_stopped_call_goes_on_with_its_candidate_networks(made, monkeypatch):
    run, manifest = made
    run.path(REAL).rename(run.path(f".{REAL}"))
    shutil.rmtree(run.path(f".{REAL}", "fpr"))
    before = json.loads(run.path(f".{REAL}", "candidates", "provenance.json").read_text())
    monkeypatch.setattr("lungadv.pipeline.real_weights._train_candidates", None)  # would fail
    train_on_cubes(run, manifest)
    assert json.loads(run.path(REAL, "candidates", "provenance.json").read_text()) == before


def test_patients_whose_whole_scan_is_a_test_are_left_out(made, tmp_path):
    run, manifest = made
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    table["patient"] = HELD_BACK[0]
    shutil.copy(manifest.with_name("cubes.ingest.json"), tmp_path / "cubes.ingest.json")
    table.assign(dataset="train").to_csv(tmp_path / "cubes.csv", index=False)
    with pytest.raises(InputError, match="no cube"):
        train_on_cubes(run, tmp_path / "cubes.csv")


def test_a_run_that_is_not_finished_is_not_trained_on(tmp_path, made):
    run = Run("quick", 0, "phantom", load_settings("quick"), tmp_path / "nothing")
    with pytest.raises(InputError, match="datasets is missing"):
        train_on_cubes(run, made[1])


def test_a_held_back_scan_is_known_by_its_series_where_nobody_names_patients():
    table = pd.DataFrame({"patient": [HELD_BACK[1], "1.2", "p"], "seriesuid": [HELD_BACK[1], "1.2", HELD_BACK[1]], "path": list("abc")})
    left = without(Cubes(table, pd.DataFrame({"path": list("aab")})), HELD_BACK)
    assert left.table["path"].tolist() == ["b"] and left.not_nodules["path"].tolist() == ["b"]
