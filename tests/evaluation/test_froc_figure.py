"""The figure of a FROC curve: its files, and what cannot be drawn."""

import subprocess
import sys

import pandas as pd
import pytest

from lungadv.evaluation.froc import froc
from lungadv.evaluation.froc_figure import write_froc_figure
from lungadv.evaluation.marks import FINDING_COLUMNS, MARK_COLUMNS


def detector(scans):
    """A nodule, a hit and a false mark in each scan: marks, nodules, scans."""
    names = [f"s{scan}" for scan in range(scans)]
    marks = [[name, x, 0, 0, 0.1 * k + x / 1000] for k, name in enumerate(names) for x in (0, 500)]
    nodules = pd.DataFrame([[name, 0, 0, 0, 8] for name in names], columns=FINDING_COLUMNS)
    return pd.DataFrame(marks, columns=MARK_COLUMNS), nodules, names


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_the_figure_is_written_by_its_ending_and_always_the_same(tmp_path, ending, start):
    marks, nodules, scans = detector(5)
    score = froc(marks, nodules, scans, bootstraps=20)
    for name in ("one", "two"):
        write_froc_figure(score, tmp_path / f"{name}.{ending}")
    one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert one.startswith(start) and one == two


def test_a_figure_that_cannot_be_drawn_says_why(tmp_path):
    marks, nodules, scans = detector(2)
    with pytest.raises(ValueError, match="neither .png nor .pdf"):
        write_froc_figure(froc(marks, nodules, scans, bootstraps=0), tmp_path / "froc.jpg")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no nodule"):
        write_froc_figure(froc(marks, nodules[:0], scans, bootstraps=0), tmp_path / "froc.png")
    assert list(tmp_path.iterdir()) == []


def test_scoring_imports_no_matplotlib():
    code = "import sys; from lungadv.evaluation import froc, marks; sys.exit(bool({'torch', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
