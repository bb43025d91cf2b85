import ast
import json
from pathlib import Path

import pytest

from lungadv import pipeline, runs

NOTEBOOKS = sorted((Path(__file__).parents[1] / "nbs").glob("*.ipynb"))
EXPERIMENT = "#| experiment"


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(path):
    return ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    for cell in cells_of(path):
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_experiment_has_one_parameters_cell_of_tiny_size(path):
    if any(code.startswith(EXPERIMENT) for code in code_of(path)):
        parameters = pipeline.notebook_parameters(path)
        assert parameters | {"profile": "tiny", "seed": 0, "data": "phantom"} == parameters
    else:
        assert not pipeline.has_parameters(pipeline.Step(path.stem, path.stem))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_an_experiment_imports_from_the_package_exists(path):
    for code in code_of(path):
        for node in ast.walk(ast.parse(code)) if code.startswith(EXPERIMENT) else ():
            if isinstance(node, ast.ImportFrom) and node.module == "lungadv":
                for alias in node.names:
                    assert (Path(runs.__file__).parent / f"{alias.name}.py").exists(), alias.name


def test_every_notebook_with_an_experiment_is_a_step_of_the_pipeline_and_every_step_has_its_notebook():
    experiments = {path.stem for path in NOTEBOOKS if any(code.startswith(EXPERIMENT) for code in code_of(path))}
    assert experiments == {step.notebook for step in pipeline.present() if step.notebook}


def test_modules_that_compute_do_not_import_matplotlib():
    for path in Path(runs.__file__).parent.glob("*.py"):
        if path.stem != "plots":
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
                assert not any((name or "").startswith("matplotlib") for name in names), path.name
