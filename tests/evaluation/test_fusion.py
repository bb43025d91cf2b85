"""Fusion judged on balls in even lungs, before a network that measures the brightness of the middle."""

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import foreground, soft_mask
from lungadv.data.scan import to_unit
from lungadv.data.walls import WALL
from lungadv.evaluation.fusion import LIMIT, choose_sites, fuse_elsewhere, fusion_table, noise_level, rim_table

SIZE, SPACING = 24, 1.25


def table_of(*rows):
    """Rows of (diameter_mm, depth_mm, inward x, y, z), all at the same wall and as noisy."""
    return pd.DataFrame(rows, columns=["diameter_mm", *WALL[:4]]).assign(medial=0.9, noise=0.02, crowding=0.0)


def unit(hu):
    return to_unit(torch.tensor(float(hu))).item()


@pytest.fixture
def ball():
    """In place, nodule and mask, each (1, 1, SIZE, SIZE, SIZE): a soft ball of 12 mm and 30 HU in lung of -850 HU."""
    inside = (((np.indices((SIZE,) * 3) - (SIZE - 1) / 2) * SPACING) ** 2).sum(0) < 36
    mask = soft_mask(inside, SPACING, 2.5)
    patch = (unit(30) * mask + unit(-850) * (1 - mask)).astype(np.float32)
    return [torch.from_numpy(cube)[None, None] for cube in (patch, foreground(patch, mask, SPACING), mask)]


def test_sites_are_of_the_nodules_kind_and_as_noisy():
    nodules = table_of((10, 2.0, 1, 0, 0), (10, 16, 0, 0, 0))
    sites = table_of((0, 2, 0, 0, 1), (0, 16, 0, 0, 0), (0, 9, 0, 0, 0), (0, 12, 0, 0, 0), (0, 2, 0, 0, 1))
    sites.loc[[3, 4], "noise"] = 0.04, 0.01
    pairs = choose_sites(nodules, sites, 9, np.random.default_rng(0))
    assert {k: set(group["site"]) for k, group in pairs.groupby("nodule")} == {0: {0}, 1: {1, 2}}
    axes, flips = pairs.loc[pairs["nodule"] == 0, ["axes", "flips"]].iloc[0]
    assert axes[0] == 2 and not flips[0]  # what lay along x lies along z


def test_at_the_wall_the_best_aligned_sites_come_first():
    slant = np.array([0.8, 0.6, 0.0])
    sites = table_of((0, 2, *slant), (0, 2, 0, 0, -1), (0, 2, *slant[::-1]))
    pairs = choose_sites(table_of((10, 2.0, 0, 1, 0)), sites, 1, np.random.default_rng(0))
    assert pairs["site"].tolist() == [1]


def test_the_noise_level_is_that_of_the_noise():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 16, 16, 16, generator=generator) * torch.tensor([0.01, 0.02]).reshape(2, 1, 1, 1, 1)
    assert noise_level(noise) == pytest.approx(np.array([0.01, 0.02]) * 2**0.5 * 0.6745, rel=0.05)
    assert (noise_level(torch.zeros(1, 1, 8, 8, 8)) > 0).all()


def test_fused_in_the_same_lung_a_nodule_is_as_it_was(ball):
    in_place, nodule, mask = ball
    pairs = pd.DataFrame({"nodule": [0, 0], "site": [0, 1], "axes": [(0, 1, 2), (2, 1, 0)], "flips": [(False,) * 3, (True, False, False)]})
    lungs = torch.full((2, 1, SIZE, SIZE, SIZE), unit(-850))
    fused = fuse_elsewhere(pairs, nodule, mask, lungs)
    assert torch.allclose(fused, in_place.expand(2, -1, -1, -1, -1), atol=1e-5)
    assert fuse_elsewhere(pairs[:0], nodule, mask, lungs).shape == (0, 1, SIZE, SIZE, SIZE)


def test_the_table_counts_each_nodule_once_and_groups_them():
    nodules = pd.DataFrame({"type": ["solid", "solid", "ground_glass", "solid"]})
    pairs = pd.DataFrame({"nodule": [0, 0, 1, 2]})
    table = fusion_table(nodules, pairs, np.array([0.9, 0.9, 0.2, 0.9]), np.array([0.9, 0.1, 0.8, 0.1]), ["type"]).set_index("group")
    assert table["nodules"].to_dict() == {"all": 3, "solid": 2, "ground_glass": 1} and table.loc["solid", "without_site"] == 1
    assert table.loc["all", ["in_place", "elsewhere"]].tolist() == pytest.approx([2 / 3, 0.5])
    assert table.loc["solid", "difference"] == pytest.approx(-0.25) and not table.loc["solid", "kept"]
    assert table.loc["ground_glass", "kept"] and LIMIT == 0.05


def test_the_rim_of_a_ball_has_no_halo_and_a_rim_faded_twice_has_one(ball):
    in_place, nodule, mask = ball
    lung = torch.full_like(in_place, unit(-850))
    sound = rim_table(in_place, nodule, mask, lung).set_index("where")["rim_hu"]
    assert sound["on lung"] == pytest.approx(sound["in place"], abs=1) and sound["on tissue"] == pytest.approx(38, abs=3)
    faded = rim_table(in_place, mask * in_place, mask, lung).set_index("where")["rim_hu"]
    assert faded["on tissue"] < -80
