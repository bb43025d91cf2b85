"""Intervals over scans: bootstrap, median, share, DeLong."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lungadv.evaluation.stats import (
    auc_interval,
    bootstrap_interval,
    detectable_difference,
    mean_interval,
    median_difference_interval,
    scan_clusters,
    share_interval,
    t_interval,
    weighted_median,
)


def test_the_t_interval_is_scipys_and_unbounded_for_one_value():
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert t_interval(values, 0.9) == pytest.approx(tuple(expected))
    assert t_interval([1.0]) == (-np.inf, np.inf)


def test_items_of_one_scan_or_none_stand_for_themselves():
    cluster, number = scan_clusters(pd.Index(["1.2:a", "1.3:a", "1.2:b"]))
    assert cluster.tolist() == [0, 1, 0] and number == 2
    for items in (["1.2:a", "1.2:b"], ["a", "b"]):
        assert scan_clusters(pd.Index(items))[1] == 2


def test_the_bootstrap_draws_scans():
    """Ten scans of ten equal items are ten observations, not a hundred."""
    values = np.repeat(np.arange(10) % 2, 10)
    in_scans = pd.Series(values, index=[f"{k // 10}:{k % 10}" for k in range(100)])
    low, high = mean_interval(in_scans)
    for items in ([f"noise:{k}" for k in range(100)], [f"{k}" for k in range(100)]):  # of no scan: each for itself
        alone = mean_interval(pd.Series(values, index=items))
        assert high - low > 2.5 * (alone[1] - alone[0])
        assert alone == pytest.approx((0.4, 0.6), abs=0.03)


def test_resamples_without_a_value_are_left_out():
    items = pd.Index(["a", "b", "c"])
    low, high = bootstrap_interval(lambda weights: np.where(weights[:, 0] > 0, 1.0, np.nan), items)
    assert (low, high) == (1, 1)


def test_a_share_of_all_is_as_sure_as_there_are_scans():
    items = [f"{k // 10}:{k}" for k in range(50)]
    expected = stats.binomtest(5, 5).proportion_ci(method="wilson")
    assert share_interval(pd.Series(True, index=items)) == pytest.approx(tuple(expected), abs=1e-4)


def test_a_share_of_items_of_their_own_is_wilsons_and_else_the_bootstrap():
    hits = pd.Series([True] * 3 + [False] * 7, index=[str(k) for k in range(10)])
    expected = stats.binomtest(3, 10).proportion_ci(method="wilson")
    assert share_interval(hits) == pytest.approx(tuple(expected), abs=1e-4)
    shared = hits.set_axis([f"{k // 5}:{k}" for k in range(10)])
    assert share_interval(shared) == mean_interval(shared)


def test_the_weighted_median_is_that_of_what_was_drawn():
    draw = np.random.default_rng(0)
    values, weights = draw.normal(size=12), draw.multinomial(12, np.full(12, 1 / 12), size=50)
    np.testing.assert_allclose(weighted_median(values, weights), [np.median(np.repeat(values, weight)) for weight in weights])


def test_the_interval_of_a_difference_of_medians_covers_it():
    draw = np.random.default_rng(0)
    items = pd.Index([str(k) for k in range(200)])
    a, b = (pd.Series(draw.normal(mean, 1, 200), index=items) for mean in (1, 0))
    low, high = median_difference_interval(a, b)
    assert 0.5 < low < a.median() - b.median() < high < 1.5
    assert median_difference_interval(a, a) == (0, 0)


def test_the_auc_interval_is_delongs():
    draw = np.random.default_rng(0)
    trials = [auc_interval(draw.normal(0, 1, 40), draw.normal(1, 1, 60)) for _ in range(300)]
    covered = np.mean([low <= 0.7602 <= high for _, (low, high) in trials])  # Phi(1 / sqrt 2)
    assert 0.9 < covered < 0.99
    assert np.mean([value for value, _ in trials]) == pytest.approx(0.7602, abs=0.01)
    assert auc_interval([1.0, 2], [2.0, 1])[0] == 0.5 and auc_interval([1.0, 2, 3], [4.0])[1] == (0, 1)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_detectable_difference_is_found_in_four_of_five_experiments(seeds):
    samples = np.random.default_rng(seeds).normal(0, 0.02, (20_000, seeds))
    half = stats.t.ppf(0.975, seeds - 1) * 0.02 / seeds**0.5
    true = detectable_difference(half, seeds)
    found = stats.ttest_1samp(samples + true, 0, axis=1)
    assert np.mean((found.pvalue < 0.05) & (found.statistic > 0)) == pytest.approx(0.8, abs=0.01)


def test_detectable_difference_of_a_bootstrap_is_the_normal_one():
    assert detectable_difference(1.96 * 0.01, seeds=1) == pytest.approx((1.96 + 0.8416) * 0.01, rel=1e-3)
