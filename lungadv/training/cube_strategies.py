"""Rows of Table II trained on patches of cubes alone: those that need no bank."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from lungadv.data.scan import to_unit
from lungadv.models.dense_unet import FPR, new_network
from lungadv.settings import Settings
from lungadv.training.adversarial import adversarial_batches
from lungadv.training.augment import center_crop
from lungadv.training.early_stopping import EarlyStopping
from lungadv.training.loop import EMA_DECAY, fit
from lungadv.training.losses import AnnealedLoss, classification_loss
from lungadv.training.monitor import ValidationMonitor
from lungadv.training.sampling import UniformNoise, batch_composition, classification_batches
from lungadv.training.strategies import STRATEGIES
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError

__all__ = ["train_on_cubes"]

Patches = tuple[pd.DataFrame, torch.Tensor]  # as of `cut_cube_patches`


def train_on_cubes(
    strategy: str, train: Patches, validation: Patches, size: int, settings: Settings, seed: int, start: FPR | None = None
) -> tuple[FPR, ValidationMonitor]:
    """Train a row of Table II on patches of cubes; returns the network and what validation said on the way.

    Args:
        strategy: one of STRATEGIES without banks: a baseline, or an online one.
        train, validation: of the training and the validation patients.
        size: voxels of a patch.
        start: the network whose weights it starts from; without one it starts untrained, since cubes give no segmentation stage.

    Raises InputError for a strategy with banks, for one that needs a start, and when a label is missing.
    """
    chosen = STRATEGIES[strategy]
    if chosen.banks:
        raise InputError(f"strategy '{strategy}' needs the banks {', '.join(chosen.banks)}, which cubes have not: choose one without")
    if chosen.online and start is None:
        raise InputError(f"strategy '{strategy}' starts from {chosen.start}: give that network")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = new_network(chosen.output, settings.fpr.width)
    if start is not None:
        network.load_state_dict(start.state_dict())
    terms, known = settings.fpr, validation[0]["label"].to_numpy()
    stopping = EarlyStopping(terms.updates if start is None else terms.finetune_updates, terms.patience)
    patches = to_unit(center_crop(validation[1], size).float())
    monitor = ValidationMonitor(patches, known, terms.check_every, stopping)
    loss = AnnealedLoss(terms.annealing_updates) if chosen.output == "evidence" and start is None else classification_loss
    rate = terms.learning_rate if start is None else terms.finetune_learning_rate
    fit(
        network, loss, _batches(chosen, network, train, size, settings, generator), stopping.limit,
        learning_rate=rate, ema_decay=EMA_DECAY, monitor=monitor, stopping=stopping, desc=strategy,
    )  # fmt: skip
    return network, monitor


def _batches(chosen, network, train, size, settings, generator):
    """The batches of a strategy: real patches and, online, those that PGD finds against `network`."""
    real = {label: train[1][torch.tensor((train[0]["label"] == label).to_numpy())] for label in (0, 1)}
    if not (len(real[0]) and len(real[1])):
        raise InputError(f"{len(real[1])} patches of nodules, {len(real[0])} others: both are needed to train, give more cubes")
    online: Mapping = {"perturbed": real[1], "noise": UniformNoise(size)}
    half, kinds = settings.fpr.batch_size // 2, ((1, chosen.positives), (0, chosen.negatives))
    shares = [batch_composition(real[label], [online[name] for name in names], half, chosen.added) for label, names in kinds]
    batches = classification_batches(*shares, size, generator)
    if not chosen.online:
        return batches
    radii = [0.0 if name is None else settings.attack.radius(name) for name in (None, *chosen.positives, None, *chosen.negatives)]
    counts = [count for pools in shares for _, count in pools]
    eps = torch.from_numpy(np.repeat(radii, counts)).float()
    searches = torch.Generator(get_device()).manual_seed(generator.initial_seed())
    return adversarial_batches(network, batches, eps, steps=settings.fpr.online_steps, generator=searches)
