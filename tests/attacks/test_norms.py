"""Balls, steps and projections against closed forms and a numerical optimiser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lungadv.attacks.norms import make_ball
from lungadv.attacks.pgd import fgsm, pgd
from tests.attacks.attack_cases import NORMS, RULES, SHAPES, generator, length, linear


def test_l2_with_bounds_reaches_the_best_point_of_the_cut_ball():
    weights = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([[0.9, 0.5]], dtype=torch.float64)  # the ball of radius 0.3 is cut at x = 1
    attack = pgd(lambda x: (x * weights).sum(1), start, eps=0.3, steps=200, norm="l2", bounds=(0, 1), generator=generator())
    best = torch.tensor([[1.0, 0.5 + (0.3**2 - 0.1**2) ** 0.5]], dtype=torch.float64)
    torch.testing.assert_close(attack.best, best, atol=2e-3, rtol=0)


def test_tiny_gradients_still_point_uphill():
    start = torch.zeros(2, 3)
    for norm, each in [("linf", 1.0), ("l2", 3**-0.5)]:
        attack = pgd(lambda x: 1e-30 * x.sum(1), start, eps=1.0, steps=10, norm=norm, random_start=False)
        assert attack.success.all()
        torch.testing.assert_close(attack.best, torch.full((2, 3), each))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_l1_moves_the_largest_weight(shape, rule):
    loss, start, weights = linear(shape)
    largest = weights.flatten(1).abs().argmax(1, keepdim=True)
    change = torch.zeros_like(weights.flatten(1)).scatter(1, largest, 0.5 * weights.flatten(1).sign().gather(1, largest))
    attack = pgd(loss, start, context=(weights,), eps=0.5, steps=10, norm="l1", rule=rule, random_start=False)
    torch.testing.assert_close(attack.best, start + change.reshape(start.shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_l1_within_bounds_fills_the_largest_weights_one_after_the_other(shape):
    loss, start, weights = linear(shape)
    change = torch.zeros_like(start).flatten(1)
    room = torch.where(weights > 0, 1 - start, start).flatten(1)
    for sample, order in enumerate(weights.flatten(1).abs().argsort(dim=1, descending=True)):
        left = 1.7
        for number in order:
            move = min(left, room[sample, number].item())
            change[sample, number], left = move * weights[sample].flatten()[number].sign(), left - move
    attack = fgsm(loss, start, context=(weights,), eps=1.7, norm="l1", bounds=(0, 1))
    torch.testing.assert_close(attack.best, start + change.reshape(start.shape))


def balls(norm, rows, numbers, seed, bounds=True):
    """Random balls and points far outside; the starts lie anywhere in the box, on its edges too."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-0.2, 1.2, (rows, numbers)).clip(0, 1)
    points = start + rng.normal(size=(rows, numbers)) * 10 ** rng.uniform(-2, 1, (rows, 1))
    eps = 10 ** rng.uniform(-2, 0.5, rows)
    start, points, eps = map(torch.from_numpy, (start, points, eps))
    return make_ball(start, eps, norm, (0, 1) if bounds else None), points


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["linf", "l2", "l1"]), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
def test_a_projection_is_in_ball_and_box_a_fixed_point_and_nearest(norm, numbers, seed, bounds):
    ball, points = balls(norm, 20, numbers, seed, bounds)
    nearest = ball.project(points)
    assert (length(nearest - ball.start, norm) <= ball.eps.flatten() * (1 + 1e-12) + 1e-14).all()
    assert not bounds or (nearest.min() >= 0 and nearest.max() <= 1)
    torch.testing.assert_close(ball.project(nearest), nearest, rtol=1e-12, atol=1e-14)
    # nearest in a convex set: no way from there to any point of the set leads towards the given point
    others = torch.stack([ball.project(ball.start + torch.randn(ball.start.shape, generator=generator(k)).double()) for k in range(50)])
    towards = ((others - nearest) * (points - nearest)).sum(-1)
    assert towards.max() <= 1e-9 * (1 + (points - nearest).abs().max())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_projection_agrees_with_a_numerical_optimiser(norm):
    ball, points = balls(norm, 12, 5, 3)
    for start, point, eps, found in zip(ball.start, points, ball.eps.flatten(), ball.project(points), strict=True):
        start, point, eps = start.numpy(), point.numpy(), eps.item()
        if norm == "l2":  # over the point itself
            limit = {"type": "ineq", "fun": lambda y, s=start, e=eps: e**2 - ((y - s) ** 2).sum()}
            best = minimize(lambda y, p=point: ((y - p) ** 2).sum(), start, bounds=[(0, 1)] * 5, constraints=limit, tol=1e-14).x
        else:  # over its rise and fall, both from 0 up
            limit = {"type": "ineq", "fun": lambda y, e=eps: e - y.sum()}
            rooms = [(0, room) for room in (*(1 - start), *start)]
            target = (point, start)
            best = minimize(
                lambda y, t=target: ((t[1] + y[:5] - y[5:] - t[0]) ** 2).sum(), np.zeros(10), bounds=rooms, constraints=limit, tol=1e-14
            ).x
            best = start + best[:5] - best[5:]
        assert ((found.numpy() - point) ** 2).sum() <= ((best - point) ** 2).sum() * (1 + 1e-6) + 1e-9
        np.testing.assert_allclose(found.numpy(), best, atol=2e-3)


def test_the_l2_projection_without_a_bound_in_the_way_is_the_plain_one():
    start, points = torch.rand(50, 3, 4, generator=generator()) * 0.2 + 0.4, torch.rand(50, 3, 4, generator=generator(1)) * 0.4 + 0.3
    plain, bounded = (make_ball(start, 0.2, "l2", bounds).project(points) for bounds in (None, (0, 1)))
    assert torch.equal(plain, bounded)


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_may_be_tensors(norm):
    start = torch.full((3, 4), 0.5)
    free = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)  # the numbers that may change
    bounds = (torch.where(free, 0.0, start), torch.where(free, 1.0, start))
    attack = pgd(lambda x: x.sum(1), start, eps=0.2, steps=5, norm=norm, bounds=bounds, batch_size=2, seeds=range(3))
    assert torch.equal(attack.best != start, free) or norm == "l1"
    assert torch.equal(attack.best[~free], start[~free]) and attack.success.tolist() == [True, True, False]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_start_is_kept(norm, dtype):
    start = torch.full((2, 5), 0.5, dtype=dtype)
    attack = pgd(lambda x: x.sum(1), start, eps=0.25, steps=4, norm=norm, bounds=(0, 1), generator=generator())
    assert attack.best.dtype == dtype and attack.success.all()
    assert (length((attack.best - start).double(), norm) <= 0.25 + 5 * torch.finfo(dtype).eps).all()


def test_hounsfield_units_are_not_clamped_to_unit_range():
    start = torch.full((2, 1, 4, 4, 4), -700.0)
    attack = pgd(lambda x: x.flatten(1).mean(1), start, eps=40.0, steps=5, bounds=(-1024.0, 3071.0), random_start=False)
    torch.testing.assert_close(attack.best, start + 40)
