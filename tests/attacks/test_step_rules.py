"""Step rules and momentum against steps computed by hand."""

import pytest
import torch

from lungadv.attacks.pgd import pgd
from tests.attacks.attack_cases import RULES, column, generator, length, linear


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize(("norm", "shape"), [("linf", (4, 6)), ("l2", (4, 6)), ("l2", (1, 9, 9, 9))])
def test_every_rule_reaches_the_closed_form(rule, momentum, norm, shape):
    loss, start, weights = linear(shape)
    unit = weights.sign() if norm == "linf" else weights / column(length(weights, "l2"), weights)
    attack = pgd(loss, start, context=(weights,), eps=0.25, steps=60, rule=rule, momentum=momentum, norm=norm, generator=generator())
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
