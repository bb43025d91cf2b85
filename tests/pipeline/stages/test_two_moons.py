"""The stage `two_moons`, from end to end at its smallest."""

import numpy as np
import pandas as pd
import pytest

from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages.two_moons import build

SHORT = {"seeds": 2, "updates": 60, "vae_updates": 60}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LUNGADV_RUNS", str(tmp_path_factory.mktemp("runs")))
    run = open_run("tiny", 100, two_moons=SHORT)
    build(run)
    yield run
    patch.undo()


def test_a_tiny_run_measures_everything_for_every_repetition(tiny):
    numbers = pd.read_csv(tiny.path("two_moons", "numbers.csv"))
    assert list(numbers) == ["seed", "group", "name", "dimension", "measure", "value"]
    assert numbers.groupby(["group", "name", "dimension", "measure"]).seed.apply(list).map(lambda seeds: seeds == [0, 1]).all()
    sizes = numbers.groupby("group").size()
    assert sizes.to_dict() == {"panel": 6 * 4 * 2, "spots": 4 * 4 * 2, "dimension": 3 * 3 * 4 * 2}
    shares = numbers[numbers.measure != "nearest_positive"].value.dropna()
    assert shares.between(0, 1).all()
    full = numbers[(numbers.name == "a") & (numbers.measure == "accuracy")].value
    assert (full > 0.85).all()  # even a short training tells the full moons apart


def test_a_tiny_run_keeps_what_the_figures_need(tiny):
    maps = dict(np.load(tiny.path("two_moons", "maps.npz"), allow_pickle=False))
    assert sorted(maps) == sorted(f"{name}_{box}" for name in "abcdef" for box in ("near", "far"))
    assert all(m.shape == (241, 241) and 0 <= m.min() < m.max() <= 1 for m in maps.values())
    counts = pd.read_csv(tiny.path("two_moons", "samples.csv")).groupby("kind").size().to_dict()
    assert counts == {"positive": 500, "negative": 500, "few": 20, "random": 100, "hard": 100, "uniform": 20, "noise": 20}


def test_the_same_seed_gives_the_same_numbers(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    again = open_run("tiny", 100, two_moons=SHORT)
    build(again)
    for name in ("numbers.csv", "samples.csv"):
        assert tiny.path("two_moons", name).read_bytes() == again.path("two_moons", name).read_bytes()
