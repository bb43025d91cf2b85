"""Training crops: where their nodules are, how they are scaled, turned, faded and made noisy."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.training.candidate_crops import FADED_CONTRAST, LUNG, MAX_NOISE, TrainingGrid, candidate_crops, nodule_contrast


@pytest.fixture
def quiet(monkeypatch):
    """Crops without noise."""
    monkeypatch.setattr("lungadv.training.candidate_crops.MAX_NOISE", 0)


def test_crops_are_scaled_and_turned_with_their_nodules(quiet):
    wide = np.array([1.5, 2.0, 2.5])  # voxels, the deviation of a Gaussian along z, y, x
    z, y, x = np.indices((40, 40, 40)) - np.array([21, 18, 20]).reshape(3, 1, 1, 1)
    ball = torch.from_numpy(np.exp(-((z / wide[0]) ** 2 + (y / wide[1]) ** 2 + (x / wide[2]) ** 2) / 2)).half()
    table = pd.DataFrame({"z": [21.0], "y": [18.0], "x": [20.0], "radius": [2.0], "type": ["solid"]})
    grid = TrainingGrid(torch.stack([ball, 0 * ball]), np.array([[21, 18, 20]]), table)
    batches = candidate_crops([grid], 24, 4, np.random.default_rng(0), max_scale=1.5, faded=0)
    scales, orders = [], set()
    for volumes, contents in islice(batches, 20):
        for volume, inside in zip(volumes[::2, 0].double(), contents[::2], strict=True):
            weight = volume / volume.sum()
            index = torch.stack(torch.meshgrid(*[torch.arange(24.0, dtype=torch.double)] * 3, indexing="ij"))
            centre = (index * weight).sum((1, 2, 3))
            assert np.allclose(centre, inside[0, :3], atol=0.6)  # some of the ball may lie outside
            spread = ((index - centre.reshape(3, 1, 1, 1)) ** 2 * weight).sum((1, 2, 3)).sqrt().numpy()
            scales.append(inside[0, 3] / 2)
            assert np.sort(spread) == pytest.approx(wide * scales[-1], rel=0.25)
            orders.add(tuple(np.argsort(spread)))
    assert min(scales) < 0.75 and max(scales) > 1.35 and len(orders) == 6


def test_crops_hold_their_nodules_where_their_rows_say(quiet, grids):
    batches = candidate_crops(grids, 16, 6, np.random.default_rng(0))
    seen, corners, values = 0, set(), []
    for _ in range(40):
        volumes, contents = next(batches)
        assert volumes.shape == (6, 1, 16, 16, 16) and all(len(inside) for inside in contents[::2])
        for volume, inside in zip(volumes[:, 0], contents, strict=True):
            places = inside[:, :3].astype(int)
            lit = volume.nonzero().numpy()
            assert sorted(map(tuple, lit)) == sorted(map(tuple, places))
            values += volume[volume > 0].tolist()
            seen, corners = seen + len(lit), corners | {tuple(place > 8) for place in places}
    assert seen > 120 and len(corners) == 8
    assert 0.8 * 0.19 <= min(values) and max(values) <= 1  # faded to a tenth above lung at most, then dimmed by a fifth


def test_noise_leaves_crops_between_0_and_1_and_differs_from_crop_to_crop(grids):
    volumes, _ = next(candidate_crops(grids, 16, 8, np.random.default_rng(0), faded=0))
    assert volumes.min() == 0 and volumes.max() <= 1
    spread = volumes.flatten(1).quantile(0.9, dim=1)
    assert spread.max() <= 1.5 * MAX_NOISE and len(spread.unique()) == 8


@pytest.mark.parametrize("faded", [0.0, 0.5, 1.0])
def test_a_share_of_the_crops_fades_what_their_nodules_add_to_the_lung(quiet, faded, grids):
    grid = replace(grids[0], nodules=grids[0].nodules.iloc[:1])
    batches = candidate_crops([grid], 16, 8, np.random.default_rng(0), faded=faded)
    values = torch.cat([next(batches)[0][::2] for _ in range(50)]).flatten(1).amax(1)
    low, high = 0.1 + 0.9 * np.array(FADED_CONTRAST)
    assert (values < 1.1 * high).float().mean() == pytest.approx(faded, abs=0.12) and values.min() > 0.8 * low
    grid.volumes[1] = 0
    batches = candidate_crops([grid], 16, 8, np.random.default_rng(0), faded=faded)
    assert min(next(batches)[0][::2].flatten(1).amax(1).min() for _ in range(20)) > 0.79


def test_contrast_is_what_a_nodule_adds_whatever_stands_beside_it():
    share = np.zeros((2, 20, 20, 20), np.float32)
    share[0, 5:8, 5:8, 5:8], share[0, 4, 5:8, 5:8] = 1, 0.3
    share[1, 13:16, 13:16, 13:16] = 1
    wall = np.zeros((20, 20, 20), np.float32)
    wall[:, :, 8:11] = 0.6  # touches the first
    volume = LUNG + 0.65 * share[0] + 0.9 * share[1] + wall
    added = nodule_contrast(volume, share.sum(0), np.array([[6.0, 6.2, 6.0], [14.0, 14.0, 14.0]]))
    np.testing.assert_allclose(added, 0.65 * share[0] + 0.9 * share[1], atol=1e-5)
    assert not nodule_contrast(volume, 0 * wall, np.empty((0, 3))).any()


def test_crops_around_rare_types_count_the_others_as_well(quiet, grids):
    mixed = grids[0].nodules.assign(type=["solid", "ground_glass"], radius=[1.0, 2.0])
    batches = candidate_crops([replace(grids[0], nodules=mixed)], 24, 4, np.random.default_rng(0), rare=1.0)
    radii = [inside[:, 3].tolist() for _ in range(20) for inside in next(batches)[1]]
    assert all(2.0 in seen for seen in radii[::2]) and any(1.0 in seen for seen in radii[::2]) and [1.0] in radii[1::2]


def test_without_a_rare_type_crops_are_around_the_others(grids):
    batches = candidate_crops(grids[:1], 16, 4, np.random.default_rng(0), rare=1.0)
    assert all(len(inside) for _ in range(10) for inside in next(batches)[1][::2])


def test_crops_without_any_nodule_come_from_the_lungs(grids):
    grid = replace(grids[0], nodules=grids[0].nodules.iloc[:0])
    volumes, contents = next(candidate_crops([grid], 16, 4, np.random.default_rng(0)))
    assert volumes.shape == (4, 1, 16, 16, 16) and all(inside.shape == (0, 4) for inside in contents)
