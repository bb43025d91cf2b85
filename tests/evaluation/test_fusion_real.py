"""Cubes of nodules, written as those of LUNA16 are, and nodules fused beside their own place."""

import numpy as np
import pandas as pd
import pytest

from lungadv.data.io.write import write_volume
from lungadv.data.masks import diameter_mm
from lungadv.data.scan import Scan, to_hu
from lungadv.data.walls import INWARD
from lungadv.evaluation.fusion import fuse_elsewhere
from lungadv.evaluation.fusion_real import FOLDER, MOVE, move_sites, read_cubes, without_nodules
from lungadv.training.augment import center_crop

GRID = np.indices((50, 50, 50)) - 24.5


def write_cube(folder, name, diameter, wall):
    """A ball of `diameter` mm in lung, with a wall at x < wall that cuts it."""
    inside = ((GRID**2).sum(0) < (diameter / 2) ** 2) & (GRID[2] > wall)
    hu = np.where(inside, 40, np.where(GRID[2] < wall, 50, -850))
    for kind, values in (("dcm", hu), ("seg", inside)):
        scan = Scan(values.astype(np.int16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3), name)
        write_volume(scan.hu, scan, folder / "nodule_patches" / f"{name}_{kind}_0.mhd", True)


@pytest.fixture
def cubes(tmp_path):
    """Three free nodules, of 6, 10 and 16 mm, two on the wall, and one that is cut off."""
    folder = tmp_path / FOLDER
    (folder / "nodule_patches").mkdir(parents=True)
    rows = []
    for k, (diameter, wall) in enumerate(((6, -99), (10, -99), (16, -99), (7, -2), (12, -2))):
        write_cube(folder, f"1.{k}", diameter, wall)
        rows.append({"file": f"1.{k}_dcm_0.mhd", "patient": f"p{k}", "size": "50x50x50", "mask_mm": diameter, "type": "solid"})
    rows[0]["type"] = None
    rows.append(rows[0] | {"size": "50x50x31"})
    pd.DataFrame(rows).to_csv(folder / "nodules.csv", index=False)
    table, *tensors = read_cubes(tmp_path, 99, np.random.default_rng(0), 32, 1.25, 2.5)
    order = table["diameter_mm"].argsort().to_numpy()
    return table.iloc[order].reset_index(drop=True), *(tensor[order.tolist()] for tensor in tensors)


def test_cubes_are_read_with_their_place_in_the_lung(cubes):
    table, patches, nodules, masks = cubes
    assert table["seriesuid"].tolist() == ["p0", "p3", "p1", "p4", "p2"] and table["type"].tolist() == ["unspecified", *["solid"] * 4]
    assert diameter_mm(masks, 1.25).numpy() == pytest.approx([6, 6.5, 10, 10.6, 16], rel=0.08)
    assert table["depth_mm"].tolist() == pytest.approx([16, 2.5, 16, 3, 16], abs=1)
    assert table.loc[[1, 3], INWARD].to_numpy() == pytest.approx(np.tile([1.0, 0, 0], (2, 1)), abs=0.2)
    assert to_hu(nodules[masks == 1]).mean().item() == pytest.approx(40, abs=15)


def test_a_nodule_moves_in_its_own_lung_and_along_its_wall(cubes):
    table, patches, nodules, masks = cubes
    size = patches.shape[-1] - 2 * MOVE
    empty = without_nodules(patches, masks, 1.25)
    pairs, sites = move_sites(table, empty, 4, np.random.default_rng(0))
    assert pairs["nodule"].value_counts().eq(4).all() and sites.shape == (20, 1, size, size, size)
    wall = center_crop(patches[3], size) > 0.7  # of the nodule and the wall; what is moved along it has its wall where it was
    for site in sites[pairs.index[pairs["nodule"] == 3].tolist()]:
        assert ((site > 0.7) & ~wall).sum() < 10  # of the painted ones at the wall
    moved = fuse_elsewhere(pairs, *(center_crop(cube, size) for cube in (nodules, masks)), sites)
    assert to_hu(moved[:, 0, 12:14, 12:14, 12:14]).mean((1, 2, 3)).numpy() == pytest.approx(40, abs=15)


def test_a_nodule_painted_over_leaves_its_lung(cubes):
    table, patches, _, masks = cubes
    empty = to_hu(without_nodules(patches, masks, 1.25))[[0, 2]]
    assert empty.mean((1, 2, 3, 4)).tolist() == pytest.approx([-850, -850], abs=2)
