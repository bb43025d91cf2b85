"""The package alone: what a wheel holds is enough for the commands that need no clone."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from lungadv.utils.files import repo_root


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of a wheel that was built from a copy of the sources, without the network."""
    folder, root = tmp_path_factory.mktemp("wheel"), repo_root()
    shutil.copytree(root / "lungadv", folder / "source" / "lungadv", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, "."]
    subprocess.run(command, cwd=folder / "source", check=True)
    (wheel,) = folder.glob("lungadv-*-py3-none-any.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run_in(unpacked, folder, *arguments):
    """Run Python in a folder outside of the clone, with the wheel's package alone."""
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    return subprocess.run([sys.executable, "-P", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_wheel_finds_its_weights_and_the_papers_claims(unpacked, tmp_path):
    code = "import lungadv; from lungadv.detection.weights import default_weights, load_detector; load_detector(default_weights())\n"
    code += "from lungadv.evaluation.claims import read_rules; print(lungadv.__file__, len(read_rules()) > 0)"
    shown = run_in(unpacked, tmp_path, "-c", code)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == [str(unpacked / "lungadv" / "__init__.py"), "True"]


def test_what_needs_a_clone_says_so_in_one_line(unpacked, tmp_path):
    shown = run_in(unpacked, tmp_path, "-m", "lungadv.cli", "reproduce")
    assert shown.returncode == 1 and shown.stderr.count("\n") == 1 and "git clone" in shown.stderr
