"""A finished run: compared with the committed results, and made the committed results."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd

from lungadv.data.kinds import CUBES, kind_of
from lungadv.pipeline.artefacts import write_json
from lungadv.pipeline.graph import stages_of
from lungadv.pipeline.runs import DEVELOPMENT_SEEDS, Run, data_sha256
from lungadv.pipeline.steps import STEPS
from lungadv.settings import as_dict
from lungadv.utils.errors import InputError
from lungadv.utils.files import atomic_write, read_json, repo_root


def results(run: Run) -> dict[str, float]:
    """The numbers of a run that committed results promise: {"cpm/<benchmark>/<strategy>": value}."""
    path = run.figures / "table2.csv"
    table = pd.read_csv(path)
    if missing := {"benchmark", "strategy", "cpm"} - set(table.columns):
        raise InputError(f"'{path}' has no column {', '.join(sorted(missing))}: `make reproduce` makes it anew once it is deleted")
    return {f"cpm/{row.benchmark}/{row.strategy}": float(row.cpm) for row in table.itertuples()}


def compare_expected(run: Run) -> pd.DataFrame:
    """A run's numbers beside figures/<profile>/expected.json: key, value, expected, tolerance, inside; empty if there is none."""
    path = committed_folder(run) / "expected.json"
    if not path.exists():
        return pd.DataFrame(columns=["key", "value", "expected", "tolerance", "inside"])
    measured = results(run)
    rows = [
        {"key": key, "value": measured.get(key), "expected": row["value"], "tolerance": row["tolerance"]}
        for key, row in _expected_numbers(path).items()
    ]
    table = pd.DataFrame(rows)
    table["inside"] = (table.value - table.expected).abs() <= table.tolerance
    return table


def _expected_numbers(path):
    """What expected.json promises: value and tolerance by key. Raises InputError for anything else."""
    rows = read_json(path)
    for key, row in rows.items():
        numbers = [row.get(name) for name in ("value", "tolerance")] if isinstance(row, dict) else [None]
        if not all(type(number) in (int, float) for number in numbers):
            raise InputError(f"'{path}' has no value and tolerance of '{key[:80]}': take the file from the clone")
    return rows


def committed_folder(run: Run) -> Path:
    """The folder of the committed results of a run's profile."""
    return repo_root() / "figures" / run.profile


def accept(run: Run) -> Path:
    """Copy the figures, their numbers, the tables and the ledger of a run into figures/<profile>/, and renew expected.json.

    Raises InputError while the run is not finished, or when it was made with other settings or data than those of now.
    """
    if kind_of(run.data) == CUBES:
        raise InputError(f"{run.folder} is a run on nodule cubes: only runs on scans become the committed results")
    missing = [name for name in expected_figures() if not (run.figures / name).exists()]
    if missing:
        raise InputError(
            f"{run.figures / missing[0]} is missing: finish `make reproduce PROFILE={run.profile} SEED={run.seed}` before `make accept`"
        )
    if run.seed not in [other.seed for other in finished_seeds(run)]:
        raise InputError(f"{run.folder} was made with other settings or data than those of now: `make reproduce` with the same terms first")
    folder = committed_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(run.figures.glob("[!.]*")):  # what begins with a dot, a killed process left half-written
        if path.suffix in (".png", ".csv") or (path.suffix == ".pdf" and path.stat().st_size < 2**20):
            with atomic_write(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
    write_json(folder / "expected.json", expected(run))
    write_json(folder / "provenance.json", provenance(run))
    return folder


def expected_figures() -> list[str]:
    """Every figure and table that the steps promise, the simulator's own pictures aside."""
    return [name for step in STEPS if step.stage for name in step.figures]


def expected(run: Run) -> dict[str, dict]:
    """Value and tolerance of each result over the seeds at hand: the mean, and three standard deviations or 0.05, the larger."""
    seeds = [results(other) for other in finished_seeds(run)]
    table = pd.DataFrame(seeds)
    spread = (3 * table.std(ddof=1)).fillna(0.0).clip(lower=0.05)
    return {key: {"value": round(table[key].mean(), 4), "tolerance": round(spread[key], 4), "seeds": len(seeds)} for key in table}


def finished_seeds(run: Run) -> list[Run]:
    """The finished runs of the same profile, data and settings, one a seed; not `run` itself if it was made with others.

    Development seeds and those of the ledger are never mixed (`DEVELOPMENT_SEEDS`).
    """
    terms = json.loads(json.dumps({"settings": as_dict(run.settings), "data_sha256": data_sha256(run)}))
    pattern = re.compile(re.escape(run.folder.name.removesuffix(str(run.seed))) + r"(\d+)")
    found = {}
    for path in run.folder.parent.glob("*/claims/provenance.json"):
        match = pattern.fullmatch(path.parts[-3])
        alike = match and (int(match[1]) >= DEVELOPMENT_SEEDS) == (run.seed >= DEVELOPMENT_SEEDS)
        made = read_json(path)
        if alike and {name: made.get(name) for name in terms} == terms:
            found[int(match[1])] = Run(run.profile, int(match[1]), run.data, run.settings, path.parents[1])
    return [found[seed] for seed in sorted(found)]


def provenance(run: Run) -> dict:
    """Who made a run: its terms, commit and versions, and the seconds and memory of every stage."""
    cost = ("commit", "dirty", "wall_seconds", "peak_memory_mib", "threads")
    shared = ("profile", "seed", "data", "settings", "commit", "dirty", "versions", "python", "device")
    stages = {}
    for name in stages_of(run.data):
        if (path := run.path(name) / "provenance.json").exists():
            stages[name] = read_json(path)
            if missing := {*cost, *shared} - set(stages[name]):
                raise InputError(f"'{path}' lacks {', '.join(sorted(missing))}: delete {path.parent} and `make reproduce` again")
    last = stages["claims"]
    whole = run.folder / "run.json"
    return {
        **{key: last[key] for key in shared},
        "seeds": [other.seed for other in finished_seeds(run)],
        "run": read_json(whole) if whole.exists() else None,
        "stages": {name: {key: made[key] for key in cost} for name, made in stages.items()},
    }
