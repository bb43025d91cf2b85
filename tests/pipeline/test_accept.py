import dataclasses
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.pipeline.__main__ import main
from lungadv.pipeline.accept import accept, compare_expected, finished_seeds
from lungadv.utils.errors import InputError

FIGURES = [f"fig{number:02d}.png" for number in range(1, 15)]
TABLES = ["table1.csv", "table2.csv", "claims.csv"]


def test_results_outside_their_tolerance_are_found(clone, finish):
    run = finish(0, 0.70)
    assert compare_expected(run).empty
    accept(run)
    assert compare_expected(run).inside.tolist() == [True]
    pd.DataFrame([{"benchmark": "nlst", "strategy": "beta+syn", "cpm": 0.76}]).to_csv(run.figures / "table2.csv", index=False)
    assert compare_expected(run).inside.tolist() == [False]


def test_a_number_that_is_gone_is_outside(clone, finish):
    run = finish(0, 0.70)
    accept(run)
    pd.DataFrame([{"benchmark": "nlst", "strategy": "other", "cpm": 0.70}]).to_csv(run.figures / "table2.csv", index=False)
    assert compare_expected(run).inside.tolist() == [False]


def test_expected_results_are_the_mean_and_spread_over_the_seeds(clone, finish):
    for seed, cpm in enumerate((0.6, 0.7, 0.8)):
        run = finish(seed, cpm)
    folder = accept(run)
    assert folder == clone / "figures" / "quick"
    expected = json.loads((folder / "expected.json").read_text())["cpm/nlst/beta+syn"]
    assert expected == {"value": 0.7, "tolerance": 0.3, "seeds": 3}
    assert json.loads((folder / "provenance.json").read_text())["seeds"] == [0, 1, 2]
    assert {*FIGURES, *TABLES} <= {path.name for path in folder.iterdir()}


def test_seeds_of_other_data_are_not_pooled(clone, finish):
    for folder in ("a", "b"):
        (clone / folder).mkdir()
        (clone / folder / "scans.csv").touch()
    first = finish(0, 0.6, "a/scans.csv")
    finish(1, 0.7, "b/scans.csv")
    finish(2, 0.8, "a/scans.csv")
    finish(3, 0.9)
    assert [run.seed for run in finished_seeds(first)] == [0, 2]


def test_an_unfinished_run_is_not_accepted(clone, finish):
    run = finish(0, 0.7)
    (run.figures / "fig08.png").unlink()
    with pytest.raises(InputError, match="fig08.png is missing"):
        accept(run)
    assert not (clone / "figures").exists()


def test_a_run_of_other_settings_is_not_accepted(clone, finish):
    run = finish(0, 0.7)
    patch = dataclasses.replace(run.settings.patch, size=run.settings.patch.size + 1)
    changed = dataclasses.replace(run, settings=dataclasses.replace(run.settings, patch=patch))
    with pytest.raises(InputError, match="made with other settings"):
        accept(changed)


def test_runs_of_another_recipe_are_neither_pooled_nor_accepted(clone, finish):
    old = finish(0, 0.7)
    recipe = clone / "data_manifests" / "phantom.json"
    before = recipe.read_text()
    recipe.write_text(before.replace('"spacing": [1.25, 1.25, 1.25]', '"spacing": [1.25, 1.25, 1.5]'))
    assert recipe.read_text() != before
    new = finish(1, 0.5)
    assert [run.seed for run in finished_seeds(new)] == [1]
    with pytest.raises(InputError, match="other settings or data"):
        accept(old)


def test_development_seeds_and_those_of_the_ledger_are_never_pooled(clone, finish):
    ledger, development = finish(0, 0.7), finish(100, 0.2)
    assert [run.seed for run in finished_seeds(ledger)] == [0]
    assert [run.seed for run in finished_seeds(development)] == [100]


def test_what_a_killed_process_left_half_written_is_not_accepted(clone, finish):
    run = finish(0, 0.7)
    (run.figures / ".123.table2.csv").write_text("benchm")
    assert not [path.name for path in accept(run).iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("claims/provenance.json", "{", "cannot be read as JSON"),
        ("banks/provenance.json", '{"a":' * 5000, "cannot be read as JSON"),
        ("banks/provenance.json", "[]", "holds no names and values"),
        ("banks/provenance.json", "{}", "lacks commit, data"),
        ("figures/table2.csv", "benchmark,strategy\nnlst,beta+syn\n", "has no column cpm"),
        ("run.json", "[", "cannot be read as JSON"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(clone, finish, name, text, said):
    run = finish(0, 0.7)
    (run.folder / name).write_text(text)
    with pytest.raises(SystemExit) as done:
        main(["accept", "--profile", "quick"])
    assert str(done.value).startswith("error: ") and f"{name}' {said}" in str(done.value) and "\n" not in str(done.value)


@pytest.mark.parametrize("text", ["[]", '{"a": 3}', '{"a": {"value": "x", "tolerance": 1}}', '{"a": {"value": 1}}'])
def test_damaged_expectations_are_named(clone, finish, text):
    run = finish(0, 0.7)
    (accept(run) / "expected.json").write_text(text)
    with pytest.raises(InputError, match="expected.json' (has no value and tolerance of 'a'|holds no names)"):
        compare_expected(run)


def test_a_ledger_without_its_columns_is_named(clone, finish):
    run = finish(0, 0.7)
    run.path("claims", "claims.csv").write_text("id,claim\nT1,a\n")
    result = CliRunner().invoke(app, ["claims"])
    assert result.exit_code == 1 and "claims.csv' has no column interval, measured, verdict" in result.stderr
