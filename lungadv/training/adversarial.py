"""Adversarial training against the network as it is at each update (Madry et al. 2018); not in the paper."""

from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import torch

from lungadv.attacks.pgd import pgd
from lungadv.models.dense_unet import FPR, fuse_batchnorm
from lungadv.training.losses import sample_losses

__all__ = ["adversarial_batches"]


def adversarial_batches(
    network: FPR,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    rows: torch.Tensor,
    *,
    eps: float,
    steps: int,
    generator: torch.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches (patches, target), with the patches of `rows` moved by PGD towards a higher loss of `network`.

    The attack is on `network` as it is when the batch is asked for, in evaluation mode, in the linf ball of `eps` and in [0, 1].
    rows: bool (N,), see `sampling.augmented_mask`; generator: on the device of the network.
    """
    device = generator.device
    for patches, target in batches:
        loss = partial(sample_losses, fuse_batchnorm(deepcopy(network).eval()))
        patches, truth = patches.to(device), target.to(device)
        attack = pgd(loss, patches[rows], context=(truth[rows],), eps=eps, steps=steps, bounds=(0.0, 1.0), generator=generator)
        patches[rows] = attack.best
        yield patches, target
