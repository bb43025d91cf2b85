"""The rules of the stress tests on made-up numbers: met, short of it, and the other way round."""

import numpy as np
import pandas as pd
import pytest

from lungadv.evaluation.claims import CLAIMS
from lungadv.evaluation.claims_stress import UNIFORM
from lungadv.evaluation.verdicts import CONTROL, PERTURB, SYN, Numbers
from lungadv.training.strategies import BASELINE
from tests.evaluation.claim_numbers import around, confidences, flatten_cases, noisy, rows, s11, samples, share_scans, shares, width

NETWORKS = (BASELINE, SYN, *PERTURB, CONTROL)
HALF = (0.5,) * 4


def s1(smaller, denser):
    """Shifts of PGD-searched against real nodules, in standard deviations."""
    real, draw = noisy(0, 300, seed=1), noisy(0, 300, seed=2)
    groups = [("diameter_mm", "", "real", 10 + real), ("diameter_mm", "", "pgd", 10 + draw - smaller)]
    groups += [("mean_hu", "", "real", real), ("mean_hu", "", "pgd", draw - denser)]
    groups += [(kind, "", name, shares(0.2)) for kind in ("non_solid", "part_solid") for name in ("real", "random", "pgd")]
    return samples("S1", *groups)


def s2(missed, unsure, count=1000, other=0.1):
    pgd = np.where(shares(unsure, count) > 0, 0.5, other)
    return samples("S2", ("confidence", BASELINE, "random", confidences(1 - missed, count)), ("confidence", BASELINE, "pgd", pgd))


def s3(share, control, high=0.9):
    return samples("S3", ("confidence", SYN, "pgd", confidences(share, high=high)), ("confidence", CONTROL, "pgd", confidences(control)))


def with_thresholds(numbers, **bars):
    extra = [rows("all", "threshold", name, "", [bars.get(name, 0.5)], [""]) for name in NETWORKS]
    return Numbers(pd.concat([numbers.samples, *extra], ignore_index=True), pd.DataFrame())


def s4(*medians):
    conditions = ("clean", *UNIFORM)
    return samples("S5", *(("confidence", BASELINE, name, around(value)) for name, value in zip(conditions, medians, strict=True)))


def detection(claim, conditions, count=200, beside=()):
    """Shares detected by network, one for each condition; under those of `beside` as under the last."""

    def build(*, base, control, syn, perturb):
        found = {BASELINE: base, CONTROL: control, SYN: syn, **dict.fromkeys(PERTURB, perturb)}
        groups = []
        for name, values in found.items():
            under = [*zip(conditions, values, strict=True), *((condition, values[-1]) for condition in beside)]
            groups += [("confidence", name, condition, confidences(share, count)) for condition, share in under]
        return with_thresholds(samples(claim, *groups))

    return build


s5 = detection("S5", UNIFORM)
s6 = detection("S6", ("poisson-50", "poisson-1"))
BESIDE = ("white-box", "independent")
s7 = detection("S7", ("clean", "pgd"), beside=BESIDE)
s8 = detection("S8", ("noise", "pgd"), beside=BESIDE)
s9 = detection("S9", ("clean", "pgd"), beside=BESIDE)


def s10(kept):
    """All attacked images are answered wrongly; `kept` of them are as sure as clean ones."""
    clean, attacked = around(0.2, 100, 0.1), np.where(shares(kept) > 0, 0.2, 0.9)
    groups = [("uncertainty", BASELINE, f"clean-{kind}", clean) for kind in ("positive", "negative")]
    groups += [("uncertainty", BASELINE, f"pgd-{kind}", attacked) for kind in ("positive", "negative")]
    groups += [("confidence", BASELINE, "pgd-positive", confidences(0)), ("confidence", BASELINE, "pgd-negative", confidences(1))]
    return samples("S10", *groups)


# builder, then the arguments of rules that are met, short of being met, and the other way round
CASES = {
    "S1": (s1, [(1.0, 1.0)], [(1.0, 0.15)], [(1.0, -0.5), (-1.0, 1.0)]),
    "S2": (s2, [(0.3, 0.6)], [(0.3, 0.4), (0.05, 0.6), (0.3, 0.6, 900)], [(0.05, 0.4, 1000, 0.95)]),
    "S3": (s3, [(0.8, 0.5)], [(0.6, 0.5), (0.8, 0.5, 0.65), (0.8, 0.79)], [(0.5, 0.8), (0.8, 0.8)]),
    "S4": (s4, [(0.9, 0.8, 0.7, 0.5, 0.2)], [(0.9, 0.89, 0.85, 0.8, 0.75), (0.9, 0.5, 0.6, 0.4, 0.2)], [(0.5, 0.6, 0.7, 0.8, 0.9)]),
    "S5": (
        lambda syn, perturb: s5(base=HALF, control=HALF, syn=syn, perturb=perturb),
        [((0.7, 0.7, 0.1, 0.1), (0.1, 0.1, 0.7, 0.7))],
        [((0.505, 0.505, 0.1, 0.1), (0.1, 0.1, 0.7, 0.7)), ((0.7, 0.7, 0.1, 0.1), (0.1, 0.1, 0.4, 0.7))],
        [(HALF, HALF), ((0.7, 0.7, 0.7, 0.7), (0.7, 0.7, 0.1, 0.1))],
    ),
    "S6": (
        lambda base, syn, perturb: s6(base=base, control=base, syn=syn, perturb=perturb),
        [((0.6, 0.3), (0.8, 0.0), (0.8, 0.5))],
        [((0.6, 0.3), (0.605, 0.0), (0.8, 0.5))],
        [((0.6, 0.55), (0.8, 0.8), (0.9, 0.9)), ((0.6, 0.3), (0.4, 0.5), (0.8, 0.5))],
    ),
    "S7": (
        lambda base, syn, perturb: s7(base=base, control=base, syn=syn, perturb=perturb),
        [((0.9, 0.1), (0.9, 0.2), (0.9, 0.8))],
        [((0.9, 0.5), (0.9, 0.5), (0.9, 0.8)), ((0.9, 0.1), (0.9, 0.2), (0.9, 0.6))],
        [((0.9, 0.1), (0.9, 0.8), (0.9, 0.7))],
    ),
    "S8": (
        lambda noise, base, syn, perturb: s8(base=(noise, base), control=(0, 0), syn=(0, syn), perturb=(0, perturb)),
        [(0.1, 0.9, 0.6, 0.1)],
        [(0.6, 0.9, 0.6, 0.1), (0.1, 0.9, 0.4, 0.1), (0.1, 0.9, 0.6, 0.3)],
        [(0.1, 0.9, 0.1, 0.1), (0.1, 0.1, 0.9, 0.9)],
    ),
    "S9": (
        lambda clean, base, perturb: s9(base=(clean, base), control=(0, 0), syn=(0, 0.9), perturb=(clean, perturb)),
        [(0.05, 0.9, 0.5)],
        [(0.2, 0.9, 0.5), (0.05, 0.9, 0.7)],
        [(0.05, 0.5, 0.5), (0.05, 0.5, 0.9)],
    ),
    "S10": (s10, [(0.6,)], [(0.3,)], [(0.0,)]),
    "S11": (s11, [(0.05, 0.8)], [(0.05, 0.97), (np.inf, np.nan)], [(0.005, 0.8)]),
}  # fmt: skip


def test_every_claim_has_cases():
    assert set(CASES) == {claim for claim in CLAIMS if claim[0] in "S"}


@pytest.mark.parametrize("claim, arguments, expected", flatten_cases(CASES))
def test_rules(claim, arguments, expected):
    found = CLAIMS[claim].judge(CASES[claim][0](*arguments))
    assert found.verdict == expected, found
    assert found.text


def test_detection_uses_each_networks_own_threshold():
    """A network that says yes to everything has a threshold that takes the gain away."""
    numbers = s7(base=(0.9, 0.1), control=(0.9, 0.1), syn=(0.9, 0.1), perturb=(0.9, 0.9))
    keys = [(PERTURB[0], "clean"), (PERTURB[0], "pgd")]
    assert [found.mean() for found in numbers.detected("S7", *keys)] == [0.9, 0.9]
    high = numbers.samples.copy()
    high.loc[(high["measure"] == "threshold") & (high["network"] == PERTURB[0]), "value"] = 0.95
    assert not any(found.any() for found in Numbers(high, pd.DataFrame()).detected("S7", *keys))


def test_what_is_never_flipped_has_no_ssim():
    """A perturb network that half of the nodules withstand, and whose flips look more like the clean ones than the baseline's."""
    eps, ssim = np.where(shares(0.4, 50) > 0, np.inf, 0.05), np.where(shares(0.4, 50) > 0, np.nan, 0.99)
    found = CLAIMS["S11"].judge(s11(0.05, 0.8))
    assert found.verdict == "reproduced" and "(0% never flipped)" in found.text
    numbers = s11(0.05, 0.8).samples
    for name in PERTURB:
        for measure, values in (("eps", eps), ("ssim", ssim)):
            numbers.loc[(numbers["measure"] == measure) & (numbers["network"] == name), "value"] = values
    found = CLAIMS["S11"].judge(Numbers(numbers, pd.DataFrame()))
    assert found.verdict == "consistent" and f"{PERTURB[0]} eps 0.050 SSIM 0.99 (40% never flipped)" in found.text


@pytest.mark.parametrize("claim", ["S2", "S3", "S4", "S5", "S6", "S7", "S9"])
def test_intervals_widen_where_items_share_scans(claim):
    """The same outcomes, those alike put into one scan, are fewer observations."""
    spread = {"S4": (0.9, 0.8, 0.7, 0.5, 0.2 + np.sort(noisy(0, 20, 0.1)))}
    numbers = CASES[claim][0](*spread.get(claim, CASES[claim][2][0]))
    assert width(CLAIMS[claim], share_scans(numbers)) > 1.5 * width(CLAIMS[claim], numbers)
