"""The stage `datasets` of a run on nodule cubes: the cubes it uses, as a data set of small scans, and how many of which size and type."""

from pathlib import Path

import pandas as pd

from lungadv.data.cube_dataset import CubeData, cubes_as_data, usable_cubes, without
from lungadv.data.dataset import write_data
from lungadv.data.nodule_cubes import DATASETS, Cubes, read_cubes
from lungadv.data.positions import shift_margin
from lungadv.data.tables import SMALLEST_MM
from lungadv.evaluation.marks import size_group
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.utils.errors import InputError

__all__ = ["HELD_BACK", "build", "check_cubes", "load_cubes"]

# Whose whole scan this project tests on: the patient, and the series where nobody names patients. Neither is trained on nor chosen by.
HELD_BACK = ("LIDC-IDRI-0001", "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192")
LEAST = 5  # nodules of a data set


def check_cubes(path: str | Path) -> Cubes:
    """The cubes of a manifest that a run may use, all but HELD_BACK. Raises InputError as `read_cubes` does, and for too few."""
    cubes = without(read_cubes(path), HELD_BACK)
    for name in DATASETS:
        count = (cubes.of(name).table["diameter_mm"] >= SMALLEST_MM).sum()
        if count < LEAST:
            few = f"'{path}' has {count} cubes of {SMALLEST_MM:g} mm and more in '{name}', {LEAST} are needed"
            raise InputError(f"{few}: ingest more cubes")
    return cubes


def build(run: Run) -> Path:
    """Write datasets/: the tables of `write_data`, and table1.csv: cubes of each data set by size and type."""
    with stage_output(run, "datasets") as folder:
        patch = run.settings.patch
        width = (patch.size + 2 * shift_margin(patch.spacing)) * patch.spacing
        data = cubes_as_data(usable_cubes(check_cubes(run.data), width))
        write_data(data, folder)
        count_cubes(data).to_csv(folder / "table1.csv", index=False)
    return run.path("datasets")


def count_cubes(data: CubeData) -> pd.DataFrame:
    """A row a data set: nodules, and these by size group and by type."""
    table = data.annotations.assign(size=size_group(data.annotations["diameter_mm"]), nodules="nodules")
    columns = [pd.crosstab(table["dataset"], table[name]) for name in ("nodules", "size", "type")]
    return pd.concat(columns, axis=1).reindex(DATASETS).fillna(0).astype(int).reset_index(names="dataset")


def load_cubes(run: Run) -> Cubes:
    """The cubes that a run uses, from the finished stage: those of its nodules, and the smaller ones of the manifest."""
    used = set(pd.read_csv(require(run, "datasets") / "scans.csv", dtype=str)["path"])
    cubes = without(read_cubes(run.data), HELD_BACK)
    table = cubes.table[cubes.table["path"].isin(used) | (cubes.table["diameter_mm"] < SMALLEST_MM)].reset_index(drop=True)
    return Cubes(table, cubes.not_nodules[cubes.not_nodules["path"].isin(table["path"])].reset_index(drop=True))
