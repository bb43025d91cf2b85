"""Beyond the paper: nodules to order, of a requested diameter, type and outline, from the one generator.

A code is drawn near a training nodule of that type; the diameter is set apart from the code.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn

from lungadv.data.tables import SMALLEST_MM, TYPES
from lungadv.models.synthesizer import decode
from lungadv.utils.errors import InputError

__all__ = ["REQUESTED_MM", "TRAITS", "conditioning_grid", "draw_conditioned", "encode_traits"]

TRAITS = (*TYPES, "spiculated")
REQUESTED_MM = (SMALLEST_MM, 20.0)  # diameters that are asked for


def encode_traits(table: pd.DataFrame) -> torch.Tensor:
    """Which of TRAITS each nodule has, bool (N, 5), from the columns type and spiculated; an unspecified type is none of TYPES."""
    kind = table["type"].to_numpy()[:, None] == np.array(TYPES)
    return torch.from_numpy(np.column_stack([kind, table["spiculated"].to_numpy(bool)]))


def draw_conditioned(generator: nn.Module, requested: pd.DataFrame, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodules and masks to order, each (N, 1, P, P, P) in [0, 1], from a trained `Generator` on the CPU, as `draws`.

    requested: a row a nodule: diameter_mm, within REQUESTED_MM; type, one of TYPES; spiculated, bool.
    Raises InputError for another diameter, and for traits that no training nodule has.
    """
    strange = requested[~requested["diameter_mm"].between(*REQUESTED_MM)]
    if len(strange):
        limits = f"{REQUESTED_MM[0]:g} to {REQUESTED_MM[1]:g} mm"
        raise InputError(f"no nodule of {strange['diameter_mm'].iloc[0]:g} mm can be drawn: ask for {limits}")
    rows = torch.stack([_matching_row(generator, *pair, draws) for pair in zip(encode_traits(requested), requested["type"], strict=True)])
    return decode(generator, generator.prior.draw(rows, draws), torch.tensor(requested["diameter_mm"].to_numpy(np.float32)))


def _matching_row(generator, traits, kind, draws):
    """A random training nodule with exactly these traits (5,)."""
    matching = (generator.prior.traits == traits).all(1).nonzero()[:, 0] if traits[: len(TYPES)].any() else torch.empty(0)
    if len(matching) == 0:
        known = sorted({TRAITS[k] for k in generator.prior.traits.nonzero()[:, 1].tolist()})
        outline = "spiculated " if traits[-1] else ""
        raise InputError(f"no training nodule is a {outline}'{kind}' one: ask for what there is, of {', '.join(known)}")
    return matching[torch.randint(len(matching), (), generator=draws)]


def conditioning_grid(generator: nn.Module, count: int) -> pd.DataFrame:
    """A table to request: `count` diameters, evenly spaced on a log scale, of each type trained on, and of spiculated solid ones."""
    kinds = pd.DataFrame({"type": [*TYPES, "solid"], "spiculated": [False] * len(TYPES) + [True]})
    known = {tuple(traits) for traits in generator.prior.traits.tolist()}
    kinds = kinds[[tuple(traits) in known for traits in encode_traits(kinds).tolist()]]
    return kinds.merge(pd.DataFrame({"diameter_mm": np.geomspace(*REQUESTED_MM, count).clip(*REQUESTED_MM)}), how="cross")
