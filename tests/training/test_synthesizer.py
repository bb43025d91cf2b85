from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import diameter_mm, soft_mask
from lungadv.models.conditioning import draw_conditioned, encode_condition
from lungadv.models.synthesizer import blend, decode
from lungadv.settings import load_settings
from lungadv.training import synthesizer as training
from lungadv.training.synthesizer import train_synthesizer

KINDS = ["solid", "ground_glass"]
TABLE = pd.DataFrame({"seriesuid": "1.2", "diameter_mm": 10.0, "type": np.resize(KINDS, 24), "spiculated": False})
SETTINGS = replace(load_settings("tiny").synthesizer, latent_size=4, critic_weight=0.01)


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    masks = torch.from_numpy(np.stack([soft_mask(ball(8 + k % 8, 16, 2.5), 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


@pytest.fixture(scope="module")
def trained():
    return train_synthesizer(*pairs(), 2.5, SETTINGS, torch.Generator().manual_seed(0))


def test_spectral_norm_bounds_every_layer_of_the_critic(trained):
    critic = trained[2]
    layers = [module for module in critic.modules() if isinstance(module, (torch.nn.Conv3d, torch.nn.Linear))]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.05)


def test_the_penalty_of_training_stays_small(trained):
    assert trained[3]["penalty"].tail(10).mean() < 0.3


def test_training_learns_and_samples_are_nodules(trained):
    encoder, generator, _, losses = trained
    nodules, masks = pairs()
    assert losses["reconstruction"].tail(5).mean() < 0.5 * losses["reconstruction"].head(5).mean()
    mean, _ = encoder(nodules, masks)
    assert diameter_mm(generator(mean)[1], 2.5).numpy() == pytest.approx(diameter_mm(masks, 2.5).numpy(), rel=0.5)
    sampled = diameter_mm(decode(generator, torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))[1], 2.5)
    assert (sampled >= 6).float().mean() > 0.8


def test_training_is_repeatable_and_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    settings = replace(SETTINGS, updates=4)
    once, again = (train_synthesizer(*pairs(), 2.5, settings, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert once[3].equals(again[3]) and torch.equal(once[1].seed.weight, again[1].seed.weight)


def test_the_critic_takes_part_in_every_nth_step_alone():
    settings = replace(SETTINGS, updates=7, critic_every=3)
    losses = train_synthesizer(*pairs(), 2.5, settings, torch.Generator().manual_seed(7))[3]
    assert losses.index[losses["critic"].notna()].tolist() == [0, 3, 6] and losses[["reconstruction", "kl"]].notna().all(axis=None)


def test_gradient_reaches_the_code_and_no_parameter(trained):
    generator = trained[1]
    z = torch.randn(3, 4, requires_grad=True)
    blend(torch.rand(3, 1, 16, 16, 16), *generator(z)).sum().backward()
    assert z.grad.abs().amax(1).min() > 0
    assert not generator.training and all(not p.requires_grad and p.grad is None for p in generator.parameters())


def test_the_conditioned_generator_keeps_to_the_size():
    nodules, masks = pairs()
    table = TABLE.assign(diameter_mm=diameter_mm(masks, 2.5))
    _, generator, _, losses = train_synthesizer(nodules, masks, 2.5, SETTINGS, torch.Generator().manual_seed(0), encode_condition(table))
    requested = pd.DataFrame({"diameter_mm": np.geomspace(8, 16, 40), "type": np.resize(KINDS, 40), "spiculated": False})
    drawn = draw_conditioned(generator, requested, torch.Generator().manual_seed(1))
    measured = diameter_mm(drawn[1], 2.5).numpy()
    assert (
        np.corrcoef(measured, requested["diameter_mm"])[0, 1] > 0.9
        and np.median(np.abs(np.log(measured / requested["diameter_mm"]))) < 0.15
    )
    assert losses["size"].tail(10).mean() < 0.3 * losses["size"].head(10).mean()


def test_nodule_and_mask_are_turned_alike(monkeypatch):
    corner = torch.zeros(4, 1, 16, 16, 16)
    corner[:, :, :8, :8, :8] = torch.rand(4, 1, 8, 8, 8)
    seen = []

    def record(networks, optimizers, real, *given):
        seen.append(real)
        return {"reconstruction": 0.0}

    monkeypatch.setattr(training, "update_networks", record)
    train_synthesizer(0.5 * corner, corner, 2.5, replace(SETTINGS, updates=20), torch.Generator().manual_seed(0))
    assert all(torch.equal(nodules, 0.5 * masks) for nodules, masks in seen)
    octants = {tuple(int(k >= 8) for k in masks[0, 0].nonzero()[0]) for _, masks in seen}
    assert len(octants) > 4
