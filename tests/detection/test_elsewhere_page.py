"""The commands of docs/how-to/elsewhere.md that use the detector elsewhere, run as they stand on the page."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.io.write import write_scan
from lungadv.phantom.simulate import simulate
from lungadv.utils.files import repo_root

PAGE = (repo_root() / "docs" / "how-to" / "elsewhere.md").read_text(encoding="utf-8")
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]


def invoke(line):
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(not importlib.util.find_spec("onnxscript"), reason="onnxscript is not installed: pip install 'lungadv[export]'")
def test_the_exports_can_be_called_one_after_another(tmp_path, monkeypatch):
    (lines,) = [block for block in BLOCKS if any("--format onnx" in line for line in block)]
    monkeypatch.chdir(tmp_path)
    for line in lines:
        invoke(line)
    assert len(list(tmp_path.iterdir())) == len(lines) == 2


@pytest.mark.skipif(not importlib.util.find_spec("fire"), reason="fire is not installed: pip install 'lungadv[export]'")
def test_the_bundle_finds_what_detect_finds(tmp_path, monkeypatch):
    ((export, enter, run),) = [block for block in BLOCKS if any("monai.bundle" in line for line in block)]
    chest = {"shape": (100, 92, 117), "spacing": (3.0, 3.0, 3.0), "nodules": [{"type": "solid", "diameter_mm": 16}]}
    write_scan(simulate(chest, seed=100, index=0).scan, tmp_path / "scan.mhd")
    monkeypatch.chdir(tmp_path)
    invoke(export)
    invoke("lungadv detect scan.mhd --out findings.csv")
    monkeypatch.chdir(enter.removeprefix("cd "))
    done = subprocess.run([sys.executable, *shlex.split(run)[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "findings.csv").read_text()
    assert (tmp_path / "bundle" / "findings.csv").read_text() == found and found.count("\n") > 10
