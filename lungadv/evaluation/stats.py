"""Intervals of means, medians, shares and areas under ROC curves, where several items may come from one scan.

The building blocks that rooms below use as well lie in `lungadv.utils.statistics`.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq

from lungadv.utils.statistics import LEVEL_Z196, auc, percentile_interval, resample_weights, wilson_interval

__all__ = [
    "auc_interval",
    "bootstrap_interval",
    "detectable_difference",
    "mean_interval",
    "median_difference_interval",
    "scan_clusters",
    "share_interval",
    "t_interval",
    "weighted_median",
]


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of values (N,); (-inf, inf) for fewer than two."""
    if len(values) < 2:
        return -np.inf, np.inf
    mean, half = np.mean(values), stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return float(mean - half), float(mean + half)


def detectable_difference(half_width: float, seeds: int, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a test finds with a given power, when its interval reaches `half_width` to both sides.

    The power of Student's test over seeds, by the noncentral t distribution (Cohen 1988). For one seed the interval is taken as
    normal, as that of a bootstrap over many scans.
    """
    freedom = seeds - 1 if seeds > 1 else 10**6
    critical = stats.t.ppf((1 + level) / 2, freedom)
    errors = brentq(lambda shift: stats.nct.sf(critical, freedom, shift) - power, 0, 100)  # how many standard errors it must be
    return float(errors * half_width / critical)


def scan_clusters(items: pd.Index) -> tuple[np.ndarray, int]:
    """The scan of each item as a number from 0, int (N,), and how many scans there are.

    An item is a text such as "uid:3"; its scan is what stands before the last colon. Items without a scan, or all of one scan,
    each stand for themselves.
    """
    scan, names = pd.factorize(items.str.rpartition(":").get_level_values(0))
    return (scan, len(names)) if len(names) > 1 else (np.arange(len(items)), len(items))


def bootstrap_interval(statistic: Callable[[np.ndarray], np.ndarray], items: pd.Index, bootstraps: int = 1000) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic over the scans of `items` (see `scan_clusters`), from seed 0.

    `statistic` takes weights, int (bootstraps, N), how often each item is drawn, and gives its value for each resample, (bootstraps,).
    """
    cluster, number = scan_clusters(items)
    with np.errstate(invalid="ignore"):
        return percentile_interval(statistic(resample_weights(number, bootstraps, 0)[:, cluster]))


def mean_interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of a series, whose index names the items (see `scan_clusters`)."""
    return bootstrap_interval(lambda weights: weights @ values.to_numpy(dtype=float) / weights.sum(axis=1), values.index)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The median (B,) of values (N,) when value n comes weights[b, n] times; of an even number the mean of the middle two."""
    order = np.argsort(values)
    below, half = weights[:, order].cumsum(axis=1), weights.sum(axis=1, keepdims=True) / 2
    return (values[order][(below >= half).argmax(axis=1)] + values[order][(below > half).argmax(axis=1)]) / 2


def median_difference_interval(a: pd.Series, b: pd.Series) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median of `a` minus that of `b`, two series with the same index (see `scan_clusters`)."""
    a_values, b_values = a.to_numpy(), b.to_numpy()
    return bootstrap_interval(lambda weights: weighted_median(a_values, weights) - weighted_median(b_values, weights), a.index)


def share_interval(hits: pd.Series) -> tuple[float, float]:
    """The 95 % interval of a share, the mean of a bool series whose index names the items (see `scan_clusters`).

    Wilson's where each item is of another scan, else the bootstrap over scans. All or none leaves nothing to draw:
    then it is Wilson's for the number of scans.
    """
    _, number = scan_clusters(hits.index)
    share = hits.mean()
    if number == len(hits) or share in (0, 1):
        return wilson_interval(round(share * number), number, LEVEL_Z196)
    return mean_interval(hits)


def auc_interval(smaller: np.ndarray, larger: np.ndarray) -> tuple[float, tuple[float, float]]:
    """P(smaller < larger), ties half, of two unpaired samples (N,) and (M,), and its 95 % interval.

    The standard error is that of DeLong et al. 1988; it is infinite for a sample of one.
    """
    smaller, larger = np.sort(smaller), np.sort(larger)

    def share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))

    placements = share_below(larger, smaller), 1 - share_below(smaller, larger)
    value = auc(np.concatenate([smaller, larger]), np.arange(len(smaller) + len(larger)) >= len(smaller))
    error = np.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else np.inf for part in placements))
    return value, (float(max(0, value - 1.96 * error)), float(min(1, value + 1.96 * error)))
