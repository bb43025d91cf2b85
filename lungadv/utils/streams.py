"""Named random streams: what a lower room asks of a run that it does not know."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class RandomStreams(Protocol):
    """Generators derived from a seed and names: the same names give the same stream. `lungadv.pipeline.runs.Run` has them."""

    def rng(self, *items: object) -> np.random.Generator:
        """A numpy generator of the stream `items`."""

    def generator(self, *items: object, device: "str | torch.device" = "cpu") -> "torch.Generator":
        """A torch generator of the stream `items`."""
