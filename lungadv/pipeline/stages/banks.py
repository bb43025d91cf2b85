"""The stage "banks": hard nodules, perturbed nodules and noise that looks like nodules, searched once against the baseline."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import lungadv
from lungadv.banks.recipes import COLUMNS
from lungadv.banks.search import BATCH, SearchContext
from lungadv.banks.shards import SHARD, lock, make_missing_shards, shard_files, summarise
from lungadv.banks.sites import CROWDED, crowding
from lungadv.data.scan import to_unit
from lungadv.data.tables import SMALLEST_MM, XYZ
from lungadv.pipeline.artefacts import describe, require, stage_output
from lungadv.pipeline.gates import insist
from lungadv.pipeline.graph import stages_of
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.fpr import load_strategy
from lungadv.pipeline.stages.fusion import write_fusion
from lungadv.pipeline.stages.patches import read_patches
from lungadv.pipeline.stages.synthesizer import load_generator
from lungadv.training.augment import center_crop
from lungadv.training.strategies import BASELINE
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError
from lungadv.utils.files import sha256

__all__ = ["build", "make_shards", "search_context"]

READ = {  # the files that the banks follow from
    "patches": ("train.csv", "train.safetensors"),
    "synthesizer": ("generator.safetensors",),
    f"fpr/{BASELINE}": ("network.json", "weights.safetensors"),
}
CODE = (  # and the code, in the package's folder
    "evidence.py",
    "data/masks.py",
    "data/noise.py",
    "data/patches.py",
    "data/positions.py",
    "data/scan.py",
    "data/tables.py",
    "data/walls.py",
    "models/*.py",
    "attacks/*.py",
    "training/*.py",
    "banks/*.py",
    "pipeline/stages/banks.py",
    "pipeline/stages/patches.py",
    "utils/device.py",
    "utils/lengths.py",
)


def search_context(run: Run) -> SearchContext:
    """What the banks of a run are made from. Raises InputError when no training scan has a background, or fewer than asked for are cut."""
    settings, device = run.settings, get_device()
    wanted, stored = settings.banks.backgrounds, settings.fpr.backgrounds
    if wanted > stored:
        raise InputError(f"banks.backgrounds {wanted} is above fpr.backgrounds {stored}: lower it")
    table, hu = read_patches(run, "train")
    table = table.rename_axis("place").reset_index()[["place", "kind", "seriesuid", *XYZ, "type", "diameter_mm", "depth_mm"]]
    sites = _calm_sites(table[table["kind"] == "background"], hu, settings)
    if sites.empty:
        raise InputError("no training scan has a lung patch without a nodule: lower patch.size or patch.spacing")
    items = {
        "synthetic": sites.loc[sites.index.repeat(settings.banks.samples)].drop(columns=["kind", "type", "diameter_mm"]),
        "perturbed": table[table["kind"] == "nodule"].drop(columns=["kind", "depth_mm"]),
        "noise": pd.DataFrame(index=range(settings.banks.noise_patches)),
    }
    items = {kind: rows.reset_index(drop=True).rename_axis("item").reset_index() for kind, rows in items.items()}
    network, generator = load_strategy(run, BASELINE).to(device), load_generator(run).to(device)
    return SearchContext(settings, network, generator, hu, items)


def _calm_sites(sites, hu, settings):
    """The first background patches of each scan, as many as a bank has; those that vessels crowd only where there are no others."""
    patches = center_crop(to_unit(hu[torch.tensor(sites["place"].to_numpy())].float()), settings.patch.size)
    crowded = crowding(patches, sites["depth_mm"], settings.patch.spacing) > CROWDED
    calm_first = sites.iloc[np.argsort(crowded, kind="stable")]
    return calm_first.groupby("seriesuid", sort=False).head(settings.banks.backgrounds).sort_index()


def shard_folder(run: Run) -> Path:
    """Where the shards of a run lie; another folder as soon as anything that they follow from has changed."""
    inputs = {f"{stage}/{name}": require(run, stage) / name for stage, names in READ.items() for name in names}
    made = describe(run, "banks", inputs)
    terms = {name: made[name] for name in ("seed", "data_sha256", "settings", "versions", "device", "precision", "threads", "inputs")}
    package = Path(lungadv.__file__).parent
    code = [sha256(path) for pattern in CODE for path in sorted(package.glob(pattern))]
    key = hashlib.sha256(json.dumps([terms, code, SHARD, BATCH], sort_keys=True).encode()).hexdigest()
    return run.path("bank-shards", key[:16])


def make_shards(run: Run) -> Path:
    """Make every shard of a run's banks that is missing or damaged; returns their folder. Any number of processes can share the work."""
    context, folder, threads = search_context(run), shard_folder(run), torch.get_num_threads()
    torch.set_num_threads(stages_of(run.data)["banks"].threads)
    try:
        make_missing_shards(context, folder, lambda kind, number: run.generator("banks", kind, number, device=context.device))
    finally:
        torch.set_num_threads(threads)
    return folder


def build(run: Run) -> Path:
    """Make the four banks against BASELINE: banks/<kind>-<shard>.parquet, bank_<name>.csv and counts.csv; returns the folder.

    counts.csv has for each bank how many searches began (`drawn`), and the counts of `summarise`. fusion.csv and fusion_rim.csv say
    whether fusion keeps true nodules (`write_fusion`).
    Raises InputError when a bank stays empty.
    """
    shards = shard_folder(run)
    with stage_output(run, "banks") as folder, lock(shards, shared=True, wait=True):
        make_shards(run)
        for kind in COLUMNS:
            for path in shard_files(shards, kind):
                _link_or_copy(path, folder / path.name)
        counts, items = summarise(folder), search_context(run).items
        counts.insert(1, "drawn", [len(items[bank.split("-")[0]]) for bank in counts["bank"]])
        check_stored(counts)
        check_noise(counts, run.settings.banks.least_positive)
        counts.to_csv(folder / "counts.csv", index=False)
        write_fusion(run, folder)
    _remove_stale_shards(shards)
    return run.path("banks")


def check_stored(counts: pd.DataFrame) -> None:
    """Raise InputError when all searches of a bank were left out; counts as in counts.csv."""
    for row in counts[(counts["drawn"] > 0) & (counts["stored"] == 0)].itertuples():
        if row.under_6mm:
            raise InputError(f"no synthetic nodule reaches {SMALLEST_MM:g} mm: train the synthesizer longer (synthesizer.updates)")
        raise InputError(f"bank {row.bank}: no rebuilt patch is judged as the searched one: raise banks.samples or banks.noise_patches")


def check_noise(counts: pd.DataFrame, least: float) -> None:
    """Insist that the baseline calls at least a share `least` of the noise patches nodules; counts as in counts.csv."""
    noise = counts.set_index("bank").loc["noise"]
    share = noise["positive_after"] / noise["stored"]
    problem = f"bank noise: the baseline calls {share:.0%} of its patches nodules, {least:.0%} are wanted: raise attack.noise_eps or steps"
    insist(share >= least, problem)


def _link_or_copy(path, target):
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        shutil.copyfile(path, target)


def _remove_stale_shards(shards):
    """Delete the folders beside `shards`, made from other things, that no other job is filling."""
    for other in shards.parent.iterdir():
        if other.is_dir() and other != shards:
            with lock(other) as held:
                if held.sure:
                    shutil.rmtree(other)
