"""The best point of every sample so far, and which samples are still searched."""

import math
import warnings
from collections.abc import Callable

import torch

from .state import State
from .tensors import at_least_float32

__all__ = ["Record", "success_rule"]


def success_rule(success: float | Callable | None, single: bool) -> Callable[[State], torch.Tensor] | None:
    """The caller's rule as a function of a state -> (n,) bool; None without one.

    `success` is the loss above which a sample has succeeded, or a function (batch, *context) -> (n,) bool.
    Raises ValueError for a tensor of several numbers and for a function that returns anything else.
    """
    if success is None:
        return None
    if not callable(success):
        if torch.is_tensor(success) and success.ndim:
            raise ValueError(f"success has shape {tuple(success.shape)}: give one number, or a function (batch, *context) -> (N,) bool")
        return lambda state: state.loss > success

    @torch.no_grad()
    def succeeded(state):
        won = success(state.points[0] if single else state.points, *state.context)
        if not torch.is_tensor(won) or won.dtype != torch.bool or won.shape != state.loss.shape:
            count = len(state.loss)
            raise ValueError(f"success must return True or False for each of the {count} samples, as a bool tensor ({count},)")
        return won

    return succeeded


def _put(values, chosen, rows, kept):
    """Put the chosen (n,) of `values` (n, ...) of the samples `rows` into `kept` (N, ...)."""
    if chosen.all():
        kept[rows] = values
    else:
        kept[rows[chosen]] = values[chosen]


class Record:
    """The best point of every sample of `start`, a tuple of tensors (N, ...). What a sample shows first is its start.

    `success` is a rule as of `success_rule`. A sample whose loss is NaN, or its gradient not finite, is searched no further.
    """

    def __init__(self, start: tuple, success: Callable[[State], torch.Tensor] | None = None):
        count, device = len(start[0]), start[0].device
        self.best, self.success = tuple(tensor.clone() for tensor in start), success
        self.loss_start = torch.full((count,), -math.inf, dtype=at_least_float32(start[0].dtype), device=device)
        self.loss_best = self.loss_start.clone()
        flags = (torch.zeros(count, dtype=torch.bool, device=device) for _ in range(4))
        self.begun, self.broken, self.ever_broken, self.succeeded = flags

    def active(self, rows: torch.Tensor) -> torch.Tensor:
        """Which of the samples `rows` (n,) an attack still has to bring down, bool (n,): all of them without a rule of success."""
        if self.success is None:
            return torch.ones_like(rows, dtype=torch.bool)
        return ~(self.succeeded[rows] | self.broken[rows])

    def drop_inactive(self, state: State) -> State:
        """The state without the samples that have succeeded or broken; the same state where none has."""
        if self.success is None:
            return state
        active = self.active(state.rows)
        return state if active.all() else state[active]

    def keep_best(self, state: State) -> None:
        """Take the points of a state that has its loss: those that succeed, or are better than any before."""
        rows, loss = state.rows, state.loss
        self.loss_start, self.loss_best = self.loss_start.to(loss.dtype), self.loss_best.to(loss.dtype)
        _put(loss, ~self.begun[rows], rows, self.loss_start)
        better = (loss > self.loss_best[rows]) & ~self.broken[rows]  # never true of NaN
        won = torch.zeros_like(better)
        if self.success is not None:
            won = self.success(state) & ~loss.isnan()
        for best, points in zip(self.best, state.points, strict=True):
            _put(points, better | won, rows, best)
        _put(loss, better | won, rows, self.loss_best)
        fine = loss.isfinite()
        for gradient in state.gradients:
            extremes = gradient.flatten(1).amax(1), gradient.flatten(1).amin(1)  # NaN wherever one is
            fine = fine & extremes[0].isfinite() & extremes[1].isfinite()
        self.begun[rows], self.succeeded[rows], self.broken[rows] = True, won, self.broken[rows] | ~(fine | won)
        self.ever_broken[rows] |= self.broken[rows]

    def restart(self) -> None:
        """Those whose last restart ended in NaN may try again; not those whose start is NaN itself."""
        self.broken = self.begun & self.loss_start.isnan()

    def results(self, single: bool) -> tuple:
        """best, loss_start, loss_best and success, as an `Attack` takes them; a warning names the samples that were not finite."""
        lost = self.loss_start.isnan()
        self.loss_best[lost] = self.loss_start[lost]  # nothing is better than NaN: they are at their start
        if self.ever_broken.any():
            named = self.ever_broken.nonzero().flatten().tolist()
            warnings.warn(f"loss or gradient not finite in samples {named}: their search ended there", stacklevel=3)
        success = self.loss_best > self.loss_start if self.success is None else self.succeeded
        return self.best[0] if single else self.best, self.loss_start, self.loss_best, success
