"""The budget of the quick profile, and what the committed run took of it."""

import json
from pathlib import Path

import pandas as pd

from lungadv.pipeline.result_tables import missing_note, table_markdown
from lungadv.pipeline.steps import STEPS
from lungadv.training.strategies import STRATEGIES

__all__ = ["BUDGET", "BUDGET_STARTING", "cost_markdown"]


def _training(group):
    """The steps that train the rows of a group of strategies."""
    stages = {f"fpr/{name}" for name, strategy in STRATEGIES.items() if strategy.group == group}
    return tuple(step.name for step in STEPS if step.stage in stages)


BUDGET = {  # minutes of computing that the quick profile may take on 2 cores; one-thread steps in a row run two at a time
    ("05_datasets",): 1.6,
    ("06_candidates",): 1.9,
    ("patches", "segmentation"): 0.9,
    ("08_synthesizer", *_training("baselines")): 2.6,
    _training("controls"): 1.0,
    ("00_two_moons", "04_phantom"): 2.4,  # two for the comparison with real scans, where they are at hand
    ("09_banks", "oracle"): 1.1,
    _training("augmented"): 1.8,
    ("11_benchmarks",): 1.0,
    ("12_stress_tests",): 3.7,
    ("13_claims",): 0.1,
}
STARTING = "starting notebooks, drawing, waiting"
BUDGET_STARTING = 3.9  # minutes on top of the computing


def cost_markdown(folder: Path) -> str:
    """The budget of the quick profile, and beside it what the committed run took of it (seconds x threads / 2 cores)."""
    path = folder / "provenance.json"
    made = json.loads(path.read_text()) if path.exists() else {"stages": {}, "run": None}
    stages = {step.name: made["stages"][step.stage] for step in STEPS if step.stage in made["stages"]}
    rows = []
    for names, minutes in BUDGET.items():
        ran = [stages[name] for name in names if name in stages]
        used = sum(stage["wall_seconds"] * stage["threads"] for stage in ran) / 120
        peak = max((stage["peak_memory_mib"] for stage in ran), default="")
        shown = [name for name in names if name in stages] or names  # a row added since has no place in the committed table
        rows.append((", ".join(shown), f"{minutes:.1f}", f"{used:.1f}" if ran else "", peak))
    whole = made["run"]
    if whole and set(whole["stages_built"]) != set(made["stages"]):  # a run that went on where another stopped has no time of its own
        whole = None
    computing = sum(float(row[2] or 0) for row in rows)
    minutes = whole["wall_seconds"] / 60 if whole else None
    rows.append((STARTING, f"{BUDGET_STARTING:.1f}", f"{minutes - computing:.1f}" if whole else "", ""))
    rows.append(("sum", f"{sum(BUDGET.values()) + BUDGET_STARTING:.1f}", f"{minutes:.1f}" if whole else "", ""))
    table = table_markdown(pd.DataFrame(rows, columns=["steps", "budget, minutes", "measured, minutes", "peak MiB"]))
    if not whole:
        return f"{missing_note(path)}\n\n{table}" if not stages else table
    gib = whole["peak_memory_mib"] / 1024
    return f"Measured: {minutes:.1f} minutes on {whole['cores']} cores, at most {gib:.1f} GiB of memory.\n\n{table}"
