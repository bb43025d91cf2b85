"""Made-up numbers on which the tests judge claims."""

import numpy as np
import pandas as pd

from lungadv.evaluation.verdicts import NUMBER_COLUMNS, PERTURB, Numbers
from lungadv.training.strategies import BASELINE

VERDICTS = ("reproduced", "consistent", "not reproduced")
NOTHING = pd.DataFrame(columns=NUMBER_COLUMNS)


def rows(claim, measure, network, condition, values, items=None):
    items = range(len(values)) if items is None else items
    table = [[claim, measure, network, condition, str(item), value] for item, value in zip(items, values, strict=True)]
    return pd.DataFrame(table, columns=NUMBER_COLUMNS)


def samples(claim, *groups):
    """Numbers of groups (measure, network, condition, values[, items])."""
    return Numbers(pd.concat([rows(claim, *group) for group in groups], ignore_index=True), pd.DataFrame())


def around(mean, count=20, spread=0.01):
    """Numbers about a mean; the same pattern every time, so that two of them are paired without spread."""
    return mean + spread * np.linspace(-1, 1, count)


def noisy(mean, count=20, spread=1.0, seed=0):
    """Numbers of exactly this mean and a wide spread, so that the interval of a small mean includes zero."""
    draw = np.random.default_rng(seed).normal(size=count)
    return mean + spread * (draw - draw.mean())


def shares(share, count=100):
    """0/1 with this share of ones."""
    return (np.arange(count) < round(share * count)).astype(float)


def confidences(share, count=100, high=0.9, low=0.1):
    """Confidences of which this share is high."""
    return np.where(shares(share, count) > 0, high, low)


def m2(share, count=300, per_scan=90):
    groups = [("detected", "union", name, shares(share, count)) for name in ("in-house", "nlst")]
    return samples("M2", *groups, *(("candidates_per_scan", "union", name, [per_scan], [""]) for name in ("in-house", "nlst")))


def s11(eps, ssim):
    groups = []
    for name, (radius, similarity) in zip((BASELINE, *PERTURB), ((0.01, 0.95), (eps, ssim), (eps, ssim)), strict=True):
        groups += [("eps", name, "white-box", around(radius, 50, 0.001)), ("ssim", name, "white-box", around(similarity, 50))]
    return samples("S11", *groups)


def difference_rows(values, spread=0.001, seeds=range(5)):
    """differences.csv of some seeds: values {(a, b, measure, subset): mean}; the interval over scans is the mean -+ 0.02."""
    out = []
    for k, seed in enumerate(seeds):
        for (a, b, measure, subset), mean in values.items():
            value = mean + spread * (k - (len(seeds) - 1) / 2)
            row = {"subset": subset, "benchmark": "both", "a": a, "b": b, "measure": measure, "difference": value, "seed": seed}
            out.append(row | {"lower": value - 0.02, "upper": value + 0.02, "lower90": value - 0.01, "upper90": value + 0.01})
            out.append(row | {"benchmark": "nlst", "difference": 9.0, "lower": 9.0, "upper": 9.0})  # must not be read
    return pd.DataFrame(out)


def flatten_cases(cases):
    """(claim, arguments, verdict) of cases {claim: (builder, arguments reproduced, consistent, not reproduced)}."""
    return [
        (claim, arguments, verdict)
        for claim, (_, *groups) in cases.items()
        for verdict, group in zip(VERDICTS, groups, strict=True)
        for arguments in group
    ]


def width(claim, numbers):
    """The summed width of the intervals that a claim reports."""
    bounds = [[float(bound) for bound in part.strip("[]").split(", ")] for part in claim.judge(numbers).interval.split("; ")]
    return sum(high - low for low, high in bounds)


def share_scans(numbers):
    """The same numbers, each five items in one scan."""
    table = numbers.samples.copy()
    shared = table["measure"] != "threshold"
    table.loc[shared, "item"] = [f"1.{int(item) // 5}:{item}" for item in table.loc[shared, "item"]]
    return Numbers(table, pd.DataFrame())
