"""The house: imports run upwards, modules and functions stay small, the public front is lazy and complete."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lungadv

PACKAGE = Path(lungadv.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py")
ROOMS = (  # each may import from those before it
    "utils", "settings", "paper", "data", "phantom", "evidence", "models", "attacks", "training", "two_moons", "banks", "detection",
    "plots", "evaluation", "viewer", "pipeline", "cli",
)  # fmt: skip
DRAW = {"plots"}  # imports matplotlib when it is imported, as modules named *_figure do; others where they draw
# Light modules without torch that the pipeline's graph reads: any room may import them.
REGISTRY = "lungadv.training.strategies"


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    return name.split(".")[1] if "." in name else "lungadv"


def imports(path, everywhere=True):
    """The modules that a module imports, absolute; only at its top level unless `everywhere`."""
    tree, package = ast.parse(path.read_text(encoding="utf-8")), name_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base.startswith("lungadv"))


def definitions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_module_belongs_to_a_room():
    assert {room(name_of(path)) for path in MODULES} - {"lungadv"} == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_upwards(path):
    own = room(name_of(path))
    for name in imports(path):
        if name.startswith("lungadv.") and not name.startswith(REGISTRY) and own != "lungadv" and room(name) in ROOMS:
            assert ROOMS.index(room(name)) <= ROOMS.index(own), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    long = {node.name: node.end_lineno - node.lineno + 1 for node in definitions(path) if node.end_lineno - node.lineno >= 40}
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_functions_have_docstrings_and_type_hints(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module says what it is"
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]
    for node in public:
        assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [argument.arg for argument in arguments if argument.annotation is None]
            assert not bare and node.returns is not None, f"{node.name}: {bare or 'return'}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_that_compute_do_not_import_matplotlib(path):
    if room(name_of(path)) not in DRAW and not path.stem.endswith("_figure"):
        assert not [name for name in imports(path, everywhere=False) if name.startswith("matplotlib")]


def test_what_all_promises_is_used():
    """A name in `__all__` of a plain module is used outside of it. That of an exported one is nbdev's: all public names of its notebook."""
    root = PACKAGE.parent
    kinds = {"lungadv": "*.py", "tests": "*.py", "perf": "*.py", "nbs": "*.ipynb"}
    texts = {path: path.read_text(encoding="utf-8") for folder, kind in kinds.items() for path in (root / folder).rglob(kind)}
    exported = {found[1] for text in texts.values() if (found := re.search(r"#\| default_exp ([\w.]+)", text))}
    unused = []
    for path in MODULES:
        if name_of(path).removeprefix("lungadv.") in exported:
            continue
        for node in ast.parse(texts[path]).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" and isinstance(node.value, ast.List):
                for name in ast.literal_eval(node.value):
                    if not any(name in text for other, text in texts.items() if other != path and other.name != "_modidx.py"):
                        unused.append(f"{name_of(path)}.{name}")
    assert not unused


def test_the_front_is_lazy_and_every_name_is_there():
    code = "import sys, lungadv; print('torch' in sys.modules, 'numpy' in sys.modules)\n"
    code += "print(all(callable(getattr(lungadv, name)) for name in lungadv.__all__))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shown == ["False", "False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nodules'"):
        lungadv.nodules  # noqa: B018


def test_what_starts_a_notebook_waits_for_no_torch():
    code = "import sys, lungadv.pipeline.notebooks, lungadv.pipeline.steps; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_core_needs_no_file_readers_nor_notebook_tools():
    """A machine with torch alone (a cluster's GPU node) can attack, train and score."""
    core = ["attacks.pgd", "attacks.square", "evidence", "models.dense_unet", "models.synthesizer", "training.loop", "banks.recipes",
            "data.patches", "data.display", "utils.html", "evaluation.froc", "evaluation.stress"]  # fmt: skip
    blocked = ["SimpleITK", "pydicom", "nbdev", "papermill", "matplotlib", "monai", "jupyter"]
    code = f"import sys\nfor name in {blocked}: sys.modules[name] = None\n" + "\n".join(f"import lungadv.{name}" for name in core)
    subprocess.run([sys.executable, "-c", code], check=True)
