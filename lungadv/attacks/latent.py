"""Latent PGD: the hardest nodule near a code of the synthesizer (Eqs. 7 to 9)."""

from collections.abc import Callable

import torch
from torch import nn

from lungadv.attacks.pgd import Attack, pgd
from lungadv.data.masks import diameter_mm
from lungadv.data.tables import SMALLEST_MM
from lungadv.models.synthesizer import blend
from lungadv.settings import LatentSettings

__all__ = ["LARGEST_MM", "search_latent"]

LARGEST_MM = 30.0  # what is larger is a mass, not a nodule (Fleischner Society), and fills a patch as tissue does


def search_latent(
    loss: Callable[[torch.Tensor], torch.Tensor],
    synthesizer: nn.Module,
    backgrounds: torch.Tensor,
    codes: torch.Tensor,
    settings: LatentSettings,
    spacing: float,
    generator: torch.Generator,
) -> Attack:
    """Search the L2 ball of radius settings.eps around each code for the nodule on its background with the largest loss (Eqs. 7-9).

    loss: patches (N, 1, P, P, P) in [0, 1] -> (N,), how wrong a network is. synthesizer: codes (N, L) -> nodules and masks.
    backgrounds: (N, 1, P, P, P) in [0, 1] with voxels of `spacing` mm. Everything lives on one device, `generator` too.
    A nodule under SMALLEST_MM or over LARGEST_MM ranks below all others, and the search brings it back. Returns the Attack over codes.
    """

    def ranked_loss(codes, backgrounds):
        nodules, masks = synthesizer(codes)
        missed = loss(blend(backgrounds, nodules, masks))
        diameter, volume = diameter_mm(masks, spacing), masks.flatten(1).sum(1).clamp(min=1e-6)
        # Uphill is then mostly more volume, or less; 1000 is more than any loss, so that it ranks below
        back = (diameter < SMALLEST_MM).float() - (diameter > LARGEST_MM).float()
        return torch.where(back == 0, missed, missed + 10 * back * volume.log() - 1000)

    return pgd(ranked_loss, codes, context=(backgrounds,), eps=settings.eps, steps=settings.steps, norm="l2", generator=generator)
