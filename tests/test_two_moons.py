"""The two-moons experiment: its parts against what they must do, and a tiny run from end to end."""

import math

import numpy as np
import pytest
import torch

from lungadv import two_moons


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_moons_lie_on_their_arcs_in_order():
    positives, position, negatives = two_moons.sample_moons(500, np.random.default_rng(0))
    offset = positives - two_moons.arc(position)
    assert positives.shape == negatives.shape == (500, 2)
    assert abs(offset.std() - 0.15) < 0.02 and np.abs(offset.mean(0)).max() < 0.03
    assert np.allclose(negatives.mean(0), [1, 0.5 - 2 / math.pi], atol=0.05)


def test_the_long_tail_thins_out_along_the_arc():
    positives, position, _ = two_moons.sample_moons(500, np.random.default_rng(0))
    kept = [two_moons.long_tail(position[:, None], position, 20, 0.4, np.random.default_rng(seed))[:, 0] for seed in range(200)]
    assert all(len(np.unique(row)) == 20 for row in kept)
    thirds = np.histogram(np.concatenate(kept), [0, 1 / 3, 2 / 3, 1])[0]
    assert thirds[0] > 1.8 * thirds[1] > 1.8**2 * thirds[2] > 0


def test_batched_networks_are_separate_and_equal_ordinary_ones():
    network = two_moons.BatchedMLP(3, (2, 5, 4), generator())
    points = torch.randn(3, 7, 2, generator=generator())
    for k in range(3):
        hidden = torch.relu(points[k] @ network.weights[0][k] + network.biases[0][k])
        torch.testing.assert_close(network(points)[k], hidden @ network.weights[1][k] + network.biases[1][k])
    (slope,) = torch.autograd.grad(network(points)[0].sum(), network.weights[0])
    assert slope[0].any() and not slope[1:].any()


def test_the_mixture_gives_classes_and_sources_their_halves():
    groups = [torch.full((2, n, 2), float(n)) for n in (20, 500, 100, 10, 30)]
    points, targets, weights = two_moons.training_set(groups[0], groups[1], [groups[2]], [groups[3], groups[4]])
    share = {n: weights[0][points[0, :, 0] == n].sum().item() for n in (20, 500, 100, 10, 30)}
    assert share == pytest.approx({20: 0.5, 100: 0.5, 500: 0.5, 10: 0.25, 30: 0.25})
    assert targets[0][points[0, :, 0] == 100].all() and not targets[0][points[0, :, 0] == 10].any()


def test_training_draws_by_weight_and_separates():
    spots = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]])
    network = two_moons.Classifier(1, 2, 8, generator())
    options = dict(updates=300, batch_size=16, learning_rate=0.02, generator=generator(), name="")
    # the third spot would contradict the second's side of the plane, but its weight is zero
    two_moons.train_classifiers(network, spots, torch.tensor([[0, 1, 0]]), torch.tensor([[0.5, 0.5, 0.0]]), **options)
    confidence = network.confidence(spots)[0]
    assert confidence[0] < 0.3 and confidence[1] > 0.7 and confidence[2] > 0.7
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_synthesizer_learns_where_positives_lie():
    spots = torch.tensor(two_moons.arc(np.linspace(0, 1, 50)), dtype=torch.float32)[None]
    synthesizer = two_moons.fit_synthesizer(spots, latent_size=1, width=32, updates=600, learning_rate=0.01, generator=generator())
    codes = torch.randn(1, 200, 1, generator=generator())
    made = synthesizer(codes, torch.zeros(1, 200, 2))
    assert torch.cdist(made, spots).amin(-1).mean() < 0.15
    assert made[0, :, 0].std() > 0.4  # the whole arc, not one place
    spread = synthesizer(codes, torch.ones(1, 200, 2)) - made
    torch.testing.assert_close(spread, torch.full_like(spread, two_moons.NOISE))


def test_searches_climb_within_their_radius():
    network = two_moons.Classifier(2, 2, 16, generator()).requires_grad_(False)
    noise = torch.randn(2, 30, 2, generator=generator())
    found = two_moons.search_noise(network, noise, eps=0.5, steps=10, generator=generator())
    assert ((found - noise).norm(dim=2) <= 0.5 + 1e-5).all()
    assert (network.confidence(found) >= network.confidence(noise) - 1e-6).all()
    assert network.confidence(found).mean() > network.confidence(noise).mean() + 0.01
    synthesizer = two_moons.Synthesizer(2, 1, 8, generator()).requires_grad_(False)
    codes, spread = torch.randn(2, 30, 1, generator=generator()), torch.randn(2, 30, 2, generator=generator())
    hard = two_moons.search_codes(network, synthesizer, codes, spread, eps=1.0, steps=10, restarts=2, generator=generator())
    assert ((hard - codes).norm(dim=2) <= 1 + 1e-5).all()
    before, after = (network.confidence(synthesizer(z, spread)) for z in (codes, hard))
    assert (after <= before + 1e-6).all() and after.mean() < before.mean() - 0.01


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_far_points_fill_the_far_box_evenly_outside_the_near_one(dimension):
    width = torch.arange(1.0, dimension + 1)
    points = two_moons.far_points(1, 20_000, torch.ones(dimension), width, generator())[0]
    shell = ((points - 1) / width).abs().amax(1)
    assert shell.min() >= two_moons.NEAR / 2 and shell.max() <= two_moons.FAR / 2
    edge = 4.0  # the share of the hollow box's volume beyond it
    expected = (two_moons.FAR**dimension - (2 * edge) ** dimension) / (two_moons.FAR**dimension - two_moons.NEAR**dimension)
    assert (shell > edge).float().mean().item() == pytest.approx(expected, abs=0.02)


def test_embedding_keeps_distances_in_the_plane():
    rotation = torch.linalg.qr(torch.randn(1, 6, 6, generator=generator())).Q
    spots = torch.randn(1, 400, 2, generator=generator())
    back = two_moons.embed(spots, rotation, generator()) @ rotation.mT
    torch.testing.assert_close(back[..., :2] + torch.tensor(two_moons.CENTRE, dtype=torch.float32), spots, atol=1e-5, rtol=0)
    assert back[..., 2:].std().item() == pytest.approx(two_moons.NOISE, rel=0.1)


def test_spots_are_judged_by_where_they_lie():
    arc = torch.tensor(two_moons.arc(np.linspace(0, 1, 1000)), dtype=torch.float32)[None]
    few = arc[:, :200:10]  # training positives in the first fifth of the arc only
    data = {"few": few, "test_positives": arc}
    rare, common, far = arc[:, 900:], arc[:, :100], arc[:, :100] + 30
    measures = two_moons.evaluate_samples({"rare": rare, "common": common, "far": far}, data)
    assert measures["rare", "sparse_share_of_arc"] == 1 and measures["common", "sparse_share_of_arc"] == 0
    assert measures["far", "arc_share"] == 0 and measures["rare", "arc_share"] == 1
    assert measures["far", "nearest_positive"] > 30 > measures["rare", "nearest_positive"]
