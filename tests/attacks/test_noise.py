"""Noise is uniform in its ball, has the length it says, and does less than an attack."""

import pytest
import torch

from lungadv.attacks.noise import gaussian_noise, random_noise
from lungadv.attacks.pgd import fgsm, pgd
from tests.attacks.attack_cases import NORMS, generator, length, linear, rugged


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_beats_random_noise_of_the_same_size(norm):
    loss, start, weights = linear((1, 9, 9, 9))
    attack = pgd(loss, start, context=(weights,), eps=0.1, steps=10, norm=norm, generator=generator())
    noise = random_noise(start, eps=0.1, norm=norm, generator=generator())
    assert (attack.loss_best - attack.loss_start > 3 * (loss(noise, weights) - attack.loss_start).abs()).all()


def test_random_noise_is_uniform_in_the_ball():
    start = torch.full((20_000, 2), 0.5)
    square = random_noise(start, eps=0.5, norm="linf", generator=generator()) - 0.5
    assert abs(square.abs().mean().item() - 0.25) < 0.01 and square.abs().max() <= 0.5
    disc = (random_noise(start, eps=0.5, norm="l2", generator=generator()) - 0.5).norm(dim=1)
    assert disc.max() <= 0.5 + 1e-6
    assert abs((disc < 0.25).float().mean().item() - 0.25) < 0.02  # half the radius holds a quarter of the area
    cut = random_noise(start, eps=0.9, norm="linf", bounds=(0, 1), generator=generator())
    assert cut.min() >= 0 and cut.max() <= 1 and abs(cut.mean().item() - 0.5) < 0.01 and (cut == 1).float().mean() < 0.01


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
