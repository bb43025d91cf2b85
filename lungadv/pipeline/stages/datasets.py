"""The stage `datasets`: the run's scans, simulated or checked from a manifest, their tables, and Table I counted from them."""

import json
from importlib import resources

import pandas as pd

from lungadv.data import luna16
from lungadv.data.cube_dataset import CubeData
from lungadv.data.dataset import BENCHMARKS, DATASETS, EXTRA_TESTS, Data, check_nodules, load_data, write_data
from lungadv.data.kinds import CUBES, kind_of
from lungadv.data.manifest import read_manifest
from lungadv.data.tables import TYPES
from lungadv.phantom.dataset import FIRST_INDEX, ScanJob, deal_recipes, simulate_scans
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.runs import Run
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root

__all__ = ["benchmarks_of", "build", "load", "recipes", "table1"]


def recipes(run: Run) -> list[tuple[str, int, dict]]:
    """The recipe of every scan of a run, as data_manifests/phantom.json plans it: rows of data set, index, recipe for `simulate`.

    Raises InputError for a profile that the plan lacks.
    """
    path = repo_root() / "data_manifests" / "phantom.json"
    profiles = json.loads(path.read_text(encoding="utf-8"))["profiles"]
    if run.profile not in profiles:
        raise InputError(f"{path.name} has no profile '{run.profile}', only {', '.join(profiles)}: add it")
    plan = profiles[run.profile]
    return [
        (dataset, FIRST_INDEX[dataset] + k, plan["recipe"] | recipe)
        for dataset in (*DATASETS, *EXTRA_TESTS)
        if dataset in plan
        for k, recipe in enumerate(deal_recipes(plan[dataset], run.rng("datasets", dataset)))
    ]


def build(run: Run) -> None:
    """Make the run's data sets: simulate them, or check a manifest and refer to its files.

    Writes scans.csv, annotations.csv, annotations_excluded.csv, mimics.csv, table1.csv, and a folder a data set with LUNA16's tables.
    Raises InputError for a manifest that is wrong, or a data set without a nodule.
    """
    with stage_output(run, "datasets") as root:
        if run.data == "phantom":
            jobs = [ScanJob(f"{dataset}/", dataset, run.seed, index, recipe) for dataset, index, recipe in recipes(run)]
            data = simulate_scans(root, jobs, compress=False, workers=STAGES["datasets"].threads)
        else:
            data = read_manifest(run.data)
            check_nodules(data)
        for name in data.datasets:
            (root / name).mkdir(exist_ok=True)
            part = data.of(name)
            luna16.write_tables(root / name, part.uids, part.annotations)
        write_data(data, root)
        table1(data).to_csv(root / "table1.csv", index=False)


def load(run: Run) -> Data:
    """The run's data sets, from the finished stage (at tiny size made if missing)."""
    return load_data(require(run, "datasets"), CubeData if kind_of(run.data) == CUBES else Data)


def benchmarks_of(run: Run) -> tuple[str, ...]:
    """The data sets that a run is tested on: both benchmarks, or the test patients of cubes."""
    return ("test",) if kind_of(run.data) == CUBES else BENCHMARKS


def table1(data: Data) -> pd.DataFrame:
    """Table I: scans, scans with nodules and nodules by type of each benchmark, by source: counted ("this run") and printed ("paper")."""
    with resources.files("lungadv").joinpath("paper", "table1.csv").open() as file:
        paper = pd.read_csv(file)
    counted = pd.DataFrame([_count(data.of(name)) | {"benchmark": name} for name in BENCHMARKS])
    table = pd.concat([counted.assign(source="this run"), paper.assign(source="paper")])
    return table[["benchmark", "source", *paper.columns[1:]]].sort_values("benchmark", kind="stable", ignore_index=True)


def _count(part: Data) -> dict[str, int]:
    """The numbers of one row of Table I."""
    by_type = part.annotations["type"].value_counts()
    return {
        "images": len(part.scans),
        "images_with_nodules": part.annotations["seriesuid"].nunique(),
        **{name: int(by_type.get(name, 0)) for name in TYPES},
        "total_nodules_ge_6mm": len(part.annotations),
    }
