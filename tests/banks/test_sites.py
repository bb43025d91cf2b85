"""Sites that suit a nodule, and the symmetry that turns it to its wall."""

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.banks.sites import CROWDED, align, crowding, deal_sites, fitting_sites
from lungadv.training.augment import cube_symmetry

SITES = pd.DataFrame({"depth_mm": [1.0, 2.5, 4.0, 9.0, 16.0, 2.0], "medial": [0.9, 0.8, 0.8, 0.5, 0.0, -0.9], "crowding": 0.0})


def test_a_nodule_on_the_wall_goes_to_the_wall_at_its_depth():
    assert fitting_sites(SITES, diameter=10.0, depth=2.0, medial=0.9).tolist() == [0, 1]
    assert fitting_sites(SITES, diameter=10.0, depth=4.5, medial=0.9).tolist() == [2]
    assert fitting_sites(SITES, diameter=10.0, depth=2.0, medial=-0.8).tolist() == [5]  # at the mediastinum


def test_a_free_nodule_goes_where_it_keeps_clear_of_the_wall():
    assert fitting_sites(SITES, diameter=10.0, depth=12.0, medial=0.0).tolist() == [3, 4]
    assert fitting_sites(SITES, diameter=20.0, depth=16.0, medial=0.0).tolist() == [4]


@pytest.mark.parametrize("depth, diameter", [(2.0, 10.0), (12.0, 10.0)])
def test_no_nodule_goes_where_vessels_crowd(depth, diameter):
    fitting = fitting_sites(SITES, diameter, depth, medial=0.9)
    crowded = SITES.assign(crowding=np.where(SITES.index == fitting[0], CROWDED + 0.01, CROWDED))
    assert fitting_sites(crowded, diameter, depth, medial=0.9).tolist() == fitting[1:].tolist()


@pytest.mark.parametrize("spacing", [0.625, 1.25])
def test_crowding_is_what_vessels_add_to_a_flat_wall(spacing):
    size = round(40 / spacing)
    z, y, x = (np.indices((size,) * 3) - (size - 1) / 2) * spacing
    lung, depths = np.zeros((size,) * 3, np.float32), [16.0, 5.0, 0.0, -3.0]
    walls = [np.where(x < -depth, 0.75, lung) for depth in depths]  # soft tissue from `depth` mm on
    vessel = np.where(np.hypot(y, z) < 3, 0.75, lung)  # 6 mm wide, through the middle
    patches = torch.from_numpy(np.stack([*walls, vessel, np.maximum(walls[1], vessel)])).float()[:, None]
    found = crowding(patches, [*depths, 16.0, 5.0], spacing)
    assert found[:4] == pytest.approx(0, abs=0.05)  # walls crowd nothing
    inside = 1 - (1 - (3 / 8) ** 2) ** 1.5  # of a ball of 8 mm, what a cylinder of 3 mm through its middle takes
    assert found[4] == pytest.approx(inside, abs=0.03) and found[5] > CROWDED


@pytest.mark.parametrize("seed", range(5))
def test_the_symmetry_turns_the_normal_as_it_turns_the_cube(seed):
    rng = np.random.default_rng(seed)
    inward, target = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 3)))  # x, y, z
    axes, flips, cosine = align(inward, target)
    z, y, x = np.indices((9, 9, 9)) - 4
    ramp = torch.from_numpy(inward[2] * z + inward[1] * y + inward[0] * x)  # rises along the normal
    turned = cube_symmetry(ramp, axes, flips).numpy()
    slope = np.array([np.diff(turned, axis=axis).mean() for axis in (2, 1, 0)])
    assert slope @ target == pytest.approx(cosine, abs=1e-6)
    assert cosine > 0.8  # a symmetry comes within 37 degrees of any direction


def test_a_turn_that_the_cube_has_is_found_whole():
    axes, flips, cosine = align((0, 0, 1), (-1, 0, 0))
    cube = torch.zeros(3, 3, 3)
    cube[2, 1, 1] = 1  # towards +z
    assert cosine == 1 and cube_symmetry(cube, axes, flips)[1, 1, 0] == 1  # towards -x


def test_nodules_are_dealt_to_the_sites_that_they_fit():
    dealt = deal_sites([6.0, 16.0, 8.0], [4.5, 20.0, 7.0])
    assert dealt[0] == 1  # alone large enough to touch the wall 4.5 mm away, and too large for 7 mm
    assert sorted(dealt) == [0, 1, 2]
    assert deal_sites([30.0, 6.0], [9.0, 16.0]).tolist() == [1, 0]  # where it comes least near
