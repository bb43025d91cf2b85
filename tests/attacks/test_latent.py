import pytest
import torch
from torch import nn

from lungadv.attacks.latent import LARGEST_MM, search_latent
from lungadv.attacks.pgd import pgd
from lungadv.data.masks import diameter_mm
from lungadv.models.synthesizer import blend, draw_latents
from lungadv.settings import LatentSettings

SIZE, SPACING = 16, 2.5
SETTINGS = LatentSettings(eps=1.5, steps=8, curve_nodules=0, curve_eps=())


class Ball(nn.Module):
    """A ball whose size and brightness are the two numbers of the code."""

    latent_size = 2

    def draw(self, count, generator):
        return torch.randn(count, self.latent_size, generator=generator)

    def forward(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(SIZE) - (SIZE - 1) / 2] * 3, indexing="ij"))
        radius = (2 + z[:, :1]).reshape(-1, 1, 1, 1, 1)
        mask = torch.sigmoid(4 * (radius - grid.norm(dim=0)))
        return mask * z[:, 1].sigmoid().reshape(-1, 1, 1, 1, 1), mask


class Darkness(nn.Module):
    """A loss that grows as the centre comes nearer to its surroundings."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(12.0))

    def forward(self, patches):
        return -self.scale * (patches[:, 0, 6:10, 6:10, 6:10].mean((1, 2, 3)) - patches.mean((1, 2, 3, 4)))


@pytest.fixture
def backgrounds():
    return 0.2 * torch.rand(7, 1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def generator():
    return torch.Generator().manual_seed(0)


def test_search_latent_raises_the_loss_within_its_ball_and_touches_no_parameter(backgrounds):
    loss, z = Darkness(), draw_latents(Ball(), 7, SPACING, generator())
    attack = search_latent(loss, Ball(), backgrounds, z, SETTINGS, SPACING, generator())
    assert (attack.loss_best >= attack.loss_start).all() and (attack.loss_best > attack.loss_start).float().mean() > 0.7
    assert (attack.best - z).norm(dim=1).max() <= SETTINGS.eps + 1e-5
    scores = [loss(blend(backgrounds, *Ball()(codes))) for codes in (z, attack.best)]
    assert torch.allclose(scores[0], attack.loss_start) and torch.allclose(scores[1], attack.loss_best)
    assert loss.scale.grad is None


def test_search_latent_keeps_nodules_large_enough_and_makes_small_ones_larger(backgrounds):
    def diameters(codes):
        return diameter_mm(Ball()(codes)[1], SPACING)

    z = torch.tensor([[0.2, 2.0], [-0.3, 2.0], [-1.2, 2.0]])  # 11, 8.5 and 4 mm
    assert (diameters(z)[:2] >= 6).all() and diameters(z)[2] < 6
    free = pgd(lambda codes: -Ball()(codes)[1].flatten(1).sum(1), z, eps=1.5, steps=8, norm="l2", generator=generator()).best
    assert (diameters(free) < 6).all()  # the ball around each code reaches smaller ones
    found = search_latent(Darkness(), Ball(), backgrounds[:3], z, SETTINGS, SPACING, generator()).best
    assert (diameters(found) >= 6).all()


def test_search_latent_lets_no_nodule_grow_into_a_mass(backgrounds):
    def diameters(codes):
        return diameter_mm(Ball()(codes)[1], SPACING)

    z = torch.tensor([[3.5, 2.0], [4.6, 2.0]])  # 28 and 33 mm
    free = pgd(lambda codes: Ball()(codes)[1].flatten(1).sum(1), z, eps=1.5, steps=8, norm="l2", generator=generator()).best
    assert (diameters(free) > LARGEST_MM).all()  # the ball around each code reaches larger ones
    found = search_latent(lambda patches: patches.flatten(1).mean(1), Ball(), backgrounds[:2], z, SETTINGS, SPACING, generator()).best
    assert (diameters(found) <= LARGEST_MM).all()
