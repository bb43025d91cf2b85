"""The rules of Table II on made-up differences: met, short of it, and the other way round; and what few seeds can say."""

import pytest

from lungadv.evaluation.claims import CLAIMS
from lungadv.evaluation.claims_benchmark import strategy_difference
from lungadv.evaluation.verdicts import CONTROL, PERTURB, SYN, SYN_RANDOM, Numbers
from lungadv.training.strategies import BASELINE
from tests.evaluation.claim_numbers import NOTHING, VERDICTS, difference_rows


def strategies(*pairs):
    """{(a, b, "cpm", "all"): mean} from (a, b, mean)."""
    return {(a, b, "cpm", "all"): mean for a, b, mean in pairs}


def b2(entropy, beta, trained_on=0.0):
    gains = {"baseline-ce": entropy, "baseline-beta": beta, "control-ce": trained_on, "control-beta": trained_on}
    return strategies(*((BASELINE, other, gain) for other, gain in gains.items()))


def b4(mean, ends):
    return {(SYN, SYN_RANDOM, "cpm", "all"): mean, (SYN, SYN_RANDOM, "low-minus-high", "all"): ends}


def b5(below, others):
    pairs = [(SYN, other, below) for other in ("baseline-ce", "baseline-beta", BASELINE, CONTROL)]
    return strategies(*pairs, *((SYN, other, others) for other in (SYN_RANDOM, *PERTURB)))


def b6(gain, excess):
    return strategies(*((name, other, value) for name in PERTURB for other, value in ((BASELINE, gain), (CONTROL, -1.0), (SYN, excess))))


CASES = {  # (values, spread over seeds): reproduced, consistent, not reproduced
    "B1": (
        [(strategies(("baseline-beta", "baseline-ce", -0.03)), 0.001)],
        [(strategies(("baseline-beta", "baseline-ce", 0.03)), 0.03)],
        [(strategies(("baseline-beta", "baseline-ce", 0.08)), 0.001), (strategies(("baseline-beta", "baseline-ce", -0.08)), 0.001)],
    ),
    "B2": (
        [(b2(0.02, 0.01), 0.001), (b2(0.02, 0.01, trained_on=-0.01), 0.001)],
        [(b2(0.02, 0.01), 0.01)],
        [(b2(0.02, -0.01), 0.001), (b2(-0.01, 0.02), 0.001)],
    ),
    "B3": (
        [(strategies((SYN_RANDOM, BASELINE, 0.02), (SYN_RANDOM, CONTROL, 0.01)), 0.001)],
        [(strategies((SYN_RANDOM, BASELINE, 0.02), (SYN_RANDOM, CONTROL, 0.01)), 0.01)],
        [(strategies((SYN_RANDOM, BASELINE, 0.02), (SYN_RANDOM, CONTROL, -0.01)), 0.001)],
    ),
    "B4": ([(b4(0.02, 0.02), 0.001)], [(b4(0.02, 0.01), 0.02)], [(b4(0.02, -0.01), 0.001), (b4(-0.02, 0.01), 0.001)]),
    "B5": ([(b5(0.02, -0.001), 0.002)], [(b5(0.02, 0.01), 0.02)], [(b5(0.02, -0.05), 0.001), (b5(-0.02, 0.02), 0.001)]),
    "B6": (
        [(b6(0.02, 0.0), 0.001)],
        [(b6(0.02, 0.0), 0.02), (b6(0.02, 0.0095), 0.001)],
        [(b6(-0.02, 0.0), 0.001), (b6(0.02, 0.03), 0.001)],
    ),
    "B7": (
        [({(SYN, CONTROL, "cpm", "subsolid"): 0.02}, 0.001)],
        [({(SYN, CONTROL, "cpm", "subsolid"): 0.02}, 0.02)],
        [({(SYN, CONTROL, "cpm", "subsolid"): -0.02}, 0.001)],
    ),
}


def test_every_claim_has_cases():
    assert set(CASES) == {claim for claim in CLAIMS if claim[0] in "B"}


@pytest.mark.parametrize(
    "claim, values, spread, expected",
    [
        (claim, values, spread, name)
        for claim, cases in CASES.items()
        for name, group in zip(VERDICTS, cases, strict=True)
        for values, spread in group
    ],
)
def test_rules(claim, values, spread, expected):
    found = CLAIMS[claim].judge(Numbers(NOTHING, difference_rows(values, spread)))
    assert (found.verdict, found.seeds) == (expected, 5), found


@pytest.mark.parametrize("claim", CASES)
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_few_seeds_are_at_best_consistent(claim, seeds):
    """However sure the bootstrap over scans is: it compares two weight files."""
    values, _ = CASES[claim][0][0]
    found = CLAIMS[claim].judge(Numbers(NOTHING, difference_rows(values, 0.0, seeds), seed=0))
    assert (found.verdict, found.seeds) == ("consistent", 1)
    against, _ = CASES[claim][2][0]
    assert CLAIMS[claim].judge(Numbers(NOTHING, difference_rows(against, 0.0, seeds), seed=0)).verdict == "not reproduced"


def test_few_seeds_show_this_runs_own_interval():
    table = difference_rows(CASES["B7"][0][0][0], 0.01, [4, 7])
    own = strategy_difference(Numbers(NOTHING, table, seed=7), SYN, CONTROL, subset="subsolid")
    assert (own.mean, own.seeds) == (pytest.approx(0.025), 1)
    assert own.interval == pytest.approx((0.005, 0.045))
    narrower = strategy_difference(Numbers(NOTHING, table, seed=7), SYN, CONTROL, subset="subsolid", level=0.9)
    assert narrower.interval == pytest.approx((0.015, 0.035))


def test_seed_intervals_are_students():
    table = difference_rows({(SYN, CONTROL, "cpm", "all"): 0.01}, 0.01, range(3))  # 0, 0.01, 0.02
    found = strategy_difference(Numbers(NOTHING, table), SYN, CONTROL)
    assert found.interval == pytest.approx((0.01 - 4.3027 * 0.01 / 3**0.5, 0.01 + 4.3027 * 0.01 / 3**0.5), rel=1e-4)


@pytest.mark.parametrize("claim", CASES)
def test_each_row_says_what_its_seeds_could_have_found(claim):
    values, spread = CASES[claim][0][0]
    text = CLAIMS[claim].judge(Numbers(NOTHING, difference_rows(values, spread))).text
    assert "power 0.8 from 0." in text
