"""Work in processes of its own."""

import operator
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context

import psutil
import pytest

from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root
from lungadv.utils.processes import map_in_processes


def test_what_is_made_comes_in_the_order_of_the_jobs():
    assert map_in_processes(operator.neg, [3, 1, 2], 2, "counting", "") == [-3, -1, -2]
    assert map_in_processes(operator.neg, [], 2, "counting", "") == []


def test_a_killed_process_is_one_line_with_the_remedy():
    with pytest.raises(InputError, match=r"^a process \(counting\) was killed, most likely because memory ran out: call again$"):
        map_in_processes(signal.raise_signal, [signal.SIGKILL] * 5, 2, "counting", "call again")


def test_what_a_job_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        map_in_processes((1).__truediv__, [1, 0], 2, "counting", "")


def test_processes_end_with_a_killed_parent():
    """They would wait for jobs for ever."""
    code = "import time; from lungadv.utils.processes import map_in_processes; map_in_processes(time.sleep, [1] * 99, 2, 'sleeping', '')"
    parent = psutil.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(repo_root())})
    deadline = time.monotonic() + 120
    while len(processes := [one for one in parent.children() if "--multiprocessing-fork" in one.cmdline()]) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def nested(number):
    """A job that has jobs of its own, as where a user calls us in a pool."""
    return map_in_processes(operator.neg, [number], 2, "counting", "")


def test_a_process_that_may_start_no_others_does_the_work_itself():
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(nested, [5]) == [[-5]]
