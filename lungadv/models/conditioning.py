"""Beyond the paper: nodules to order, of a requested diameter, type and outline."""

import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from lungadv.data.tables import SMALLEST_MM, TYPES
from lungadv.models.synthesizer import decode
from lungadv.utils.errors import InputError

__all__ = [
    "CONDITIONS",
    "REQUESTED_MM",
    "class_balanced_weights",
    "conditioning_grid",
    "draw_conditioned",
    "encode_condition",
    "redraw_diameters",
    "size_error",
    "spiculate",
]

REQUESTED_MM = (SMALLEST_MM, 20.0)  # diameters that the conditioned generator is trained to draw
CONDITIONS = len(TYPES) + 2  # numbers of a condition

SPICULES = (4, 9)  # of a spiculated nodule, as many and as wide as those of the simulated chest
SPICULE_REACH = (0.4, 0.9)  # w: of its radius, beyond it
SPICULE_SHARPNESS = (25.0, 60.0)  # k: at half their reach they are 27 to 17 degrees across


def encode_condition(table: pd.DataFrame) -> torch.Tensor:
    """What each nodule is to be, (N, CONDITIONS) float32: log diameter, one of TYPES as 0 and 1, and 1 if spiculated.

    `table` has the columns diameter_mm, type and spiculated. An unspecified type is none of TYPES.
    """
    size = np.log(table["diameter_mm"].to_numpy(float) / 10) / 0.4  # about 0 to 1 in size, like the others
    kind = table["type"].to_numpy()[:, None] == np.array(TYPES)
    return torch.from_numpy(np.column_stack([size, kind, table["spiculated"].to_numpy(bool)]).astype(np.float32))


def redraw_diameters(conditions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The conditions (N, C), each with another diameter, log-uniform in REQUESTED_MM; `generator` is on the CPU."""
    low, high = (math.log(diameter / 10) / 0.4 for diameter in REQUESTED_MM)
    size = low + (high - low) * torch.rand(len(conditions), 1, generator=generator)
    return torch.cat([size.to(conditions.device), conditions[:, 1:]], dim=1)


def size_error(masks: torch.Tensor, conditions: torch.Tensor, spacing: float) -> torch.Tensor:
    """|log(diameter / requested diameter)|, the mean over the batch.

    masks: (N, 1, P, P, P) with voxels of `spacing` mm; conditions: (N, C). The volume counts voxels whose mask exceeds 1/2, softly.
    """
    volume = (20 * (masks - 0.5)).sigmoid().flatten(1).sum(1) * spacing**3
    return ((6 / math.pi * volume).log() / 3 - (0.4 * conditions[:, 0] + math.log(10))).abs().mean()


def class_balanced_weights(classes: torch.Tensor) -> torch.Tensor:
    """The weight (N,) of each row in a draw that is to give every class, (N, K) rows that are equal, as often."""
    _, index, count = classes.unique(dim=0, return_inverse=True, return_counts=True)
    return 1 / count[index]


def spiculate(nodules: torch.Tensor, masks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodules and masks (N, 1, P, P, P) with spicules: stretched outwards along random directions v, and shrunk to their old volume.

    A point in direction u moves outwards by the factor r(u) = 1 + sum of w exp(k (u . v - 1)).
    All are then divided by the cube root of the mean of r^3 over 4096 directions. `generator` is on the CPU, as the tensors.
    """

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, 1, most, generator=generator)

    def radius(directions):
        return 1 + (reach * ((directions @ axes - 1) * sharpness).exp()).sum(2, keepdim=True)

    count, size, most = len(masks), masks.shape[-1], SPICULES[1]
    axes = F.normalize(torch.randn(count, 3, most, generator=generator), dim=1)
    present = torch.arange(most) < torch.randint(SPICULES[0], most + 1, (count, 1, 1), generator=generator)
    reach, sharpness = uniform(*SPICULE_REACH) * present, uniform(*SPICULE_SHARPNESS)
    points = F.affine_grid(torch.eye(3, 4)[None], (1, 1, *[size] * 3), align_corners=False).reshape(1, -1, 3)
    everywhere = F.normalize(torch.randn(1, 4096, 3, generator=generator), dim=2)
    volume = (radius(everywhere) ** 3).mean(1, keepdim=True)
    grid = (points / radius(F.normalize(points, dim=2)) * volume ** (1 / 3)).reshape(count, *[size] * 3, 3)
    return F.grid_sample(torch.cat([nodules, masks], dim=1), grid, align_corners=False).split(1, dim=1)


def draw_conditioned(synthesizer: nn.Module, requested: pd.DataFrame, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodules and masks to order, each (N, 1, P, P, P) in [0, 1], from a conditioned generator on the CPU.

    requested: a row a nodule: diameter_mm, within REQUESTED_MM; type, one of TYPES; spiculated, bool. `generator` is on the CPU.
    Beyond the paper, whose conclusion names size and spicules as limits. Raises InputError for another diameter or type.
    """
    strange = requested[~(requested["diameter_mm"].between(*REQUESTED_MM) & requested["type"].isin(TYPES))]
    if len(strange):
        size, kind = strange.iloc[0][["diameter_mm", "type"]]
        limits = f"{REQUESTED_MM[0]:g} to {REQUESTED_MM[1]:g} mm and one of {', '.join(TYPES)}"
        raise InputError(f"no nodule of {size:g} mm and type '{kind}' can be drawn: ask for {limits}")
    z = torch.randn(len(requested), synthesizer.latent_size, generator=generator)
    nodules, masks = decode(synthesizer, z, encode_condition(requested))
    spiculated = torch.from_numpy(np.flatnonzero(requested["spiculated"]))
    for rows in spiculated.split(8) if len(spiculated) else ():
        nodules[rows], masks[rows] = spiculate(nodules[rows], masks[rows], generator)
    return nodules, masks


def conditioning_grid(count: int) -> pd.DataFrame:
    """A table to request: of each type, and of spiculated solid nodules, `count` diameters, evenly spaced on a log scale."""
    kinds = pd.DataFrame({"type": [*TYPES, "solid"], "spiculated": [False] * len(TYPES) + [True]})
    return kinds.merge(pd.DataFrame({"diameter_mm": np.geomspace(*REQUESTED_MM, count).clip(*REQUESTED_MM)}), how="cross")
