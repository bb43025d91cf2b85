"""Calibration: is a confidence as right as it says, and is an answer wrong where its uncertainty is high?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lungadv.utils.statistics import auc

__all__ = ["calibration_tables", "error_by_uncertainty", "expected_calibration_error", "reliability_table"]

BINS = 10


def reliability_table(confidence: ArrayLike, positive: ArrayLike) -> pd.DataFrame:
    """Confidence against truth in BINS bins of equal width: low, high, n, confidence (mean), positive (share); empty bins have no row.

    confidence (N,) in [0, 1]; positive (N,) bool.
    """
    table = pd.DataFrame({"confidence": np.asarray(confidence, float), "positive": np.asarray(positive, float)})
    table["bin"] = (table["confidence"] * BINS).astype(int).clip(upper=BINS - 1)
    found = table.groupby("bin").agg(n=("positive", "size"), confidence=("confidence", "mean"), positive=("positive", "mean")).reset_index()
    return found.assign(low=found["bin"] / BINS, high=(found["bin"] + 1) / BINS)[["low", "high", "n", "confidence", "positive"]]


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """The expected calibration error, in [0, 1], of a `reliability_table` (Guo et al. 2017).

    The mean distance of confidence and share of positives, weighted by n.
    """
    return float(np.average((bins["confidence"] - bins["positive"]).abs(), weights=bins["n"]))


def error_by_uncertainty(uncertainty: ArrayLike, wrong: ArrayLike) -> pd.DataFrame:
    """The share of wrong answers in BINS parts of equal size, from certain to uncertain: part, n, uncertainty (mean), wrong (share).

    uncertainty (N,) of any range; wrong (N,) bool. Ties are split in the order given.
    """
    table = pd.DataFrame({"uncertainty": np.asarray(uncertainty, float), "wrong": np.asarray(wrong, float)})
    table["part"] = table["uncertainty"].rank(method="first").sub(1).mul(BINS / len(table)).astype(int)
    grouped = table.groupby("part").agg(n=("wrong", "size"), uncertainty=("uncertainty", "mean"), wrong=("wrong", "mean"))
    return grouped.reset_index()


def calibration_tables(answers: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables `reliability`, `uncertainty` (`error_by_uncertainty`) and `calibration` of {dataset: {strategy: labelled marks}}.

    Labelled marks have probability and uncertainty in [0, 1] and label (1 nodule, 0 none, -1 left out). An answer is wrong when
    probability and truth lie on two sides of 0.5. calibration has a row for each data set and strategy: dataset, strategy, n,
    nodules, wrong (answers), ece, error_auroc (of uncertainty for wrong answers; NaN where all are right, or all wrong).
    """
    reliable, uncertain, rows = [], [], []
    for dataset, by_name in answers.items():
        for name, marks in by_name.items():
            key, marks = {"dataset": dataset, "strategy": name}, marks[marks["label"] >= 0]
            positive = marks["label"] == 1
            wrong, bins = (marks["probability"] > 0.5) != positive, reliability_table(marks["probability"], positive)
            counts = {"n": len(marks), "nodules": positive.sum(), "wrong": wrong.sum()}
            quality = {"ece": expected_calibration_error(bins), "error_auroc": auc(marks["uncertainty"], wrong)}
            rows.append(key | counts | quality)
            reliable.append(bins.assign(**key))
            uncertain.append(error_by_uncertainty(marks["uncertainty"], wrong).assign(**key))
    return {"reliability": pd.concat(reliable), "uncertainty": pd.concat(uncertain), "calibration": pd.DataFrame(rows)}
