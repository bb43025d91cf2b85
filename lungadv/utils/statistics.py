"""Statistics that several rooms share: the Wilson interval, areas under the ROC curve, resamples of a bootstrap.

SciPy's and scikit-learn's parts are imported where they are used: `lungadv froc` needs neither.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["LEVEL_Z196", "auc", "forest_auc", "percentile_interval", "resample_weights", "wilson_interval"]

LEVEL_Z196 = 0.9500042097035593  # the level whose normal quantile is 1.96, the rounded value of 95 % tables


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share, (low, high) in [0, 1].

    `hits` of `count` are successes, both whole numbers, `count` at least 1 (ValueError otherwise). `scipy.stats.binomtest` computes it.
    """
    from scipy.stats import binomtest

    low, high = binomtest(int(hits), int(count)).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The probability that a positive scores higher than another, ties half: the area under the ROC curve (scikit-learn).

    `scores` (N,) of any range and `positive` bool (N,). NaN where there are not both positives and others.
    """
    from sklearn.metrics import roc_auc_score

    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return np.nan
    half_pairs = round(2 * pairs * roc_auc_score(positive, scores))  # a whole number: rids the sum of trapezoids of its rounding errors
    return half_pairs / 2 / pairs


def forest_auc(features: ArrayLike, labels: np.ndarray, trees: int, *, folds: int = 5, **terms: Any) -> float:
    """Cross-validated AUC of a random forest that tells two samples apart; 0.5 if it cannot.

    `features` (N, F) has a row each; `labels` (N,) are 1 or 0. `terms` are further settings of scikit-learn's RandomForestClassifier.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    forest = RandomForestClassifier(trees, random_state=0, **terms)
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    chances = cross_val_predict(forest, features, labels, cv=parts, method="predict_proba")
    return roc_auc_score(labels, chances[:, 1])


def resample_weights(count: int, bootstraps: int, seed: int) -> np.ndarray:
    """How often each of `count` items is drawn in each bootstrap resample of `count` draws: int32 (bootstraps, count).

    Raises ValueError for fewer than 0 bootstraps.
    """
    if bootstraps < 0:
        raise ValueError(f"bootstraps is {bootstraps}: give a number from 0 up")
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=bootstraps).astype(np.int32)


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds the share `level` of samples (B,); NaN are left out, and (NaN, NaN) is given if none is left."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return np.nan, np.nan
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
