"""Norm balls: a random start, the steepest step, the exact projection and the length of an offset, for L-infinity, L2 and L1."""

import math
from collections.abc import Iterable

import torch

from .checks import check_tensor, check_tuples, per_sample
from .random_source import RandomSource
from .tensors import column, sample_dims

__all__ = ["L1", "L2", "NORMS", "Ball", "Linf", "Product", "make_ball", "make_product"]


class Ball:
    """The points within `eps` of `start` in a norm and within the bounds `low` and `high`.

    start is (N, ...), eps a column (N, 1, ...) in the units of start; low and high broadcast to start, which lies within them.
    A norm adds `draw`, `length`, `direction` (or `step`) and `project`.
    """

    def __init__(self, start: torch.Tensor, eps: torch.Tensor, low: torch.Tensor, high: torch.Tensor):
        self.start, self.eps, self.low, self.high = start, eps, low, high

    def __getitem__(self, rows: torch.Tensor) -> "Ball":
        """The balls of some of the samples."""
        low, high = (bound if len(bound) == 1 else bound[rows] for bound in (self.low, self.high))
        return type(self)(self.start[rows], self.eps[rows], low, high)

    def step(self, points: torch.Tensor, gradient: torch.Tensor, step_size: torch.Tensor) -> torch.Tensor:
        """The points (N, ...) moved by `step_size` (N, 1, ...) in the norm along the steepest ascent; not yet projected."""
        return (step_size * self.direction(gradient)).add_(points)


class Linf(Ball):
    """L-infinity: every number differs from `start` by at most eps. Ball and bounds together are one box."""

    def __init__(self, start: torch.Tensor, eps: torch.Tensor, low: torch.Tensor, high: torch.Tensor):
        super().__init__(start, eps, low, high)
        self.lower, self.upper = (start - eps).clamp(low, high), (start + eps).clamp(low, high)

    def draw(self, source: RandomSource) -> torch.Tensor:
        """A point uniform in the ball and the bounds, (N, ...)."""
        return self.project(self.lower + (self.upper - self.lower) * source.uniform(self.lower.shape, self.start))

    def length(self, offset: torch.Tensor) -> torch.Tensor:
        """The largest change of each sample, (N, 1, ...)."""
        return offset.abs().amax(sample_dims(offset), keepdim=True)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The steepest ascent of unit length."""
        return gradient.sign()

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """The nearest point of the ball within the bounds."""
        return points.clamp(self.lower, self.upper)


def _allowed_change(ball, points):
    """Signs, sizes and sizes within the bounds of the change from start to `points`, each (N, d); eps (N, 1). All float64 but the signs."""
    offset = (points.double() - ball.start.double()).flatten(1)
    below, above = ((bound.double() - ball.start.double()).abs().flatten(1) for bound in (ball.low, ball.high))
    size = offset.abs()
    return offset.sign(), size, torch.minimum(size, torch.where(offset > 0, above, below)), ball.eps.double().reshape(-1, 1)


def _start_plus(ball, sign, size):
    """The point that lies `size` (N, d) along `sign` from the start, in start's type and shape."""
    offset = (sign * size).reshape(ball.start.shape)
    return (ball.start.double() + offset).to(ball.start.dtype).clamp(ball.low, ball.high)


def _first_reaching(values, goal):
    """The first column of ascending `values` (N, d) that is at least `goal` (N, 1); the last column where none is."""
    return (values < goal).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)


def project_l2_box(ball: "L2", points: torch.Tensor) -> torch.Tensor:
    """The point of the L2 ball and the bounds nearest to `points` (N, ...), exactly.

    With a the size of the change and r its part within the bounds, number i moves by min(t a_i, r_i). The t in [0, 1] solves
    sum_i min(t a_i, r_i)^2 = eps^2. The left side changes its form only at t = r_i / a_i: these are sorted.
    """
    sign, size, most, eps = _allowed_change(ball, points)
    meets = torch.where(size > 0, most / size, 1)  # the t at which a number meets its bound
    meets, order = meets.sort(dim=1)
    stopped = most.gather(1, order).square().cumsum(1)
    squares = size.gather(1, order).square()
    free = squares.flip(1).cumsum(1).flip(1)  # of this number and those that meet their bound later
    here = _first_reaching(stopped + meets.square() * (free - squares), eps.square())
    before = torch.where(here > 0, stopped.gather(1, (here - 1).clamp(min=0)), 0)
    t = ((eps.square() - before).clamp(min=0) / free.gather(1, here).clamp(min=torch.finfo(free.dtype).tiny)).sqrt()
    t = torch.where(most.square().sum(1, keepdim=True) <= eps.square(), 1, t)
    return _start_plus(ball, sign, torch.minimum(t * size, most))


def project_l1_box(ball: "L1", points: torch.Tensor) -> torch.Tensor:
    """The point of the L1 ball and the bounds nearest to `points` (N, ...), exactly.

    With a the size of the change and r its part within the bounds, number i moves by min(max(a_i - theta, 0), r_i): a soft threshold.
    The theta >= 0 makes these sum to eps. The sum changes its form only at theta = a_i and theta = a_i - r_i: these are sorted.
    """
    sign, size, most, eps = _allowed_change(ball, points)
    theta, order = torch.cat([size, size - most], dim=1).sort(dim=1, descending=True)
    begins = torch.ones_like(size)
    moving = torch.cat([begins, -begins], dim=1).gather(1, order).cumsum(1)  # how many move just below that theta
    gained = (moving * -theta.diff(dim=1, append=theta[:, -1:])).roll(1, dims=1)
    gained[:, 0] = 0
    gained = gained.cumsum(1)
    last = (_first_reaching(gained, eps) - 1).clamp(min=0)
    threshold = theta.gather(1, last) - (eps - gained.gather(1, last)) / moving.gather(1, last).clamp(min=1)
    threshold = torch.where(most.sum(1, keepdim=True) <= eps, 0, threshold)
    return _start_plus(ball, sign, torch.minimum((size - threshold).clamp(min=0), most))


def _euclidean(tensor):
    """The Euclidean length of each sample, (N, 1, ...)."""
    return torch.linalg.vector_norm(tensor, dim=sample_dims(tensor), keepdim=True)


class L2(Ball):
    """L2: the change has Euclidean length at most eps."""

    def draw(self, source: RandomSource) -> torch.Tensor:
        """A point uniform in the ball, (N, ...); one outside the bounds is projected."""
        direction = self.direction(source.normal(self.start.shape, self.start))
        share = source.uniform(self.eps.shape, self.start) ** (1 / math.prod(self.start.shape[1:]))  # the volume within it is uniform
        return self.project(self.start + self.eps * share * direction)

    def length(self, offset: torch.Tensor) -> torch.Tensor:
        """The Euclidean length of each sample, (N, 1, ...)."""
        return _euclidean(offset)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The steepest ascent of unit length; zero where the gradient is."""
        largest = gradient.abs().amax(sample_dims(gradient), keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1)  # else the squares of tiny gradients vanish
        return scaled / _euclidean(scaled).clamp(min=1)

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """The nearest point of the ball within the bounds."""
        offset = points - self.start
        shrink = self.eps / _euclidean(offset).clamp(min=torch.finfo(offset.dtype).tiny)
        near = self.start + offset * shrink.clamp(max=1)
        outside = ((near < self.low) | (near > self.high)).flatten(1).any(1)
        return torch.where(column(outside, near), project_l2_box(self, points), near) if outside.any() else near


def _exponential(share):
    """The exponential number of which a share in [0, 1] lies below."""
    return -torch.log1p(-share.clamp(max=1 - torch.finfo(share.dtype).eps))


def _fill_largest_first(room, gradient, step_size):
    """Moves (N, ...) of at most `room` each that sum to at most `step_size` (N, 1, ...): the largest gradient is served first."""
    order = gradient.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
    room = room.flatten(1).double()
    taken = room.gather(1, order)
    left = (step_size.reshape(-1, 1) - (taken.cumsum(1) - taken)).clamp(min=0)
    move = torch.zeros_like(room).scatter(1, order, torch.minimum(taken, left)).to(gradient.dtype)
    return move.reshape(gradient.shape)


class L1(Ball):
    """L1: the changes add up to at most eps."""

    def draw(self, source: RandomSource) -> torch.Tensor:
        """A point uniform in the ball, (N, ...); one outside the bounds is projected."""
        both = 2 * source.uniform(self.start.shape, self.start) - 1
        sizes, rest = (_exponential(share) for share in (both.abs(), source.uniform(self.eps.shape, self.start)))
        return self.project(self.start + self.eps * both.sign() * sizes / (sizes.sum(sample_dims(sizes), keepdim=True) + rest))

    def length(self, offset: torch.Tensor) -> torch.Tensor:
        """The sum of the changes of each sample, (N, 1, ...)."""
        return offset.abs().sum(sample_dims(offset), keepdim=True)

    def step(self, points: torch.Tensor, gradient: torch.Tensor, step_size: torch.Tensor) -> torch.Tensor:
        """The number of the largest gradient moves; where it meets its bound the next one, until `step_size` is used up."""
        room = torch.where(gradient > 0, self.high - points, points - self.low).clamp(min=0)
        room = torch.where(gradient == 0, 0, torch.minimum(room, step_size))
        return points + gradient.sign() * _fill_largest_first(room, gradient, step_size)

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """The nearest point of the ball within the bounds."""
        inside = points.clamp(self.low, self.high)
        outside = (self.length(inside - self.start) > self.eps).flatten(1).any(1)
        return torch.where(column(outside, inside), project_l1_box(self, points), inside) if outside.any() else inside


NORMS = {"linf": Linf, "l2": L2, "l1": L1}


class Product:
    """The balls of several tensors that are searched together: each method maps tuples, one tensor a ball."""

    def __init__(self, balls: Iterable[Ball]):
        self.balls = tuple(balls)
        self.start = tuple(ball.start for ball in self.balls)

    def __getitem__(self, rows: torch.Tensor) -> "Product":
        """The balls of some of the samples."""
        return Product(ball[rows] for ball in self.balls)

    def draw(self, source: RandomSource) -> tuple[torch.Tensor, ...]:
        """A point uniform in each ball."""
        return tuple(ball.draw(source) for ball in self.balls)

    def step(self, points: tuple, gradients: tuple, step_sizes: tuple) -> tuple[torch.Tensor, ...]:
        """The points moved by a step along the steepest ascent in each ball."""
        return tuple(ball.step(*each) for ball, *each in zip(self.balls, points, gradients, step_sizes, strict=True))

    def project(self, points: tuple) -> tuple[torch.Tensor, ...]:
        """The nearest point of each ball within its bounds."""
        return tuple(ball.project(each) for ball, each in zip(self.balls, points, strict=True))


def make_ball(start: torch.Tensor, eps: float | torch.Tensor, norm: str = "linf", bounds: tuple | None = None) -> Ball:
    """The ball of radius `eps` (one number, or (N,)) around `start` (N, ...), cut by `bounds` (low, high).

    Raises ValueError for arguments that cannot be meant: an unknown norm, a negative radius, a start outside the bounds.
    """
    check_tensor(start)
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown: choose one of {', '.join(NORMS)}")
    if not start.is_floating_point() or start.ndim < 2:
        raise ValueError(f"start is {start.dtype} of shape {tuple(start.shape)}: give floating numbers of shape (N, ...), one row a sample")
    start = start.detach()
    eps = per_sample(eps, start, "eps", "in the units of start")
    low, high = _bounds(bounds, start)
    if ((start < low) | (start > high)).any():
        raise ValueError("start leaves the bounds: bring it into their range first")
    return NORMS[norm](start, eps, low, high)


def _bounds(bounds, start):
    """The lowest and highest values as tensors that broadcast to `start`, infinite without bounds."""
    bounds = (-math.inf, math.inf) if bounds is None else tuple(bounds)
    if len(bounds) != 2 or any(bound is None or isinstance(bound, str) for bound in bounds):  # "01" has two parts, too
        raise ValueError(f"bounds = {bounds}: give a pair (low, high), or None for no bounds")
    low, high = (torch.as_tensor(bound, dtype=start.dtype, device=start.device) for bound in bounds)
    if not (low <= high).all():  # nor of NaN
        raise ValueError("bounds: a low bound is above its high one, or NaN")
    return (bound.reshape([1] * (start.ndim - bound.ndim) + list(bound.shape)) for bound in (low, high))


def make_product(
    start: torch.Tensor | tuple, eps: float | torch.Tensor | tuple, norm: str | tuple[str, ...] = "linf", bounds: tuple | None = None
) -> Product:
    """The balls around `start`, a tensor or a tuple of tensors of the same N; then eps, norm and bounds are tuples too.

    One norm, and no bounds at all, may stand for all tensors. Raises ValueError as `make_ball`.
    """
    if not isinstance(start, tuple | list):
        return Product((make_ball(start, eps, norm, bounds),))
    for part in start:
        check_tensor(part)
    start = tuple(tensor.detach() for tensor in start)
    if not start or any(len(tensor) != len(start[0]) for tensor in start):
        raise ValueError(f"the tensors of start have {[len(tensor) for tensor in start]} rows: give tensors of the same number of samples")
    norms = (norm,) * len(start) if isinstance(norm, str) else norm
    bounds = (None,) * len(start) if bounds is None else bounds
    check_tuples(len(start), eps=eps, norm=norms, bounds=bounds)
    return Product(map(make_ball, start, eps, norms, bounds))
