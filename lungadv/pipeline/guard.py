"""Runs a command that ends with whoever called it: `python -m lungadv.pipeline.guard COMMAND...`, given one end of a pipe.

A process that is killed at once can end nobody. So the pipe's other end is held by the caller alone: it closes when the caller ends in
whatever way. Then the command and all that it started end too, those with a group or session of their own as well.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

__all__ = ["guarded"]

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # of prctl, in Linux


def guarded(command: list[str]) -> list[str]:
    """The command that runs `command` under guard. Its standard input must be a pipe whose other end the caller holds and never writes to.

    Once the pipe closes, or the command has ended, nothing that it started is left. The guard then ends as the command did.
    """
    return [sys.executable, "-m", "lungadv.pipeline.guard", *command]


def _main(command):
    _prctl(SET_CHILD_SUBREAPER)  # processes whose parent ended become the guard's own, and are found
    # Whatever locks the guard was given go on to the command. Were the guard itself killed, the command would be.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, preexec_fn=_end_with_parent)
    threading.Thread(target=_watch, args=(process.pid,), daemon=True).start()
    code = process.wait()
    _end_all()
    if code < 0:
        with suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _watch(pid):
    """Kill the command once the caller is gone."""
    while os.read(0, 1):
        pass
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _end_all():
    """Kill all descendants, those too that they start meanwhile."""
    while found := [one for one in psutil.Process().children(recursive=True) if _alive(one)]:
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        time.sleep(0.01)


def _alive(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _end_with_parent():
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _prctl(option, value=1):
    """Set an attribute of this process where the system is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    _main(sys.argv[1:])
