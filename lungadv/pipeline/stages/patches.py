"""The stage `patches`: the cubes that false-positive reduction trains on and answers to, cut once from every scan."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lungadv.data.dataset import Data
from lungadv.data.disk_array import write_rows
from lungadv.data.patches import extract_patches
from lungadv.data.positions import patch_positions, shift_margin, world_positions
from lungadv.data.scan import Scan
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import load
from lungadv.training.stored_patches import StoredPatches, open_patches
from lungadv.utils.errors import InputError

__all__ = ["build", "load_patches", "read_patches", "real_patches"]


def build(run: Run) -> Path:
    """Cut the patches of every data set: patches/<dataset>.csv and .safetensors (`hu`, int16 HU).

    The training patches are larger by `shift_margin`. Their file also holds the masks of the nodules (`outline`, uint8).
    """
    with stage_output(run, "patches") as folder:
        data = load(run)
        for dataset in data.datasets:
            candidates = pd.read_csv(run.path("candidates", f"{dataset}.csv"), dtype={"seriesuid": str})
            if dataset == "train":
                ordered = candidates.sort_values("score", ascending=False)
                candidates = ordered.groupby("seriesuid").head(run.settings.fpr.candidates)
            with write_rows(folder / f"{dataset}.safetensors") as writer:
                table = _cut_patches(run, data.of(dataset), candidates, dataset, writer.append)
            table.to_csv(folder / f"{dataset}.csv", index=False)
    return run.path("patches")


def _cut_patches(run: Run, data: Data, candidates: pd.DataFrame, dataset: str, write: Callable[[str, np.ndarray], None]) -> pd.DataFrame:
    """The patch table of a data set; write(name, rows) is given the rows of its tensors, scan by scan."""
    settings, train = run.settings, dataset == "train"
    spacing = settings.patch.spacing
    whole = settings.patch.size + 2 * shift_margin(spacing)
    size, width = whole if train else settings.patch.size, whole * spacing  # the width is free of nodules however the patch is shifted
    tables = []
    for uid in tqdm(data.uids, desc=f"patches of {dataset}"):
        scan, rng = data.open_scan(uid), run.rng("patches", uid)
        table = patch_positions(scan, data, candidates, width=width, backgrounds=settings.fpr.backgrounds, rng=rng)
        tables.append(table)
        write("hu", extract_patches(scan, world_positions(table), size, spacing).round().to(torch.int16).numpy())
        if train:
            labels = Scan((data.labels(uid) > 0).astype(np.int16), scan.spacing, scan.origin, scan.direction, uid)
            nodules = world_positions(table[table["kind"] == "nodule"])
            write("outline", (extract_patches(labels, nodules, size, spacing) > 0.5).to(torch.uint8).numpy())
    return pd.concat(tables, ignore_index=True)


def read_patches(run: Run, dataset: str, key: str = "hu", stage: str = "patches") -> tuple[pd.DataFrame, StoredPatches]:
    """The whole patch table of a data set and a stored tensor (N, 1, Q, Q, Q), whose rows are read when they are asked for.

    `key` is "hu", int16 HU, or for "train" "outline", the masks of the rows of kind nodule, uint8.
    `stage` "oracle" has nodules of the same layout under the names of ORACLE.
    """
    folder = require(run, stage)
    table = pd.read_csv(folder / f"{dataset}.csv", dtype={"seriesuid": str, "type": str})
    return table, open_patches(folder / f"{dataset}.safetensors", key)


def load_patches(run: Run, dataset: str, kinds: Collection[str]) -> tuple[pd.DataFrame, StoredPatches]:
    """The rows of `kinds` ("nodule", "candidate", "background") and their patches (N, 1, P, P, P) float32 in [0, 1], without margin.

    Patches are read when they are asked for; `patches[:]` is all of them.
    """
    table, hu = read_patches(run, dataset)
    chosen = table["kind"].isin(kinds).to_numpy()
    return table[chosen].reset_index(drop=True), replace(hu.subset(chosen), size=run.settings.patch.size)


def real_patches(run: Run) -> dict[int, StoredPatches]:
    """The training patches by label, 1 for nodules and 0 for others: int16 HU (N, 1, Q, Q, Q), with their margin.

    Raises InputError when one of the classes is missing.
    """
    table, hu = read_patches(run, "train")
    real = {label: hu.subset((table["label"] == label).to_numpy()) for label in (0, 1)}
    if not (len(real[0]) and len(real[1])):
        raise InputError(f"{len(real[1])} training patches of nodules, {len(real[0])} others: both needed, see annotations.csv")
    return real
