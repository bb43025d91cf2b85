"""Square: an attack that asks for no gradient (Andriushchenko et al. 2020)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from tqdm import tqdm

from .checks import check_context
from .norms import Ball, Product, make_ball
from .objective import Objective
from .pgd import Attack
from .random_source import RandomSource
from .record import Record, success_rule
from .state import State
from .tensors import column

__all__ = ["square"]


def _side_share(query, queries):
    """The share of the input that a cube covers: 80 % at first, halved at nine points of the search."""
    passed = sum(query / queries > at / 10_000 for at in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return 0.8 / 2**passed


def _cube(shares, shape, axes, volume):
    """For random shares (n, axes + 1) in [0, 1): which numbers lie in a cube of that share of the volume, (n, ...), and a sign each."""
    inside = torch.ones(len(shares), *[1] * (len(shape) - 1), dtype=torch.bool, device=shares.device)
    for share, axis in zip(shares.unbind(1), axes, strict=False):
        side = max(1, round(shape[axis] * volume ** (1 / len(axes))))
        low = (share * (shape[axis] - side + 1)).floor()[:, None]
        along = torch.arange(shape[axis], device=shares.device)
        view = [-1 if at in (0, axis) else 1 for at in range(len(shape))]
        view[0] = len(shares)
        inside = inside & ((along >= low) & (along < low + side)).reshape(view)
    return inside, column(2.0 * (shares[:, -1] < 0.5) - 1, inside).to(shares.dtype)


class _Proposals:
    """The random changes that a search tries: first stripes at the surface of the ball, then one cube at a corner of the ball a query.

    All numbers are drawn at once, so that batches change none. An axis of length 1, a channel, is left out.
    """

    def __init__(self, ball: Ball, queries: int, source: RandomSource):
        start, self.queries = ball.start, queries
        self.axes = [axis for axis in range(1, start.ndim) if start.shape[axis] > 1]
        self.stripes = source.uniform((len(start), *[1] * (start.ndim - 2), start.shape[-1]), start)
        self.cubes = source.uniform((len(start), queries, len(self.axes) + 1), start)

    def __call__(self, query: int, ball: Ball, rows: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """The point to try for the samples `rows` (n,), made from their best one (n, ...)."""
        if query == 0:
            return ball.start + ball.eps * (2 * (self.stripes[rows] < 0.5) - 1)
        inside, sign = _cube(self.cubes[rows, query], ball.start.shape, self.axes, _side_share(query, self.queries))
        return torch.where(inside, ball.start + ball.eps * sign, best)


def _climb(objective: Objective, state: State, proposals: _Proposals, record: Record, bar: tqdm) -> None:
    """All queries of the samples of `state`, which begin at their start; what raises the loss is kept."""
    record.keep_best(objective.evaluate(state))
    for query in range(proposals.queries):
        state = record.drop_inactive(state)
        if len(state) == 0:
            return
        points = proposals(query, state.ball.balls[0], state.rows, record.best[0][state.rows])
        state = replace(state, points=state.ball.project((points,)))
        record.keep_best(objective.evaluate(state))
        bar.update(len(state))


def square(
    loss: Callable[..., torch.Tensor],
    start: torch.Tensor,
    *,
    context: tuple[torch.Tensor, ...] = (),
    eps: float | torch.Tensor,
    queries: int,
    bounds: tuple | None = None,
    success: float | Callable | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | torch.Tensor | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Attack:
    """Search the linf ball of one tensor `start` (N, ...) with `queries` forwards, and one more that scores the start.

    For the other arguments and the errors see `pgd`. `Attack.steps` is the number of queries.
    """
    ball = make_ball(start, eps, "linf", bounds)
    if queries < 1:
        raise ValueError(f"queries = {queries}: a whole number from 1 up")
    check_context(ball.start, context)
    proposals = _Proposals(ball, queries, RandomSource(ball.start, generator, seeds))
    objective, record = Objective(loss, single=True), Record((ball.start,), success_rule(success, single=True))
    everyone = State.at_start(Product((ball,)), context)
    with tqdm(total=queries * len(everyone), desc=progress, disable=progress is None, mininterval=1) as bar:
        for rows in everyone.rows.split(batch_size or max(1, len(everyone))):
            _climb(objective, everyone[rows], proposals, record, bar)
    return Attack(*record.results(single=True), queries)
