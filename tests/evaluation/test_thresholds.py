"""Thresholds and rejection, by hand."""

import numpy as np
import pytest

from lungadv.evaluation.thresholds import rejection, threshold_at_rate


@pytest.mark.parametrize("count", [40, 1000, 1001])
def test_the_threshold_lets_five_percent_of_negatives_through(count):
    confidence = np.random.default_rng(count).random(count)
    threshold = threshold_at_rate(confidence)
    assert (confidence > threshold).sum() == count // 20
    assert (np.repeat([0.2, 0.9], [90, 10]) > threshold_at_rate(np.repeat([0.2, 0.9], [90, 10]))).mean() == 0


def test_uncertainty_rejection_by_hand():
    clean = np.arange(1, 101) / 100
    attacked, fooled = np.array([0.1, 0.5, 0.97, 0.99]), np.array([True, True, True, False])
    result = rejection(clean, attacked, fooled)
    assert (clean <= result["threshold"]).sum() == 95
    assert result["kept"] == pytest.approx(2 / 3) and result["n_wrong"] == 3
    assert rejection(clean, clean + 2, np.ones(100, bool))["auroc"] == 1
    assert np.isnan(rejection(clean, attacked, np.zeros(4, bool))["kept"])
