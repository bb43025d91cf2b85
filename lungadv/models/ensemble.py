"""Networks of false-positive reduction that answer together."""

from collections.abc import Sequence

import torch
from torch import nn

from lungadv.models.dense_unet import FPR

__all__ = ["Ensemble", "members_of"]


class Ensemble(nn.Module):
    """Networks whose outputs are averaged, as deep ensembles do (Lakshminarayanan et al. 2017): (N, 1, P, P, P) in [0, 1] -> (N, 2).

    members: two or more, of one `output`, one width and one `middle`. Raises ValueError for others.
    """

    def __init__(self, members: Sequence[FPR]):
        super().__init__()
        kinds = {(member.output, member.unet.width, member.middle) for member in members}
        if len(members) < 2 or len(kinds) > 1:
            raise ValueError(f"{len(members)} networks of {len(kinds)} kinds make no ensemble: give two or more of one kind")
        self.members = nn.ModuleList(members)
        self.output = members[0].output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mean over the members of their evidence or logits, float32 (N, 2)."""
        return torch.stack([member(x) for member in self.members]).mean(dim=0)


def members_of(network: FPR | Ensemble) -> list[FPR]:
    """The networks of an ensemble, or the one network."""
    return list(network.members) if isinstance(network, Ensemble) else [network]
