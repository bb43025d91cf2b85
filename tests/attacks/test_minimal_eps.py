"""The smallest radius against closed forms."""

import pytest
import torch

from lungadv.attacks.minimal_eps import minimal_eps
from lungadv.attacks.pgd import fgsm, pgd
from tests.attacks.attack_cases import NORMS, generator, length, rugged


@pytest.mark.parametrize("norm", NORMS)
def test_minimal_eps_finds_the_distance_to_a_plane(norm):
    weights = torch.tensor([3.0, -4.0, 1.0])
    dual = {"linf": 8.0, "l2": 26**0.5, "l1": 4.0}[norm]
    distance = torch.tensor([0.0, 0.01, 0.1, 0.3, 0.7])
    start = torch.zeros(5, 3)
    radius, attack = minimal_eps(
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


def test_minimal_eps_does_not_depend_on_the_batch_and_names_what_it_cannot_take():
    start = torch.rand(6, 2, generator=generator())
    terms = dict(eps=0.3, steps=5, success=1.2)
    whole, _ = minimal_eps(rugged, start, seeds=range(6), **terms)
    alone, _ = minimal_eps(rugged, start[4:], seeds=[4, 5], **terms)
    assert torch.equal(whole[4:], alone)
    with pytest.raises(ValueError, match="the step follows the radius"):
        minimal_eps(rugged, start, step_size=0.1, **terms)


def test_more_halvings_never_give_a_larger_radius():
    def loss(batch):  # two places where it succeeds, one of them narrow
        return ((batch > 0.18) & (batch < 0.2) | (batch > 0.9)).float().sum(1) + 0.01 * batch.sum(1)

    terms = dict(eps=1.0, steps=10, success=0.5, random_start=False)
    found = [minimal_eps(loss, torch.zeros(1, 1), halvings=halvings, **terms)[0].item() for halvings in range(9)]
    assert found == sorted(found, reverse=True) and 0.18 < found[-1] < found[0]


def test_a_loss_is_never_called_without_samples():
    def loss(batch):
        return batch.view(batch.size(0), -1).sum(1)  # cannot be had of no sample

    ones = torch.ones(3, 1, 2, 2, 2)
    for attack in (fgsm(loss, ones, eps=0.1, success=0.0), pgd(loss, ones, eps=0.1, steps=2, random_start=False, success=8.5)):
        assert attack.success.all()
    for success, radius in ((0.0, 0.0), (100.0, torch.inf)):
        assert (minimal_eps(loss, ones, eps=0.1, steps=2, success=success)[0] == radius).all()
