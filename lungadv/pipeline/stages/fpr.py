"""The stages `fpr/<strategy>`: one network of false-positive reduction for each row of Table II."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from lungadv.banks.recipes import COLUMNS, REMEDY, Perturbed, Synthetic, load_bank
from lungadv.banks.shards import read_recipes
from lungadv.models.dense_unet import FPR, fuse_batchnorm, new_network, predict
from lungadv.pipeline.artefacts import require, stage_output, write_json
from lungadv.pipeline.gates import insist
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.patches import load_patches, read_patches, real_patches
from lungadv.pipeline.stages.synthesizer import load_generator
from lungadv.training.adversarial import adversarial_batches
from lungadv.training.checkpoint import load_network, save_network
from lungadv.training.early_stopping import EarlyStopping
from lungadv.training.loop import EMA_DECAY, fit
from lungadv.training.losses import AnnealedLoss, classification_loss
from lungadv.training.monitor import ValidationMonitor
from lungadv.training.own_normalisation import OwnNormalisation
from lungadv.training.sampling import Shares, UniformNoise, augmented_mask, batch_composition, classification_batches
from lungadv.training.strategies import BANKS, ORACLE, SEGMENTATION, STRATEGIES, Strategy, updates_of
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError

__all__ = ["build", "load_strategy", "read_bank"]


def build(run: Run, strategy: str) -> Path:
    """Train one row of Table II: fpr/<strategy>/weights.safetensors and network.json.

    Beside them training.csv has the loss of each update, learning.csv the loss, AUC and Brier score of validation on the way.
    training.json says how many updates were made, and whether the validation loss had stopped falling.
    validation.csv has the confidence and uncertainty of each validation patch. Raises InputError for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"unknown strategy '{strategy}': choose one of {', '.join(STRATEGIES)}")
    stage, chosen = f"fpr/{strategy}", STRATEGIES[strategy]
    with stage_output(run, stage) as folder:
        generator = run.generator(stage)
        torch.manual_seed(generator.initial_seed())
        network, shares = _start_network(run, chosen), _batch_shares(run, chosen)
        batches = _strategy_batches(run, strategy, network, shares, generator)
        table, patches = load_patches(run, "validation", ("nodule", "candidate", "background"))
        monitor = _validation_monitor(run, strategy, table["label"].to_numpy(), patches)
        losses = _fit(run, strategy, network, batches, shares, monitor)
        save_network(network, folder)
        losses.to_csv(folder / "training.csv", index=False)
        pd.DataFrame(monitor.rows).to_csv(folder / "learning.csv", index=False)
        write_json(folder / "training.json", _summary(strategy, losses, monitor.stopping, run.settings.fpr))
        confidence, uncertainty = predict(network, patches)
        table.assign(confidence=confidence.numpy(), uncertainty=uncertainty.numpy()).to_csv(folder / "validation.csv", index=False)
    return run.path(stage)


def _validation_monitor(run, strategy, labels, patches):
    """The monitor of a strategy on all validation patches with a label of 0 or 1; it stops training by the one rule for all."""
    known, settings = labels >= 0, run.settings.fpr
    stopping = EarlyStopping(updates_of(strategy, settings), settings.patience)
    return ValidationMonitor(patches.subset(known), labels[known], settings.check_every, stopping)


def _fit(run, strategy, network, batches, shares, monitor):
    """Train the network of a strategy; returns the losses."""
    chosen, settings = STRATEGIES[strategy], run.settings.fpr
    rate = settings.learning_rate if chosen.start == SEGMENTATION else settings.finetune_learning_rate
    learns_evidence = chosen.output == "evidence" and (chosen.start == SEGMENTATION or STRATEGIES[chosen.start].output == "logits")
    loss, more = AnnealedLoss(settings.annealing_updates) if learns_evidence else classification_loss, ()
    if chosen.own_normalisation:
        loss = OwnNormalisation(network, augmented_mask(*shares))
        more = loss.parameters()
    return fit(
        network, loss, batches, updates_of(strategy, settings),
        learning_rate=rate, ema_decay=EMA_DECAY, monitor=monitor, stopping=monitor.stopping, more=more, desc=strategy,
    )  # fmt: skip


def _summary(strategy, losses, stopping, settings):
    """What training.json says. Where a run must converge, it insists on that."""
    problem = f"{strategy}: the validation loss still fell after {len(losses)} updates: raise fpr.updates or fpr.finetune_updates"
    insist(stopping.converged or not settings.must_converge, problem)
    return {"updates": len(losses), "converged": stopping.converged}


def _start_network(run: Run, strategy: Strategy) -> FPR:
    """The network that training starts from: all weights of another strategy, or those of the segmentation's DenseUNet."""
    network = new_network(strategy.output, run.settings.fpr.width, run.settings.patch.spacing)
    if strategy.start == SEGMENTATION:
        network.unet.load_state_dict(load_network(require(run, SEGMENTATION)).unet.state_dict())
    else:
        network.load_state_dict(load_network(require(run, f"fpr/{strategy.start}")).state_dict())
    return network


def _batch_shares(run: Run, chosen: Strategy) -> tuple[Shares, Shares]:
    """The pools of a strategy's positives and negatives, and how many of a batch each gives."""
    settings, real = run.settings, real_patches(run)
    online = {"perturbed": real[1], "noise": UniformNoise(settings.patch.size)}  # what PGD starts from

    def pool(name):
        if name in ORACLE:
            return read_patches(run, name, stage="oracle")[1]
        return online[name] if chosen.online else read_bank(run, name)[1]

    half = settings.fpr.batch_size // 2
    kinds = ((1, chosen.positives), (0, chosen.negatives))
    return tuple(batch_composition(real[label], [pool(name) for name in names], half, chosen.added) for label, names in kinds)


def _strategy_batches(
    run: Run, strategy: str, network: FPR, shares: tuple[Shares, Shares], generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The training batches of a strategy: real patches and those of its banks or, online, of PGD against `network`."""
    chosen, settings = STRATEGIES[strategy], run.settings
    batches = classification_batches(*shares, settings.patch.size, generator)
    if not chosen.online:
        return batches
    searches = run.generator(f"fpr/{strategy}", "searches", device=get_device())
    radii = [0.0 if name is None else settings.attack.radius(name) for name in (None, *chosen.positives, None, *chosen.negatives)]
    eps = torch.cat([torch.full((share,), radius) for radius, (_, share) in zip(radii, (*shares[0], *shares[1]), strict=True)])
    return adversarial_batches(network, batches, eps, steps=settings.fpr.online_steps, generator=searches)


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
