import numpy as np
import pytest
import torch

from lungadv.data.masks import diameter_mm, soft_mask
from lungadv.models.synthesizer import Generator, blend, draw_latents, gradient_penalty, kl_divergence, pyramid, reconstruction_error


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    masks = torch.from_numpy(np.stack([soft_mask(ball(8 + k % 8, 16, 2.5), 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


def test_blend_replaces_the_background_where_the_mask_is_one_and_nowhere_else():
    background, appearance = torch.rand(2, 2, 1, 8, 8, 8)
    mask = torch.zeros_like(background)
    mask[..., :4] = 1
    blended = blend(background, mask * appearance, mask)
    assert torch.equal(blended[..., :4], appearance[..., :4]) and torch.equal(blended[..., 4:], background[..., 4:])


def test_the_objective_against_closed_forms():
    mean, log_variance = torch.randn(2, 6, 3)
    oracle = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0, 1))
    assert kl_divergence(mean, log_variance) == pytest.approx(oracle.sum(1).mean().item(), rel=1e-5)
    nodules, masks = pairs(4)
    hard = (masks > 0.5).float()
    assert reconstruction_error(hard * 0.5, hard, hard * 0.5, hard) == 0
    small, large = hard[:1], hard[3:]
    errors = [reconstruction_error(m * 0.5, m, m * 0.7, m).item() for m in (small, large)]
    assert errors == pytest.approx([0.2, 0.2])  # of the nodule's own volume, whatever its size


def test_gradient_penalty_is_the_squared_distance_of_the_slope_from_one():
    class Slope(torch.nn.Module):
        def forward(self, nodule, mask):
            return 3 * nodule.flatten(1)[:, 0] + 4 * mask.flatten(1)[:, 1]

    real, fake = torch.rand(2, 2, 5, 1, 4, 4, 4)
    assert gradient_penalty(Slope(), real, fake, None).item() == pytest.approx((5 - 1) ** 2)


@pytest.mark.parametrize("size, channels, edge", [(16, [4, 8], 4), (24, [4, 8, 16], 3), (32, [4, 8, 16], 4), (64, [4, 8, 16, 32], 4)])
def test_pyramid(size, channels, edge):
    assert pyramid(size, 4) == (channels, edge)


class Cubes:
    """Cubes whose side grows with the only number of the code."""

    latent_size = 1

    def __call__(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(16) - 7.5] * 3, indexing="ij")).abs().amax(0)
        mask = (grid < (3 + 1.5 * z).reshape(-1, 1, 1, 1, 1)).float()
        return mask, mask


def test_draw_latents_draws_small_nodules_again_and_no_others():
    def diameters(z):
        return diameter_mm(Cubes()(z)[1], 1.25)

    plain = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    z = draw_latents(Cubes(), 100, 1.25, torch.Generator().manual_seed(0))
    large = diameters(plain) >= 6
    assert 0 < large.sum() < 100 and (diameters(z) >= 6).all()
    assert torch.equal(z[large], plain[large]) and (z[~large] != plain[~large]).all()
    once = draw_latents(Cubes(), 100, 1.25, torch.Generator().manual_seed(0), attempts=1)
    assert (diameters(once) < 6).any()  # draws come to an end
    redraws = torch.zeros(100, dtype=torch.int64)
    counted = draw_latents(Cubes(), 100, 1.25, torch.Generator().manual_seed(0), redraws)
    assert torch.equal(counted, z) and torch.equal(redraws > 0, ~large) and redraws.max() > 1


def test_an_even_field_is_drawn_even_without_a_grid():
    generator = Generator(16, 4, 8)
    channels = generator.seed_shape[0]
    generator.seed_shape, generator.seed = (channels, 12, 12, 12), torch.nn.Linear(4, channels * 12**3)
    torch.nn.init.zeros_(generator.seed.weight)
    generator.seed.bias.data = torch.randn(channels, generator=torch.Generator().manual_seed(0)).repeat_interleave(12**3)
    for cubes in generator(torch.zeros(1, 4)):
        inner = cubes[..., 12:36, 12:36, 12:36]  # beyond the reach of the border
        assert cubes.shape[2:] == (48, 48, 48) and inner.max() - inner.min() < 1e-6 and inner.max() > 0


def test_a_condition_sets_the_brightness_of_the_whole_nodule():
    torch.manual_seed(0)
    generator, z = Generator(16, 4, 8, 2), torch.randn(3, 4)
    generator.seed.weight.data[:, 4:] = 0  # by this way alone
    generator.tone.weight.data[:] = torch.tensor([[0.5, 0.0]])
    (dark, mask), (bright, same) = (generator(z, torch.tensor([[first, 1.0]]).expand(3, 2)) for first in (0.0, 1.0))
    assert torch.equal(mask, same) and (bright > dark).all()
