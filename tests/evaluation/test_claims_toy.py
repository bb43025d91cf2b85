"""The rules of the two moons on made-up numbers: met, short of it, and the other way round."""

import pandas as pd
import pytest

from lungadv.evaluation.claims import CLAIMS
from lungadv.evaluation.claims_toy import two_moons_samples
from lungadv.evaluation.verdicts import Numbers
from tests.evaluation.claim_numbers import around, flatten_cases, noisy


def toy(*groups):
    """Numbers of groups (group, measure, name, values[, dimension]) of the two moons, by way of their own table."""
    table = []
    for group, measure, name, values, *dimension in groups:
        fixed = {"group": group, "name": name, "dimension": dimension[0] if dimension else 2, "measure": measure}
        table += [{"seed": seed, **fixed, "value": value} for seed, value in enumerate(values)]
    return Numbers(two_moons_samples(pd.DataFrame(table)), pd.DataFrame())


def t1(accuracy):
    return toy(("panel", "accuracy", "a", around(accuracy, spread=0.001)))


def t2(change):
    return toy(("panel", "tail_recall", "a", around(0.9)), ("panel", "tail_recall", "b", around(0.9) + change))


def t3(change, far):
    tail = [("panel", "tail_recall", "b", around(0.5)), ("panel", "tail_recall", "c", around(0.5) + change)]
    return toy(*tail, ("panel", "confident_far_share", "c", around(far)))


def t4(far, loss):
    area = [("panel", "confident_far_share", "c", around(0.4)), ("panel", "confident_far_share", "d", around(far))]
    return toy(*area, ("panel", "recall", "c", around(0.9)), ("panel", "recall", "d", around(0.9 - loss)))


def t5(change, sparse):
    share = [("spots", "sparse_share", "random", around(0.3)), ("spots", "sparse_share", "hard", around(0.3) + change)]
    return toy(*share, ("spots", "sparse_share_of_arc", "hard", around(sparse)))


def t6(change):
    return toy(("spots", "nearest_positive", "uniform", around(1.0)), ("spots", "nearest_positive", "noise", around(1.0) + change))


def t7(change, loss):
    """In fewer dimensions it may be the other way round."""
    far = [
        ("dimension", "confident_far_share", name, around(0.4) + more, d)
        for d, change in ((2, 0.1), (10, 0.1), (50, change))
        for name, more in (("uniform", 0), ("pgd", change))
    ]
    return toy(*far, ("dimension", "recall", "uniform", around(0.9), 50), ("dimension", "recall", "pgd", around(0.9 - loss), 50))


# builder, then the arguments of rules that are met, short of being met, and the other way round
CASES = {
    "T1": (t1, [(0.985,)], [(0.97,)], [(0.7,)]),
    "T2": (t2, [(-0.1,)], [(noisy(-0.1),)], [(0.1,), (0.0,)]),
    "T3": (t3, [(0.1, 0.2)], [(0.1, 0.05), (noisy(0.1), 0.2)], [(-0.1, 0.2)]),
    "T4": (t4, [(0.1, 0.02)], [(0.3, 0.02), (0.1, 0.1)], [(0.5, 0.0), (0.1, 0.3)]),
    "T5": (t5, [(0.2, 0.95)], [(0.2, 0.8), (noisy(0.1), 0.95)], [(-0.1, 0.95)]),
    "T6": (t6, [(-0.2,)], [(noisy(-0.2),)], [(0.2,)]),
    "T7": (t7, [(-0.1, 0.0)], [(-0.1, 0.1), (noisy(-0.1), 0.0)], [(0.1, 0.0)]),
}  # fmt: skip


def test_every_claim_has_cases():
    assert set(CASES) == {claim for claim in CLAIMS if claim[0] in "T"}


@pytest.mark.parametrize("claim, arguments, expected", flatten_cases(CASES))
def test_rules(claim, arguments, expected):
    found = CLAIMS[claim].judge(CASES[claim][0](*arguments))
    assert found.verdict == expected, found
    assert found.text
