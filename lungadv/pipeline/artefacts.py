"""What a stage leaves: a folder written whole, with its provenance; and how a later stage asks for it."""

import importlib
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from lungadv.data.kinds import kind_of
from lungadv.pipeline.graph import stages_of
from lungadv.pipeline.runs import Run, data_sha256
from lungadv.settings import as_dict
from lungadv.utils.errors import InputError
from lungadv.utils.files import atomic_write, guard_disk, replace_folder, repo_root, sha256

SMALL_FILE = 2**20  # bytes; larger outputs are voxels that follow from the seed, and are not hashed


def require(run: Run, stage: str) -> Path:
    """The folder of a finished stage. At tiny size a missing one is built; in other profiles it is an InputError."""
    folder = run.path(stage)
    if not (folder / "provenance.json").exists():
        if run.profile != "tiny":
            raise InputError(
                f"{folder} is missing: run `make reproduce PROFILE={run.profile} SEED={run.seed}`, or the notebook of that stage, first"
            )
        build_stage(run, stage)
    return folder


def build_stage(run: Run, stage: str) -> Path:
    """Build one stage of a run, whatever is there already; returns its folder."""
    stages = stages_of(run.data)
    if stage not in stages:
        raise InputError(f"unknown stage '{stage}': choose one of {', '.join(stages)}")
    build = importlib.import_module(stages[stage].module).build
    build(run, *stage.split("/")[1:])  # "fpr/beta+syn" is built by build(run, "beta+syn")
    return run.path(stage)


@contextmanager
def stage_output(run: Run, stage: str) -> Iterator[Path]:
    """A temporary folder that becomes the stage's folder, with provenance.json, when the block ends well.

    The provenance describes the state in which the stage began, and holds the hashes of its small outputs.
    """
    import torch

    started, threads = time.perf_counter(), torch.get_num_threads()
    known = stages_of(run.data)[stage]
    torch.set_num_threads(known.threads)
    inputs = {name: require(run, name) / "provenance.json" for name in known.needs}
    provenance = describe(run, stage, inputs)
    final = run.path(stage)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with guard_disk(run.folder):
            yield temporary
            provenance |= {
                "peak_memory_mib": peak_memory_mib(),
                "wall_seconds": round(time.perf_counter() - started, 2),
                "outputs": {str(path.relative_to(temporary)): sha256(path) for path in _small_files(temporary)},
            }
            (temporary / "provenance.json").write_text(json.dumps(provenance, indent=1))
            replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        torch.set_num_threads(threads)


def _small_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < SMALL_FILE)


def describe(run: Run, stage: str, inputs: dict[str, Path]) -> dict:
    """Who makes a stage: commit, settings, versions, device and the hashes of its inputs."""
    from lungadv.utils.device import fast_dtype, get_device

    return {
        "stage": stage,
        "profile": run.profile,
        "seed": run.seed,
        "data": Path(run.data).name,
        "kind": kind_of(run.data),
        "data_sha256": data_sha256(run),
        "settings": as_dict(run.settings),
        **git_state(),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "pandas")},
        "python": platform.python_version(),
        "device": str(get_device()),
        "precision": str(fast_dtype(get_device())).removeprefix("torch."),  # of the convolutions
        "threads": stages_of(run.data)[stage].threads,
        "inputs": {name: sha256(path) for name, path in inputs.items()},
    }


def peak_memory_mib() -> int:
    """The most memory that this process or one of its children has held so far."""
    return round(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024)


def git_state() -> dict:
    """The commit of the clone and whether its files differ from it; None for both outside a clone."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=repo_root(), capture_output=True, encoding="utf-8", check=True).stdout

    try:
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError, InputError):
        return {"commit": None, "dirty": None}


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
