"""The samples that a search is moving at the moment, and everything that belongs to them."""

from dataclasses import dataclass

import torch

from .norms import Product
from .tensors import Rows

__all__ = ["State"]


@dataclass(frozen=True)
class State(Rows):
    """n samples on their way; an index slices every field, so that a sample leaves with all that is its own."""

    rows: torch.Tensor  # (n,) int64: their places in the whole start
    points: tuple  # of tensors (n, ...), the iterates
    ball: Product
    context: tuple  # of tensors (n, ...) that the loss gets beside the points
    first_step_size: tuple = ()  # of columns (n, 1, ...)
    step_size: tuple = ()  # the length of the next step; the step rule sets it
    loss: torch.Tensor | None = None  # (n,) at `points`
    gradients: tuple = ()  # of the loss at `points`; empty where only the loss is known
    previous: tuple | None = None  # the points one step ago, for momentum
    checkpoint: Rows | None = None  # what the step rule remembers

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def at_start(cls, ball: Product, context: tuple, first_step_size: tuple = ()) -> "State":
        """All samples, at the centres of their balls."""
        rows = torch.arange(len(ball.start[0]), device=ball.start[0].device)
        return cls(rows, ball.start, ball, tuple(context), first_step_size, first_step_size)
