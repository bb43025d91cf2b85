"""What is seen of a training on the way."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import log_loss

from lungadv.models.dense_unet import new_network, predict
from lungadv.training.early_stopping import EarlyStopping
from lungadv.training.monitor import ValidationMonitor, balanced_nll
from lungadv.utils.statistics import auc


def test_the_area_under_the_curve_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 300), rng.random(300) < 0.3  # with ties
    pairs = positive.sum() * (~positive).sum()
    assert auc(scores, positive) == pytest.approx(mannwhitneyu(scores[positive], scores[~positive]).statistic / pairs)
    assert auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True]) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(scores, positive | True)) and np.isnan(auc([], []))


def test_the_loss_weighs_both_classes_alike():
    rng = np.random.default_rng(0)
    confidence, labels = rng.uniform(0.01, 0.99, 200), (rng.random(200) < 0.1).astype(int)
    weights = np.where(labels == 1, 1 / (labels == 1).sum(), 1 / (labels == 0).sum())
    assert balanced_nll(confidence, labels) == pytest.approx(log_loss(labels, confidence, sample_weight=weights))
    assert np.isfinite(balanced_nll(np.array([0.0, 1.0]), np.array([1, 0])))


def test_the_monitor_scores_at_its_checks_alone_and_at_the_end():
    torch.manual_seed(0)
    network, patches = new_network("evidence", 4).eval(), torch.rand(4, 1, 16, 16, 16)
    monitor = ValidationMonitor(patches, np.array([1, 1, 0, 0]), 3, EarlyStopping(limit=5, patience=9))
    for update in range(6):
        monitor(update, network)
    confidence = predict(network, patches)[0].numpy()
    expected = {"auc": auc(confidence, [1, 1, 0, 0]), "brier": np.mean((confidence - [1, 1, 0, 0]) ** 2)}
    expected["nll"] = balanced_nll(confidence, np.array([1, 1, 0, 0]))
    assert [row.pop("update") for row in monitor.rows] == [0, 3, 5]
    assert all(row == pytest.approx(expected) for row in monitor.rows)
