"""Shared by the tests: a run in a folder of its own, and the whole chain at tiny size, made once."""

import fcntl
import os
import subprocess
import sys

import pytest

from lungadv.pipeline.runs import open_run


@pytest.fixture(scope="session")
def reproduce():
    """A function that starts `lungadv reproduce --profile tiny` with its runs in a folder, and returns the process."""

    def start(folder, **popen):
        command = [sys.executable, "-m", "lungadv.cli", "reproduce", "--profile", "tiny", "--cores", "2"]
        environment = os.environ | {"LUNGADV_RUNS": str(folder)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", **popen)

    return start


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An empty tiny run in a temporary folder."""
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    return open_run("tiny")


@pytest.fixture(scope="session")
def chain(tmp_path_factory, reproduce):
    """The folder of runs after the whole pipeline at tiny size, and what it printed. Made once, however many workers there are."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "chain"
    folder.mkdir(exist_ok=True)
    shown = folder / "printed.txt"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it: its chain is ours, too
        if not shown.exists():
            process = reproduce(folder)
            printed, _ = process.communicate()
            assert process.returncode == 0, printed[-5000:]
            shown.write_text(printed, encoding="utf-8")
    return folder, shown.read_text(encoding="utf-8")
