"""Data sets of simulated scans: recipes dealt from a plan, scans made in worker processes and written in LUNA16's layout.

Scans are independent of each other: what one looks like depends on the recipe, the seed and its number alone. Scans are numbered, and each
data set starts at a number of its own. So no two share a scan, and more training scans do not change a benchmark.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data import luna16
from lungadv.data.dataset import MIMICS, NODULES, Data, relabel
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_series, write_volume
from lungadv.data.tables import LUNA16, SMALLEST_MM
from lungadv.phantom.recipe import DOSES, PHOTONS, RECIPE
from lungadv.phantom.simulate import CONSENSUS, simulate
from lungadv.utils.errors import InputError, check_name
from lungadv.utils.processes import map_in_processes

__all__ = [
    "FIRST_INDEX", "ScanJob", "deal_recipes", "draw_recipe", "parse_dose", "simulate_scans", "split_excluded", "write_phantom",
]  # fmt: skip

FIRST_INDEX = {"train": 0, "validation": 10_000, "in-house": 20_000, "nlst": 30_000, "phantom": 40_000}  # the last: `lungadv phantom`
WORKERS = 2  # processes that simulate


def deal_recipes(plan: Mapping, rng: np.random.Generator) -> list[dict]:
    """Deal a data set's nodules over its scans at random: one recipe a scan, for `simulate`.

    plan: of data_manifests/phantom.json. Each positive scan gets one nodule, the others fall where they fall.
    Raises InputError for more positive scans than scans or nodules.
    """
    scans, positive = plan["scans"], plan["positive_scans"]
    types = rng.permutation(np.repeat(list(plan["nodules"]), list(plan["nodules"].values())))
    if not 0 < positive <= min(scans, len(types)):
        raise InputError(f"phantom.json: {positive} positive scans do not fit {scans} scans and {len(types)} nodules")
    owner = rng.permutation(scans)[np.r_[np.arange(positive), rng.integers(positive, size=len(types) - positive)]]
    small, disputed = (np.bincount(rng.integers(scans, size=plan[key]), minlength=scans) for key in ("small_nodules", "disputed"))
    return [
        {
            "nodules": [{"type": str(name)} for name in types[owner == k]],
            "small_nodules": int(small[k]),
            "disputed": int(disputed[k]),
            "mimics": plan["mimics"],
            "photons": plan["photons"][k % len(plan["photons"])],
            "iodine": plan["iodine"][k % len(plan["iodine"])],
            "kernel": plan["kernel"],
            "shift": plan["shift"],
        }
        for k in range(scans)
    ]


def split_excluded(nodules: pd.DataFrame, labels: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Split a phantom's nodules into those that count and the others, and number the labels by the first alone.

    Args:
        nodules: with diameter_mm, and how many of four readers agree on them (`readers`).
        labels: uint8 (z, y, x), k in the k-th nodule.

    Returns: the nodules that count with their `label`, the others, and the labels of the first. A nodule counts that has SMALLEST_MM and
    that NEEDED readers agree on.
    """
    counts = ((nodules["diameter_mm"] >= SMALLEST_MM) & (nodules["readers"] >= CONSENSUS)).to_numpy()
    number = np.where(counts, np.cumsum(counts), 0)
    table = nodules.assign(label=number)
    return table[counts], table[~counts], relabel(labels, number)


@dataclass(frozen=True)
class ScanJob:
    """One scan to simulate, its data set, and the folder for its file ("" or with a slash at the end)."""

    folder: str
    dataset: str
    seed: int
    index: int
    recipe: dict


def _write_scan(job: ScanJob, root: Path, compress: bool) -> tuple[pd.DataFrame, ...]:
    """Simulate one scan and write it under root: a worker's job. Returns its rows: scan, nodules, excluded, mimics."""
    try:
        made = simulate(job.recipe, job.seed, job.index)
    except ValueError as error:
        raise InputError(f"phantom scan {job.index} of '{job.dataset}': {error}") from None
    uid, scan = made.scan.uid, made.scan
    nodules, excluded, labels = split_excluded(made.nodules, made.labels)
    files = {"path": f"{job.folder}{uid}.mhd", "lungs": luna16.LUNGS.format(uid), "labels": luna16.NODULES.format(uid)}
    write_volume(scan.hu, scan, root / files["path"], compress)
    for name, values in (("lungs", made.lungs), ("labels", labels)):
        write_volume(values, scan, root / files[name])
    scans = pd.DataFrame([{"seriesuid": uid, "dataset": job.dataset} | files | {"store": ""}])
    return scans, *(table.assign(seriesuid=uid, dataset=job.dataset) for table in (nodules, excluded, made.mimics))


def simulate_scans(root: Path, jobs: Iterable[ScanJob], compress: bool, workers: int = WORKERS) -> Data:
    """Make scans, their lungs and nodule masks under root. The paths of the Data returned are relative to root.

    compress: whether scans are packed; a run reads its own too often for that. workers: processes; results do not depend on it.
    Raises InputError for a recipe that cannot be, and when a process was killed.
    """
    jobs = list(jobs)
    for folder in {Path(luna16.LUNGS).parent, Path(luna16.NODULES).parent, *(Path(job.folder) for job in jobs)}:
        (root / folder).mkdir(exist_ok=True)
    write, remedy = partial(_write_scan, root=root, compress=compress), "close other programs and call again"
    made = map_in_processes(write, jobs, workers, "simulating scans", remedy)
    scans, nodules, excluded, mimics = (pd.concat(tables, ignore_index=True) for tables in zip(*made, strict=True))
    return Data(scans, nodules[NODULES], excluded[NODULES], mimics[MIMICS])


MIXTURE = {"solid": 0.88, "fully_calcified": 0.06, "part_solid": 0.03, "ground_glass": 0.03}
GRID = {key: RECIPE[key] for key in ("shape", "spacing")}
NODULES_PER_SCAN = (0.66, 0.21, 0.06, 0.04, 0.03)  # LUNA16's share of positive scans with 1 to 5 nodules of 6 mm and more
MIMICS_PER_SCAN = 12


def write_phantom(out: str | Path, scans: int, seed: int, dose: str | float = DOSES["standard"], file_format: str = "mhd") -> None:
    """Write simulated scans into the new folder `out`, in LUNA16's layout.

    Args:
        out: the folder; it gets annotations.csv, annotations_excluded.csv, mimics.csv, seriesuids.csv, seg-lungs-LUNA16/ and masks/.
        scans: how many; scan k of a seed is the same whatever their number.
        seed: 0 or more.
        dose: photons of a detector cell, or a name of DOSES.
        file_format: "mhd" for <uid>.mhd and .zraw, "dicom" for a folder <uid> of slices each.

    Raises InputError when `out` exists or an argument cannot be, and when a process was killed.
    """
    out = Path(out)
    check_name(out.absolute(), "folder")
    if out.exists():
        raise InputError(f"'{out}' exists already: give a new folder")
    if scans < 1:
        raise InputError(f"{scans} scans: give 1 or more")
    if seed < 0:
        raise InputError(f"seed {seed}: give 0 or more")
    if file_format not in ("mhd", "dicom"):
        raise InputError(f"format '{file_format}': give mhd or dicom")
    photons = parse_dose(dose)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        _write_folder(temporary, scans, seed, photons, file_format)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_folder(folder: Path, scans: int, seed: int, photons: float, file_format: str):
    """Write the files of `write_phantom` into an empty folder."""
    people = range(FIRST_INDEX["phantom"], FIRST_INDEX["phantom"] + scans)  # nobody whom a run trains or tests on
    data = simulate_scans(folder, [ScanJob("", "train", seed, k, draw_recipe(seed, k, photons)) for k in people], compress=True)
    if file_format == "dicom":
        for uid, name in zip(data.uids, data.scans["path"], strict=True):
            write_series(read_scan(folder / name), folder / uid)
            for suffix in (".mhd", ".zraw"):
                (folder / f"{uid}{suffix}").unlink()
    luna16.write_tables(folder, data.uids, data.annotations)
    data.excluded[[*LUNA16, "type", "attachment"]].to_csv(folder / "annotations_excluded.csv", index=False)
    data.mimics[[*LUNA16, "kind"]].to_csv(folder / "mimics.csv", index=False)


def parse_dose(dose: str | float) -> float:
    """The photons of a dose, given as a number or as a name of DOSES; InputError for another name or a number outside PHOTONS."""
    try:
        photons = DOSES.get(dose) or float(dose)
    except (TypeError, ValueError):
        photons = np.nan
    low, high = PHOTONS
    if not low <= photons <= high:
        raise InputError(f"dose '{dose}': give {', '.join(DOSES)} or a number of photons from {low:g} to {high:g}")
    return photons


def draw_recipe(seed: int, index: int, photons: float) -> dict:
    """The recipe of one scan of `write_phantom`, drawn from (seed, index) alone."""
    rng = np.random.default_rng([seed, index])
    count = rng.choice(np.arange(1, 6), p=NODULES_PER_SCAN)
    types = rng.choice(list(MIXTURE), count, p=list(MIXTURE.values()))
    small, disputed = rng.integers(3), rng.integers(2)
    nodules = [{"type": str(name)} for name in types]
    counts = {"small_nodules": int(small), "disputed": int(disputed), "mimics": MIMICS_PER_SCAN}
    return GRID | {"nodules": nodules} | counts | {"photons": photons}
