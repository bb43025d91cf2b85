"""What the networks of false-positive reduction are trained to lower."""

import torch
import torch.nn.functional as F
from torch import nn

from lungadv.evidence import beta_loss

__all__ = ["AnnealedLoss", "classification_loss", "sample_losses", "segmentation_loss", "soft_dice"]


def sample_losses(network: nn.Module, patches: torch.Tensor, target: torch.Tensor, kl_weight: float = 1.0) -> torch.Tensor:
    """The loss of each sample, (N,): cross-entropy for logits, the Beta loss for evidence (section III-B).

    network: has `output`, "logits" or "evidence"; patches: (N, 1, P, P, P) in [0, 1]; target: (N,) of 0 and 1, 1 is a nodule.
    kl_weight: of the Beta loss's divergence, see `beta_loss`.
    """
    if network.output == "logits":
        return F.cross_entropy(network(patches), target, reduction="none")
    return beta_loss(network(patches), target, kl_weight)


def classification_loss(network: nn.Module, patches: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean of `sample_losses` over the batch, a scalar."""
    return sample_losses(network, patches, target).mean()


class AnnealedLoss:
    """`classification_loss` whose divergence term grows from 0 to its full weight over the first `updates` calls (Sensoy et al. 2018).

    A network that has learnt nothing yet would otherwise find it cheapest to claim no evidence at all.
    """

    def __init__(self, updates: int):
        self.updates, self.calls = updates, 0

    def __call__(self, network: nn.Module, patches: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch, a scalar."""
        weight = min(1.0, self.calls / max(1, self.updates))
        self.calls += 1
        return sample_losses(network, patches, target, weight).mean()


def segmentation_loss(network: nn.Module, patches: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus the soft Dice loss of nodule masks, a scalar.

    network: an FPR; patches and masks: (N, 1, P, P, P) in [0, 1].
    """
    logits = network.unet.segment(patches)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - soft_dice(logits.sigmoid(), masks)).mean()


def soft_dice(prediction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The Dice overlap (N,) of two masks (N, 1, P, P, P) in [0, 1]; 1 where both are empty."""
    axes = (1, 2, 3, 4)
    return (2 * (prediction * mask).sum(dim=axes) + 1) / ((prediction + mask).sum(dim=axes) + 1)
