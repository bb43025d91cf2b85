"""The smallest radius at which an attack succeeds, by bisection."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from .norms import make_ball
from .pgd import Attack, pgd
from .random_source import RandomSource
from .tensors import take

__all__ = ["minimal_eps"]


def _bisect(attack, found, length, halvings):
    """Halve the interval between a radius that failed and one that succeeded, for all samples at once, each at its own radius.

    `attack` (rows, radius, loss_start) returns an Attack and the length of its changes; `found` and `length` are those of the largest
    radius. What an attack found is itself a radius, so the length of the change is the upper end.
    """
    best, loss_best, low = found.best, found.loss_best, torch.zeros_like(length)
    radius = torch.where(found.success, length, math.inf)
    for _ in range(halvings):
        rows = (radius.isfinite() & (radius > 0)).nonzero().flatten()
        if len(rows) == 0:
            break
        middle = (low[rows] + radius[rows]) / 2
        again, length = attack(rows, middle, found.loss_start[rows])
        won = again.success
        best[rows[won]], loss_best[rows[won]] = again.best[won], again.loss_best[won]
        radius[rows[won]], low[rows[~won]] = torch.minimum(length, middle)[won], middle[~won]
        low = torch.where(low < radius, low, 0)  # it succeeded by less than a radius at which it had failed
    return radius, replace(found, best=best, loss_best=loss_best)


def minimal_eps(
    loss: Callable[..., torch.Tensor],
    start: torch.Tensor,
    *,
    context: tuple[torch.Tensor, ...] = (),
    eps: float | torch.Tensor,
    success: float | Callable,
    halvings: int = 8,
    norm: str = "linf",
    bounds: tuple | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | torch.Tensor | None = None,
    **options,
) -> tuple[torch.Tensor, Attack]:
    """The smallest radius up to `eps` at which `pgd` succeeds, (N,) in the units of start, and the `Attack` at that radius.

    It is 0 where the start itself succeeds, inf where eps is not enough. Like every attack it finds an upper limit of the truth.
    `success` and `options` (steps, rule, restarts ...) are those of `pgd`. A sample draws the same numbers at every radius.
    Raises ValueError as `pgd`, and for a step_size or loss_start.
    """
    if "step_size" in options or "loss_start" in options:
        raise ValueError("step_size and loss_start are not for minimal_eps: the step follows the radius")
    ball, context = make_ball(start, eps, norm, bounds), tuple(context)
    RandomSource(ball.start, generator, seeds)  # for its checks
    if seeds is None:
        seeds = torch.randint(2**62, (len(start),), generator=generator, device=start.device)
    seeds, options = torch.as_tensor(seeds), options | {"norm": norm, "success": success}

    def attack(rows, radius, loss_start=None):
        own = ball[rows]
        known = {"context": take(context, rows), "bounds": (own.low, own.high), "loss_start": loss_start}
        found = pgd(loss, own.start, eps=radius, seeds=seeds[rows.to(seeds.device)], **known, **options)
        return found, own.length(found.best - own.start).flatten(1)[:, 0] if len(rows) else radius

    found, length = attack(torch.arange(len(start), device=start.device), ball.eps.flatten())
    return _bisect(attack, found, length, halvings)
