"""The stage `segmentation`: the DenseUNet pre-trained to segment the training nodules, from which both baselines start."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lungadv.data.scan import to_unit
from lungadv.models.dense_unet import new_network
from lungadv.pipeline.artefacts import stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.patches import read_patches
from lungadv.training.augment import center_crop
from lungadv.training.checkpoint import save_network
from lungadv.training.loop import EMA_DECAY, fit
from lungadv.training.losses import segmentation_loss, soft_dice
from lungadv.training.sampling import segmentation_batches
from lungadv.training.stored_patches import StoredPatches

__all__ = ["build"]

BATCH = 64  # nodules that are outlined at once


def build(run: Run) -> Path:
    """Train on the masks of the training nodules: segmentation/weights.safetensors, network.json, training.csv (loss of each update).

    numbers.csv holds the mean Dice of the nodules of every tenth scan, which training does not see.
    """
    settings = run.settings
    with stage_output(run, "segmentation") as folder:
        torch.manual_seed(run.generator("outline", "weights").initial_seed())  # the stage's former name keeps its streams
        network, size = new_network("logits", settings.fpr.width, settings.patch.spacing), settings.patch.size
        nodules, masks, held_out = _nodule_masks(run)
        pools = nodules.subset(~held_out), masks.subset(~held_out)
        batches = segmentation_batches(*pools, size, settings.fpr.batch_size, run.generator("outline"))
        losses = fit(
            network, segmentation_loss, batches, settings.fpr.segmentation_updates,
            learning_rate=settings.fpr.learning_rate, ema_decay=EMA_DECAY, desc="nodule segmentation",
        )  # fmt: skip
        dice = _dice(network, nodules.subset(held_out), masks.subset(held_out), size)
        save_network(network, folder)
        losses.to_csv(folder / "training.csv", index=False)
        numbers = pd.DataFrame({"measure": ["dice"], "value": [dice.mean().item()], "nodules": [len(dice)]})
        numbers.to_csv(folder / "numbers.csv", index=False)
    return run.path("segmentation")


@torch.no_grad()
def _dice(network, nodules, masks, size):
    """The Dice overlap (N,) of what the network outlines in the middle of each patch with its mask."""
    found = [torch.empty(0)]
    for patches, truth in zip(nodules.split(BATCH), masks.split(BATCH), strict=True):
        logits = network.unet.segment(to_unit(center_crop(patches, size).float()))
        found.append(soft_dice((logits > 0).float(), center_crop(truth, size).float()))
    return torch.cat(found)


def _nodule_masks(run: Run) -> tuple[StoredPatches, StoredPatches, np.ndarray]:
    """The training nodules' patches and masks, and which are held out: whole scans, as neighbours lie in each other's patches."""
    (table, hu), (_, masks) = read_patches(run, "train"), read_patches(run, "train", "outline")
    rows = (table["kind"] == "nodule").to_numpy()
    scan, uids = pd.factorize(table.loc[rows, "seriesuid"])
    held_out = (scan % 10 == 0) & (len(uids) > 1)
    return hu.subset(rows), masks, held_out
