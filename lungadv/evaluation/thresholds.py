"""Thresholds that make networks comparable, and uncertainty as an alarm."""

import numpy as np
from numpy.typing import ArrayLike

from lungadv.utils.statistics import auc

__all__ = ["rejection", "threshold_at_rate"]


def threshold_at_rate(confidence: ArrayLike, rate: float = 0.05) -> float:
    """The smallest observed confidence above which at most the share `rate` of the given negatives (N,) lies."""
    return float(np.quantile(np.asarray(confidence, dtype=float), 1 - rate, method="inverted_cdf"))


def rejection(clean: ArrayLike, attacked: ArrayLike, attacked_wrong: ArrayLike, keep: float = 0.95) -> dict[str, float]:
    """Uncertainty as an alarm: how many wrong answers to attacked inputs it lets pass.

    `clean` (N,) and `attacked` (M,) are uncertainties; `attacked_wrong`, bool (M,), says which attacked inputs are answered wrongly.
    Returns

    - threshold: the smallest observed uncertainty up to which the share `keep` of the clean inputs lies
    - kept: the share of wrong attacked inputs up to it, NaN when no answer is wrong
    - auroc: of attacked against clean
    - n_wrong: the number of wrong answers to attacked inputs
    """
    threshold = float(np.quantile(clean, keep, method="inverted_cdf"))
    fooled = np.asarray(attacked)[np.asarray(attacked_wrong)]
    return {
        "threshold": threshold,
        "kept": float((fooled <= threshold).mean()) if len(fooled) else np.nan,
        "auroc": auc(np.r_[clean, attacked], np.arange(len(clean) + len(attacked)) >= len(clean)),
        "n_wrong": len(fooled),
    }
