"""What is seen of a training on the way."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu

from lungadv.models.dense_unet import new_network, predict
from lungadv.settings import load_settings
from lungadv.training.monitor import ValidationMonitor, validation_monitor
from lungadv.utils.statistics import auc


def test_the_area_under_the_curve_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 300), rng.random(300) < 0.3  # with ties
    pairs = positive.sum() * (~positive).sum()
    assert auc(scores, positive) == pytest.approx(mannwhitneyu(scores[positive], scores[~positive]).statistic / pairs)
    assert auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True]) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(scores, positive | True)) and np.isnan(auc([], []))


def test_the_monitor_scores_at_its_checks_alone():
    torch.manual_seed(0)
    network, patches = new_network("evidence", 4).eval(), torch.rand(4, 1, 16, 16, 16)
    monitor = ValidationMonitor(patches, np.array([1, 1, 0, 0]), frozenset([0, 3]))
    for update in range(5):
        monitor(update, network)
    confidence = predict(network, patches)[0].numpy()
    expected = {"auc": auc(confidence, [1, 1, 0, 0]), "brier": np.mean((confidence - [1, 1, 0, 0]) ** 2)}
    assert [row.pop("update") for row in monitor.rows] == [0, 3]
    assert all(row == pytest.approx(expected) for row in monitor.rows)


def test_every_strategy_is_shown_the_same_balanced_patches():
    table, x, settings = pd.DataFrame({"label": [0] * 50 + [-1] * 5 + [1] * 20}), torch.rand(75, 1, 4, 4, 4), load_settings("tiny").fpr
    first, second = (validation_monitor(table, x, updates, settings, np.random.default_rng(0)) for updates in (10, 40))
    half = settings.validation_patches // 2
    assert torch.equal(first.patches, second.patches) and first.labels.tolist() == [0] * half + [1] * half
    assert first.checks == {0, 5, 10} and second.checks == {0, 20, 40}
