from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lungadv.data.masks import diameter_mm, soft_mask
from lungadv.models.cubes import to_cubes
from lungadv.models.grain import GRAINS, Grain
from lungadv.models.synthesizer import blend, decode
from lungadv.settings import load_settings
from lungadv.training import synthesizer as training
from lungadv.training.synthesizer import class_weights, encode, train_synthesizer

SETTINGS = replace(load_settings("tiny").synthesizer, edge=5.0, latent_size=12, critic_every=2)
TRAITS = torch.arange(24)[:, None] % 2 == 0


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    masks = torch.from_numpy(np.stack([soft_mask(ball(8 + k % 8, 16, 2.5), 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


@pytest.fixture(scope="module")
def trained():
    return train_synthesizer(*pairs(), TRAITS, 2.5, SETTINGS, torch.Generator().manual_seed(0))


def test_a_class_is_drawn_by_the_root_of_its_number():
    weights = class_weights(torch.tensor([[True, False]] * 9 + [[False, True]] * 4))
    assert weights[:9].sum() == pytest.approx(3) and weights[9:].sum() == pytest.approx(2)


def test_spectral_norm_bounds_every_layer_of_the_critic(trained):
    critic = trained[2]
    layers = [module for module in critic.modules() if isinstance(module, (torch.nn.Conv3d, torch.nn.Linear))]
    assert len(layers) == 4
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.05)


def test_the_penalty_of_training_stays_small(trained):
    """Without the penalty the critic's slope leaves 1."""
    assert trained[3]["penalty"].tail(10).mean() < 0.3


def test_the_losses_fall_and_the_code_says_something(trained):
    losses = trained[3]
    assert losses.columns.tolist() == ["step", "distance", "appearance", "rim", "tone", "size", "kl", "critic", "penalty"]
    for name in ("distance", "rim", "tone", "size"):
        assert losses[name].tail(10).mean() < losses[name].head(10).mean() - 2
    assert losses["kl"].tail(10).mean() > 2


def test_what_is_rebuilt_has_the_size_and_the_brightness(trained):
    encoder, generator, _, _ = trained
    nodules, masks = pairs()
    mean, _ = encode(encoder, to_cubes(nodules, masks, 2.5, 5.0))
    rebuilt = decode(generator, generator.prior.whiten(mean, torch.Generator().manual_seed(0)))
    assert diameter_mm(rebuilt[1], 2.5).numpy() == pytest.approx(diameter_mm(masks, 2.5).numpy(), rel=0.25)
    brightness = [(a.flatten(1).sum(1) / b.flatten(1).sum(1)).numpy() for a, b in (rebuilt, (nodules, masks))]
    assert np.corrcoef(*brightness)[0, 1] > 0.95


def test_even_nodules_are_drawn_even_without_a_grid(trained):
    """An untrained decoder's eight parts of a voxel differ by 0.03 in brightness and 0.13 radii."""
    encoder, generator, _, _ = trained
    cubes = to_cubes(*pairs(), 2.5, 5.0)
    distance, appearance, _ = generator.decoder(encode(encoder, cubes)[0])
    for drawn, where in ((appearance, cubes.distance > 0.3), (distance - cubes.distance, cubes.distance.abs() < 0.7)):
        parts = [drawn[..., z::2, y::2, x::2][where[..., z::2, y::2, x::2]].mean() for z, y, x in np.ndindex(2, 2, 2)]
        assert max(parts) - min(parts) < 0.01


def test_the_prior_holds_the_training_nodules(trained):
    encoder, generator, _, _ = trained
    mean, log_variance = encode(encoder, to_cubes(*pairs(), 2.5, 5.0))
    assert torch.allclose(generator.prior.mean, mean) and torch.allclose(generator.prior.deviation, (log_variance / 2).exp())
    assert torch.equal(generator.prior.traits, TRAITS)
    z = generator.draw(4000, torch.Generator().manual_seed(1))
    assert z.mean(0).abs().max() < 0.1 and (torch.cov(z.T) - torch.eye(12)).abs().max() < 0.1
    assert (diameter_mm(decode(generator, z[:64])[1], 2.5) >= 6).float().mean() > 0.8


def test_the_outline_is_as_rough_as_the_error_that_is_left(trained):
    encoder, generator, _, _ = trained
    cubes = to_cubes(*pairs(), 2.5, 5.0)
    distance = generator.decoder(encode(encoder, cubes)[0])[0]
    rim = cubes.mask * (1 - cubes.mask)
    left = (rim * ((distance - cubes.distance) * (cubes.diameter / 2).reshape(-1, 1, 1, 1, 1)) ** 2).sum().div(rim.sum()).sqrt()
    assert 0.5 < generator.sigma[0] / left < 2


def test_grain_is_as_strong_as_in_the_training_nodules_however_little_was_learned():
    masks = torch.from_numpy(soft_mask(ball(26, 16, 2.5), 2.5, 5.0)).expand(24, 1, -1, -1, -1)
    numbers = torch.randn(len(masks), GRAINS, generator=torch.Generator().manual_seed(5))
    grainy = masks * (0.6 + 0.02 * Grain()(numbers, 16, 2.5)[:, 1:])
    generator = train_synthesizer(grainy, masks, TRAITS, 2.5, replace(SETTINGS, updates=2), torch.Generator().manual_seed(7))[1]
    assert generator.sigma[1].item() == pytest.approx(0.02, rel=0.15)


def test_training_is_repeatable_and_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    settings = replace(SETTINGS, updates=4)
    once, again = (train_synthesizer(*pairs(), TRAITS, 2.5, settings, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert once[3].equals(again[3]) and torch.equal(once[1].decoder.seed.weight, again[1].decoder.seed.weight)


def test_the_critic_starts_late_and_takes_part_in_every_nth_step():
    settings = replace(SETTINGS, updates=12, critic_start=0.35, critic_every=3)
    losses = train_synthesizer(*pairs(), TRAITS, 2.5, settings, torch.Generator().manual_seed(7))[3]
    assert losses.index[losses["critic"].notna()].tolist() == [6, 9] and losses[["distance", "kl"]].notna().all(axis=None)
    none = train_synthesizer(*pairs(), TRAITS, 2.5, replace(settings, critic_weight=0.0), torch.Generator().manual_seed(7))[3]
    assert "critic" not in none and np.array_equal(none["distance"][:6], losses["distance"][:6])


def test_gradient_reaches_the_code_and_no_parameter(trained):
    generator = trained[1]
    z = torch.randn(3, 12, requires_grad=True)
    blend(torch.rand(3, 1, 16, 16, 16), *generator(z)).sum().backward()
    assert z.grad.abs().amax(1).min() > 0
    assert not generator.training and all(not p.requires_grad and p.grad is None for p in generator.parameters())


def test_cubes_nodule_and_mask_are_turned_alike(monkeypatch):
    masks = torch.zeros(4, 1, 16, 16, 16)
    masks[:, :, 5:11, 5:11, 5:11] = 1
    masks[:, :, 4:8, 4:8, 4:8] = 1  # which bulges at one corner
    nodules = masks * torch.rand(4, 1, 16, 16, 16)
    nodules[:, :, 4:8, 4:8, 4:8] = 1  # and is bright there
    seen = []

    def record(networks, optimizers, cubes, real, *given):
        seen.append((cubes, *real))
        return {"distance": 0.0}

    monkeypatch.setattr(training, "update_networks", record)
    train_synthesizer(nodules, masks, TRAITS[:4], 2.5, replace(SETTINGS, updates=20), torch.Generator().manual_seed(0))

    def brightest_octant(cubes):
        return F.adaptive_avg_pool3d(cubes, 2)[0].argmax().item()

    seen = [(*real, cubes.appearance * cubes.mask, cubes.mask, cubes.distance) for cubes, *real in seen]
    corners = [[brightest_octant(each) for each in volumes] for volumes in seen]
    assert all(len(set(each)) == 1 for each in corners) and len({each[0] for each in corners}) > 4


def test_what_the_critic_sees_is_turned_alike():
    cubes = torch.rand(2, 1, 6, 6, 6)
    turned, other = training._turned((cubes, cubes), torch.Generator().manual_seed(3))
    assert torch.equal(turned, other) and not torch.equal(turned, cubes)
    assert torch.equal(*(torch.sort(each.flatten()).values for each in (turned, cubes)))
