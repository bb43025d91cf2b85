"""Random changes of a given size: what an attack of the same norm and eps is held against."""

from collections.abc import Sequence

import torch

from .norms import make_ball
from .random_source import RandomSource

__all__ = ["gaussian_noise", "random_noise"]


def random_noise(
    start: torch.Tensor,
    *,
    eps: float | torch.Tensor,
    norm: str = "linf",
    bounds: tuple | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | torch.Tensor | None = None,
) -> torch.Tensor:
    """A point uniform in each sample's ball, cut by the bounds; (N, ...) like `start`.

    It is the control beside an attack of the same eps and norm. For the arguments and errors see `pgd`; `start` is one tensor.
    """
    ball = make_ball(start, eps, norm, bounds)
    return ball.draw(RandomSource(ball.start, generator, seeds))


def gaussian_noise(
    start: torch.Tensor,
    *,
    eps: float | torch.Tensor,
    norm: str = "linf",
    bounds: tuple | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | torch.Tensor | None = None,
) -> torch.Tensor:
    """Each sample plus normal noise scaled to length eps in the norm, then cut by the bounds; (N, ...) like `start`.

    For the arguments and errors see `pgd`; `start` is one tensor.
    """
    ball = make_ball(start, eps, norm, bounds)
    normal = RandomSource(ball.start, generator, seeds).normal(start.shape, ball.start)
    return ball.project(ball.start + ball.eps * normal / ball.length(normal))
