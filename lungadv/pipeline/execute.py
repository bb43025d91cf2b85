"""A whole run: Snakemake brings every step up to date; the run is locked, watched, and stopped cleanly."""

import glob
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO

import psutil

from lungadv.data.kinds import CUBES, PHANTOM, kind_of
from lungadv.pipeline.artefacts import write_json
from lungadv.pipeline.gates import ALLOW
from lungadv.pipeline.graph import stages_of
from lungadv.pipeline.guard import guarded
from lungadv.pipeline.progress import log_path, show_progress
from lungadv.pipeline.runs import Run
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root, sha256
from lungadv.utils.locks import hold_alone
from lungadv.utils.processes import killed

# Threads that wait give the processor away: beside one other busy process, spinning ones make training several times slower.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
GRACE = 10.0  # seconds in which the processes of a killed run may end


def reproduce(run: Run, cores: int, allow_unconverged: bool = False, engine: Path | None = None) -> dict | None:
    """Bring every step of a run up to date with Snakemake; returns wall_seconds, peak_memory_mib and more, None if nothing was to do.

    allow_unconverged: what a stage insists on (see `gates`) only makes it warn.
    engine: the folder of a Snakemake profile, by which steps run elsewhere; peak_memory_mib is then that of this machine.
    Raises InputError when the manifest or what it names is wrong, a step fails, or the same run is being made already.
    """
    _check_data(run.data)
    run.folder.mkdir(parents=True, exist_ok=True)
    before = _made(run)
    with _locked(run) as lock:
        _sweep(run)
        started = time.perf_counter()
        peak, process = _watched(_snakemake(run, cores, engine), run, lock, ENVIRONMENT | ({ALLOW: "1"} if allow_unconverged else {}))
        if process.returncode < 0:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # were its guard killed, its steps would go on, and meet those of the next call
            raise killed("Snakemake", "close other programs; the same command goes on after the last finished step")
        if process.returncode:
            where = f"all that was said: {log_path(run)}; the notebooks it ran so far: {run.folder}/notebooks"
            raise InputError(f"the pipeline stopped at the step named above; {where}")
        built = [stage for stage, made in _made(run).items() if before.get(stage) != made]
        if not built:
            return None
        record = {
            "wall_seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mib": round(peak / 2**20),
            "cores": cores,
            "stages_built": built,
        }
        if built != ["claims"] or not _timed(run):  # another seed only renews the ledger: the time of the run stays
            write_json(run.folder / "run.json", record)
        return record


def _check_data(data):
    """Raise InputError for what is wrong with a manifest: at once, in one line."""
    if kind_of(data) == CUBES:
        from lungadv.pipeline.stages.cube_datasets import check_cubes

        check_cubes(data)
    elif kind_of(data) != PHANTOM:
        from lungadv.data.dataset import check_nodules
        from lungadv.data.manifest import read_manifest

        check_nodules(read_manifest(data))


def _watched(command, run, lock, environment):
    """Run a command in a process group of its own to its end: (peak memory in bytes, the ended process).

    Ctrl-C, SIGTERM or SIGHUP end it and its descendants at once: stages are written aside and renamed, so nothing is lost, while processes
    that are asked to stop answer with pages of tracebacks. So does a terminal that goes away. Then raises InputError. When this process
    itself is killed they end as well.
    """

    def stop(number, frame) -> None:
        raise KeyboardInterrupt

    with open(log_path(run), "wb") as log:
        terms = {"env": os.environ | environment, "stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(guarded(command), stdin=subprocess.PIPE, pass_fds=(lock.fileno(),), process_group=0, **terms)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return _watch(process, run), process
    except (KeyboardInterrupt, OSError):  # the second: the terminal is gone, or whoever read the lines
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        raise InputError("stopped; the same command goes on after the last finished step") from None
    finally:
        process.stdin.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _snakemake(run, cores, engine=None):
    """The command that makes a run. Raises InputError for an engine that is no profile, or whose plugin is not installed."""
    terms = {"profile": run.profile, "seed": run.seed, "data": run.data}
    options = ["--quiet", "host", "reason", "rules", "--rerun-incomplete", "--nolock", "--cores", str(cores), *_engine_options(engine)]
    config = [f"{name}={json.dumps(value)}" for name, value in terms.items()]
    where = ["--snakefile", str(repo_root() / "Snakefile"), "--directory", str(run.folder)]
    return [sys.executable, "-m", "snakemake", *where, *options, "--config", *config]


def _engine_options(engine):
    """The options of Snakemake for the profile in a folder; none without one."""
    if engine is None:
        return []
    file = Path(engine).resolve() / "config.yaml"
    if not file.is_file():
        raise InputError(f"'{engine}' holds no config.yaml of a Snakemake profile: give profiles/slurm, or one of your own")
    found = re.search(r"^executor:\s*([\w-]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    plugin = f"snakemake_executor_plugin_{found[1].replace('-', '_')}" if found else ""
    if plugin and not importlib.util.find_spec(plugin):
        raise InputError(f"'{engine}' needs {plugin.replace('_', '-')}: install it with `pip install 'lungadv[cluster]'`")
    return ["--profile", str(file.parent)]


def _locked(run) -> AbstractContextManager[IO]:
    """Hold the run's lock; unlike Snakemake's own it goes with the processes that hold it, so a killed run needs no unlocking."""
    return hold_alone(run.folder / ".lock", str(run.folder), GRACE)


def _sweep(run):
    """Remove what a killed run left half-made."""
    for stage in stages_of(run.data):
        folder = run.path(stage)
        for half_made in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            shutil.rmtree(half_made)


def _made(run):
    return {name: sha256(path) for name in stages_of(run.data) if (path := run.path(name) / "provenance.json").exists()}


def _timed(run):
    """Whether run.json was written after all stages but the ledger, so that its time is theirs."""
    record, stages = run.folder / "run.json", [run.path(name) / "provenance.json" for name in stages_of(run.data) if name != "claims"]
    return record.exists() and all(path.stat().st_mtime < record.stat().st_mtime for path in stages)


def _watch(process, run):
    """Wait for Snakemake to end, showing how far it is; returns the most memory that its processes held at once, in bytes."""
    peak = 0
    with open(log_path(run), "rb") as log, show_progress(run, log) as progress:
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            progress.update()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        progress.update()
        if process.returncode:
            progress.explain()
    return peak


def _memory(pid):
    """The resident memory of a process and its descendants, in bytes."""
    total = 0
    for member in _family(pid):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def _family(pid):
    """A process and its descendants; none when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [root := psutil.Process(pid), *root.children(recursive=True)]
    return []
