"""The stage `claims`: what it reads of a run and of runs of other seeds, and the ledger that it writes."""

import json

import numpy as np
import pandas as pd
import pytest

from lungadv.evaluation.verdicts import CONTROL, PERTURB, SYN
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages.claims import build, gather_numbers, pooled_differences
from tests.evaluation.claim_numbers import difference_rows, m2, s11


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose earlier stages hold a few numbers."""
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    run = open_run("tiny", 3)
    moons = pd.DataFrame({"seed": range(20), "group": "panel", "name": "a", "dimension": 2, "measure": "accuracy", "value": 0.99})
    tables = {"two_moons": moons, "candidates": m2(0.98).samples, "stress": s11(np.inf, np.nan).samples}
    for stage, table in tables.items():
        finish(run, stage)
        table.to_csv(run.path(stage, "numbers.csv"), index=False)
    return run


def finish(run, stage, settings=None):
    run.path(stage).mkdir(parents=True)
    run.path(stage, "provenance.json").write_text(json.dumps({"settings": settings or {}}))


def finish_benchmarks(run, mean, settings=None):
    finish(run, "benchmarks", settings)
    table = difference_rows({(SYN, CONTROL, "cpm", "subsolid"): mean}, seeds=[run.seed]).drop(columns="seed")
    table.to_csv(run.path("benchmarks", "differences.csv"), index=False)


def test_build_pools_the_seeds_of_the_same_terms(run):
    finish_benchmarks(run, 0.02)
    for seed, mean, settings in ((1, 0.021, None), (10, 0.022, None), (2, 9.0, {"fpr": {"updates": 1}}), (103, 9.0, None)):
        finish_benchmarks(open_run("tiny", seed), mean, settings)
    finish_benchmarks(open_run("quick", 4), 9.0)
    assert sorted(pooled_differences(run)["seed"].unique()) == [1, 3, 10]
    build(run)
    ledger = pd.read_csv(run.path("claims", "claims.csv"), keep_default_na=False).set_index("id")
    assert ledger["verdict"][["T1", "M2", "B7", "S11", "M1"]].tolist() == ["reproduced"] * 3 + ["consistent", "not measured"]
    assert ledger["seeds"][["T1", "B7"]].tolist() == [20, 3]
    assert json.loads(run.path("claims", "provenance.json").read_text())["stage"] == "claims"


def test_infinite_eps_is_read_as_such(run):
    finish_benchmarks(run, 0.02)
    assert np.isinf(gather_numbers(run).series("S11", "eps", PERTURB[0], "white-box")).all()
