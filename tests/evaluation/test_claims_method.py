"""The rules of candidates and attacks on made-up numbers: met, short of it, and the other way round."""

import numpy as np
import pytest

from lungadv.evaluation.claims import CLAIMS
from lungadv.evaluation.verdicts import MissingNumbers
from lungadv.training.strategies import BASELINE
from tests.evaluation.claim_numbers import around, confidences, flatten_cases, m2, noisy, samples, share_scans, shares, width


def m1(blob_small, blob_large, scans=20):
    """The RPN finds half of every size; 10 nodules of each size a scan."""
    groups = []
    for size, blob in (("small", blob_small), ("large", blob_large)):
        items = [f"{size[0]}{scan}:{k}" for scan in range(scans) for k in range(10)]
        for per_scan in (4, 8):
            for network, share in (("blob", blob), ("rpn", 0.5)):
                groups.append((f"detected-{per_scan}", network, size, np.tile(shares(share, 10), scans), items))
    return samples("M1", *groups)


def m3(pgd, random=0.9, ssim=0.95):
    """Undetected nodules, whose values must not matter, stand beside the detected ones."""
    parts = {"before": 0.9, "pgd": pgd, "random": random}
    confidence = [("confidence", BASELINE, name, [*around(value, 50), *[0.3] * 50]) for name, value in parts.items()]
    return samples("M3", *confidence, ("ssim", BASELINE, "pgd", [*around(ssim, 50), *[0.0] * 50]))


def m4(pgd, random):
    groups = {"clean": confidences(0.8, 100), "pgd": confidences(0.8 * (1 - pgd), 100), "random": confidences(0.8 * (1 - random), 100)}
    return samples("M4", *(("confidence", BASELINE, name, values) for name, values in groups.items()))


def activation(claim, clean):
    def build(before, after):
        return samples(claim, ("confidence", BASELINE, clean, confidences(before)), ("confidence", BASELINE, "pgd", confidences(after)))

    return build


def m7(pgd, random):
    items = [f"s{k // 5}:{k % 5}" for k in range(100)]
    found = {"clean": 0.9, "pgd": pgd, "random": random}
    return samples("M7", *(("detected", "blob", name, shares(value), items) for name, value in found.items()))


def n1(share, change):
    hardest = [("hardest", BASELINE, "random-search", around(0.4)), ("hardest", BASELINE, "pgd", around(0.4) + change)]
    return samples("N1", ("confidence", BASELINE, "random", confidences(share)), *hardest)


# builder, then the arguments of rules that are met, short of being met, and the other way round
CASES = {
    "M1": (m1, [(0.8, 0.5)], [], [(0.4, 0.5), (0.5, 0.5)]),
    "M2": (m2, [(0.98,)], [(0.95,), (0.99, 200), (0.99, 300, 101)], [(0.8,)]),
    "M3": (m3, [(0.5,)], [(0.7,), (0.5, 0.75), (0.5, 0.9, 0.8)], [(0.95,), (0.6, 0.4)]),
    "M4": (m4, [(0.9, 0.0)], [(0.5, 0.0), (1.0, 0.25)], [(0.1, 0.1), (0.1, 0.5)]),
    "M5": (activation("M5", "noise"), [(0.05, 0.9)], [(0.05, 0.5), (0.2, 0.9)], [(0.05, 0.0)]),
    "M6": (activation("M6", "clean"), [(0.05, 0.9)], [(0.05, 0.5), (0.2, 0.9)], [(0.05, 0.0)]),
    "M7": (m7, [(0.4, 0.9)], [(0.8, 0.9), (0.4, 0.8)], [(0.9, 0.9), (0.8, 0.5)]),
    "N1": (n1, [(0.7, -0.1)], [(0.4, -0.1), (0.7, noisy(-0.1))], [(0.7, 0.1)]),
}  # fmt: skip


def test_every_claim_has_cases():
    assert set(CASES) == {claim for claim in CLAIMS if claim[0] in "MN"}


@pytest.mark.parametrize("claim, arguments, expected", flatten_cases(CASES))
def test_rules(claim, arguments, expected):
    found = CLAIMS[claim].judge(CASES[claim][0](*arguments))
    assert found.verdict == expected, found
    assert found.text


def test_undetected_nodules_do_not_count_as_hidden():
    found = CLAIMS["M4"].judge(samples("M4", *(("confidence", BASELINE, name, confidences(0)) for name in ("clean", "pgd", "random"))))
    assert found.verdict == "not reproduced"


def test_a_missing_condition_is_named():
    with pytest.raises(MissingNumbers, match="M4: no confidence of baseline-beta-finetune random"):
        CLAIMS["M4"].judge(samples("M4", *(("confidence", BASELINE, name, confidences(0)) for name in ("clean", "pgd"))))


@pytest.mark.parametrize("claim", ["M3", "M4", "M5", "M6", "N1"])
def test_intervals_widen_where_items_share_scans(claim):
    """The same outcomes, those alike put into one scan, are fewer observations."""
    spread = {"M3": (0.5 + np.sort(noisy(0, 50, 0.1)),), "N1": (0.7, np.sort(noisy(0, 20, 0.1)))}
    numbers = CASES[claim][0](*spread.get(claim, CASES[claim][2][0]))
    assert width(CLAIMS[claim], share_scans(numbers)) > 1.5 * width(CLAIMS[claim], numbers)
