"""Calibration against closed forms, scikit-learn and tables worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from lungadv.evaluation.calibration import calibration_tables, error_by_uncertainty, expected_calibration_error, reliability_table


def simulated(count=20_000, seed=0):
    """Confidences, and for each a uniform draw: a nodule with probability q(p) is one whose draw is below q(p)."""
    rng = np.random.default_rng(seed)
    return rng.random(count), rng.random(count)


def test_a_predictor_that_says_what_it_knows_has_no_calibration_error():
    p, draw = simulated()
    bins = reliability_table(p, draw < p)
    assert expected_calibration_error(bins) < 0.015 and bins["n"].sum() == len(p) and len(bins) == 10


@pytest.mark.parametrize(
    "truth, expected",
    [
        (lambda p: p**2, 1 / 6),  # the integral of p - p^2
        (lambda p: p / 2, 1 / 4),
        (lambda p: 0.5 + 0 * p, 1 / 4),  # knows nothing
        (lambda p: 1 - p, 1 / 2),
    ],
)
def test_the_calibration_error_of_a_known_bias_is_its_closed_form(truth, expected):
    p, draw = simulated(200_000)
    assert expected_calibration_error(reliability_table(p, draw < truth(p))) == pytest.approx(expected, abs=0.005)


def test_reliability_is_that_of_scikit_learn():
    p, draw = simulated(500, 3)
    p = np.clip(p * 1.5, 0, 1)  # many of exactly 1; none in between may be lost
    positive, confidence = calibration_curve(draw < p, p, n_bins=10)
    bins = reliability_table(p, draw < p)
    np.testing.assert_allclose(bins[["positive", "confidence"]].to_numpy(), np.c_[positive, confidence])
    assert (bins["confidence"].between(bins["low"], bins["high"])).all()
    few = reliability_table([0.05, 0.95, 0.97], [False, True, False])
    assert few["n"].tolist() == [1, 2] and few["positive"].tolist() == [0, 0.5]


def test_errors_by_uncertainty_by_hand():
    uncertainty = np.arange(40)[::-1] / 40
    table = error_by_uncertainty(uncertainty, uncertainty >= 0.9)
    assert table["n"].tolist() == [4] * 10 and table["wrong"].tolist() == [0] * 9 + [1]
    assert table["uncertainty"].tolist() == pytest.approx(np.arange(1.5, 40, 4) / 40)
    same = error_by_uncertainty(np.zeros(25), np.arange(25) < 5)  # all tied: still parts of like size
    assert same["n"].between(2, 3).all() and same["wrong"] @ same["n"] == 5


def test_tables_leave_out_marks_without_a_label_and_name_what_they_are_of():
    draw = np.random.default_rng(0)
    marks = pd.DataFrame({"probability": draw.random(200), "uncertainty": draw.random(200), "label": draw.integers(-1, 2, 200)})
    tables = calibration_tables({"validation": {"one": marks, "two": marks.assign(label=marks["label"].clip(upper=0))}})
    row, kept = tables["calibration"].set_index(["dataset", "strategy"]).loc["validation", "one"], marks[marks["label"] >= 0]
    wrong = (kept["probability"] > 0.5) != (kept["label"] == 1)
    assert row[["n", "nodules", "wrong"]].tolist() == [len(kept), (kept["label"] == 1).sum(), wrong.sum()]
    assert row["error_auroc"] == pytest.approx(roc_auc_score(wrong, kept["uncertainty"]))
    for name, count in (("reliability", "n"), ("uncertainty", "n")):
        assert tables[name].groupby("strategy")[count].sum().tolist() == [len(kept)] * 2
    right = marks.assign(probability=marks["label"].clip(lower=0))
    assert np.isnan(calibration_tables({"a": {"b": right}})["calibration"]["error_auroc"].item())
