"""The committed notebooks: their shape, their order, their outputs."""

import ast
import importlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

import lungadv
from lungadv.pipeline.notebooks import notebook_parameters
from lungadv.pipeline.outputs import SHOWN_PROFILE, output_problems
from lungadv.pipeline.steps import CUBE_STEPS, STEPS

PACKAGE = Path(lungadv.__file__).parent
NOTEBOOKS = sorted((PACKAGE.parent / "nbs").glob("*.ipynb"))
FIGURES = PACKAGE.parent / "figures" / SHOWN_PROFILE
EXPERIMENT, EXPORT = re.compile(r"#\|\s*experiment"), re.compile(r"#\|\s*export\b")
LONGEST_CELL = 40  # lines of an exported cell


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(path):
    return ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def public_definitions(code):
    nodes = ast.parse(code).body
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_hold_no_path_progress_bar_or_warning_and_stay_small(path):
    assert not output_problems(read(path))
    assert all(cell.get("execution_count") is None for cell in read(path)["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_experiment_has_one_parameters_cell_of_tiny_size(path):
    if any(EXPERIMENT.match(code) for code in code_of(path)):
        parameters = notebook_parameters(path)
        assert parameters | {"profile": "tiny", "seed": 0, "data": "phantom"} == parameters
    else:
        assert not any("parameters" in cell["metadata"].get("tags", []) for cell in read(path)["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_imports_from_the_package_exists(path):
    for code in code_of(path):
        lines = [line for line in code.splitlines() if not line.startswith(("%", "!"))]
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lungadv":
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    assert hasattr(module, name) or find_spec(f"{node.module}.{name}"), f"{node.module}.{name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exported_cells_are_short_and_define_one_public_thing(path):
    for code in code_of(path):
        if EXPORT.match(code):
            assert len(code.splitlines()) <= LONGEST_CELL, code.splitlines()[1]
            assert len(public_definitions(code)) <= 1, public_definitions(code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_refers_forward(path):
    """A notebook imports no module that a later notebook exports."""
    exports = {}
    for other in NOTEBOOKS:
        for code in code_of(other):
            if found := re.match(r"#\|\s*default_exp (\S+)", code):
                exports[f"lungadv.{found[1]}"] = other.stem
    if path.stem == "00_two_moons":  # the overture plays with what the next two notebooks build
        return
    text = "\n".join(code for code in code_of(path) if not EXPERIMENT.match(code))
    for name in re.findall(r"^\s*(?:from|import) (lungadv[\w.]*)", text, re.MULTILINE):
        assert exports.get(name, path.stem) <= path.stem, name


def test_every_notebook_with_an_experiment_is_a_step_and_every_step_has_its_notebook():
    experiments = {path.stem for path in NOTEBOOKS if any(EXPERIMENT.match(code) for code in code_of(path))}
    assert experiments == {step.notebook for step in (*STEPS, *CUBE_STEPS) if step.notebook}


def kept(stem, mark, kind):
    """The kept output, a text of a kind, of the cell that contains `mark`; None where no outputs are kept."""
    (cell,) = [cell for cell in read(PACKAGE.parent / "nbs" / f"{stem}.ipynb")["cells"] if mark in "".join(cell["source"])]
    texts = ["".join(output["data"][kind]) for output in cell["outputs"] if kind in output.get("data", {})]
    return texts[0] if texts else None


def test_the_kept_table_of_notebook_11_is_the_committed_one():
    html = kept("11_benchmarks", 'run.figures / "table2.csv"', "text/html")
    if html is not None:
        table = ElementTree.fromstring(html[html.index("<table") : html.index("</table>") + len("</table>")])
        rows = [[cell.text for cell in row] for row in table.iter("tr")]
        shown = pd.DataFrame(rows[1:], columns=rows[0])
        committed = pd.read_csv(FIGURES / "table2.csv")
        assert shown[["benchmark", "strategy"]].to_numpy().tolist() == committed[["benchmark", "strategy"]].to_numpy().tolist()
        assert shown["cpm"].astype(float).tolist() == pytest.approx(committed["cpm"].tolist(), abs=1e-4)


def test_the_kept_counts_of_notebook_13_are_those_of_the_committed_ledger():
    text = kept("13_claims", 'build_stage(run, "claims")', "text/plain")
    if text is not None:
        shown = {verdict: int(count) for verdict, count in re.findall(r"^(\w[\w ]*?) {2,}(\d+)$", text, re.MULTILINE)}
        assert shown == pd.read_csv(FIGURES / "claims.csv")["verdict"].value_counts().to_dict()


def test_notebooks_are_numbered_without_gaps_or_letters():
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS if path.stem != "index"]
    assert numbers == [f"{number:02d}" for number in range(len(numbers))]
