"""What brings lungadv to other places: the example notebook, the container, the editors' and Binder's environments."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from lungadv.utils.files import repo_root

ROOT = repo_root()


def test_the_example_attacks_its_model_offline(tmp_path):
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PIP_NO_INDEX": "1"}
    subprocess.run([*command, str(ROOT / "examples" / "attack_your_model.ipynb")], env=environment, check=True, capture_output=True)
    notebook = nbformat.read(tmp_path / "attack_your_model.ipynb", 4)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    found, refused = map(float, re.search(r"found: (\S+), others refused: (\S+)", printed).groups())
    before, after = map(float, re.search(r"missed: (\S+) before, (\S+) after", printed).groups())
    assert min(found, refused) > 0.9 and after > 0.5 > before


def test_the_container_is_built_from_files_that_are_there():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert "ARG BASE=python:3.11-slim" in lines and "FROM ${BASE}" in lines
    assert any("-c constraints.txt" in line for line in lines)


def test_binder_installs_the_pinned_package():
    lines = (ROOT / "binder" / "requirements.txt").read_text().split("\n")
    assert lines[:2] == ["-c ../constraints.txt", "."] and (ROOT / "binder" / ".." / "constraints.txt").exists()


@pytest.mark.parametrize("extra", ["sr", "export"])
def test_what_an_extra_needs_is_pinned(extra):
    import tomllib

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert needed and set(needed) <= pinned


def test_the_development_container_sets_up_as_make_does():
    content = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert content["postCreateCommand"] == "make setup" and "\nsetup:" in (ROOT / "Makefile").read_text()
