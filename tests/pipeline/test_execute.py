import errno
import fcntl
import os
import signal
import sys
import threading

import psutil
import pytest

from lungadv.pipeline import execute
from lungadv.pipeline.execute import _locked, _watched
from lungadv.pipeline.runs import open_run
from lungadv.utils.errors import InputError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_what_it_started_and_says_that_it_goes_on(clone, number):
    run, before = open_run("tiny", 0), signal.getsignal(signal.SIGINT)
    run.folder.mkdir(parents=True)
    # the grandchild has a session of its own, as a notebook's kernel has
    deep = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    deep += "open('child', 'w').write(str(child.pid)); child.wait()"
    threading.Timer(2, os.kill, (os.getpid(), number)).start()
    with open(run.folder / ".lock", "w") as lock, pytest.raises(InputError, match="stopped; the same command goes on"):
        _watched([sys.executable, "-c", deep], run, lock)
    assert signal.getsignal(signal.SIGINT) == before
    child = int((clone / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_run_is_made_by_one_process_at_a_time(run):
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
