"""Numbers by item, verdicts and their text."""

from lungadv.evaluation.verdicts import (
    CONTROL,
    CONTROLS,
    FROM_SCRATCH,
    PERTURB,
    SYN,
    SYN_RANDOM,
    all_above,
    format_intervals,
    verdict,
)
from lungadv.training.strategies import BASELINE
from tests.evaluation.claim_numbers import samples


def test_the_rows_of_table_2_that_claims_name():
    assert FROM_SCRATCH == ("baseline-ce", "baseline-beta")
    assert CONTROLS == {"baseline-ce": "control-ce", "baseline-beta": "control-beta", BASELINE: "control"}
    assert (CONTROL, SYN_RANDOM, SYN) == ("control", "beta+syn-random", "beta+syn")
    assert PERTURB == ("beta+perturb", "beta+perturb+syn")


def test_pairs_are_matched_by_item_not_by_order():
    pgd = ("hardest", BASELINE, "pgd", [1.0, 2.0, 3.0], ["a", "b", "c"])
    random = ("hardest", BASELINE, "random-search", [3.5, 1.5], ["c", "a"])
    numbers = samples("N1", pgd, random)
    found = numbers.paired("N1", "hardest", (BASELINE, "pgd"), (BASELINE, "random-search"))
    assert [values.to_dict() for values in found] == [{"a": 1.0, "c": 3.0}, {"a": 1.5, "c": 3.5}]


def test_a_rule_that_is_not_met_may_have_its_direction_right():
    assert [verdict(True, False), verdict(False, True), verdict(False, False)] == ["reproduced", "consistent", "not reproduced"]


def test_intervals_as_text_and_against_a_bound():
    assert format_intervals((0.1, 0.25), (-1, 2)) == "[0.100, 0.250]; [-1.000, 2.000]"
    assert all_above([(0.1, 0.2), (0.3, 0.4)]) and not all_above([(0.1, 0.2), (0.0, 0.4)]) and not all_above([(0.1, 0.2)], 0.1)
