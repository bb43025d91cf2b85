"""Arguments, tensors and losses that cannot be meant are named."""

import pytest
import torch

from lungadv.attacks.pgd import pgd
from lungadv.attacks.square import square

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
