"""The stage `candidates`: what it says when nothing is found, and one threshold over all scans."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lungadv.detection.candidates import calibrate
from lungadv.evaluation.sensitivity import hit_scores, threshold_table
from lungadv.pipeline.stages import candidates as stage
from lungadv.settings import load_settings
from lungadv.utils.errors import InputError

SETTINGS = replace(load_settings("tiny").candidates, merge_distance=6.0)
PLACES = ["coordX", "coordY", "coordZ"]


def random_raw(scans, count, seed=0):
    rng = np.random.default_rng(seed)
    tables = []
    for uid in range(scans):
        for source in ("blob", "rpn"):
            table = pd.DataFrame(rng.uniform(0, 60, (count, 3)), columns=PLACES)
            tables.append(table.assign(seriesuid=str(uid), score=rng.random(count), source=source, diameter_mm=rng.uniform(4, 9, count)))
    return pd.concat(tables, ignore_index=True)


def test_one_threshold_of_validation_is_held_against_each_benchmark():
    raw = {name: random_raw(4, count, count) for name, count in (("validation", 40), ("in-house", 80), ("nlst", 20))}
    calibration = calibrate(raw["validation"], 4)
    found = {name: stage._merge_scans(tables, calibration, SETTINGS) for name, tables in raw.items()}
    places = np.random.default_rng(0).uniform(0, 60, (30, 3))
    nodules = pd.DataFrame(places, columns=PLACES).assign(seriesuid="0", diameter_mm=10.0, type="solid")
    data = SimpleNamespace(of=lambda name: SimpleNamespace(annotations=nodules, uids=list("0123")))
    table = threshold_table(data, found, 20).set_index("dataset")
    assert 19 <= table["candidates_per_scan"]["validation"] <= 20 and table["threshold"].nunique() == 1  # ties go together
    assert table["candidates_per_scan"]["in-house"] > 25 and table["candidates_per_scan"]["nlst"] < 15
    for name, row in table.iterrows():
        kept = found[name][found[name]["score"] >= row["threshold"]]
        assert row["candidates_per_scan"] == len(kept) / 4 and row["most"] == kept["seriesuid"].value_counts().max()
        assert row["sensitivity"] == (hit_scores(nodules, kept) > -np.inf).mean()


def test_a_data_set_without_a_candidate_is_an_input_error(monkeypatch):
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "score", "source", "diameter_mm"]
    monkeypatch.setattr(stage, "raw_candidates", lambda *given: pd.DataFrame(columns=columns))
    data = SimpleNamespace(uids=["1", "2"], scan=lambda uid: None, lungs=lambda uid: None)
    with pytest.raises(InputError, match="nothing in the scans of 'nlst'"):
        stage._search({}, data, SETTINGS, "nlst")
