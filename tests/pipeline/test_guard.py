"""The process that ends a command with its caller."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lungadv.pipeline.guard import guarded
from lungadv.utils.files import repo_root

ENVIRONMENT = os.environ | {"PYTHONPATH": str(repo_root())}
# prints the ids of two processes that it starts: of a session of its own, and an orphan
STARTS = """import subprocess, sys
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
orphan = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True).stdout.strip()
print(child.pid, orphan, flush=True)
"""


def start(code):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(guarded([sys.executable, "-c", code]), env=ENVIRONMENT, text=True, **pipes)


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("end", "code"), [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)])
def test_the_guard_ends_as_the_command_did_and_leaves_nothing(end, code):
    process = start(STARTS + end)
    pids = list(map(int, process.stdout.readline().split()))
    assert process.wait(60) == code and len(pids) == 2 and not any(map(alive, pids))


def test_a_closed_pipe_ends_all():
    process = start(STARTS + "child.wait()")
    pids = list(map(int, process.stdout.readline().split()))
    assert all(map(alive, pids))
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL and not any(map(alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_the_command_ends_with_a_killed_guard():
    process = start("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
