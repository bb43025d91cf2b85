"""Training of the candidate networks: who starts where, and adversarial fine-tuning."""

import copy
from dataclasses import replace
from itertools import repeat

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv.models.resunet import ResUNet, heatmap_focal_loss, heatmap_targets
from lungadv.pipeline.runs import Run
from lungadv.settings import AttackSettings, load_settings
from lungadv.training.candidate_crops import candidate_crops
from lungadv.training.candidates import adversarial_finetune, adversarial_heatmap_loss, heatmap_loss, train_networks
from lungadv.training.loop import fit
from lungadv.utils.errors import InputError

TINY = load_settings("tiny")
CANDIDATES = replace(
    TINY.candidates,
    spacing=2.5,
    sigma=3.0,
    crop=40.0,
    max_scale=1.0,
    batch_size=4,
    learning_rate=0.02,
    adversarial_updates=3,
    adversarial_steps=2,
)
SETTINGS = replace(TINY, candidates=CANDIDATES, attack=AttackSettings(eps=0.02, noise_eps=0.1, steps=5))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def exact(monkeypatch):
    """float32 throughout, to compare whole volumes with slabs."""
    monkeypatch.setattr("lungadv.utils.device.fast_dtype", lambda device: torch.float32)


class Sharp(nn.Module):
    """Heatmap logits that grow with the voxel's own value, steeply; `gain` 0 answers nothing."""

    def __init__(self, gain=100.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        return self.gain * (x - 0.5), x


def test_training_lowers_the_loss_of_a_batch(exact, grids):
    torch.manual_seed(0)
    network = ResUNet(4)
    batch = next(candidate_crops(grids, 16, 4, np.random.default_rng(0)))
    losses = fit(network, heatmap_loss(1.2), repeat(batch), 60, learning_rate=0.02)["loss"]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5]) and len(losses) == 60 and not network.training


def test_each_network_has_its_crops_and_starts_where_it_should(monkeypatch, grids, tmp_path):
    settings = replace(CANDIDATES, batch_size=2, max_scale=1.1, width=2, updates=1, finetune_updates=1, anchors=(5.0, 10.0))
    started, told, rates = [], [], []

    def train(network, loss, batches, updates, learning_rate, desc):
        rates.append(learning_rate)
        started.append({name: value.clone() for name, value in network.state_dict().items()})
        with torch.no_grad():
            network.heat.weight.add_(1) if hasattr(network, "heat") else None
        return pd.DataFrame({"update": [0], "loss": [0.0]})

    def note(grids, size, count, rng, scale, **terms):
        told.append((scale, terms))

    monkeypatch.setattr("lungadv.training.candidates.fit", train)
    monkeypatch.setattr("lungadv.training.candidates.candidate_crops", note)
    networks, losses = train_networks(grids, settings, Run("tiny", 100, "phantom", TINY, tmp_path))
    assert losses["network"].tolist() == ["blob", "blob-ggo", "rpn"] and losses.columns.tolist() == ["network", "update", "loss"]
    assert rates == [0.02, 0.01, 0.01]
    assert told == [(1.1, {}), (1.1, {"faded": 0.75, "rare": 0.5}), (1.1, {})]
    blob = networks["blob"].state_dict()
    assert all(torch.equal(started[1][name], value) for name, value in blob.items())  # ground glass is fine-tuned from all nodules
    assert all(torch.equal(started[2][f"backbone.{name}"], value) for name, value in blob.items())
    assert not torch.equal(started[0]["heat.weight"], blob["heat.weight"])


def test_the_first_half_of_a_batch_is_attacked_within_eps_and_the_network_left_as_it_was():
    network, seen = Sharp(10.0), []

    def watched(x):
        seen.append((x.detach().clone(), torch.is_grad_enabled()))
        return Sharp.forward(network, x)

    network.forward = watched
    network.train()
    volumes = torch.rand(4, 1, 8, 8, 8, generator=generator())
    loss = adversarial_heatmap_loss(SETTINGS, generator())(network, volumes, [np.array([[4.0, 4, 4, 1]])] * 4)
    given, _ = seen[-1]
    assert torch.equal(given[2:], volumes[2:])
    change = (given[:2] - volumes[:2]).abs()
    assert 0.9 * SETTINGS.attack.eps < change.max() <= SETTINGS.attack.eps + 1e-6 and network.training and network.gain.requires_grad
    target = heatmap_targets((8, 8, 8), [np.array([[4.0, 4, 4, 1]])] * 4, CANDIDATES.sigma / CANDIDATES.spacing)
    clean, attacked = (heatmap_focal_loss(Sharp.forward(network, x)[0], target) for x in (volumes, given))
    assert (attacked[:2] > clean[:2]).all() and loss.item() == pytest.approx(attacked.mean().item(), rel=1e-4)
    loss.backward()
    assert network.gain.grad is not None


def test_adversarial_finetuning_trains_copies_and_leaves_the_plain_networks(exact, grids, tmp_path):
    run = Run("tiny", 100, "phantom", SETTINGS, tmp_path)
    networks = {name: ResUNet(2).eval().requires_grad_(False) for name in ("blob", "blob-ggo")}
    before = {name: copy.deepcopy(network.state_dict()) for name, network in networks.items()}
    tuned, losses = adversarial_finetune(networks, grids, SETTINGS, run)
    assert list(tuned) == ["blob", "blob-ggo"] and losses.groupby("network").size().tolist() == [3, 3]
    for name, network in tuned.items():
        assert all(torch.equal(value, before[name][key]) for key, value in networks[name].state_dict().items())
        assert any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
        assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    again, _ = adversarial_finetune(networks, grids, SETTINGS, run)
    for name, network in tuned.items():
        assert all(torch.equal(value, again[name].state_dict()[key]) for key, value in network.state_dict().items())


def test_training_scans_without_a_nodule_are_an_input_error(grids, tmp_path):
    empty = [replace(grid, nodules=grid.nodules.iloc[:0]) for grid in grids]
    with pytest.raises(InputError, match="the training scans hold no nodule to learn from"):
        train_networks(empty, CANDIDATES, Run("tiny", 100, "phantom", TINY, tmp_path))
