"""The best point is kept, and samples that have succeeded or broken leave."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lungadv.attacks.pgd import pgd
from tests.attacks.attack_cases import NORMS, generator, rugged, searches


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


def test_success_is_the_callers_rule():
    start, limit = torch.zeros(3, 2), torch.tensor([0.1, 0.9, 2.0])
    attack = pgd(lambda x, _: x.sum(1), start, context=(limit,), eps=0.5, steps=5, success=lambda best, limit: best.sum(1) > limit)
    assert attack.success.tolist() == [True, True, False]
    assert attack.success.dtype == torch.bool


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


def test_a_finite_batch_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(rugged, torch.rand(4, 2), eps=0.2, steps=2)


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
