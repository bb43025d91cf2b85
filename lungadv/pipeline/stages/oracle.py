"""The stage `oracle`: further nodules of the phantom itself, random ones and those that the baseline finds hardest.

A synthesizer is to draw nodules like those of the training scans. Here they are known: the same persons are given other nodules of the same
mixture, where their kind lies, and scanned again. So the rows of Table II that train on them say what perfect nodules would do.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from lungadv.data.patches import extract_patches
from lungadv.data.positions import shift_margin, world_positions
from lungadv.data.scan import to_unit
from lungadv.models.dense_unet import predict
from lungadv.phantom.dataset import WORKERS, split_excluded
from lungadv.phantom.simulate import simulate
from lungadv.pipeline.artefacts import stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import recipes
from lungadv.pipeline.stages.fpr import load_strategy
from lungadv.training.augment import center_crop
from lungadv.training.strategies import BASELINE, ORACLE
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError
from lungadv.utils.processes import map_in_processes

__all__ = ["build", "hardest"]


def build(run: Run) -> Path:
    """Give every training person other nodules `oracle_draws` times, and keep as many random as hard ones.

    Writes oracle/<name>.csv, a row a nodule with its confidence by BASELINE, and <name>.safetensors (`hu`, int16 with margin) for each
    of ORACLE; returns the folder. Raises InputError on data that no recipe made.
    """
    if run.data != "phantom":
        raise InputError("only the phantom knows how its nodules are made: rows with an oracle need DATA=phantom")
    with stage_output(run, "oracle") as folder:
        table, hu = _draw_nodules(run)
        patches = to_unit(center_crop(hu, run.settings.patch.size).float())
        table["confidence"] = predict(load_strategy(run, BASELINE).to(get_device()), patches)[0].numpy()
        count = max(1, round(run.settings.banks.oracle_share * len(table)))
        random = run.rng("oracle", "random").permutation(len(table))[:count]
        for name, rows in zip(ORACLE, (random, hardest(table, count)), strict=True):
            table.iloc[rows].to_csv(folder / f"{name}.csv", index=False)
            save_file({"hu": hu[torch.from_numpy(rows.copy())].contiguous()}, folder / f"{name}.safetensors")
    return run.path("oracle")


def hardest(table: pd.DataFrame, count: int) -> np.ndarray:
    """The rows (count,) of the lowest `confidence`."""
    return table["confidence"].to_numpy().argsort(kind="stable")[:count]


def _draw_nodules(run: Run) -> tuple[pd.DataFrame, torch.Tensor]:
    """The nodules of all draws, and their patches with margin, int16 HU (N, 1, Q, Q, Q)."""
    train = [(index, recipe) for dataset, index, recipe in recipes(run) if dataset == "train"]
    jobs = [(index, recipe, draw) for draw in range(1, run.settings.banks.oracle_draws + 1) for index, recipe in train]
    size, spacing = run.settings.patch.size, run.settings.patch.spacing
    cut = partial(_cut_nodules, seed=run.seed, size=size + 2 * shift_margin(spacing), spacing=spacing)
    made = map_in_processes(cut, jobs, WORKERS, "drawing further nodules", "close other programs and call again")
    tables, patches = zip(*made, strict=True)
    return pd.concat(tables, ignore_index=True), torch.cat(patches)


def _cut_nodules(job, seed, size, spacing):
    """The nodules of 6 mm and more of one training person in one draw: their rows and patches. A worker's job."""
    index, recipe, draw = job
    made = simulate(recipe, seed, index, draw)
    nodules = split_excluded(made.nodules, made.labels)[0].assign(seriesuid=made.scan.uid, draw=draw)
    return nodules, extract_patches(made.scan, world_positions(nodules), size, spacing).round().to(torch.int16)
