"""Real cubes as training material: what counts in them, where crops and patches are cut, and that padding tells nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from lungadv.data.nodule_cubes import Cubes
from lungadv.data.scan import AIR, Scan
from lungadv.settings import PatchSettings
from lungadv.training.cube_crops import CubeGrid, NoduleCube, cube_crops, cube_grids, read_nodule_cubes
from lungadv.training.cube_pools import CubePatches, ThickPatches, cube_pools
from lungadv.utils.errors import InputError
from lungadv.utils.files import sha256
from lungadv.utils.statistics import forest_auc

NOTHING = np.empty((0, 4))
SETTINGS = PatchSettings(size=32, spacing=1.25)


def make_cube(seed=0, diameter=10.0, ignored=NOTHING, hu=None):
    """A cube of noise around -850 HU with a bright ball in its middle, at the world's origin; with `hu`, of noise around that alone."""
    rng = np.random.default_rng(seed)
    inside = np.linalg.norm(np.indices((50, 50, 50)) - 24.5, axis=0) < diameter / 2
    voxels = np.where(inside, 40, -850) if hu is None else np.full((50, 50, 50), hu)
    voxels = voxels + rng.normal(0, 40, (50, 50, 50))
    scan = Scan(voxels.astype(np.int16), (1.0, 1.0, 1.0), (-24.5, -24.5, -24.5), np.eye(3), str(seed))
    return NoduleCube(str(seed), scan, np.array([[0.0, 0, 0, diameter]]), ignored, np.empty((0, 3)))


def anywhere(seed, count=8):
    """Places at random in a cube."""
    return np.random.default_rng(1000 + seed).uniform(-20, 20, (count, 3))


def test_a_crop_brings_its_nodule_wherever_it_lies_in_it():
    grids = cube_grids([make_cube(k) for k in range(4)], 2.5, np.random.default_rng(0))
    volumes, nodules, ignored = cube_crops(grids, 20, 40, np.random.default_rng(0))
    assert volumes.shape == (40, 1, 20, 20, 20) and volumes.min() >= 0 and volumes.max() <= 1
    places = np.concatenate(nodules)
    assert len(places) > 35 and all(len(spheres) == 0 for spheres, inside in zip(ignored, nodules, strict=True) if len(inside))
    for volume, inside in zip(volumes, nodules, strict=True):
        for z, y, x, radius in inside:
            middle = volume[0, round(z), round(y), round(x)]
            assert radius == pytest.approx(2.0) and middle > volume.median() + 0.3
    assert places[:, :3].std(axis=0).min() > 2  # nothing follows from the place


def test_small_and_disputed_findings_count_neither_way():
    disputed = np.array([[15.0, 0, 0, 8.0]])
    (small,) = (cube_grids([make_cube(0, diameter=4.0, ignored=disputed)], 2.5, np.random.default_rng(0))[k] for k in [0])
    assert len(small.nodules) == 0 and sorted(2.5 * 2 * small.ignored[:, 3]) == pytest.approx([4.0, 8.0])
    volume = torch.zeros(20, 20, 20, dtype=torch.float16)
    edge = CubeGrid(volume, np.array([[1.0, 1, 1, 2]]), NOTHING)  # often cut off by the crop
    for _, nodules, ignored in (cube_crops([edge], 20, 1, np.random.default_rng(k)) for k in range(20)):
        assert len(nodules[0]) + len(ignored[0]) == 1


def test_nodules_of_neighbouring_cubes_are_known_and_excluded_findings_on_them_left_out(tmp_path):
    from tests.data.made_cubes import write_cube

    one = write_cube(tmp_path, "1.2.3", 0, origin=(0.0, 0.0, 0.0))
    two = write_cube(tmp_path, "1.2.3", 1, origin=(15.0, 0.0, 0.0))
    rows = [
        {
            "path": str(path),
            "mask": str(path).replace("_dcm_", "_seg_"),
            "seriesuid": "1.2.3",
            "world_ok": "True",
            "dataset": "train",
            "type": "solid",
            "sha256": sha256(path),
        }
        | {"coordX": 25.0 + k * 15, "coordY": 25.0, "coordZ": 25.0, "diameter_mm": 8.0}
        for k, path in enumerate((one, two))
    ]
    places = {"coordX": [25.0, 10.0, 12.0], "coordY": [25.0, 10.0, 40.0], "coordZ": [26.0, 10.0, 12.0], "diameter_mm": [-1.0, -1.0, -1.0]}
    others = pd.DataFrame({"path": str(one), "kind": ["excluded", "excluded", "false positive"], "dataset": "train"} | places)
    first, second = read_nodule_cubes(Cubes(pd.DataFrame(rows), others))
    assert first.kind == "solid"
    assert first.nodules[:, 0].tolist() == [25.0, 40.0] and second.nodules[:, 0].tolist() == [40.0, 25.0]
    assert first.ignored.tolist() == [[10.0, 10.0, 10.0, 10.0]] and first.false_positives.tolist() == [[12.0, 40.0, 12.0]]
    sitk.WriteImage(sitk.ReadImage(one) + 1, one)  # a cube as good as the other
    with pytest.raises(InputError, match="1.2.3_dcm_0.mha' is not the cube that was ingested"):
        read_nodule_cubes(Cubes(pd.DataFrame(rows), others))


def test_negative_patches_hold_the_middle_of_no_nodule_and_of_nothing_disputed():
    disputed = np.array([[15.0, 0, 0, 8.0]])
    cube = make_cube(0, ignored=disputed)
    places = np.array([[0.0, 0, 0], [8.0, 0, 0], [15.0, 2, 0], [-15.0, 0, 0]])
    pools = cube_pools([cube], {"0": places}, SETTINGS, np.random.default_rng(0))
    starts = pools[0].rows[:, 1:] + (36 - 1) / 2
    middles = (starts - (40 - 1) / 2)[:, ::-1] * 1.25  # x, y, z in mm
    assert np.linalg.norm(middles - [-15, 0, 0], axis=1).min() < 1.1
    assert np.linalg.norm(middles, axis=1).min() > 8 and np.linalg.norm(middles - [15, 0, 0], axis=1).min() > 4
    assert len(pools[1]) == 4 and (pools[1][torch.arange(4)][:, 0, 17:19, 17:19, 17:19].float().mean((1, 2, 3)) > -400).all()


def test_rare_types_of_nodules_are_drawn_by_the_root_of_their_number():
    cubes = [replace(make_cube(k), kind="solid" if k else "ground_glass") for k in range(10)]
    rows = cube_pools(cubes, {}, SETTINGS, np.random.default_rng(0))[1].rows
    assert np.bincount(rows[:, 0]).tolist() == [12] + [4] * 9


@pytest.mark.parametrize("own", [False, True])
def test_padding_tells_nothing_of_the_label(own):
    cubes = [make_cube(k, hu=-700) for k in range(45)]
    pools = cube_pools(cubes, {cube.name: anywhere(int(cube.name)) for cube in cubes}, SETTINGS, np.random.default_rng(0))
    if own:  # what would happen without the rule
        pools[1].ends, pools[1].own = np.tile([[[0] * 3, [36] * 3]], (len(pools[1]), 1, 1)), True
    rng, count = np.random.default_rng(1), 150
    patches = torch.cat([pools[label][torch.from_numpy(rng.permutation(len(pools[label]))[:count])] for label in (1, 0)])  # each once
    sides = [patches[:, 0].movedim(axis, 1)[:, end].float().mean((1, 2)) for axis in (1, 2, 3) for end in (0, 4, 8, -9, -5, -1)]
    labels = np.repeat([1, 0], count)
    told = forest_auc(torch.stack(sides, dim=1).numpy(), labels, 60)
    assert told > 0.8 if own else abs(told - 0.5) < 0.08


def test_what_lies_beyond_a_cube_is_mirrored_or_air():
    cube = np.arange(40, dtype=np.int16)[:, None, None].repeat(40, 1).repeat(40, 2)
    ends = np.array([[[6, 0, 0], [36, 36, 36]]])
    pool = CubePatches([cube], np.array([[0, -6, 2, 2]]), ends, 36, True, np.random.default_rng(0))
    seen = {tuple(pool[torch.tensor([0])][0, 0, :8, 5, 5].tolist()) for _ in range(20)}
    assert seen == {(5, 4, 3, 2, 1, 0, 0, 1), (AIR,) * 6 + (0, 1)}


def test_thick_patches_are_some_of_the_pool():
    pool = torch.zeros(1, 1, 36, 36, 36, dtype=torch.int16)
    pool[:, :, 18] = 1000
    thick = ThickPatches(pool, 1.25, np.random.default_rng(0))
    tops = [int(thick[torch.tensor([0])].max()) for _ in range(60)]
    assert len(thick) == 1 and 0.2 < np.mean(np.array(tops) < 1000) < 0.6 and thick[torch.tensor([0])].dtype == torch.int16
