"""The attack against closed forms, and everything an attack must not do."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from lungadv.pgd import Attack, pgd, random_noise

SHAPES = [(8,), (4, 6), (5, 7, 7), (1, 9, 9, 9)]


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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_equals_the_hand_computed_one(norm):
    start = torch.tensor([[0.2, 0.4], [0.5, 0.5]])
    attack = pgd(lambda x: (x**2).sum(1), start, eps=1.0, steps=1, step_size=0.1, norm=norm, random_start=False)
    expected = start + (0.1 if norm == "linf" else 0.1 * start / start.norm(dim=1, keepdim=True))
    torch.testing.assert_close(attack.best, expected)
    torch.testing.assert_close(attack.loss_start, (start**2).sum(1))
    torch.testing.assert_close(attack.loss_best, (expected**2).sum(1))
    assert attack.success.all() and attack.steps == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
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
        change = (x - start).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert (size <= eps + tolerance).all()
    assert len(seen) == 1 + 2 * (5 + 1) and attack.steps == 10


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_eps_gives_back_the_start(norm):
    loss, start, weights = linear((4, 6))
    attack = pgd(loss, start, context=(weights,), eps=torch.tensor([0.0, 0.1, 0.0]), steps=3, norm=norm, generator=generator())
    assert torch.equal(attack.best[[0, 2]], start[[0, 2]]) and not torch.equal(attack.best[1], start[1])
    assert attack.success.tolist() == [False, True, False]
    assert torch.equal(attack.loss_best[[0, 2]], attack.loss_start[[0, 2]])


def rugged(x):
    return torch.sin(25 * x).sum(1) + torch.cos(40 * x[:, 0] * x[:, 1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_beats_random_noise_of_the_same_size(norm):
    loss, start, weights = linear((1, 9, 9, 9))
    attack = pgd(loss, start, context=(weights,), eps=0.1, steps=10, norm=norm, generator=generator())
    noise = random_noise(start, eps=0.1, norm=norm, generator=generator())
    assert (attack.loss_best - attack.loss_start > 3 * (loss(noise, weights) - attack.loss_start).abs()).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
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
    for norm in ("linf", "l2"):
        attack = pgd(lambda x: 1e-30 * x.sum(1), start, eps=1.0, steps=10, norm=norm, random_start=False)
        assert attack.success.all()
        torch.testing.assert_close(attack.best, torch.full((2, 3), 1.0 if norm == "linf" else 3**-0.5))


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
    (dict(eps=-0.1), "eps is negative"),
    (dict(eps=float("nan")), "eps is negative, infinite or NaN"),
    (dict(eps=torch.ones(3)), "one for each of the 2 samples"),
    (dict(steps=0), "steps = 0"),
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
