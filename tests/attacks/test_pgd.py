"""The search against closed forms, and everything an attack must not do."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lungadv.attacks.pgd import Attack, fgsm, frozen, pgd
from tests.attacks.attack_cases import NORMS, RULES, SHAPES, Network, column, generator, length, linear, rugged, searches, state

ROOT = Path(__file__).parents[2]


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


def test_more_steps_and_restarts_are_never_worse():
    start = torch.rand(50, 2, generator=generator())
    losses = [pgd(rugged, start, eps=0.3, steps=n, step_size=0.02, random_start=False).loss_best for n in (1, 3, 10, 30)]
    assert all((more >= fewer).all() for fewer, more in zip(losses, losses[1:], strict=False))
    one, four = (pgd(rugged, start, eps=0.3, steps=5, restarts=n, generator=generator()).loss_best for n in (1, 4))
    assert (four >= one).all() and (four > one).any()


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


def test_an_empty_batch_is_fine():
    attack = pgd(lambda x: x.sum(1), torch.zeros(0, 2), eps=0.1, steps=2)
    assert attack.best.shape == (0, 2) and attack.success.shape == (0,)


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


def test_eps_and_step_are_each_samples_own():
    start, eps, step = torch.zeros(3, 2), torch.tensor([0.1, 0.2, 5.0]), torch.tensor([0.01, 0.2, 1.0])
    attack = pgd(lambda x: x.sum(1), start, eps=eps, step_size=step, steps=2, random_start=False)
    torch.testing.assert_close(attack.best, torch.tensor([0.02, 0.2, 2.0])[:, None].expand(3, 2))


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


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_one_full_step(norm):
    loss, start, weights = linear((4, 6))
    one = fgsm(loss, start, context=(weights,), eps=0.1, norm=norm)
    same = pgd(loss, start, context=(weights,), eps=0.1, steps=1, step_size=0.1, norm=norm, random_start=False)
    assert torch.equal(one.best, same.best) and one.steps == 1
    if norm == "linf":
        torch.testing.assert_close(one.best, start + 0.1 * weights.sign())


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
