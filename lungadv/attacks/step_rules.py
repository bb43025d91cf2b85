"""How long each step of PGD is: fixed, falling along a cosine, or halved where a sample stops rising (Auto-PGD); and momentum."""

import math
from dataclasses import dataclass, replace

import torch

from .checks import check_tuples, per_sample
from .norms import Product
from .state import State
from .tensors import Rows, column, where

__all__ = ["RULES", "StepRule", "make_step_rule"]


class StepRule:
    """The fixed rule, and the base of the others: every step has the same length, 2.5 eps / steps by default (Madry et al. 2018).

    `momentum` m in [0, 1) is the share of the last move in the next one. Raises ValueError for any other.
    """

    default_momentum = 0.0
    default_factor = 2.5  # of eps / steps

    def __init__(self, steps: int, momentum: float | None = None):
        momentum = self.default_momentum if momentum is None else momentum
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum = {momentum}: a share of the last move, from 0 up and less than 1")
        self.steps, self.momentum = steps, momentum

    def default_step_size(self, eps: torch.Tensor) -> torch.Tensor:
        """The length of the first step in a ball of radius `eps` (N, 1, ...)."""
        return self.default_factor * eps / self.steps

    def first_step_size(self, step_size: float | torch.Tensor | tuple | None, ball: Product) -> tuple[torch.Tensor, ...]:
        """The length of the first step in each ball, columns (N, 1, ...); `step_size` as given to `pgd`."""
        if step_size is None:
            return tuple(self.default_step_size(one.eps) for one in ball.balls)
        if len(ball.balls) == 1 and not isinstance(step_size, tuple | list):
            step_size = (step_size,)
        check_tuples(len(ball.balls), step_size=step_size)
        each = zip(step_size, ball.start, strict=True)
        return tuple(per_sample(size, start, "step_size", "the length of a step") for size, start in each)

    def adapt(self, state: State, step: int) -> State:
        """The state with the length of the step that it takes now, the `step`-th from 0; its loss and gradients are known."""
        return state

    def move(self, state: State, ahead: tuple) -> State:
        """The state at `ahead`, where the plain step leads, or with momentum m at x + (1 - m)(ahead - x) + m (x - previous), projected."""
        if not self.momentum:
            return replace(state, points=ahead)
        if state.previous is not None:
            m, each = self.momentum, zip(state.points, ahead, state.previous, strict=True)
            ahead = state.ball.project(tuple(x + (1 - m) * (z - x) + m * (x - previous) for x, z, previous in each))
        return replace(state, points=ahead, previous=state.points)


class Cosine(StepRule):
    """The length falls to 0 along a half cosine; the first is 5 eps / steps by default."""

    default_factor = 5.0

    def adapt(self, state: State, step: int) -> State:
        factor = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return replace(state, step_size=tuple(factor * size for size in state.first_step_size)) if step else state


@dataclass(frozen=True)
class Checkpoint(Rows):
    """What Auto-PGD remembers of each sample: the best iterate of this restart, and what happened since the last checkpoint."""

    points: tuple
    gradients: tuple
    loss: torch.Tensor
    last_loss: torch.Tensor  # of the last iterate
    rises: torch.Tensor  # steps that rose since the checkpoint
    loss_then: torch.Tensor  # the best loss at the checkpoint
    halved_then: torch.Tensor

    @classmethod
    def first(cls, state: State) -> "Checkpoint":
        """Before the first step: no sample has risen, and none is halved for standing still."""
        loss = state.loss
        return cls(state.points, state.gradients, loss, loss, torch.zeros_like(loss), loss, torch.ones_like(loss, dtype=torch.bool))

    def update(self, state: State) -> "Checkpoint":
        """With the iterate of `state` counted."""
        better = state.loss > self.loss
        return replace(
            self,
            points=where(better, state.points, self.points),
            gradients=where(better, state.gradients, self.gradients),
            loss=torch.where(better, state.loss, self.loss),
            last_loss=state.loss,
            rises=self.rises + (state.loss > self.last_loss),
        )


class Halving(StepRule):
    """Auto-PGD (Croce and Hein 2020, section 3): at checkpoints, samples that stopped rising return to their best with half the step.

    A sample has stopped if fewer than 75 % of the steps since the last checkpoint rose. It has too if neither its best loss
    nor its step changed since then. The first step is 2 eps by default, the momentum 0.25.
    """

    default_momentum = 0.25

    def __init__(self, steps: int, momentum: float | None = None):
        super().__init__(steps, momentum)
        self.intervals = _intervals(steps)

    def default_step_size(self, eps: torch.Tensor) -> torch.Tensor:
        return 2.0 * eps

    def adapt(self, state: State, step: int) -> State:
        if state.checkpoint is None:
            return replace(state, checkpoint=Checkpoint.first(state))
        state = replace(state, checkpoint=state.checkpoint.update(state))
        return self._halve(state, self.intervals[step]) if step in self.intervals else state

    def _halve(self, state, interval):
        """The state after a checkpoint, `interval` steps after the last one."""
        best = state.checkpoint
        stuck = (best.rises < 0.75 * interval) | (~best.halved_then & (best.loss <= best.loss_then))
        points = where(stuck, best.points, state.points)
        last_loss, none = torch.where(stuck, best.loss, state.loss), torch.zeros_like(state.loss)
        return replace(
            state,
            points=points,
            gradients=where(stuck, best.gradients, state.gradients),
            previous=None if state.previous is None else where(stuck, points, state.previous),
            step_size=tuple(torch.where(column(stuck, size), size / 2, size) for size in state.step_size),
            checkpoint=replace(best, last_loss=last_loss, rises=none, loss_then=best.loss, halved_then=stuck),
        )


def _intervals(steps):
    """Of each checkpoint, at 22 %, 41 %, 57 % ... of all steps: {its step: steps since the checkpoint before}."""
    shares = [0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    at = sorted({math.ceil(share * steps) for share in shares})
    return {step: step - before for before, step in zip(at, at[1:], strict=False)}


RULES = {"fixed": StepRule, "cosine": Cosine, "halving": Halving}


def make_step_rule(rule: str, steps: int, momentum: float | None = None) -> StepRule:
    """The step rule of that name, one of RULES. Raises ValueError for another name."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown: choose one of {', '.join(RULES)}")
    return RULES[rule](steps, momentum)
