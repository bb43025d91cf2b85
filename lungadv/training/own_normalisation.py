"""Batch statistics of their own for adversarial samples (AdvProp, Xie et al. 2020); not in the paper."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from lungadv.training.losses import sample_losses
from lungadv.utils.device import get_device

__all__ = ["OwnNormalisation"]


class OwnNormalisation:
    """A loss under which the adversarial samples of a batch pass through a second set of batch normalisations.

    The convolutions are shared. The network keeps its first set, that of the real samples; the second is dropped after training.
    network: in training mode; adversarial: bool (N,), which samples of a batch are.
    """

    def __init__(self, network: nn.Module, adversarial: torch.Tensor):
        self.adversarial = adversarial
        self.norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
        self.second = nn.ModuleList(deepcopy(self.norms)).to(get_device())

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights of the second set, to be trained beside those of the network."""
        return self.second.parameters()

    @contextmanager
    def _swapped(self):
        """The network with the second set in place of the first."""
        first = [vars(norm).copy() for norm in self.norms]
        try:
            for norm, other in zip(self.norms, self.second, strict=True):
                vars(norm).update(vars(other))
            yield
        finally:
            for norm, values in zip(self.norms, first, strict=True):
                vars(norm).update(values)

    def __call__(self, network: nn.Module, patches: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean of `sample_losses` over a batch (N, 1, P, P, P), target (N,): a scalar."""
        losses = [sample_losses(network, patches[~self.adversarial], target[~self.adversarial])]
        with self._swapped():
            losses.append(sample_losses(network, patches[self.adversarial], target[self.adversarial]))
        return torch.cat(losses).mean()
