"""The attack against closed forms, and everything an attack must not do."""

import dataclasses
import json
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from lungadv.pgd import Attack, _ball, fgsm, frozen, gaussian_noise, pgd, random_noise, smallest_eps, square

ROOT = Path(__file__).parents[1]
SHAPES = [(8,), (4, 6), (5, 7, 7), (1, 9, 9, 9)]
NORMS = {"linf": torch.inf, "l2": 2, "l1": 1}
RULES = ["fixed", "cosine", "halving"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(shape, samples=3, dtype=torch.float64):
    """A linear loss whose weights are nowhere near zero, and starting points in [0.3, 0.7]."""
    weights = torch.randn(samples, *shape, generator=generator(1), dtype=dtype)
    weights = weights + 0.1 * weights.sign()
    start = 0.3 + 0.4 * torch.rand(samples, *shape, generator=generator(2), dtype=dtype)
    return (lambda x, w: (x * w).flatten(1).sum(1)), start, weights


def column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


def length(offset, norm):
    return torch.linalg.vector_norm(offset.flatten(1), NORMS[norm], dim=1)


def test_the_attack_is_frozen():
    attack = Attack(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=bool), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("random_start", [True, False])
def test_linf_reaches_the_closed_form_with_and_without_bounds(shape, random_start):
    loss, start, weights = linear(shape)
    options = dict(context=(weights,), eps=0.5, steps=10, random_start=random_start, generator=generator())
    torch.testing.assert_close(pgd(loss, start, **options).best, start + 0.5 * weights.sign())
    bounded = pgd(loss, start, bounds=(0, 1), **options).best
    torch.testing.assert_close(bounded, (start + 0.5 * weights.sign()).clamp(0, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("random_start", [True, False])
def test_l2_reaches_the_closed_form(shape, random_start):
    loss, start, weights = linear(shape)
    options = dict(context=(weights,), eps=0.25, norm="l2", random_start=random_start, generator=generator())
    expected = start + 0.25 * weights / column(weights.flatten(1).norm(dim=1), weights)
    attack = pgd(loss, start, steps=40, step_size=0.25, **options)
    torch.testing.assert_close(attack.best, expected, rtol=1e-6, atol=1e-6)
    gain = loss(expected, weights) - attack.loss_start  # with the default steps a random start gets nearly as far
    assert (pgd(loss, start, steps=40, **options).loss_best - attack.loss_start > 0.95 * gain).all()


def test_l2_with_bounds_reaches_the_best_point_of_the_cut_ball():
    weights = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([[0.9, 0.5]], dtype=torch.float64)  # the ball of radius 0.3 is cut at x = 1
    attack = pgd(lambda x: (x * weights).sum(1), start, eps=0.3, steps=200, norm="l2", bounds=(0, 1), generator=generator())
    best = torch.tensor([[1.0, 0.5 + (0.3**2 - 0.1**2) ** 0.5]], dtype=torch.float64)
    torch.testing.assert_close(attack.best, best, atol=2e-3, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_equals_the_hand_computed_one(norm):
    start = torch.tensor([[0.2, 0.4], [0.5, 0.5]])
    attack = pgd(lambda x: (x**2).sum(1), start, eps=1.0, steps=1, step_size=0.1, norm=norm, random_start=False)
    steepest = {"linf": start.sign(), "l2": start / start.norm(dim=1, keepdim=True), "l1": torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
    expected = start + 0.1 * steepest[norm]
    torch.testing.assert_close(attack.best, expected)
    torch.testing.assert_close(attack.loss_start, (start**2).sum(1))
    torch.testing.assert_close(attack.loss_best, (expected**2).sum(1))
    assert attack.success.all() and attack.steps == 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_and_every_iterate_stay_in_ball_and_box_and_keep_their_type(norm, shape, dtype):
    _, start, weights = linear(shape, dtype=dtype)
    start[0] = start[0].round()  # on the edge of the box
    eps, seen = torch.tensor([0.02, 0.1, 0.4], dtype=dtype), []

    def loss(x, w):
        seen.append(x.detach().clone())
        return (torch.sin(9 * x) * w).flatten(1).sum(1)

    attack = pgd(loss, start, context=(weights,), eps=eps, steps=5, norm=norm, bounds=(0, 1), restarts=2, generator=generator())
    tolerance = 4 * torch.finfo(dtype).eps
    for x in [attack.best, *seen]:
        assert x.dtype == dtype and x.shape == start.shape
        assert x.min() >= 0 and x.max() <= 1
        size = length(x - start, norm)
        assert (size <= eps + tolerance * (1 if norm == "linf" else start[0].numel() ** (1 / NORMS[norm]))).all()
    assert len(seen) == 1 + 2 * (5 + 1) and attack.steps == 10


@pytest.mark.parametrize("norm", NORMS)
def test_zero_eps_gives_back_the_start(norm):
    loss, start, weights = linear((4, 6))
    attack = pgd(loss, start, context=(weights,), eps=torch.tensor([0.0, 0.1, 0.0]), steps=3, norm=norm, generator=generator())
    assert torch.equal(attack.best[[0, 2]], start[[0, 2]]) and not torch.equal(attack.best[1], start[1])
    assert attack.success.tolist() == [False, True, False]
    assert torch.equal(attack.loss_best[[0, 2]], attack.loss_start[[0, 2]])


def rugged(x):
    return torch.sin(25 * x).sum(1) + torch.cos(40 * x[:, 0] * x[:, 1])


@pytest.mark.parametrize("norm", NORMS)
def test_the_best_point_ever_seen_is_returned(norm):
    start, seen = torch.rand(50, 2, generator=generator()), []

    def loss(x):
        values = rugged(x)
        seen.append((x.detach(), values.detach()))
        return values

    attack = pgd(loss, start, eps=0.3, steps=7, norm=norm, restarts=3, generator=generator())
    values = torch.stack([value for _, value in seen])
    assert torch.equal(attack.loss_best, values.max(0).values)
    torch.testing.assert_close(rugged(attack.best), attack.loss_best)
    torch.testing.assert_close(rugged(start), attack.loss_start)
    assert (attack.loss_best >= attack.loss_start).all()


def test_the_last_iterate_is_scored():
    start = torch.zeros(1, 2)
    attack = pgd(lambda x: x.sum(1), start, eps=1.0, steps=1, step_size=1.0, random_start=False)
    assert attack.best.tolist() == [[1, 1]]


def test_more_steps_and_restarts_are_never_worse():
    start = torch.rand(50, 2, generator=generator())
    losses = [pgd(rugged, start, eps=0.3, steps=n, step_size=0.02, random_start=False).loss_best for n in (1, 3, 10, 30)]
    assert all((more >= fewer).all() for fewer, more in zip(losses, losses[1:], strict=False))
    one, four = (pgd(rugged, start, eps=0.3, steps=5, restarts=n, generator=generator()).loss_best for n in (1, 4))
    assert (four >= one).all() and (four > one).any()


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_beats_random_noise_of_the_same_size(norm):
    loss, start, weights = linear((1, 9, 9, 9))
    attack = pgd(loss, start, context=(weights,), eps=0.1, steps=10, norm=norm, generator=generator())
    noise = random_noise(start, eps=0.1, norm=norm, generator=generator())
    assert (attack.loss_best - attack.loss_start > 3 * (loss(noise, weights) - attack.loss_start).abs()).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_generator_gives_the_same_result(norm):
    start = torch.rand(20, 2, generator=generator())
    first, again, other = (pgd(rugged, start, eps=0.2, steps=4, norm=norm, generator=generator(seed)).best for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_order_and_batch_size_do_not_matter_without_a_random_start():
    start, order = torch.rand(20, 2, generator=generator()), torch.randperm(20, generator=generator())
    options = dict(eps=torch.linspace(0.1, 0.3, 20), steps=6, random_start=False)
    whole = pgd(rugged, start, **options).best
    shuffled = pgd(rugged, start[order], **options | {"eps": options["eps"][order]}).best
    alone = torch.cat([pgd(rugged, start[i : i + 1], **options | {"eps": options["eps"][i : i + 1]}).best for i in range(20)])
    torch.testing.assert_close(shuffled, whole[order])
    torch.testing.assert_close(alone, whole)


def test_a_sample_that_is_not_finite_is_named_and_left_alone():
    start = torch.rand(4, 2, generator=generator(3))
    scale = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    poison = torch.tensor([0.0, 0.0, 1.0, 0.0])

    def loss(x, s, p):  # sample 1 has a NaN loss, sample 2 a finite loss whose gradient is NaN
        x = x.clone()
        if x.requires_grad:
            x.register_hook(lambda gradient: torch.where(p[:, None] > 0, torch.nan, gradient))
        return rugged(x) * s

    options = dict(eps=0.2, steps=4, random_start=False)
    with pytest.warns(UserWarning, match=r"samples \[1, 2\]"):
        attack = pgd(loss, start, context=(scale, poison), **options)
    assert torch.equal(attack.best[1:3], start[1:3])
    clean = pgd(rugged, start, **options)
    assert torch.equal(attack.best[[0, 3]], clean.best[[0, 3]])
    assert torch.equal(attack.success, clean.success & torch.tensor([True, False, False, True])) and clean.success.any()


def saturating(batch):
    return -torch.log(torch.sigmoid(400 * (0.51 - batch.mean(1))))  # infinite in float32 from 0.75 or so on


@pytest.mark.parametrize("rule", [None, 1.0, 200.0, lambda batch: batch.mean(1) > 0.7])
def test_an_infinite_loss_is_the_best_there_is(rule):
    start = torch.full((2, 3), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = pgd(saturating, start, eps=torch.tensor([0.45, 0.01]), steps=9, random_start=False, success=rule)
    assert attack.success.tolist() == [True, rule is None]
    assert attack.best[0].mean() > (0.7 if callable(rule) else 0.55)
    assert rule is not None or attack.loss_best[0].isinf()


def test_nan_on_the_way_keeps_the_best_point_before_it_and_the_next_restart_tries_again():
    def loss(batch):
        height = batch.sum(1)
        return torch.where(height > 1.7, torch.nan, height)

    start = torch.full((3, 3), 0.5)
    with pytest.warns(UserWarning, match=r"samples \[0, 1, 2\]: their search ended there"):
        attack = pgd(loss, start, eps=0.2, steps=10, random_start=False)
    assert (attack.loss_best > 1.59).all() and attack.success.all() and torch.equal(attack.loss_best, loss(attack.best))
    with pytest.warns(UserWarning):
        attack = pgd(loss, start, eps=0.2, step_size=0.06, steps=10, restarts=60, success=1.66, generator=generator())
    assert attack.success.all() and (attack.loss_best > 1.66).all()


@pytest.mark.parametrize("success", [None, 99.0])
@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_that_is_nan_in_part_ends_the_search_whatever_the_norm(norm, success):
    def loss(batch):  # the gradient of the first number is NaN below the edge, that of the second is not
        return torch.where(batch > 0.5, (batch - 0.5).sqrt(), 0).sum(1)

    start = torch.tensor([[0.3, 0.8], [0.6, 0.8]])
    with pytest.warns(UserWarning, match=r"samples \[0\]"):
        attack = pgd(loss, start, eps=0.1, steps=3, norm=norm, success=success, random_start=False)
    assert torch.equal(attack.best[0], start[0]) and not attack.success[0] and (attack.loss_best > loss(start))[1]


def test_a_loss_is_never_called_without_samples():
    def loss(batch):
        return batch.view(batch.size(0), -1).sum(1)  # cannot be had of no sample

    ones = torch.ones(3, 1, 2, 2, 2)
    for attack in (fgsm(loss, ones, eps=0.1, success=0.0), pgd(loss, ones, eps=0.1, steps=2, random_start=False, success=8.5)):
        assert attack.success.all()
    for success, radius in ((0.0, 0.0), (100.0, torch.inf)):
        assert (smallest_eps(loss, ones, eps=0.1, steps=2, success=success)[0] == radius).all()


def test_a_loss_that_works_in_place_leaves_points_and_start_alone():
    def loss(batch):
        batch -= 0.5
        return batch.sum(1)

    start = torch.full((3, 4), 0.5)
    attack = square(loss, start, eps=0.1, queries=5, generator=generator())
    assert torch.equal(start, torch.full((3, 4), 0.5)) and (attack.best - start).abs().max() < 0.1 + 1e-6


def test_a_finite_batch_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(rugged, torch.rand(4, 2), eps=0.2, steps=2)


class Network(nn.Module):
    """A small 3D network with everything that an attack could leave changed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(3 * 27, 1))
        self.layers[0].bias.requires_grad_(False)
        self.layers[1].eval()

    def forward(self, x):
        return self.layers(x)[:, 0]


def state(network):
    return (
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [module.training for module in network.modules()],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_handed_back_as_it_came(fails):
    network, start, calls = Network(), torch.rand(4, 1, 5, 5, 5), []
    before, copy = state(network), start.clone()

    def loss(x):
        calls.append(1)
        if fails and len(calls) == 3:
            raise RuntimeError("out of memory")
        return network(x)

    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            pgd(loss, start, eps=0.1, steps=4)
    else:
        attack = pgd(loss, start, eps=0.1, steps=4)
        assert not attack.best.requires_grad and not attack.loss_best.requires_grad
    after = state(network)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:] and all(grad is None for _, grad in after[1])
    assert torch.equal(start, copy) and not start.requires_grad


@pytest.mark.parametrize("norm", NORMS)
def test_the_start_is_neither_changed_nor_aliased(norm):
    start = torch.rand(3, 2)
    copy = start.clone()
    attack = pgd(lambda x: -(x - copy).abs().sum(1), start, eps=0.1, steps=2, norm=norm)  # the start is the maximum
    assert torch.equal(attack.best, start)
    attack.best.add_(1)
    assert torch.equal(start, copy)


def test_it_works_under_no_grad_and_from_a_start_that_requires_grad():
    start = torch.zeros(2, 2, requires_grad=True)
    with torch.no_grad():
        attack = pgd(lambda x: x.sum(1), start, eps=0.5, steps=5)
    torch.testing.assert_close(attack.best, torch.full((2, 2), 0.5))
    assert start.grad is None and start.requires_grad


def test_success_is_the_callers_rule():
    start, limit = torch.zeros(3, 2), torch.tensor([0.1, 0.9, 2.0])
    attack = pgd(lambda x, _: x.sum(1), start, context=(limit,), eps=0.5, steps=5, success=lambda best, limit: best.sum(1) > limit)
    assert attack.success.tolist() == [True, True, False]
    assert attack.success.dtype == torch.bool


def test_tiny_gradients_still_point_uphill():
    start = torch.zeros(2, 3)
    for norm, each in [("linf", 1.0), ("l2", 3**-0.5)]:
        attack = pgd(lambda x: 1e-30 * x.sum(1), start, eps=1.0, steps=10, norm=norm, random_start=False)
        assert attack.success.all()
        torch.testing.assert_close(attack.best, torch.full((2, 3), each))


def test_random_noise_is_uniform_in_the_ball():
    start = torch.full((20_000, 2), 0.5)
    square = random_noise(start, eps=0.5, norm="linf", generator=generator()) - 0.5
    assert abs(square.abs().mean().item() - 0.25) < 0.01 and square.abs().max() <= 0.5
    disc = (random_noise(start, eps=0.5, norm="l2", generator=generator()) - 0.5).norm(dim=1)
    assert disc.max() <= 0.5 + 1e-6
    assert abs((disc < 0.25).float().mean().item() - 0.25) < 0.02  # half the radius holds a quarter of the area
    cut = random_noise(start, eps=0.9, norm="linf", bounds=(0, 1), generator=generator())
    assert cut.min() >= 0 and cut.max() <= 1 and abs(cut.mean().item() - 0.5) < 0.01 and (cut == 1).float().mean() < 0.01


def test_an_empty_batch_is_fine():
    attack = pgd(lambda x: x.sum(1), torch.zeros(0, 2), eps=0.1, steps=2)
    assert attack.best.shape == (0, 2) and attack.success.shape == (0,)


BAD = [
    (dict(norm="l7"), "norm 'l7' is unknown"),
    (dict(rule="slow"), "rule 'slow' is unknown"),
    (dict(momentum=1.0), "momentum = 1.0"),
    (dict(loss_start=torch.zeros(3)), "loss_start has shape"),
    (dict(step_size=torch.ones(3)), "step_size has shape"),
    (dict(seeds=[1]), "one whole number for each of the 2 samples"),
    (dict(seeds=[1, 2], generator=torch.Generator()), "no generator beside them"),
    (dict(success=lambda x: True), "success must return True or False for each"),
    (dict(eps=-0.1), "eps is negative"),
    (dict(eps=float("nan")), "eps is negative, infinite or NaN"),
    (dict(context=torch.ones(4)), "context is one tensor: give a tuple"),
    (dict(context=([1, 2, 3, 4],)), "is a list: give tensors"),
    (dict(success=torch.ones(4)), "give one number, or a function"),
    (dict(bounds=(0, None)), "give a pair"),
    (dict(bounds=(float("nan"), 1)), "or NaN"),
    (dict(eps=torch.ones(3)), "one for each of the 2 samples"),
    (dict(steps=0), "steps = 0"),
    (dict(steps=2.5), "steps = 2.5"),
    (dict(restarts=0), "restarts = 0"),
    (dict(restarts=2, random_start=False), "would all be the same"),
    (dict(bounds=(0, 0.1)), "leaves the bounds"),
    (dict(context=(torch.zeros(3),)), r"context\[0\] has 3 rows"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        pgd(lambda x, *_: x.sum(1), torch.full((2, 2), 0.5), **{"eps": 0.1, "steps": 2, **change})


def test_bad_tensors_and_losses_are_named():
    start = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="floating numbers"):
        pgd(lambda x: x.sum(1), start.int(), eps=1, steps=1)
    with pytest.raises(ValueError, match="one value a sample"):
        pgd(lambda x: x.sum(), start, eps=1, steps=1)
    with pytest.raises(ValueError, match="does not depend on the batch"):
        pgd(lambda x: x.detach().sum(1), start, eps=1, steps=1)


# closed forms


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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize(("norm", "shape"), [("linf", (4, 6)), ("l2", (4, 6)), ("l2", (1, 9, 9, 9))])
def test_every_rule_reaches_the_closed_form(rule, momentum, norm, shape):
    loss, start, weights = linear(shape)
    unit = weights.sign() if norm == "linf" else weights / column(length(weights, "l2"), weights)
    attack = pgd(
        loss, start, context=(weights,), eps=0.25, steps=60, rule=rule, momentum=momentum, norm=norm, generator=generator()
    )
    gain = loss(start + 0.25 * unit, weights) - attack.loss_start
    assert (attack.loss_best - attack.loss_start > 0.98 * gain).all()


def test_one_cosine_and_one_momentum_step_equal_the_hand_computed_ones():
    start, seen = torch.zeros(1, 1, dtype=torch.float64), []

    def loss(x):
        seen.append(x.item())
        return x.sum(1)

    pgd(loss, start, eps=10.0, steps=2, step_size=1.0, rule="cosine", random_start=False)
    assert seen == pytest.approx([0, 1, 1.5])
    seen.clear()
    pgd(loss, start, eps=10.0, steps=3, step_size=1.0, momentum=0.5, random_start=False)
    assert seen == pytest.approx([0, 1, 1 + 0.5 + 0.5, 2 + 0.5 + 0.5])


def test_halving_goes_back_to_the_top_with_half_the_step():
    start, seen = torch.tensor([[0.9, 0.0]], dtype=torch.float64), []

    def loss(x):
        seen.append(x[0, 0].item())
        return -x[:, 0].abs()

    pgd(loss, start, eps=2.0, steps=10, step_size=1.0, rule="halving", momentum=0.0, random_start=False)
    # at 0.9, -0.1, 0.9; the look at step 3 sees one rise in three, goes back to -0.1 and takes half a step
    assert seen[:6] == pytest.approx([0.9, -0.1, 0.9, -0.1, 0.4, -0.1])
    assert min(map(abs, seen)) < 0.1 - 1e-9


def test_halving_ends_higher_than_the_fixed_step():
    scales = torch.logspace(0, 2, 6, dtype=torch.float64)
    start = torch.rand(40, 6, generator=generator(), dtype=torch.float64)
    goal = start + 0.2 * (2 * torch.rand(40, 6, generator=generator(4), dtype=torch.float64) - 1)
    terms = dict(context=(goal,), eps=0.3, steps=40, generator=generator(7))

    def loss(x, goal):
        return -((x - goal) ** 2 * scales).sum(1)

    fixed, halving = (pgd(loss, start, rule=rule, **terms).loss_best for rule in ("fixed", "halving"))
    assert (halving > fixed).float().mean() > 0.9


# the projections


def balls(norm, rows, numbers, seed, bounds=True):
    """Random balls and points far outside; the starts lie anywhere in the box, on its edges too."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-0.2, 1.2, (rows, numbers)).clip(0, 1)
    points = start + rng.normal(size=(rows, numbers)) * 10 ** rng.uniform(-2, 1, (rows, 1))
    eps = 10 ** rng.uniform(-2, 0.5, rows)
    start, points, eps = map(torch.from_numpy, (start, points, eps))
    return _ball(start, eps, norm, (0, 1) if bounds else None), points


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
    plain, bounded = (_ball(start, 0.2, "l2", bounds).project(points) for bounds in (None, (0, 1)))
    assert torch.equal(plain, bounded)


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_may_be_tensors(norm):
    start = torch.full((3, 4), 0.5)
    free = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)  # the numbers that may change
    bounds = (torch.where(free, 0.0, start), torch.where(free, 1.0, start))
    attack = pgd(lambda x: x.sum(1), start, eps=0.2, steps=5, norm=norm, bounds=bounds, batch_size=2, seeds=range(3))
    assert torch.equal(attack.best != start, free) or norm == "l1"
    assert torch.equal(attack.best[~free], start[~free]) and attack.success.tolist() == [True, True, False]


# properties of any search


@st.composite
def searches(draw):
    norm = draw(st.sampled_from(["linf", "l2", "l1"]))
    options = dict(norm=norm, rule=draw(st.sampled_from(RULES)), momentum=draw(st.sampled_from([None, 0.0, 0.7])))
    options |= dict(bounds=draw(st.sampled_from([None, (0.0, 1.0)])), steps=draw(st.integers(1, 7)), restarts=draw(st.integers(1, 3)))
    count, seed = draw(st.integers(1, 9)), draw(st.integers(0, 1000))
    start = torch.rand(count, 2, generator=generator(seed))
    eps = draw(st.sampled_from([0.0, 0.05, 0.5])) * torch.rand(count, generator=generator(seed + 1))
    return start, options | dict(eps=eps)


@settings(deadline=None, max_examples=60)
@given(searches(), st.integers(1, 5))
def test_any_search_stays_inside_never_falls_and_does_not_depend_on_its_batch(search, batch_size):
    start, options = search
    seeds = torch.arange(100, 100 + len(start))
    whole = pgd(rugged, start, seeds=seeds, **options)
    assert (length(whole.best - start, options["norm"]) <= options["eps"] + 1e-6).all()
    assert options["bounds"] is None or (whole.best.min() >= 0 and whole.best.max() <= 1)
    assert (whole.loss_best >= whole.loss_start).all()
    torch.testing.assert_close(rugged(whole.best), whole.loss_best, rtol=1e-4, atol=1e-5)
    parts = pgd(rugged, start, seeds=seeds, batch_size=batch_size, **options)
    assert torch.equal(whole.best, parts.best)
    order = torch.randperm(len(start), generator=generator())
    mixed = pgd(rugged, start[order], seeds=seeds[order], **options | {"eps": options["eps"][order]})
    assert torch.equal(whole.best[order], mixed.best)
    last = start[-1:]
    alone = pgd(rugged, last, seeds=seeds[-1:], **options | {"eps": options["eps"][-1:]})
    assert torch.equal(whole.best[-1:], alone.best)


@settings(deadline=None, max_examples=30)
@given(searches(), st.integers(1, 4))
def test_the_same_generator_gives_the_same_result_at_any_batch_size(search, batch_size):
    start, options = search
    whole, parts = (pgd(rugged, start, batch_size=size, generator=generator(3), **options).best for size in (None, batch_size))
    assert torch.equal(whole, parts)


@settings(deadline=None, max_examples=30)
@given(searches())
def test_more_steps_from_the_same_draws_are_never_worse(search):
    start, options = search
    options |= {"step_size": 0.03, "rule": "fixed", "restarts": 1}
    fewer, more = (pgd(rugged, start, seeds=range(len(start)), **options | {"steps": n}).loss_best for n in (options["steps"], 12))
    assert (more >= fewer).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_whole_batch_draw_is_what_it_was(norm):
    """The draws of a generator are one tensor over all samples: published results hang on them."""
    start, drawn = torch.zeros(3, 4), random_noise(torch.zeros(3, 4), eps=0.5, norm=norm, generator=generator(9))
    numbers = generator(9)
    if norm == "linf":
        assert torch.equal(drawn, -0.5 + torch.rand(3, 4, generator=numbers))
    elif norm == "l2":
        direction = torch.randn(3, 4, generator=numbers)
        direction = direction / direction.norm(dim=1, keepdim=True)
        torch.testing.assert_close(drawn, 0.5 * torch.rand(3, 1, generator=numbers) ** 0.25 * direction)
    assert (length(drawn - start, norm) <= 0.5).all()


# what it costs


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_k_steps_cost_k_gradients_and_k_plus_one_forwards(known, random_start, rule):
    network, start, count = Network(), torch.rand(4, 1, 5, 5, 5), {"forward": 0, "backward": 0}
    network.register_forward_hook(lambda *_: count.update(forward=count["forward"] + 1))
    network.layers[0].register_full_backward_hook(lambda *_: count.update(backward=count["backward"] + 1))
    with frozen(network):
        known = {"loss_start": network(start).detach()} if known else {}
        count.update(forward=0)
        pgd(network, start, eps=0.1, steps=6, rule=rule, random_start=random_start, **known)
    assert count == {"forward": 6 + 1 + (random_start and not known), "backward": 6}


def test_samples_that_have_succeeded_leave_with_their_context_and_are_not_restarted():
    limits, seen = torch.tensor([[0.05], [0.25], [9.0], [-1.0]]), []

    def loss(x, limit):
        seen.append(limit.flatten().tolist())
        return x.sum(1) - limit[:, 0]

    attack = pgd(loss, torch.zeros(4, 1), context=(limits,), eps=0.3, steps=3, step_size=0.1, random_start=False, success=0.0)
    limits = limits.flatten().tolist()
    assert seen == [pytest.approx(limits), pytest.approx(limits[:3]), pytest.approx(limits[1:3]), pytest.approx(limits[1:3])]
    assert attack.success.tolist() == [True, True, False, True]
    torch.testing.assert_close(attack.best.flatten(), torch.tensor([0.1, 0.3, 0.3, 0.0]))
    torch.testing.assert_close(loss(attack.best, torch.tensor(limits)[:, None]), attack.loss_best)
    seen.clear()
    pgd(loss, torch.zeros(4, 1), context=(torch.tensor(limits)[:, None],), eps=0.3, steps=3, restarts=3, success=0.0, generator=generator())
    assert len(seen[0]) == 4 and seen[-1] == [9.0] and all(batch == [9.0] for batch in seen[6:])


@settings(deadline=None, max_examples=60)
@given(searches(), st.sampled_from([0.5, 1.0, 1.5]))
def test_leaving_changes_nothing_for_those_that_stay(search, limit):
    start, options = search
    seeds = torch.arange(len(start))
    whole = pgd(rugged, start, seeds=seeds, **options)
    leaving = pgd(rugged, start, seeds=seeds, success=limit, batch_size=4, **options)
    assert torch.equal(leaving.success, whole.loss_best > limit)  # found by one exactly where found by the other
    assert (leaving.loss_best[leaving.success] > limit).all()
    assert torch.equal(leaving.best[~leaving.success], whole.best[~leaving.success])
    asked = pgd(rugged, start, seeds=seeds, success=lambda x: rugged(x) > limit, **options)
    assert torch.equal(asked.best, leaving.best) and torch.equal(asked.success, leaving.success)


def test_a_rule_on_the_points_keeps_the_point_that_succeeded():
    terms = dict(context=(torch.tensor([0.25, 9.0]),), eps=1.0, steps=10, step_size=0.1, random_start=False)
    attack = pgd(lambda x, _: x.sum(1), torch.zeros(2, 1), success=lambda x, limit: x[:, 0] > limit, **terms)
    torch.testing.assert_close(attack.best, torch.tensor([[0.3], [1.0]]))
    assert attack.success.tolist() == [True, False]


def test_a_failed_attack_returns_its_best_point_and_says_so():
    start = torch.zeros(2, 3)
    attack = pgd(lambda x: x.sum(1), start, eps=0.5, steps=5, success=100.0)
    assert not attack.success.any() and (attack.loss_best > attack.loss_start).all()
    torch.testing.assert_close(attack.best, torch.full((2, 3), 0.5))


def test_nan_leaves_the_active_batch_and_the_others_go_on():
    scale = torch.tensor([1.0, float("nan"), 1.0])
    with pytest.warns(UserWarning, match=r"samples \[1\]"):
        attack = pgd(lambda x, s: x.sum(1) * s, torch.zeros(3, 2), context=(scale,), eps=0.1, steps=4, success=0.15, generator=generator())
    assert attack.success.tolist() == [True, False, True] and not attack.best[1].any() and attack.best.isfinite().all()


# several tensors, types, devices of thought


def test_two_tensors_are_searched_together_each_in_its_own_ball():
    codes, images = torch.zeros(3, 2), torch.full((3, 1, 4, 4), 0.5)
    weights = torch.randn(1, 4, 4, generator=generator())

    def loss(batch, label):
        code, image = batch
        return (code * torch.tensor([3.0, 4.0])).sum(1) + label * (image * weights).flatten(1).sum(1)

    options = dict(eps=(torch.tensor([1.0, 2.0, 0.0]), 0.1), norm=("l2", "linf"), bounds=(None, (0.0, 0.55)))
    options |= dict(step_size=(2.0, 0.02), steps=40)
    attack = pgd(loss, (codes, images), context=(torch.tensor([1.0, 1.0, -1.0]),), generator=generator(), **options)
    best = torch.tensor([[0.6, 0.8]]) * torch.tensor([[1.0], [2.0], [0.0]])
    torch.testing.assert_close(attack.best[0], best, atol=2e-3, rtol=0)
    signs = torch.stack([weights, weights, -weights]).sign()
    torch.testing.assert_close(attack.best[1], (0.5 + 0.1 * signs).clamp(max=0.55))
    single = pgd(lambda x: loss((x, images), 1.0), codes, eps=0.7, norm="l2", steps=5, seeds=range(3))
    both = pgd(lambda b: loss(b, 1.0), (codes, images), eps=(0.7, 0.0), norm=("l2", "linf"), steps=5, seeds=range(3))
    assert torch.equal(single.best, both.best[0])


def test_tuples_that_do_not_fit_are_named():
    start = (torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="only pgd takes several"):
        square(lambda b: b[0].sum(1), start, eps=0.1, queries=2)
    with pytest.raises(ValueError, match="give eps as a tuple of 2 too"):
        pgd(lambda b: b[0].sum(1), start, eps=0.1, steps=2)
    with pytest.raises(ValueError, match="give bounds as a tuple of 2 too"):
        pgd(lambda b: b[0].sum(1), start, eps=(0.1, 0.1), bounds=(None,), steps=2)
    with pytest.raises(ValueError, match="rows"):
        pgd(lambda b: b[0].sum(1), (torch.zeros(2, 3), torch.zeros(3, 3)), eps=(0.1, 0.1), steps=2)
    with pytest.raises(ValueError, match="does not depend on the batch"):
        pgd(lambda b: b[0].sum(1), start, eps=(0.1, 0.1), steps=2)


def test_eps_and_step_are_each_samples_own():
    start, eps, step = torch.zeros(3, 2), torch.tensor([0.1, 0.2, 5.0]), torch.tensor([0.01, 0.2, 1.0])
    attack = pgd(lambda x: x.sum(1), start, eps=eps, step_size=step, steps=2, random_start=False)
    torch.testing.assert_close(attack.best, torch.tensor([0.02, 0.2, 2.0])[:, None].expand(3, 2))


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


def test_low_precision_stays_in_the_loss():
    torch.manual_seed(3)
    network, seen = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 27, 1)), []

    def loss(x):
        values = network(x)[:, 0]
        seen.append((x.dtype, values.dtype))
        return values

    start = torch.rand(3, 1, 5, 5, 5, generator=generator())
    attack = pgd(loss, start, eps=1e-4, steps=3, autocast=torch.bfloat16, random_start=False)
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert attack.best.dtype == attack.loss_best.dtype == torch.float32
    change = (attack.best - start).abs()  # bfloat16 could not hold a change so small
    assert 0 < change.max() <= 1.01e-4


def test_progress_is_shown_on_request_only(capsys):
    options = dict(eps=0.1, steps=3)
    pgd(lambda x: x.sum(1), torch.zeros(2, 2), **options)
    assert capsys.readouterr().err == ""
    pgd(lambda x: x.sum(1), torch.zeros(2, 2), progress="attacking", success=0.01, **options)
    assert "attacking: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_hands_the_network_back(fails):
    network = Network().train()
    network.layers[1].eval()
    network.layers[0].weight.grad = torch.ones_like(network.layers[0].weight)
    before, modes = state(network)[0], state(network)[1:]
    try:
        with frozen(network):
            assert not any(module.training for module in network.modules())
            pgd(network, torch.rand(4, 1, 5, 5, 5), eps=0.1, steps=2)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    after = state(network)
    assert all(torch.equal(before[name], after[0][name]) for name in before)
    assert modes[1] == after[2] and [needs for needs, _ in modes[0]] == [needs for needs, _ in after[1]]
    assert torch.equal(network.layers[0].weight.grad, torch.ones_like(network.layers[0].weight))
    with frozen(len) as function:
        assert function is len


# beside the attack


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_one_full_step(norm):
    loss, start, weights = linear((4, 6))
    one = fgsm(loss, start, context=(weights,), eps=0.1, norm=norm)
    same = pgd(loss, start, context=(weights,), eps=0.1, steps=1, step_size=0.1, norm=norm, random_start=False)
    assert torch.equal(one.best, same.best) and one.steps == 1
    if norm == "linf":
        torch.testing.assert_close(one.best, start + 0.1 * weights.sign())


def test_pgd_beats_fgsm_and_fgsm_beats_noise_on_average():
    start = torch.rand(300, 2, generator=generator())
    many = pgd(rugged, start, eps=0.1, steps=20, restarts=3, generator=generator()).loss_best.mean()
    one, noise = fgsm(rugged, start, eps=0.1).loss_best.mean(), rugged(random_noise(start, eps=0.1, generator=generator())).mean()
    assert many > one > noise


@pytest.mark.parametrize("norm", NORMS)
def test_noise_has_the_norm_it_says(norm):
    start = torch.rand(200, 1, 3, 3, generator=generator())
    for noise in (random_noise, gaussian_noise):
        free = noise(start, eps=0.3, norm=norm, generator=generator(1))
        sizes = length(free - start, norm)
        assert (sizes <= 0.3 + 1e-5).all() and (noise is random_noise or (sizes > 0.3 - 1e-5).all())
        cut = noise(start, eps=0.3, norm=norm, bounds=(0, 1), generator=generator(1))
        assert cut.min() >= 0 and cut.max() <= 1 and (length(cut - start, norm) <= 0.3 + 1e-5).all()
        own = noise(start, eps=0.3, norm=norm, seeds=range(200))
        assert torch.equal(own[7:9], noise(start[7:9], eps=0.3, norm=norm, seeds=[7, 8]))
        assert not torch.equal(own[7] - start[7], own[8] - start[8])


def test_l1_noise_is_uniform_in_the_ball():
    noise = random_noise(torch.zeros(40_000, 2), eps=1.0, norm="l1", generator=generator())
    sizes = length(noise, "l1")
    assert abs((sizes < 0.5).float().mean().item() - 0.25) < 0.01  # half the radius holds a quarter of the area
    turned = torch.stack([noise.sum(1), noise[:, 0] - noise[:, 1]], dim=1)  # a square standing on its corner, turned: uniform on each axis
    assert turned.abs().mean().item() == pytest.approx(0.5, abs=0.01) and turned.mean().abs() < 0.01


@pytest.mark.parametrize(("shape", "share"), list(zip(SHAPES, [0.9, 0.9, 0.6, 0.25], strict=True)))
def test_square_gets_much_of_the_closed_form_without_any_gradient(shape, share):
    loss, start, weights = linear(shape)

    @torch.no_grad()
    def blind(x, w):
        return loss(x, w)

    attack = square(blind, start, context=(weights,), eps=0.2, queries=600, bounds=(0, 1), generator=generator())
    gain = loss((start + 0.2 * weights.sign()).clamp(0, 1), weights) - attack.loss_start
    assert (attack.loss_best - attack.loss_start > share * gain).all()
    assert (attack.best - start).abs().max() <= 0.2 + 1e-9 and attack.best.min() >= 0 and attack.best.max() <= 1


def test_square_stops_on_success_and_does_not_depend_on_its_batch():
    start, calls = torch.rand(7, 1, 6, 6, generator=generator()), []

    def loss(x):
        calls.append(len(x))
        return x.flatten(1).mean(1) - start.mean() - 0.02

    whole = square(loss, start, eps=0.1, queries=40, success=0.0, seeds=range(7))
    assert len(calls) <= 41 and calls[-1] < 7
    parts = square(loss, start, eps=0.1, queries=40, success=0.0, seeds=range(7), batch_size=3)
    alone = square(loss, start[5:6], eps=0.1, queries=40, success=0.0, seeds=[5])
    assert torch.equal(whole.best, parts.best) and torch.equal(whole.best[5:6], alone.best)


@pytest.mark.parametrize("norm", NORMS)
def test_smallest_eps_finds_the_distance_to_a_plane(norm):
    weights = torch.tensor([3.0, -4.0, 1.0])
    dual = {"linf": 8.0, "l2": 26**0.5, "l1": 4.0}[norm]
    distance = torch.tensor([0.0, 0.01, 0.1, 0.3, 0.7])
    start = torch.zeros(5, 3)
    radius, attack = smallest_eps(
        lambda x, gap: x @ weights - gap,
        start,
        context=(distance * dual,),
        eps=0.5,
        success=lambda x, gap: x @ weights >= gap - 1e-6,
        halvings=12,
        norm=norm,
        steps=20,
        random_start=False,
    )
    assert radius[0] == 0 and radius[-1] == torch.inf and attack.success.tolist() == [True] * 4 + [False]
    torch.testing.assert_close(radius[1:4], distance[1:4], rtol=0.02, atol=1e-3)
    assert (radius[1:4] >= distance[1:4] - 1e-5).all()  # an upper limit
    assert (length(attack.best - start, norm)[:4] <= radius[:4] + 1e-6).all()
    assert (length(attack.best - start, norm)[4] - 0.5).abs() < 1e-5  # the one that failed shows how far it got


def test_smallest_eps_does_not_depend_on_the_batch_and_names_what_it_cannot_take():
    start = torch.rand(6, 2, generator=generator())
    terms = dict(eps=0.3, steps=5, success=1.2)
    whole, _ = smallest_eps(rugged, start, seeds=range(6), **terms)
    alone, _ = smallest_eps(rugged, start[4:], seeds=[4, 5], **terms)
    assert torch.equal(whole[4:], alone)
    with pytest.raises(ValueError, match="the step follows the radius"):
        smallest_eps(rugged, start, step_size=0.1, **terms)


def test_more_halvings_never_give_a_larger_radius():
    def loss(batch):  # two places where it succeeds, one of them narrow
        return ((batch > 0.18) & (batch < 0.2) | (batch > 0.9)).float().sum(1) + 0.01 * batch.sum(1)

    terms = dict(eps=1.0, steps=10, success=0.5, random_start=False)
    found = [smallest_eps(loss, torch.zeros(1, 1), halvings=halvings, **terms)[0].item() for halvings in range(9)]
    assert found == sorted(found, reverse=True) and 0.18 < found[-1] < found[0]


# the others' bugs that are left


def test_the_budget_is_around_the_start_and_not_around_the_last_iterate():
    loss, start, weights = linear((4, 6))
    attack = pgd(loss, start, context=(weights,), eps=0.05, step_size=0.05, steps=50, restarts=2, generator=generator())
    assert (attack.best - start).abs().max() <= 0.05 + 1e-12


def test_the_loss_rises_on_a_plain_network():
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    start = torch.randn(50, 2, generator=generator())
    for norm in NORMS:
        attack = pgd(lambda x: network(x)[:, 0], start, eps=0.1, steps=5, norm=norm, random_start=False)
        assert (attack.loss_best > attack.loss_start).all()


def test_parity_with_the_libraries_at_equal_arguments():
    """torchattacks, foolbox and ART pin old packages: `perf/pgd.py --setup` gives them an environment of their own."""
    python = ROOT / "runs" / "peers" / "bin" / "python"
    if not python.exists():
        pytest.skip("no environment with torchattacks, foolbox and ART: make it with `python perf/pgd.py --setup`")
    out = subprocess.run([python, ROOT / "perf" / "pgd.py", "--parity"], capture_output=True, text=True, cwd=ROOT, check=True)
    differences = json.loads(out.stdout.splitlines()[-1])
    assert set(differences) >= {"torchattacks linf", "foolbox linf", "ART linf", "torchattacks l2", "foolbox l2", "ART l2"}
    assert max(differences.values()) <= 1e-6
