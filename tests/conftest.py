"""Shared by the tests: a run in a folder of its own, and the whole chain at tiny size, made once."""

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
    """The folder of runs after the whole pipeline at tiny size, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    process = reproduce(folder)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed[-5000:]
    return folder, printed


def pytest_collection_modifyitems(items):
    """The tests of a file share its fixtures, so one worker runs them; those that need the whole chain share that."""
    for item in items:
        group = "chain" if "chain" in getattr(item, "fixturenames", ()) else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
