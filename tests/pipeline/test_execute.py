import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lungadv.pipeline import execute
from lungadv.pipeline.execute import _locked, _watched
from lungadv.pipeline.runs import open_run
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_what_it_started_and_says_that_it_goes_on(clone, number):
    run, before = open_run("tiny", 0), signal.getsignal(signal.SIGINT)
    run.folder.mkdir(parents=True)
    # the grandchild has a session of its own, as a notebook's kernel has
    deep = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    deep += "open('child', 'w').write(str(child.pid)); child.wait()"
    threading.Timer(2, os.kill, (os.getpid(), number)).start()
    with open(run.folder / ".lock", "w") as lock, pytest.raises(InputError, match="stopped; the same command goes on"):
        _watched([sys.executable, "-c", deep], run, lock, {})
    assert signal.getsignal(signal.SIGINT) == before
    child = int((clone / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_run_is_made_by_one_process_at_a_time(run, monkeypatch):
    monkeypatch.setattr(execute, "GRACE", 0.3)
    run.folder.mkdir(parents=True)
    with _locked(run):
        with pytest.raises(InputError, match="being made by another process"):
            execute.reproduce(run, 1)


def test_a_disk_without_locks_is_told_and_does_not_stop(run, monkeypatch):
    def flock(*given):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(execute, "_snakemake", lambda *given: [sys.executable, "-c", ""])
    with pytest.warns(UserWarning, match=f"{run.folder.name}' knows no locks"):
        assert execute.reproduce(run, 1) is None


def test_a_killed_snakemake_is_one_line_and_takes_its_steps_along(run, monkeypatch):
    code = "import os, subprocess; child = subprocess.Popen(['sleep', '60']); "
    code += "open('child', 'w').write(str(child.pid)); os.kill(os.getpid(), 9)"
    monkeypatch.chdir(run.folder.parent)
    monkeypatch.setattr(execute, "_snakemake", lambda *given: [sys.executable, "-c", code])
    with pytest.raises(InputError, match="Snakemake was killed, most likely because memory ran out: .* the same command goes on"):
        execute.reproduce(run, 1)
    child, deadline = int((run.folder.parent / "child").read_text()), time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_step_is_one_line(tmp_path, monkeypatch, capfd):
    code = "import os, sys\nif sys.orig_argv[1:3] == ['-m', 'lungadv.pipeline']:\n    os.kill(os.getpid(), 9)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(repo_root())]))
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    with pytest.raises(InputError, match="stopped at the step named above"):
        execute.reproduce(open_run("tiny", 0), 1)
    line = r"^error: the step \w+ was killed, most likely because memory ran out: close other programs; the same command goes on"
    assert re.search(line, capfd.readouterr().err, re.MULTILINE)


def test_a_killed_run_takes_all_that_it_started_along(clone):
    """SIGKILL to the run alone: Snakemake has a group of its own, and a kernel below it a session."""
    deep = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    deep += "open('child', 'w').write(str(child.pid) + '.'); child.wait()"
    code = "import sys; from lungadv.pipeline import execute; from lungadv.pipeline.runs import open_run; "
    code += f"execute._snakemake = lambda *given: [sys.executable, '-c', {deep!r}]; execute.reproduce(open_run('tiny', 0), 1)"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path(execute.__file__).parents[2])})
    deadline = time.monotonic() + 60
    while not (clone / "child").exists() or not (clone / "child").read_text().endswith("."):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    with _locked(open_run("tiny", 0)):  # without a word: the next call goes on
        child = int((clone / "child").read_text()[:-1])
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
