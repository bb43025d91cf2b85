import json

import pytest
import torch

from lungadv.pipeline import artefacts
from lungadv.pipeline.artefacts import build_stage, require, stage_output
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.runs import open_run
from lungadv.settings import as_dict
from lungadv.utils.errors import InputError
from lungadv.utils.files import sha256


def test_a_stage_is_whole_and_says_who_made_it(run):
    with stage_output(run, "two_moons") as folder:
        (folder / "numbers.csv").write_text("a\n1\n")
        assert not run.path("two_moons").exists(), "visible before it is whole"
    made = json.loads(run.path("two_moons", "provenance.json").read_text())
    assert made["stage"] == "two_moons" and made["profile"] == "tiny" and made["seed"] == 0
    assert made["settings"] == json.loads(json.dumps(as_dict(run.settings)))
    assert made["outputs"]["numbers.csv"] == sha256(run.path("two_moons", "numbers.csv"))
    assert made["wall_seconds"] >= 0 and made["peak_memory_mib"] > 0 and made["versions"]["torch"]


def test_provenance_is_of_the_start_and_hashes_small_files_alone(run, monkeypatch):
    commit = "before"
    monkeypatch.setattr(artefacts, "git_state", lambda: {"commit": commit, "dirty": False})
    with stage_output(run, "two_moons") as folder:
        commit = "after"
        (folder / "small.csv").write_text("a")
        (folder / "voxels.zraw").write_bytes(bytes(2**20))
    made = json.loads(run.path("two_moons", "provenance.json").read_text())
    assert made["commit"] == "before" and list(made["outputs"]) == ["small.csv"]


def test_a_failing_stage_leaves_nothing_and_keeps_the_old_one(run):
    with pytest.raises(RuntimeError), stage_output(run, "two_moons") as folder:
        (folder / "half.csv").write_text("half")
        raise RuntimeError
    assert list(run.folder.iterdir()) == []

    with stage_output(run, "two_moons") as folder:
        (folder / "old.csv").write_text("old")
    with pytest.raises(RuntimeError), stage_output(run, "two_moons") as folder:
        raise RuntimeError
    assert run.path("two_moons", "old.csv").read_text() == "old"
    assert [path.name for path in run.folder.iterdir()] == ["two_moons"]


def test_threads_are_those_of_the_stage_whatever_was_set(run):
    before = torch.get_num_threads()
    with stage_output(run, "two_moons"):
        assert torch.get_num_threads() == STAGES["two_moons"].threads
    assert torch.get_num_threads() == before


def test_a_missing_stage_is_an_error_in_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    with pytest.raises(InputError, match="datasets is missing: run `make reproduce PROFILE=quick SEED=3`"):
        require(open_run("quick", 3), "datasets")


def test_unknown_stage(run):
    with pytest.raises(InputError, match="unknown stage 'bankz'"):
        build_stage(run, "bankz")
