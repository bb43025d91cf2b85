"""The Wilson interval, the area under the ROC curve, and the bootstrap's resamples."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from lungadv.utils.statistics import LEVEL_Z196, auc, forest_auc, percentile_interval, resample_weights, wilson_interval


@pytest.mark.parametrize("hits, count", [(0, 1), (0, 40), (3, 10), (10, 10), (77, 1186)])
@pytest.mark.parametrize("z, level", [(1.96, LEVEL_Z196), (norm.ppf(0.975), 0.95), (norm.ppf(0.95), 0.9)])
def test_the_wilson_interval_is_its_formula(hits, count, z, level):
    share = hits / count
    centre, half = share + z**2 / (2 * count), z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    expected = np.array([centre - half, centre + half]) / (1 + z**2 / count)
    assert wilson_interval(hits, count, level) == pytest.approx(expected, abs=1e-12)


def test_all_and_none_reach_the_ends():
    assert wilson_interval(0, 7)[0] == 0 and wilson_interval(7, 7)[1] == 1


def test_a_share_of_nothing_is_an_error():
    with pytest.raises(ValueError):
        wilson_interval(1, 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_area_under_the_curve_is_scikit_learns_and_exactly_that_of_the_pairs(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 20, 300) / 19, rng.random(300) < 0.3  # with ties
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    pairs = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert auc(scores, positive) == pairs / (positive.sum() * (~positive).sum())


def test_without_both_kinds_there_is_no_area():
    assert np.isnan(auc([0.5, 0.1], [True, True])) and np.isnan(auc([0.5], [False])) and np.isnan(auc([], []))
    assert auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True]) == 3.5 / 4


def test_resamples_draw_as_many_as_there_are_and_follow_the_seed():
    weights = resample_weights(9, 50, 0)
    assert weights.shape == (50, 9) and weights.dtype == np.int32 and (weights.sum(axis=1) == 9).all()
    assert np.array_equal(weights, resample_weights(9, 50, 0)) and not np.array_equal(weights, resample_weights(9, 50, 1))
    assert resample_weights(9, 0, 0).shape == (0, 9)
    with pytest.raises(ValueError, match="bootstraps is -1"):
        resample_weights(9, -1, 0)


def test_percentiles_leave_out_what_is_undefined():
    samples = np.arange(101.0)
    assert percentile_interval(samples, 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.append(samples, np.nan), 0.9) == percentile_interval(samples, 0.9)
    assert np.isnan(percentile_interval(np.full(3, np.nan))).all()


def test_a_forest_tells_samples_apart_as_far_as_they_are():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    same, apart = rng.normal(size=(80, 3)), rng.normal(size=(80, 3)) + 9 * labels[:, None]
    assert forest_auc(same, labels, trees=20) == pytest.approx(0.5, abs=0.2) and forest_auc(apart, labels, trees=20, folds=2) == 1
