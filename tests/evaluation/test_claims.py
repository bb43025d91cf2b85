"""The registry of claims and the ledger."""

import pandas as pd

from lungadv.evaluation.claims import CLAIMS, ledger, ledger_markdown, read_rules
from lungadv.evaluation.verdicts import Numbers
from lungadv.pipeline.steps import NOTEBOOK_STEPS
from tests.evaluation.claim_numbers import NOTHING, m2


def test_every_claim_has_a_rule_and_an_entry():
    assert len(CLAIMS) == 33
    assert list(CLAIMS) == read_rules()["id"].tolist()
    assert {name[0] for name in CLAIMS} == set("TMNSB")  # the cases of each letter are in a file of their own, which misses none of it
    assert {claim.notebook for claim in CLAIMS.values()} <= {step.notebook for step in NOTEBOOK_STEPS}


def test_each_function_judges_the_claim_that_its_docstring_names():
    assert all(claim.judge.__doc__.startswith((f"{name}:", f"{name},")) for name, claim in CLAIMS.items())
    assert len({claim.judge for claim in CLAIMS.values()}) == len(CLAIMS)


def test_absent_numbers_are_not_measured():
    table = ledger(Numbers(NOTHING, pd.DataFrame()))
    assert set(table["verdict"]) == {"not measured"}
    assert list(table) == ["id", "claim", "measured", "interval", "seeds", "verdict", "notebook"]


def test_markdown_links_each_row():
    table = ledger(m2(0.98))
    lines = ledger_markdown(table).splitlines()
    assert len(lines) == 2 + 33
    row = lines[2 + table["id"].tolist().index("M2")]
    assert row.startswith("| [M2](nbs/06_candidates.ipynb) | The frozen CG") and row.endswith("| 1 | **reproduced** |")
    assert all(line.count("|") - line.count("\\|") == 7 for line in lines)
    assert {notebook.split("_")[0] for notebook in table["notebook"]} == {"00", "06", "11", "12"}
