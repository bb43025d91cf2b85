"""Shared by the tests of the pipeline: a folder that stands for a clone, and finished runs in it."""

import json
import shutil

import pandas as pd
import pytest

from lungadv.pipeline.accept import expected_figures
from lungadv.pipeline.artefacts import describe
from lungadv.pipeline.graph import stages_of
from lungadv.pipeline.runs import open_run
from lungadv.utils.files import repo_root


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that stands for a clone: settings, recipe, an empty Snakefile, runs and figures of its own."""
    root = repo_root()
    shutil.copy(root / "settings.ini", tmp_path)
    (tmp_path / "data_manifests").mkdir()
    shutil.copy(root / "data_manifests" / "phantom.json", tmp_path / "data_manifests")
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUNGADV_RUNS", raising=False)
    return tmp_path


@pytest.fixture
def finish(clone):
    """A function that makes a finished run as the later commands see it."""

    def finish(seed, cpm, data="phantom"):
        """A finished run as the later commands see it."""
        run = open_run("quick", seed, data)
        cost = {"wall_seconds": 1.0, "peak_memory_mib": 300}
        for name in stages_of(run.data):
            run.path(name).mkdir(parents=True)
            (run.path(name) / "provenance.json").write_text(json.dumps(describe(run, name, {}) | cost))
        for name in expected_figures():
            (run.figures / name).write_bytes(b"picture")
        pd.DataFrame([{"benchmark": "nlst", "strategy": "beta+syn", "cpm": cpm}]).to_csv(run.figures / "table2.csv", index=False)
        return run

    return finish
