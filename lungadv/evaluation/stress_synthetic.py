"""Synthetic nodules shown to networks: as drawn, after latent PGD, after a random step, and the hardest of many random ones."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import nn

from lungadv.attacks.latent import search_latent
from lungadv.banks.search import attack_loss
from lungadv.data.similarity import ssim
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.synthesis import measure, solid_share
from lungadv.models.synthesizer import blend, draw_latents
from lungadv.settings import Settings
from lungadv.utils.lengths import whole_voxels

__all__ = ["density", "describe_nodules", "random_search", "synthetic_nodules"]

AROUND_MM = 2.5  # around a nodule, where its change is looked at, too


def describe_nodules(nodules: torch.Tensor, masks: torch.Tensor, spacing: float) -> pd.DataFrame:
    """diameter_mm, mean_hu and solid_share, the share of solid voxels, of cut-outs (N, 1, P, P, P) in [0, 1], a row each.

    A nodule is mask x appearance; voxels are of `spacing` mm.
    """
    return measure(nodules, masks, spacing).assign(solid_share=solid_share(nodules, masks))


def density(solid_share: ArrayLike) -> np.ndarray:
    """The type of each nodule (N,) by the HU rule: "non_solid" up to a share of 0.1, "part_solid" up to 0.5, else "solid"."""
    return np.select([np.asarray(solid_share) <= 0.1, np.asarray(solid_share) <= 0.5], ["non_solid", "part_solid"], "solid")


@torch.no_grad()
def random_search(
    detector: StressedModel,
    synthesizer: nn.Module,
    backgrounds: torch.Tensor,
    z: torch.Tensor,
    evaluations: int,
    spacing: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """The lowest confidence (N,) over `evaluations` random nodules on each background (N, 1, P, P, P) in [0, 1].

    The codes `z` (N, L) are the first; all others are drawn as they are, by `draw_latents`: a nodule too small to count is no find.
    """
    lowest = torch.ones(len(backgrounds))
    for k in range(evaluations):
        codes = z if k == 0 else draw_latents(synthesizer, len(z), spacing, generator)
        lowest = torch.minimum(lowest, detector.predict(blend(backgrounds, *synthesizer(codes)))[0])
    return lowest


def synthetic_nodules(
    detectors: Mapping[str, StressedModel],
    source: str,
    synthesizer: nn.Module,
    backgrounds: torch.Tensor,
    settings: Settings,
    generator: torch.Generator,
    searched: int = 0,
) -> pd.DataFrame:
    """Nodules on backgrounds (N, 1, P, P, P) in [0, 1]: a row a nodule, condition and network.

    Conditions: "random", as drawn; "pgd", after latent PGD against the network `source`; "random-step", after a random step as long.
    To the last `source` alone answers. Columns: condition, index, network, confidence, diameter_mm, mean_hu, solid_share, and

    - ssim: to the nodule as drawn, inside the dilated nodule
    - random_search: of the first `searched` nodules, the lowest confidence of as many random ones as PGD has evaluations (steps + 2)

    Backgrounds, synthesizer and generator live on the device of the source's model.
    """
    spacing, attacked = settings.patch.spacing, detectors[source]
    z = draw_latents(synthesizer, len(backgrounds), spacing, generator)
    found = search_latent(attack_loss(attacked.model, 1), synthesizer, backgrounds, z, settings.latent, spacing, generator).best
    direction = torch.randn(z.shape, generator=generator, device=generator.device)
    step = direction * (found - z).norm(dim=1, keepdim=True) / direction.norm(dim=1, keepdim=True)
    conditions = {"random": z, "pgd": found, "random-step": z + step}
    table = _answers(detectors, source, synthesizer, backgrounds.cpu(), conditions, spacing)
    first, evaluations = (backgrounds[:searched], z[:searched]), settings.latent.steps + 2
    hardest = random_search(attacked, synthesizer, *first, evaluations, spacing, generator)
    return table.assign(random_search=table["index"].map(dict(enumerate(hardest.tolist()))))


@torch.no_grad()
def _answers(detectors, source, synthesizer, backgrounds, conditions, spacing):
    """The networks' answers to the nodules of the codes (N, L) of each condition; those of the first are "as drawn"."""
    tables, before = [], None
    for condition, codes in conditions.items():
        nodules, masks = (cubes.cpu() for cubes in synthesizer(codes))
        patches = blend(backgrounds, nodules, masks)
        before = (patches, masks) if before is None else before
        table = describe_nodules(nodules, masks, spacing).assign(condition=condition, index=range(len(codes)))
        table["ssim"] = ssim(before[0], patches, _dilate(torch.maximum(before[1], masks), spacing)).numpy()
        for network in detectors if condition != "random-step" else (source,):
            tables.append(table.assign(network=network, confidence=detectors[network].predict(patches)[0].numpy()))
    return pd.concat(tables, ignore_index=True)


def _dilate(masks, spacing):
    """The masks' inside (> 0.5) grown by AROUND_MM, and two voxels of `spacing` mm at least, bool."""
    voxels = whole_voxels(AROUND_MM, spacing, least=2)
    return F.max_pool3d((masks > 0.5).float(), 2 * voxels + 1, stride=1, padding=voxels) > 0
