"""Strategies trained on patches of cubes: those without banks, by the registry and the loop that all share."""

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.models.dense_unet import predict
from lungadv.settings import load_settings
from lungadv.training.cube_strategies import train_on_cubes
from lungadv.utils.errors import InputError

SETTINGS = load_settings("tiny", fpr={"updates": 30, "check_every": 10, "annealing_updates": 5, "learning_rate": 0.01})


def patches(count, seed, labels=None):
    """Noise in lung, half of it with a bright ball, as `cut_cube_patches` gives it."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2 if labels is None else np.full(count, labels)
    inside = np.linalg.norm(np.indices((20,) * 3) - 9.5, axis=0) < 4
    hu = rng.integers(-900, -800, (count, 1, 20, 20, 20)) + 800 * label.reshape(-1, 1, 1, 1, 1) * inside
    return pd.DataFrame({"label": label}), torch.from_numpy(hu.astype(np.int16))


@pytest.fixture(scope="module")
def baseline():
    return train_on_cubes("baseline-beta", patches(64, 0), patches(32, 1), 16, SETTINGS, 0)


def test_a_baseline_learns_what_a_nodule_is(baseline):
    network, monitor = baseline
    table, hu = patches(32, 2)
    answers = predict(network, (hu[:, :, 2:-2, 2:-2, 2:-2].float() + 1000) / 1400)[0].numpy()
    assert answers[table["label"] == 1].min() > answers[table["label"] == 0].max() and not network.training
    assert [row["update"] for row in monitor.rows] == [0, 10, 20, 30]


def test_one_seed_gives_one_network(baseline):
    again, _ = train_on_cubes("baseline-beta", patches(64, 0), patches(32, 1), 16, SETTINGS, 0)
    assert all(torch.equal(a, b) for a, b in zip(baseline[0].state_dict().values(), again.state_dict().values(), strict=True))


def test_an_online_strategy_starts_from_the_network_it_is_given(baseline):
    network, monitor = train_on_cubes("beta+online", patches(64, 0), patches(32, 1), 16, SETTINGS, 0, baseline[0])
    first = [(a - b).abs().max().item() for a, b in zip(network.parameters(), baseline[0].parameters(), strict=True)]
    assert len(monitor.rows) > 1 and 0 < max(first) < 0.2  # it moved, but not from untrained weights


def test_what_cubes_cannot_train_is_said():
    some = patches(8, 0)
    for strategy, given, words in (
        ("beta+syn", some, "needs the banks synthetic-pgd, which cubes have not"),
        ("beta+online", some, "starts from baseline-beta-finetune: give that network"),
        ("baseline-ce", patches(8, 0, labels=1), "8 patches of nodules, 0 others: both are needed"),
    ):
        with pytest.raises(InputError, match=words):
            train_on_cubes(strategy, given, some, 16, SETTINGS, 0)
