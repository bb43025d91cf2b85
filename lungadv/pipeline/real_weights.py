"""Weights that have seen real nodules: a finished run's networks trained on, on its simulated scans and on cubes of real nodules together.

What is made lies in the run's folder real/: candidates/ and fpr/<BASELINE>/ as `load_detector` reads them, seen.json, and what was
measured: nodules.csv and operating.csv on validation patients, benchmarks.csv on the run's benchmarks.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lungadv.data.cube_dataset import without
from lungadv.data.dataset import BENCHMARKS
from lungadv.data.nodule_cubes import NOT_NODULES_FILE, Cubes, read_cubes
from lungadv.data.patches import extract_patches
from lungadv.data.positions import world_positions
from lungadv.data.scan import to_unit
from lungadv.data.tables import XYZ
from lungadv.detection.candidates import calibrate, find_candidates, raw_candidates
from lungadv.detection.cube_candidates import cube_candidates
from lungadv.detection.detect import classify
from lungadv.detection.networks import load_networks, save_networks
from lungadv.detection.seen import SEEN, hash_series
from lungadv.detection.weights import Detector, load_detector
from lungadv.evaluation.cube_detection import nodule_table, operating_point, score_cubes
from lungadv.evaluation.froc import froc
from lungadv.models.dense_unet import FPR, predict
from lungadv.pipeline.artefacts import describe, replace_folder, require, write_json
from lungadv.pipeline.runs import REAL, Run
from lungadv.pipeline.stages.cube_datasets import HELD_BACK
from lungadv.pipeline.stages.datasets import load
from lungadv.pipeline.stages.patches import real_patches
from lungadv.settings import CandidateSettings, Settings
from lungadv.training.augment import center_crop
from lungadv.training.candidate_crops import training_grids
from lungadv.training.candidates import train_networks
from lungadv.training.checkpoint import load_network, save_network
from lungadv.training.cube_crops import NoduleCube, cube_grids, read_nodule_cubes
from lungadv.training.cube_pools import ThickPatches, cube_pools
from lungadv.training.early_stopping import EarlyStopping
from lungadv.training.loop import EMA_DECAY, fit
from lungadv.training.losses import classification_loss
from lungadv.training.monitor import ValidationMonitor
from lungadv.training.sampling import classification_batches
from lungadv.training.strategies import BASELINE
from lungadv.utils.errors import InputError
from lungadv.utils.files import read_json

__all__ = ["train_on_cubes"]

PROPOSED = "proposed.csv"  # of candidate generation: path, XYZ of the best places in all cubes
SHIFTED = 4  # false positives that the threshold is set by, for each that may lie above it
WIDEST, SURE = 32.0, 1e-4  # the largest shift tried, and how well it is known
WATCHED = 400  # validation patches of each label that the loss is followed on


def train_on_cubes(run: Run, manifest: str | Path) -> Path:
    """Train a finished run's networks on, with the training cubes of a manifest; returns the folder, see the module.

    Candidate generation comes first, then false-positive reduction with what it proposes in the cubes. A call that was stopped in between
    goes on with its candidate networks, if the settings and the cubes are the same.
    Raises InputError for a run that is not finished, and as `read_cubes` does.
    """
    cubes = without(read_cubes(manifest), HELD_BACK)
    for part in ("train", "validation"):
        if cubes.of(part).table.empty:
            raise InputError(f"'{manifest}' has no cube of data set '{part}' to use: ingest more cubes of nodules")
    for stage in ("datasets", "candidates", "patches", f"fpr/{BASELINE}"):
        require(run, stage)
    temporary = run.path(f".{REAL}")
    torch.set_num_threads(1)
    known = {part: read_nodule_cubes(cubes.of(part), desc=f"{part} cubes") for part in ("train", "validation")}
    for stage, build in (("candidates", _train_candidates), (f"fpr/{BASELINE}", _train_fpr)):
        _make_stage(run, temporary, stage, manifest, known, build)
    write_json(temporary / SEEN, _seen(run, cubes))
    detector, unseen = load_detector(temporary), cubes.of("validation").table
    _set_threshold(detector, known["validation"], unseen)
    save_network(detector.fpr_network, temporary / "fpr" / BASELINE)
    _measure_cubes(detector, known["validation"], unseen, temporary)
    _measure_benchmarks(run, detector).to_csv(temporary / "benchmarks.csv", index=False)
    replace_folder(temporary, run.path(REAL))
    return run.path(REAL)


def _make_stage(run, target, stage, manifest, cubes, build):
    """The folder of a stage under `target`, made by `build` unless it is there already, made from the same.

    Its provenance names the tables of cubes, the stage of the run that training began with, and what candidate generation proposed.
    """
    inputs = {"start": run.path(stage, "provenance.json"), "cubes": Path(manifest)}
    inputs |= {"not_nodules": Path(manifest).with_name(NOT_NODULES_FILE), "proposed": target / "candidates" / PROPOSED}
    used = {name: path for name, path in inputs.items() if path.exists() and not (name == "proposed" and stage == "candidates")}
    folder, made = target / stage, describe(run, stage, used)
    if (folder / "provenance.json").exists():
        known = read_json(folder / "provenance.json")
        if known.get("inputs") == made["inputs"] and _read_by(stage, known["settings"]) == _read_by(stage, made["settings"]):
            return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    build(run, cubes, folder)
    write_json(folder / "provenance.json", made)


def _read_by(stage, settings):
    """The settings that a stage reads, of all settings of a run."""
    own = {key: value for key, value in settings["real"].items() if key.startswith("candidate") == (stage == "candidates")}
    return json.dumps([own, settings["candidates"], settings["patch"]], sort_keys=True)  # of lists, which JSON makes of tuples


def _train_candidates(run: Run, cubes: dict[str, list[NoduleCube]], folder: Path) -> None:
    """Train the three candidate networks on, and calibrate them on the simulated validation scans; PROPOSED: what they see in cubes."""
    data, settings = load(run), _candidate_settings(run.settings)
    real = cube_grids(cubes["train"], settings.spacing, run.rng(REAL, "grids"))
    start = load_networks(run.path("candidates"))[0]["blob"]
    with TemporaryDirectory(dir=folder) as grids_folder:
        grids = training_grids(data.of("train"), settings.spacing, Path(grids_folder))
        networks, losses = train_networks(grids, settings, run, real, start)
    part = data.of("validation")
    found = [raw_candidates(networks, data.scan(uid), data.lungs(uid), settings) for uid in tqdm(part.uids, desc="calibrating")]
    calibration = calibrate(pd.concat(found, ignore_index=True), len(part.uids))
    save_networks(networks, calibration, folder)
    losses.to_csv(folder / "training.csv", index=False)
    proposed = [
        cube_candidates(networks, calibration, cube.scan, settings, run.settings.real.candidates)[XYZ].assign(path=cube.name)
        for cube in tqdm([*cubes["train"], *cubes["validation"]], desc="candidates in cubes")
    ]
    pd.concat(proposed, ignore_index=True).to_csv(folder / PROPOSED, index=False)


def _candidate_settings(settings: Settings) -> CandidateSettings:
    """The settings of candidate generation with the updates of training on cubes."""
    own = settings.real
    return replace(settings.candidates, updates=own.candidate_updates, finetune_updates=own.candidate_finetune_updates)


def _train_fpr(run: Run, cubes: dict[str, list[NoduleCube]], folder: Path) -> None:
    """Train the network of false-positive reduction on; its negatives are what candidate generation proposed.

    learning.csv has the loss, AUC and Brier score of patches of the validation cubes on the way.
    """
    own, rng, generator = run.settings.real, run.rng(REAL, "patches"), run.generator(REAL, "fpr")
    proposed = pd.read_csv(folder.parents[1] / "candidates" / PROPOSED)
    places = {name: rows[XYZ].to_numpy(float) for name, rows in proposed.groupby("path")}
    pools, unseen = (cube_pools(cubes[part], places, run.settings.patch, rng) for part in ("train", "validation"))
    simulated, spacing = real_patches(run), run.settings.patch.spacing
    real = round(own.real_share * own.batch_size / 2)

    def shares(label):
        parts = ((pools[label], real), (simulated[label], own.batch_size // 2 - real))
        return [(ThickPatches(pool, spacing, rng), count) for pool, count in parts]

    batches = classification_batches(shares(1), shares(0), run.settings.patch.size, generator)
    monitor = _validation_monitor(run, unseen, rng)
    network = load_network(run.path(f"fpr/{BASELINE}")).requires_grad_(True)
    terms = {"learning_rate": own.learning_rate, "ema_decay": EMA_DECAY, "monitor": monitor, "desc": "learning from real nodules"}
    fit(network, classification_loss, batches, own.updates, **terms).to_csv(folder / "training.csv", index=False)
    pd.DataFrame(monitor.rows).to_csv(folder / "learning.csv", index=False)
    save_network(network, folder)


def _validation_monitor(run, pools, rng):
    """The monitor of training on WATCHED patches of each label at most."""
    rows = {label: torch.from_numpy(rng.permutation(len(pool))[:WATCHED]) for label, pool in pools.items()}
    patches = torch.cat([center_crop(pools[label][rows[label]], run.settings.patch.size) for label in rows])
    labels = np.concatenate([np.full(len(rows[label]), label) for label in rows])
    never = EarlyStopping(run.settings.real.updates, patience=run.settings.real.updates)
    return ValidationMonitor(to_unit(patches.float()), labels, run.settings.fpr.check_every, never)


def _seen(run: Run, cubes: Cubes) -> dict:
    """What the networks have seen: see `detection.seen`."""
    parts = {"training": cubes.of("train").table, "validation": cubes.of("validation").table}
    real = [f"{len(table)} cubes of {table['patient'].nunique()} patients for {part}" for part, table in parts.items()]
    simulated = f"simulated chests (profile {run.profile}, seed {run.seed})"
    return {
        "sources": [simulated, f"LUNA16's nodules as NODE21 gives them: {' and '.join(real)}"],
        "series": {part: hash_series(table["seriesuid"]) for part, table in parts.items()},
    }


def _set_threshold(detector: Detector, cubes: Sequence[NoduleCube], table: pd.DataFrame) -> None:
    """Shift the answers of false-positive reduction, in place, so that one false positive a litre of cubes lies above probability 0.5.

    The best false positives are weighed again with each shift tried: the probability is a mean over mirror images.
    """
    _, others, litres = score_cubes(detector, cubes, table)
    allowed, scans = int(litres), {cube.name: cube.scan for cube in cubes}
    best = others.nlargest(SHIFTED * max(allowed, 1), "probability")
    patch = detector.patch
    cut = [extract_patches(scans[path], world_positions(rows), patch.size, patch.spacing) for path, rows in best.groupby("path")]
    if len(best) > allowed:
        shift_threshold(detector.fpr_network, to_unit(torch.cat(cut)), allowed)


def shift_threshold(network: FPR, patches: torch.Tensor, allowed: int) -> None:
    """Shift the bias of a network's head so that `allowed` of the patches (N, 1, P, P, P) in [0, 1] lie above 0.5, as `classify` has it.

    The shift is found by halving, to SURE in the outputs before softplus or softmax: as many as possible lie above, but no more.
    """
    bias = network.head[-1].bias.data  # against a nodule, and for one
    start, low, high = bias.clone(), -WIDEST, WIDEST
    while high - low > SURE:
        shift = (low + high) / 2
        bias.copy_(start + torch.tensor([shift, -shift]) / 2)
        if (classify(network, patches)[0] > 0.5).sum() > allowed:
            low = shift
        else:
            high = shift
    bias.copy_(start + torch.tensor([high, -high]) / 2)


def _measure_cubes(detector: Detector, cubes: Sequence[NoduleCube], table: pd.DataFrame, folder: Path) -> None:
    """Write nodules.csv (a `nodule_table`) and operating.csv of cubes, whose rows are `table`, into a folder."""
    nodules, others, litres = score_cubes(detector, cubes, table)
    threshold = operating_point(others["probability"].to_numpy(), litres)
    above = (others["probability"] > 0.5).sum() / litres
    facts = {"patients": table["patient"].nunique(), "litres": litres, "threshold_at_one": threshold, "above_half": above}
    nodule_table(nodules, threshold).to_csv(folder / "nodules.csv", index=False, float_format="%.4f")
    pd.DataFrame([facts]).to_csv(folder / "operating.csv", index=False, float_format="%.4f")


def _measure_benchmarks(run: Run, detector: Detector) -> pd.DataFrame:
    """The CPM of both stages on the run's benchmarks, one look at each patch: benchmark, nodules, found, cpm, lower, upper."""
    rows, data = [], load(run)
    for benchmark in BENCHMARKS:
        part = data.of(benchmark)
        marks = [_marks(detector, part, uid) for uid in tqdm(part.uids, desc=f"candidates of {benchmark}")]
        bootstraps = run.settings.froc.bootstraps
        score = froc(pd.concat(marks, ignore_index=True), part.annotations, part.uids, part.excluded, bootstraps=bootstraps)
        low, high = score.cpm_interval
        row = {"benchmark": benchmark, "nodules": len(part.annotations), "found": score.curve["sensitivity"].max()}
        rows.append(row | {"cpm": score.cpm, "lower": low, "upper": high})
    return pd.DataFrame(rows)


def _marks(detector: Detector, data, uid) -> pd.DataFrame:
    """The marks of a detector in a scan: seriesuid, XYZ, probability."""
    scan = data.scan(uid)
    found = find_candidates(detector.candidate_networks, detector.calibration, scan, data.lungs(uid), detector.candidates)
    patches = to_unit(extract_patches(scan, world_positions(found), detector.patch.size, detector.patch.spacing))
    return found[["seriesuid", *XYZ]].assign(probability=np.asarray(predict(detector.fpr_network, patches)[0]))
