"""Cubes of nodules as they are read back from their manifest."""

import numpy as np
import pandas as pd
import pytest

from lungadv.data.ingest import ingest
from lungadv.data.nodule_cubes import Cubes, cube_name, load_cube, measure_mask, read_cubes
from lungadv.data.patches import extract_patches
from lungadv.data.scan import AIR, Scan, ScanError
from lungadv.utils.errors import InputError
from tests.data.made_cubes import clone, write_cube


@pytest.fixture
def manifest(tmp_path, out):
    ingest(clone(tmp_path / "clone"), "nodule-cubes", out, workers=1)
    return out


def test_names_of_cubes_tell_series_and_number():
    assert cube_name("nodule_patches/1.2.3_dcm_12.mha") == ("1.2.3", 12, "1.2.3_seg_12.mha")
    assert cube_name("1.2.3_seg_12.mha") is None and cube_name("1.2.3.mha") is None


def test_a_cube_is_a_scan_of_its_own_with_the_nodule_at_its_place(manifest):
    cubes = read_cubes(manifest).table
    cube = cubes.iloc[0]
    scan, mask = load_cube(cube)
    assert scan.hu.shape == mask.shape == (50, 50, 50) and mask.dtype == bool and scan.spacing == (1, 1, 1)
    patch = extract_patches(scan, [cube[["coordX", "coordY", "coordZ"]].to_numpy(float)], 3, 1.0)
    assert abs(float(patch.mean()) - 30) < 20  # the ball's HU


def test_padding_is_air(tmp_path):
    hu = np.full((50,) * 3, -800)
    hu[0] = -3024
    path = write_cube(tmp_path, "1.2", 0, hu=hu)
    scan, _ = load_cube({"path": path, "mask": path.with_name("1.2_seg_0.mha")})
    assert scan.padded == 2500 and scan.hu[0].max() == AIR and scan.hu[1:].max() == -800


def test_parts_are_told_apart_by_data_set(manifest):
    cubes = read_cubes(manifest)
    parts = [cubes.of(name) for name in ("train", "validation", "test")]
    assert sum(len(part.table) for part in parts) == 12 and all(part.table.index.tolist() == list(range(len(part.table))) for part in parts)
    with pytest.raises(InputError, match="unknown data set 'nlst': choose one of train, validation, test"):
        cubes.of("nlst")


def test_a_mask_is_measured_as_a_ball_of_its_volume():
    inside = np.zeros((20, 20, 20), bool)
    inside[4:8, 10:12, 3:4] = True
    middle, diameter = measure_mask(Scan(np.zeros(inside.shape, np.int16), (2, 1, 1), (0, 0, 0), np.eye(3), "1"), inside)
    assert middle.tolist() == [6.0, 10.5, 5.5] and diameter == pytest.approx((6 / np.pi * 16) ** (1 / 3))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda rows, cube: cube.unlink(), "line 2: 'nodule_patches/1.2.0_dcm_0.mha' does not exist in"),
        (lambda rows, cube: cube.with_name("1.2.0_seg_0.mha").unlink(), "line 2: 'nodule_patches/1.2.0_seg_0.mha' does not exist in"),
        (
            lambda rows, cube: cube.write_bytes(cube.read_bytes() + b"0"),
            "line 2: 'nodule_patches/1.2.0_dcm_0.mha' has not the [0-9]+ bytes",
        ),
        (lambda rows, cube: rows.__setitem__("dataset", "nlst"), "line 2: unknown data set 'nlst': write one of train"),
        (lambda rows, cube: rows.__setitem__("kind", "scan"), "is no manifest of nodule cubes: write one with"),
        (lambda rows, cube: rows.__setitem__("type", "soft"), "line 2: unknown type 'soft'"),
    ],
)
def test_what_changed_since_is_named_with_its_line(spoil, words, manifest, tmp_path):
    rows = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    spoil(rows, tmp_path / "clone" / rows["path"][0])
    rows.to_csv(manifest, index=False)
    with pytest.raises(InputError, match=words):
        read_cubes(manifest)


def test_a_mask_must_lie_on_its_cube_and_hold_a_voxel(tmp_path):
    empty = write_cube(tmp_path, "1.2", 0, radius=-1)
    with pytest.raises(ScanError, match="is empty: no voxel is the nodule's"):
        load_cube({"path": empty, "mask": empty.with_name("1.2_seg_0.mha")})
    other = write_cube(tmp_path, "1.2", 1, origin=(0.0, 0.0, 0.0))
    with pytest.raises(ScanError, match="is no mask on the grid of its cube"):
        load_cube({"path": empty, "mask": other.with_name("1.2_seg_1.mha")})


def test_a_manifest_without_others_has_none(manifest):
    (manifest.parent / "not_nodules.csv").unlink()
    cubes = read_cubes(manifest)
    assert isinstance(cubes, Cubes) and cubes.not_nodules.empty
