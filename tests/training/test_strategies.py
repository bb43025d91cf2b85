"""The registry of strategies against the paper's Table II."""

import subprocess
import sys

from lungadv.settings import load_settings
from lungadv.training.strategies import (
    BANKS,
    BASELINE,
    BEYOND,
    FURTHER,
    ORACLE,
    SEGMENTATION,
    STRATEGIES,
    strategies_of,
    updates_of,
)  # fmt: skip


def test_strategies_are_the_rows_of_the_paper_their_controls_and_ours():
    used = {name: (set(row.positives), set(row.negatives)) for name, row in STRATEGIES.items() if row.group == "augmented"}
    paper = {name: banks for name, banks in used.items() if STRATEGIES[name].in_paper}
    assert paper == {
        "beta+syn-random": ({"synthetic-random"}, set()),
        "beta+syn": ({"synthetic-pgd"}, set()),
        "beta+perturb": ({"perturbed"}, {"noise"}),
        "beta+perturb+syn": ({"synthetic-pgd", "perturbed"}, {"noise"}),
    }
    assert used["beta+online"] == paper["beta+perturb"] and "beta+online" in BEYOND
    ours = {name for name, row in STRATEGIES.items() if not row.in_paper and row.group != "controls"}
    assert {*BEYOND, *FURTHER} == ours and {name for name, row in STRATEGIES.items() if row.online} == set(BEYOND)
    assert [name for name, row in STRATEGIES.items() if row.control] == ["control-ce", "control-beta", "control"]
    assert [name for name, row in STRATEGIES.items() if row.output == "logits" and not row.banks] == ["baseline-ce", "control-ce"]
    assert {STRATEGIES[name].start for name in ("control", *used)} == {BASELINE}
    assert {bank for row in STRATEGIES.values() for bank in row.banks} == {*BANKS, *ORACLE}  # no other name
    assert STRATEGIES["beta+online"].banks == ()


def test_only_the_phantom_has_an_oracle():
    assert strategies_of("phantom") == tuple(STRATEGIES)
    assert {"beta+oracle-random", "beta+oracle-hard"} <= set(STRATEGIES) - set(strategies_of("scans.csv"))
    assert {name for name in strategies_of("scans.csv") if STRATEGIES[name].oracle} == set()


def test_each_starts_from_one_that_comes_before_it():
    names = [SEGMENTATION, *STRATEGIES]
    assert all(names.index(row.start) < names.index(name) for name, row in STRATEGIES.items())


def test_rows_that_are_compared_may_make_as_many_updates():
    settings = load_settings("quick").fpr
    augmented = [name for name, row in STRATEGIES.items() if row.group == "augmented" and row.start == BASELINE]
    equal = (("baseline-ce", "baseline-beta"), ("baseline-beta-finetune", "control-ce", "control-beta"), ("control", *augmented))
    for number, names in enumerate(equal):
        assert {updates_of(name, settings) for name in names} == {settings.finetune_updates if number else settings.updates}


def test_the_registry_is_read_without_torch():
    code = "import sys; import lungadv.training.strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
