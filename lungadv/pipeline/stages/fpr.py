"""The stages `fpr/<strategy>`: one network of false-positive reduction for each row of Table II."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from lungadv.banks.recipes import COLUMNS, REMEDY, Perturbed, Synthetic, load_bank
from lungadv.banks.shards import read_recipes
from lungadv.models.dense_unet import FPR, fuse_batchnorm, new_network, predict
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.patches import load_patches, read_patches, real_patches
from lungadv.pipeline.stages.synthesizer import load_generator
from lungadv.training.adversarial import adversarial_batches
from lungadv.training.checkpoint import load_network, save_network
from lungadv.training.loop import EMA_DECAY, fit
from lungadv.training.losses import classification_loss
from lungadv.training.monitor import validation_monitor
from lungadv.training.sampling import UniformNoise, augmented_mask, batch_composition, classification_batches
from lungadv.training.strategies import BANKS, SEGMENTATION, STRATEGIES, Strategy, updates_of
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError

__all__ = ["build", "load_strategy", "read_bank"]


def build(run: Run, strategy: str) -> Path:
    """Train one row of Table II: fpr/<strategy>/weights.safetensors and network.json.

    Beside them training.csv has the loss of each update, learning.csv the AUC and Brier score of validation patches on the way.
    validation.csv has the confidence and uncertainty of each validation patch. Raises InputError for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"unknown strategy '{strategy}': choose one of {', '.join(STRATEGIES)}")
    settings, stage, updates = run.settings.fpr, f"fpr/{strategy}", updates_of(strategy, run.settings.fpr)
    with stage_output(run, stage) as folder:
        generator = run.generator(stage)
        torch.manual_seed(generator.initial_seed())
        network = _start_network(run, STRATEGIES[strategy])
        batches = _strategy_batches(run, strategy, network, generator)
        table, patches = load_patches(run, "validation", ("nodule", "candidate", "background"))
        monitor = validation_monitor(table, patches, updates, settings, run.rng("fpr", "watched"))
        losses = fit(
            network, classification_loss, batches, updates,
            learning_rate=settings.learning_rate, ema_decay=EMA_DECAY, monitor=monitor, desc=strategy,
        )  # fmt: skip
        save_network(network, folder)
        losses.to_csv(folder / "training.csv", index=False)
        pd.DataFrame(monitor.rows).to_csv(folder / "learning.csv", index=False)
        confidence, uncertainty = predict(network, patches)
        table.assign(confidence=confidence.numpy(), uncertainty=uncertainty.numpy()).to_csv(folder / "validation.csv", index=False)
    return run.path(stage)


def _start_network(run: Run, strategy: Strategy) -> FPR:
    """The network that training starts from: all weights of another strategy, or those of the segmentation's DenseUNet."""
    network = new_network(strategy.output, run.settings.fpr.width)
    if strategy.start == SEGMENTATION:
        network.unet.load_state_dict(load_network(require(run, SEGMENTATION)).unet.state_dict())
    else:
        network.load_state_dict(load_network(require(run, f"fpr/{strategy.start}")).state_dict())
    return network


def _strategy_batches(run: Run, strategy: str, network: FPR, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The training batches of a strategy: real patches and those of its banks or, online, of PGD against `network`."""
    chosen, settings, real = STRATEGIES[strategy], run.settings, real_patches(run)
    online = {"perturbed": real[1], "noise": UniformNoise(settings.patch.size)}  # what PGD starts from
    positives, negatives = (
        batch_composition(
            real[label], [online[name] if chosen.online else read_bank(run, name)[1] for name in names], settings.fpr.batch_size // 2
        )
        for label, names in ((1, chosen.positives), (0, chosen.negatives))
    )
    batches = classification_batches(positives, negatives, settings.patch.size, generator)
    if not chosen.online:
        return batches
    searches = run.generator(f"fpr/{strategy}", "searches", device=get_device())
    rows = augmented_mask(positives, negatives)
    return adversarial_batches(network, batches, rows, eps=settings.attack.eps, steps=settings.fpr.online_steps, generator=searches)


def load_strategy(run: Run, strategy: str) -> FPR:
    """The trained network of a strategy, to answer and to be attacked: in evaluation mode, frozen, batch normalisation fused."""
    return fuse_batchnorm(load_network(require(run, f"fpr/{strategy}")))


def read_bank(run: Run, name: str) -> tuple[pd.DataFrame, Synthetic | Perturbed]:
    """A bank's table and the bank, on the accelerator if there is one; `bank[rows]` rebuilds its patches.

    Raises InputError for a name that is not in BANKS, and for files that are damaged or lack rows of the table.
    """
    if name not in BANKS:
        raise InputError(f"unknown bank '{name}': choose one of {', '.join(BANKS)}")
    folder, device, kind = require(run, "banks"), get_device(), name.split("-")[0]
    table = pd.read_csv(folder / f"bank_{name}.csv", dtype={"seriesuid": str, "type": str})
    recipe, hu = read_recipes(folder, kind, COLUMNS[kind], name), read_patches(run, "train")[1]
    rows = len(recipe["delta"]) if recipe else 0
    if rows != len(table):
        raise InputError(f"{folder} has {rows} recipes of {name}, its table {len(table)}: a file is missing; {REMEDY}")
    generator = load_generator(run).to(device) if kind == "synthetic" else None
    return table, load_bank(kind, recipe, hu, generator, run.settings.patch.size, device)
