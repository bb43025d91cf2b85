"""Heatmaps and their loss against closed forms; the untrained network."""

import numpy as np
import torch

from lungadv.models.resunet import ResUNet, gaussian_heatmap, heatmap_focal_loss, inside_any


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_heatmaps_are_gaussians_around_the_centres_and_peak_at_the_nearest_voxels():
    centres, sigma = np.array([[2.4, 3.0, 4.6], [6.8, 6.1, 1.2]]), 1.2
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(8), np.arange(7), indexing="ij"))
    expected = np.exp(-((grid[None] - centres[:, :, None, None, None]) ** 2).sum(1) / (2 * sigma**2)).max(0)
    expected[2, 3, 5] = expected[7, 6, 1] = 1
    np.testing.assert_allclose(gaussian_heatmap((9, 8, 7), centres, sigma), expected, atol=1e-6)
    assert gaussian_heatmap((9, 8, 7), np.empty((0, 3)), sigma).max() == 0


def test_the_loss_is_the_focal_loss_written_out():
    logits = torch.randn(3, 1, 6, 6, 6, generator=generator()) * 3
    target = torch.stack([gaussian_heatmap((6, 6, 6), c, 1.2) for c in ([[1, 1, 1], [4, 4, 4]], [[2, 3, 4]], [])])[:, None]
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), target.double().numpy()
    terms = np.where(y == 1, (1 - p) ** 2 * np.log(p), (1 - y) ** 4 * p**2 * np.log(1 - p))
    expected = -terms.reshape(3, -1).sum(1) / [2, 1, 1]
    np.testing.assert_allclose(heatmap_focal_loss(logits, target), expected, rtol=1e-5)


def test_what_is_ignored_costs_nothing_but_a_missed_nodule_does():
    target = gaussian_heatmap((6, 6, 6), [[2, 2, 2]], 1.2)[None, None]
    ignored = torch.zeros(1, 1, 6, 6, 6, dtype=torch.bool)
    ignored[..., 4:] = True
    false_alarm, missed = torch.full((1, 1, 6, 6, 6), -8.0), torch.full((1, 1, 6, 6, 6), -8.0)
    false_alarm[..., 5, 5, 5], false_alarm[..., 2, 2, 2] = 8.0, 8.0
    assert heatmap_focal_loss(false_alarm, target) > 5 > 0.1 > heatmap_focal_loss(false_alarm, target, ignored)
    assert heatmap_focal_loss(missed, target, torch.ones_like(ignored)) > 5


def test_points_are_found_inside_grown_spheres():
    points = torch.tensor([[0.0, 0, 0], [0, 0, 3.4], [0, 3.6, 0], [9, 9, 9]])
    found = inside_any(points, [[0, 0, 0, 2.0], [9, 9, 9.5, 1.0]], 1.5)
    assert found.tolist() == [True, True, False, True] and not inside_any(points, [], 1.5).any()


def test_an_untrained_network_finds_nothing_whatever_its_weights():
    for seed in range(5):
        torch.manual_seed(seed)
        logits = ResUNet(4)(torch.rand(2, 1, 16, 16, 16, generator=generator()))[0]
        assert (logits == -4).all()
