import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from lungadv.pipeline import execute, progress
from lungadv.pipeline.execute import _watched
from lungadv.pipeline.progress import Cost, RunState, committed_cost, log_path
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.steps import STEPS
from lungadv.utils.errors import InputError

JOBS = ["05_datasets", "06_candidates", "patches", "segmentation"]
PLAN = ["Job stats:", "job    count", "-----  -----", *(f"{job}  1" for job in JOBS), "all  1", "total  5"]
BAR = "[05_datasets] reading:  40%|####      | 2/5 [00:10<00:20]"
EVEN = Cost(dict.fromkeys([step.name for step in STEPS], 1.0), None)


def after(lines, cost=EVEN):
    """The state after lines of a log, each with the second at which it was written."""
    state = RunState(cost, 0.0)
    told = [state.take(line, now) for now, line in lines]
    return state, [line for line in told if line]


def test_steps_and_their_words_are_read_from_the_log():
    lines = ["[05_datasets] starts", BAR, "[Tue Dec  1 10:00:00 2026]", "Select jobs"]
    state, told = after([(0, line) for line in (*PLAN, *lines)])
    assert state.planned == JOBS and told == ["05_datasets starts"]
    assert state.running == {"05_datasets": (0, "reading 40%")} and state.done == []
    state, told = after([(0, line) for line in (*PLAN, *lines)] + [(30, "[05_datasets] done in 30 s"), (30, "[patches] starts")])
    assert list(state.running) == ["patches"] and state.done == ["05_datasets"]
    assert told[1] == "05_datasets done in 30 s: 1 of 4 steps, 30 s, about 2 min left"


def test_a_row_that_its_stage_alone_trains_is_told_of_too():
    state, told = after([(0, "[fpr/baseline-ce] starts"), (9, "[fpr/baseline-ce] done in 9 s")])
    assert state.done == ["fpr-baseline-ce"] and told[0] == "fpr-baseline-ce starts" and told[1].startswith("fpr-baseline-ce done in 9 s")


def test_without_a_committed_run_the_time_left_follows_the_count_of_steps():
    state, _ = after([*((0, line) for line in PLAN), (0, "[patches] starts")])
    assert state.left(50) is None
    state.take("[patches] done in 60 s", 60)
    assert state.left(60) == pytest.approx(180)  # one of four steps took 60 s


@pytest.mark.parametrize("speed", [0.5, 1, 2])
def test_the_time_left_is_the_committed_one_scaled_by_what_has_run(speed):
    work = EVEN.work | {"05_datasets": 300, "06_candidates": 100, "patches": 100, "segmentation": 100}
    cost = Cost(work, sum(work.values()) / 2)  # of two cores
    state, _ = after([(0, line) for line in PLAN], cost)
    assert state.left(0) == pytest.approx(300)  # of what is planned alone
    state.take("[05_datasets] starts", 0)
    state.take("[05_datasets] done in 9 s", 150 * speed)
    assert state.share(150 * speed) == pytest.approx(0.5)
    left = state.left(150 * speed)
    assert left == pytest.approx(150 * speed, rel=0.2) and (left - 150) * (speed - 1) >= 0


def test_a_running_step_counts_but_is_never_done_before_its_end():
    state, _ = after([*((0, line) for line in PLAN), (0, "[05_datasets] starts")], Cost(EVEN.work | {"05_datasets": 97}, 50))
    shares = [state.share(now) for now in (0, 10, 20, 1000)]
    assert shares[0] == 0 and shares[1] == pytest.approx(0.2) and shares[1] < shares[2] < shares[3] == pytest.approx(0.9 * 0.97)


def test_the_committed_costs_add_up_to_the_committed_time():
    cost = committed_cost(open_run("quick"))
    assert set(cost.work) == {step.name for step in STEPS} and min(cost.work.values()) > 0
    assert sum(cost.work.values()) / 2 == pytest.approx(cost.seconds)  # it ran on two cores
    assert committed_cost(open_run("tiny")) == EVEN


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (720, "12 min"), (5700, "1 h 35 min")])
def test_durations_are_words(seconds, words):
    assert progress.in_words(seconds) == words


SCRIPT = """
import sys, time
print({plan!r}, flush=True)
print("noise of Snakemake")
for line in ("[05_datasets] starts", {bar!r}, {end!r}):
    print(line, file=sys.stderr, flush=True)
    time.sleep(1.5)
sys.exit({code})
"""


def command(end, code):
    return [sys.executable, "-c", SCRIPT.format(plan="\n".join(PLAN), bar=BAR, end=end, code=code)]


def watched(run, end, code=0):
    run.folder.mkdir(parents=True)
    with open(run.folder / ".lock", "w") as lock:
        return _watched(command(end, code), run, lock, {})


def test_without_a_terminal_a_line_a_step_is_shown_and_the_log_keeps_all(run, capfd):
    watched(run, "[05_datasets] done in 3 s")
    shown = capfd.readouterr()
    first, second = shown.err.splitlines()
    assert first == "05_datasets starts" and second.startswith("05_datasets done in 3 s: 1 of 4 steps, ") and shown.out == ""
    kept = log_path(run).read_text().splitlines()
    assert {"noise of Snakemake", BAR, "total  5"} <= set(kept)


def test_a_failure_shows_the_word_of_the_step_else_the_line_of_the_log_that_tells_of_it(run, capfd, monkeypatch):
    monkeypatch.setattr(execute, "_snakemake", lambda *given: command("ValueError: before\nerror: scan 3 is broken\nKeyError: 'after'", 1))
    with pytest.raises(InputError, match=f"stopped at the step named above; all that was said: {log_path(run)}"):
        execute.reproduce(run, 1)
    assert capfd.readouterr().err.splitlines() == ["05_datasets starts", "error: scan 3 is broken"]
    monkeypatch.setattr(execute, "_snakemake", lambda *given: command("Traceback:\n  x\nRuntimeError: no such thing\nError in rule a:", 1))
    with pytest.raises(InputError):
        execute.reproduce(run, 1)
    assert capfd.readouterr().err.splitlines() == ["05_datasets starts", "error: RuntimeError: no such thing"]


def start_on_a_terminal(run, end, code):
    """A process that runs `command` as `lungadv reproduce` would, and our end of its terminal."""
    main = "import sys; from lungadv.pipeline import execute; from lungadv.pipeline.runs import open_run\n"
    main += f"execute._snakemake = lambda *given: {command(end, code)!r}\nexecute.reproduce(open_run('tiny'), 1)"
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", main], stderr=theirs, stdout=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    return process, ours


def read_until(ours, words=None):
    """What the terminal is sent, up to some words or to its end."""
    sent = b""
    with suppress(OSError):  # so Linux says that the other end is closed
        while (words is None or words not in sent) and (piece := os.read(ours, 4096)):
            sent += piece
    return sent.decode()


def test_on_a_terminal_one_bar_shows_steps_words_and_time_and_errors_stay(run):
    process, ours = start_on_a_terminal(run, "error: scan 3 is broken", 1)
    sent = read_until(ours)
    process.wait()
    assert "0 of 4 steps" in sent and "05_datasets  reading 40%" in sent and "━" in sent
    assert "noise" not in sent and "starts" not in sent
    assert "error: scan 3 is broken" in re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", sent).replace("\r", "\n").splitlines()


FOREVER = "__import__('time').sleep(600)"


def test_a_stopped_run_gives_the_terminal_its_cursor_back(run):
    process, ours = start_on_a_terminal(run, "[05_datasets] done in 3 s", FOREVER)
    sent = read_until(ours, b"1 of 4 steps")
    process.send_signal(signal.SIGINT)
    sent += read_until(ours)
    process.wait()
    assert "stopped; the same command goes on after the last finished step" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")


def test_a_run_whose_terminal_goes_away_leaves_no_process_behind(run):
    process, ours = start_on_a_terminal(run, "[05_datasets] done in 3 s", FOREVER)
    read_until(ours, b"1 of 4 steps")
    (child,) = psutil.Process(process.pid).children()
    os.close(ours)
    process.send_signal(signal.SIGHUP)  # as the system tells the processes of a terminal
    process.wait()
    assert not child.is_running()
