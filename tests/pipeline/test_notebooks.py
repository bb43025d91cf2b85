import io
import json

import pytest

from lungadv.pipeline.notebooks import ProgressLines, check_parameters, notebook_parameters, run_notebook
from lungadv.utils.errors import InputError


def notebook(path, *cells):
    """Write a notebook of code cells, given as (source, tags)."""
    shared = {"cell_type": "code", "outputs": [], "execution_count": None}
    content = [shared | {"id": f"c{k}", "source": source, "metadata": {"tags": tags}} for k, (source, tags) in enumerate(cells)]
    path.write_text(json.dumps({"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_parameters_are_checked_by_name_and_take_the_type_of_the_default(tmp_path):
    path = notebook(tmp_path / "n.ipynb", ('profile = "tiny"  # a section\nseed = 0', ["parameters"]), ("1 + 1", []))
    assert notebook_parameters(path) == {"profile": "tiny", "seed": 0}
    assert check_parameters(path, {"seed": "3", "profile": "7"}) == {"seed": 3, "profile": "7"}
    with pytest.raises(InputError, match="no parameter 'sed': it has profile, seed"):
        check_parameters(path, {"sed": "3"})
    with pytest.raises(InputError, match="seed='x'.*not of type int"):
        check_parameters(path, {"seed": "x"})


@pytest.mark.parametrize("tags", [[], ["parameters", "parameters"]])
def test_not_exactly_one_parameters_cell_is_an_error(tmp_path, tags):
    path = notebook(tmp_path / "n.ipynb", ("seed = 0", tags[:1]), ("seed = 1", tags[1:]))
    with pytest.raises(InputError, match=f"has {len(tags)} cells tagged 'parameters'"):
        notebook_parameters(path)


def test_a_notebook_runs_with_its_parameters_and_keeps_its_log_when_it_fails(tmp_path, capfd):
    code = 'import sys\nprint("seed is", seed, file=sys.stderr)\nprint("for the reader")\n1 / (seed - 3)'
    path = notebook(tmp_path / "n.ipynb", ("seed = 0", ["parameters"]), (code, []))
    run_notebook(path, tmp_path / "log" / "good.ipynb", {"seed": "4"})
    shown = capfd.readouterr().err
    assert "[good] seed is 4" in shown and "for the reader" not in shown
    assert "for the reader" in (tmp_path / "log" / "good.ipynb").read_text()
    with pytest.raises(InputError, match="n.ipynb stopped: ZeroDivisionError division by zero in cell"):
        run_notebook(path, tmp_path / "log" / "bad.ipynb", {"seed": "3"})
    assert "ZeroDivisionError" in (tmp_path / "log" / "bad.ipynb").read_text()


def test_progress_bars_become_a_line_now_and_then():
    shown = io.StringIO()
    lines = ProgressLines("name", shown, seconds=3600)
    lines.write("\rbar: 10%")
    lines.write("\rbar: 20%\rbar: 100%\ndone\nhalf a")
    lines.write(" line\n")
    assert shown.getvalue().splitlines() == ["[name] bar: 100%", "[name] done", "[name] half a line"]


def test_a_killed_kernel_is_one_line(tmp_path):
    path = notebook(tmp_path / "n.ipynb", ("seed = 0", ["parameters"]), ("import os\nos.kill(os.getpid(), 9)", []))
    with pytest.raises(InputError, match="n.ipynb: its kernel was killed, most likely because memory ran out: close other programs"):
        run_notebook(path, tmp_path / "log" / "n.ipynb", {})
