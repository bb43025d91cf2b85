"""How far a run is: its log is read as it grows, and told as one live bar on a terminal, else as a line a step."""

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from lungadv.data.kinds import CUBES, kind_of
from lungadv.pipeline.accept import committed_folder
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.runs import Run
from lungadv.pipeline.steps import STEPS, STEPS_BY_KIND, steps_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

THREADS = {step.name: step.threads for steps in STEPS_BY_KIND.values() for step in steps}
PRIOR = 0.1  # the committed run counts as much as a tenth of this one, so that the first steps do not decide alone
BAR = re.compile(r"(.*?)[: ]*(\d+ ?%)\|")  # what tqdm draws
STEP_LINE = re.compile(r"\[([^\]]+)\] (.+)")
FAULT = re.compile(r"[\w.]*(Error|Exception)\b")  # the line of a traceback that says what happened, or Snakemake's own


def log_path(run: Run) -> Path:
    """Where Snakemake and the steps of a run write all that they say."""
    return run.folder / "reproduce.log"


@dataclass(frozen=True)
class Cost:
    """What the steps are expected to take."""

    work: dict[str, float]  # a step's processor seconds; 1 for each where nothing is committed
    seconds: float | None  # of the whole committed run; None without one


def committed_cost(run: Run) -> Cost:
    """What each step took in the committed run of this profile; a step that it does not know takes the median."""
    path = committed_folder(run) / "provenance.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stages": {}, "run": None}
    known = {step.name: made["stages"][step.stage] for step in STEPS if step.stage in made["stages"]}
    whole, names = made["run"], [step.name for step in steps_of(run)]
    if kind_of(run.data) == CUBES or not known or not whole or set(whole["stages_built"]) != set(STAGES):
        return Cost(dict.fromkeys(names, 1.0), None)
    work = {name: stage["wall_seconds"] * stage["threads"] for name, stage in known.items()}
    work = {name: work.get(name, statistics.median(work.values())) for name in names}
    # what stages do not count: starting, drawing, waiting
    beside = max(0.0, whole["wall_seconds"] * whole["cores"] - sum(work.values())) / len(work)
    return Cost({name: value + beside for name, value in work.items()}, whole["wall_seconds"])


@dataclass
class RunState:
    """The steps of a run as its log tells of them. Times are seconds on one clock."""

    cost: Cost
    began: float
    planned: list[str] = field(default_factory=list)
    running: dict[str, tuple[float, str]] = field(default_factory=dict)  # since when, and what the step last said
    done: list[str] = field(default_factory=list)
    fault: str | None = None  # the first line that tells of a failure without the word of a step
    _in_plan: bool = False

    def take(self, line: str, now: float) -> str | None:
        """Learn from a line of the log; returns the line for a reader, None when it tells of nothing that begins or ends."""
        found = STEP_LINE.fullmatch(line)
        if found and (name := found[1].replace("/", "-")) in self.cost.work:  # a stage fpr/<row> is the step fpr-<row>
            return self._step(name, found[2], now)
        if line.startswith("error: "):
            return line
        if FAULT.match(line):
            self.fault = self.fault or line
        self._plan(line)
        return None

    def _step(self, name, text, now):
        if text == "starts":
            self.running[name] = (now, "")
            self.planned = self.planned or list(self.cost.work)
            return f"{name} starts"
        if re.fullmatch(r"done in \d+ s", text):
            self.running.pop(name, None)
            self.done.append(name)
            left = self.left(now)
            ahead = f", about {in_words(left)} left" if left else ""
            return f"{name} {text}: {len(self.done)} of {len(self.planned)} steps, {in_words(now - self.began)}{ahead}"
        if name in self.running:
            bar = BAR.match(text)
            self.running[name] = (self.running[name][0], f"{bar[1]} {bar[2]}".strip() if bar else text)
        return None

    def _plan(self, line):
        """Snakemake's table of the jobs that it will run: it ends with their total."""
        name = line.split()[0] if line.strip() else ""
        if line.startswith("Job stats:"):
            self._in_plan, self.planned = True, []
        elif name == "total":
            self._in_plan = False
        elif self._in_plan and name in self.cost.work:
            self.planned.append(name)

    def share(self, now: float) -> float:
        """The share of the planned work that is done, from 0 to 1; a running step counts by its time, for at most nine tenths of it."""
        work = self.cost.work
        done = sum(work[name] for name in self.done)
        if self.cost.seconds:
            done += sum(min(0.9 * work[name], (now - since) * THREADS[name]) for name, (since, _) in self.running.items())
        return min(1.0, done / max(1e-9, sum(work[name] for name in self.planned)))

    def left(self, now: float) -> float | None:
        """Seconds to the end: the committed run's, scaled by what has run so far; None when nothing is known yet."""
        share, elapsed = self.share(now), now - self.began
        if self.cost.seconds:
            expected = self.cost.seconds * sum(self.cost.work[name] for name in self.planned) / sum(self.cost.work.values())
            return (1 - share) * (elapsed + PRIOR * expected) / (share + PRIOR)
        return (1 - share) * elapsed / share if share else None


def in_words(seconds: float) -> str:
    """A duration as one reads it: 40 s, 12 min, 1 h 35 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class View(Protocol):
    """Where progress is shown."""

    def tell(self, line: str) -> None:
        """Show a line that stays."""

    def step(self, line: str) -> None:
        """Show that a step began or ended."""

    def draw(self, state: RunState, now: float) -> None:
        """Show the state of now, in place of the last."""


class Lines:
    """Without a terminal: a line a step as it starts and ends."""

    def tell(self, line: str) -> None:
        """Print a line on stderr."""
        print(line, file=sys.stderr, flush=True)

    step = tell

    def draw(self, state: RunState, now: float) -> None:
        """Nothing: what neither begins nor ends is not told."""


class Bar:
    """On a terminal: one bar, and below it the running steps with what they last said."""

    def __init__(self, live: "Live"):
        self.live = live

    def tell(self, line: str) -> None:
        """Print a line above the bar."""
        self.live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, line: str) -> None:
        """Nothing: the bar says it."""

    def draw(self, state: RunState, now: float) -> None:
        """Renew the bar."""
        self.live.update(picture(state, now), refresh=True)


def picture(state: RunState, now: float) -> "Group":
    """The bar and the running steps as something that rich draws."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = state.left(now) if state.planned else None
    counts = f"{len(state.done)} of {len(state.planned)} steps" if state.planned else "looking for what is to do"
    times = in_words(now - state.began) + (f", about {in_words(left)} left" if left else "")
    row = Table.grid(padding=(0, 2), expand=True)
    for ratio in (None, 1, None):
        row.add_column(ratio=ratio, no_wrap=True)
    row.add_row(counts, ProgressBar(total=1.0, completed=state.share(now) if state.planned else 0.0), times)
    lines = [f"  {name}  {text}" for name, (_, text) in state.running.items()]
    return Group(row, *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines))


@contextmanager
def show_progress(run: Run, log: IO[bytes]) -> Iterator["Progress"]:
    """The progress of a run as a live bar on stderr, or as lines where that is no terminal. `log`: its log, open for reading."""
    from rich.console import Console
    from rich.live import Live

    state = RunState(committed_cost(run), time.monotonic())
    console = Console(stderr=True)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield Progress(log, state, Lines())
        return
    # no thread of its own: the caller draws, so that a signal finds nothing half-drawn
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Progress(log, state, Bar(live))


class Progress:
    """Follows a log, and shows in a view what it says."""

    def __init__(self, log: IO[bytes], state: RunState, view: View):
        self.log, self.state, self.view, self.rest = log, state, view, b""
        self.faults = 0

    def update(self) -> None:
        """Read what has been written since the last call, and show it."""
        *lines, self.rest = (self.rest + self.log.read()).split(b"\n")
        now = time.monotonic()
        for line in lines:
            told = self.state.take(line.decode("utf-8", "replace").rstrip(), now)
            if told and told.startswith("error: "):
                self.faults += 1
                self.view.tell(told)
            elif told:
                self.view.step(told)
        self.view.draw(self.state, now)

    def explain(self) -> None:
        """After a failure of which no step said a word: show the line of the log that tells of it."""
        if not self.faults and self.state.fault:
            self.view.tell(f"error: {self.state.fault}")
