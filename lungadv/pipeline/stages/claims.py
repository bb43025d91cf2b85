"""The stage `claims`: the ledger of a run."""

import re
from pathlib import Path

import pandas as pd

from lungadv.evaluation.claims import ledger
from lungadv.evaluation.claims_toy import two_moons_samples
from lungadv.evaluation.verdicts import NUMBER_COLUMNS, Numbers
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import DEVELOPMENT_SEEDS, Run
from lungadv.utils.files import read_json

__all__ = ["build", "gather_numbers", "pooled_differences"]


def build(run: Run) -> None:
    """Write claims/claims.csv, the ledger of a run."""
    with stage_output(run, "claims") as folder:
        ledger(gather_numbers(run)).to_csv(folder / "claims.csv", index=False)


def gather_numbers(run: Run) -> Numbers:
    """The Numbers of a run, from `numbers.csv` of its stages and the benchmarks of all seeds."""
    toy = pd.read_csv(require(run, "two_moons") / "numbers.csv")
    paths = [require(run, stage) / "numbers.csv" for stage in ("candidates", "stress")]
    text = dict.fromkeys(NUMBER_COLUMNS[:-1], str)
    tables = [pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"value": ["", "nan"]}) for path in paths]
    require(run, "benchmarks")
    return Numbers(pd.concat([two_moons_samples(toy), *tables], ignore_index=True), pooled_differences(run), run.seed)


def pooled_differences(run: Run) -> pd.DataFrame:
    """`benchmarks/differences.csv` of every finished run of the same data, profile and settings, with its seed.

    Every seed that ran counts; development seeds and those of the ledger are never mixed (`DEVELOPMENT_SEEDS`).
    """
    terms = _terms(run.folder)
    name = re.compile(re.escape(run.folder.name.removesuffix(str(run.seed))) + r"(\d+)")
    tables = [pd.DataFrame()]
    for folder in sorted(run.folder.parent.iterdir()):
        match = name.fullmatch(folder.name)
        if match and (folder / "benchmarks" / "provenance.json").exists() and _terms(folder) == terms:
            seed = int(match[1])
            if (seed >= DEVELOPMENT_SEEDS) == (run.seed >= DEVELOPMENT_SEEDS):
                tables.append(pd.read_csv(folder / "benchmarks" / "differences.csv").assign(seed=seed))
    return pd.concat(tables, ignore_index=True)


def _terms(folder: Path):
    """The settings and data of a run's benchmarks."""
    made = read_json(folder / "benchmarks" / "provenance.json")
    return made.get("settings"), made.get("data_sha256")
