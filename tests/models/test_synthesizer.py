import numpy as np
import pytest
import torch

from lungadv.data.masks import diameter_mm, soft_mask
from lungadv.models.cubes import SIDE, to_cubes
from lungadv.models.grain import GRAINS
from lungadv.models.synthesizer import (
    Critic,
    Decoder,
    Encoder,
    Generator,
    blend,
    decode,
    draw_latents,
    gaussian_nll,
    gradient_penalty,
    kl_divergence,
    log_size,
    subvoxels,
    tone_and_contrast,
)


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


@pytest.fixture
def generator():
    """An untrained generator of patches of 32 voxels of 1.25 mm."""
    torch.manual_seed(0)
    return Generator(32, 1.25, 3.0, 4 + GRAINS, 4).requires_grad_(False)


def test_blend_replaces_the_background_where_the_mask_is_one_and_nowhere_else():
    background, appearance = torch.rand(2, 2, 1, 8, 8, 8)
    mask = torch.zeros_like(background)
    mask[..., :4] = 1
    blended = blend(background, mask * appearance, mask)
    assert torch.equal(blended[..., :4], appearance[..., :4]) and torch.equal(blended[..., 4:], background[..., 4:])


def test_kl_divergence_against_the_closed_form():
    mean, log_variance = torch.randn(2, 6, 3)
    oracle = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0, 1))
    assert torch.allclose(kl_divergence(mean, log_variance), oracle.mean(0), atol=1e-5)


def test_the_variance_of_the_sigma_vae_is_the_best_there_is():
    error = 0.3 * torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(5, 400, generator=torch.Generator().manual_seed(1))
    loss, variance = gaussian_nll(error, weight, 8.0)
    assert variance.item() == pytest.approx(((weight * error**2).sum() / weight.sum()).item(), rel=1e-4)

    def likelihood(tried):  # of 8 observations with the weighted mean square, without the constant
        return 4 * (np.log(tried) + variance.item() / tried)

    assert loss.item() + 4 == pytest.approx(likelihood(variance.item()), rel=1e-5)
    assert likelihood(variance.item()) < min(likelihood(variance.item() * factor) for factor in (0.8, 1.25))


def test_gradient_penalty_is_the_squared_distance_of_the_slope_from_one():
    class Slope(torch.nn.Module):
        def forward(self, nodule, mask):
            return 3 * nodule.flatten(1)[:, 0] + 4 * mask.flatten(1)[:, 1]

    real, fake = torch.rand(2, 2, 5, 1, 4, 4, 4)
    assert gradient_penalty(Slope(), real, fake, None).item() == pytest.approx((5 - 1) ** 2)


def test_subvoxels_puts_eight_channels_into_the_eight_parts_of_a_voxel():
    maps = torch.arange(2 * 16 * 27.0).reshape(2, 16, 3, 3, 3)
    fine = subvoxels(maps)
    assert fine.shape == (2, 2, 6, 6, 6)
    assert torch.equal(fine[1, 1, 2:4, 0:2, 4:6].flatten(), maps[1, 8:, 1, 0, 2])


def test_tone_and_contrast_are_mean_and_deviation_inside():
    masks = torch.from_numpy(np.stack([soft_mask(ball(d), 1.25, 3.0) for d in (8, 16)]))[:, None]
    appearance = torch.full_like(masks, 0.4)
    appearance[1, ..., :16] = 0.6  # the left half
    tone, contrast = tone_and_contrast(to_cubes(masks * appearance, masks, 1.25, 3.0)).T
    assert tone.tolist() == pytest.approx([0.4, 0.5], abs=1e-3) and contrast.tolist() == pytest.approx([0, 0.1], abs=0.01)


def test_shapes_of_encoder_decoder_and_critic():
    masks = torch.from_numpy(np.stack([soft_mask(ball(d), 1.25, 3.0) for d in (8, 12)]))[:, None]
    mean, log_variance = Encoder(5, 4)(to_cubes(masks, masks, 1.25, 3.0))
    assert mean.shape == log_variance.shape == (2, 5)
    distance, appearance, size = Decoder(5, 4)(mean)
    assert distance.shape == appearance.shape == (2, 1, SIDE, SIDE, SIDE) and size.shape == (2,)
    assert [Critic(size, 4)(*torch.rand(2, 3, 1, size, size, size)).shape for size in (16, 20, 32)] == [(3,)] * 3


def test_log_size_is_zero_at_10_mm_and_inverted_by_the_generator(generator):
    assert log_size(torch.tensor(10.0)) == 0
    numbers = generator.decoder.numbers[-1]
    numbers.weight.zero_()
    numbers.bias.copy_(torch.stack([log_size(torch.tensor(14.0)), torch.tensor(0.0)]))
    assert diameter_mm(generator(torch.randn(3, 4 + GRAINS))[1], 1.25).numpy() == pytest.approx(14, rel=0.03)


@pytest.mark.parametrize("size, spacing", [(32, 1.25), (64, 0.625), (16, 2.5)])
def test_one_generator_draws_requested_sizes_at_any_spacing(generator, size, spacing):
    generator.size, generator.spacing = size, spacing
    wanted = torch.tensor([9.0, 12.0, 20.0])
    nodule, mask = generator(torch.randn(3, 4 + GRAINS), wanted)
    assert nodule.shape == mask.shape == (3, 1, size, size, size) and (nodule <= mask).all() and mask.min() == 0
    assert diameter_mm(mask, spacing).numpy() == pytest.approx(wanted.numpy(), rel=0.04 * spacing)


def test_grain_is_added_where_sigma_is_not_zero(generator):
    code, grain = torch.randn(1, 4).expand(2, -1), torch.randn(2, GRAINS)
    z, size = torch.cat([code, grain], dim=1), torch.full((2,), 16.0)
    assert torch.equal(*generator(z, size)[0])
    generator.sigma[1] = 0.02
    noisy = generator(z, size)
    apart = 0.02 * (grain[0] - grain[1]).norm() / GRAINS**0.5
    assert torch.equal(*noisy[1]) and (noisy[0][0] - noisy[0][1])[noisy[1][0] == 1].std().item() == pytest.approx(apart.item(), rel=0.2)


def test_a_batch_without_a_voxel_inside_says_nothing_of_the_inside():
    loss, _ = gaussian_nll(torch.ones(2, 1, requires_grad=True), torch.zeros(2, 1), torch.tensor(0.0))
    assert loss == 0


def test_the_noise_of_the_rim_is_in_the_rim_alone(generator):
    z, size = torch.cat([torch.randn(1, 4), torch.randn(1, GRAINS)], dim=1), torch.tensor([16.0])
    plain, mask = generator(z, size)
    generator.sigma[2] = 0.1
    nodule, same = generator(z, size)
    changed = nodule != plain
    assert torch.equal(mask, same) and not changed[(mask == 0) | (mask == 1)].any() and changed[(mask > 0.3) & (mask < 0.7)].any()
    assert (nodule <= mask).all() and nodule.min() >= 0


def test_the_gradient_reaches_every_number_of_the_code(generator):
    generator.sigma += 0.02
    z = torch.randn(4, 4 + GRAINS, requires_grad=True)
    sum(cubes.sum() for cubes in generator(z)).backward()
    assert (z.grad != 0).all()


def test_decode_is_the_generator_in_batches(generator):
    z, size = torch.randn(70, 4 + GRAINS), torch.full((70,), 10.0)
    for parts in ((z,), (z, size)):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(decode(generator, *parts), generator(*parts), strict=True))


class Cubes:
    """Cubes whose side grows with the only number of the code."""

    def __call__(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(16) - 7.5] * 3, indexing="ij")).abs().amax(0)
        mask = (grid < (3 + 1.5 * z).reshape(-1, 1, 1, 1, 1)).float()
        return mask, mask

    def draw(self, count, generator):
        return torch.randn(count, 1, generator=generator)


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
