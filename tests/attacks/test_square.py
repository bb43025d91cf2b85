"""Square gets far without a gradient, stops on success and does not depend on its batch."""

import pytest
import torch

from lungadv.attacks.square import square
from tests.attacks.attack_cases import SHAPES, generator, linear


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


def test_a_loss_that_works_in_place_leaves_points_and_start_alone():
    def loss(batch):
        batch -= 0.5
        return batch.sum(1)

    start = torch.full((3, 4), 0.5)
    attack = square(loss, start, eps=0.1, queries=5, generator=generator())
    assert torch.equal(start, torch.full((3, 4), 0.5)) and (attack.best - start).abs().max() < 0.1 + 1e-6
