"""The stage `search` of a run on nodule cubes: every row of Table II shown each place of the validation and the test patients' cubes."""

from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.tables import SUBSOLID
from lungadv.evaluation.marks import size_masks, type_masks
from lungadv.evaluation.real_nodules import Searched, apply_thresholds, compare_networks, search_cubes, sensitivity_per_litre
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.cube_datasets import load_cubes
from lungadv.pipeline.stages.fpr import load_strategy
from lungadv.training.strategies import BASELINE, STRATEGIES, strategies_of

__all__ = ["build", "load_search"]

SEARCHED = ("validation", "test")
TABLES = ("cubes", "nodules", "excluded")


def build(run: Run) -> Path:
    """Write search/sensitivity.csv (`sensitivity_per_litre` by size and type), differences.csv and thresholds.csv.

    The last has thresholds chosen on the validation patients, on test patients (`apply_thresholds`). <dataset>/ holds what was searched:
    cubes.csv, nodules.csv, excluded.csv, marks.csv. Nothing of it is LUNA16's FROC.
    """
    patch, bootstraps = run.settings.patch, run.settings.froc.bootstraps
    with stage_output(run, "search") as folder:
        cubes, networks = load_cubes(run), {name: load_strategy(run, name) for name in strategies_of(run.data)}
        searched = {name: search_cubes(networks, cubes.of(name), patch.size, patch.spacing) for name in SEARCHED}
        tables = {"sensitivity": [], "differences": []}
        for name, found in searched.items():
            _write(found, folder / name)
            made = sensitivity_per_litre(found, nodule_groups(found.nodules), bootstraps=bootstraps)
            tables["sensitivity"].append(made.assign(dataset=name))
            tables["differences"].append(compare_networks(found, pairs(run), bootstraps=bootstraps).assign(dataset=name))
        tables["thresholds"] = [apply_thresholds(searched["validation"], searched["test"], bootstraps=bootstraps)]
        for name, parts in tables.items():
            pd.concat(parts).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return run.path("search")


def nodule_groups(nodules: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which nodules are of a group, bool (N,): all, by diameter, by type, and sub-solid ones together."""
    types = nodules["type"].isin(SUBSOLID).to_numpy()
    return {"all": np.ones(len(nodules), bool)} | size_masks(nodules) | type_masks(nodules) | ({"subsolid": types} if types.any() else {})


def pairs(run: Run) -> list[tuple[str, str]]:
    """Every row of Table II against BASELINE and, where it starts from it, against the control trained as long."""
    rows = [name for name in strategies_of(run.data) if name != BASELINE]
    controlled = [name for name in rows if STRATEGIES[name].start == BASELINE and name != "control"]
    return [(name, BASELINE) for name in rows] + [(name, "control") for name in controlled]


def _write(found, folder):
    folder.mkdir()
    for name in TABLES:
        getattr(found, name).to_csv(folder / f"{name}.csv", index=False)
    marks = pd.concat([table.assign(network=name) for name, table in found.marks.items()])
    marks.to_csv(folder / "marks.csv", index=False, float_format="%.6g")


def load_search(run: Run, dataset: str) -> Searched:
    """What was searched in the cubes of one of SEARCHED, and each network's marks."""
    folder = require(run, "search") / dataset
    marks = {name: rows.drop(columns="network") for name, rows in pd.read_csv(folder / "marks.csv").groupby("network", sort=False)}
    tables = (pd.read_csv(folder / f"{name}.csv", dtype={"patient": str, "type": str}) for name in TABLES)
    return Searched(*tables, {name: rows.reset_index(drop=True) for name, rows in marks.items()})
