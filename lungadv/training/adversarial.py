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
    eps: torch.Tensor,
    *,
    steps: int,
    generator: torch.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches (patches, target), with patches moved by PGD towards a higher loss of `network`.

    The attack is on `network` as it is when the batch is asked for, in evaluation mode, in linf balls and in [0, 1].
    eps: (N,), the radius of each patch of a batch; with 0 it stays as it is. generator: on the device of the network.
    """
    device, rows = generator.device, eps > 0
    limits = {"eps": eps[rows].to(device), "steps": steps, "bounds": (0.0, 1.0)}
    for patches, target in batches:
        loss = partial(sample_losses, fuse_batchnorm(deepcopy(network).eval()))
        patches, truth = patches.to(device), target.to(device)
        attack = pgd(loss, patches[rows], context=(truth[rows],), **limits, generator=generator)
        patches[rows] = attack.best
        yield patches, target
