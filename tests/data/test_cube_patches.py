"""Patches of nodules and of lung beside them, from the same cubes."""

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.cube_patches import OFFSET_MM, cube_lung, cut_cube_patches, findings_in, fitting_places
from lungadv.data.ingest import ingest
from lungadv.data.nodule_cubes import load_cube, read_cubes
from lungadv.data.positions import shift_margin
from lungadv.data.tables import XYZ
from lungadv.evaluation.real_nodules import border_auc
from tests.data.ingest.folders import HEADER
from tests.data.made_cubes import write_cube

WIDTH = 16 + 2 * shift_margin(1.0)  # mm, of what is stored


def taken(folder, out):
    ingest(folder, "nodule-cubes", out, workers=1)
    return read_cubes(out)


def cut(cubes, count=3, seed=0):
    return cut_cube_patches(cubes, 16, 1.0, positives=count, negatives=count, rng=np.random.default_rng(seed))


@pytest.fixture
def folder(tmp_path):
    """Balls of 7, 8, 16 and 5 mm in the middle of their cubes, one of them cut off."""
    for k, radius in enumerate((3.5, 4.0, 8.0, 2.5)):
        write_cube(tmp_path / "cubes", f"1.2.{k}", 0, radius, **({"shape": (40, 50, 50), "middle": (20, 25, 25)} if k == 1 else {}))
    return tmp_path / "cubes"


def test_both_labels_come_from_one_cube_and_lie_inside_it(folder, out):
    cubes = taken(folder, out)
    table, hu, _ = cut(cubes)
    assert hu.shape[1:] == (1, WIDTH, WIDTH, WIDTH) and len(hu) == len(table)
    assert hu.min() >= -890 and hu.max() <= 70  # what the cubes hold: no air beyond them
    for path, rows in table.groupby("path"):
        origin, shape = (
            load_cube(cubes.table.set_index("path").loc[path].to_dict() | {"path": path})[0].origin,
            (50, 50, 40 if "1.2.1" in path else 50),
        )
        low = rows[XYZ].to_numpy() - origin - WIDTH / 2
        assert (low >= -1).all() and (low + WIDTH <= np.array(shape)).all()


def test_what_lies_beside_a_nodule_holds_nothing_of_it(folder, out):
    table, hu, _ = cut(taken(folder, out))
    brightest = hu.amax(dim=(1, 2, 3, 4)).numpy()
    assert (brightest[table["label"] == 0] < -700).all() and (brightest[table["label"] == 1] > -30).all()
    both = table[table["has_both"]]
    assert both.groupby("path")["label"].agg(["sum", "size"]).to_numpy().tolist() == [[3, 6], [3, 6]]


def test_a_nodule_too_large_gives_none_beside_it_and_a_small_one_nothing(folder, out):
    table, _, _ = cut(taken(folder, out))
    large = table[table["seriesuid"] == "1.2.2"]
    assert set(large["label"]) == {1} and not large["has_both"].any()
    assert "1.2.3" not in set(table["seriesuid"])


def test_nodules_are_off_the_middle_by_less_than_their_radius(folder, out):
    cubes = taken(folder, out)
    table, _, _ = cut(cubes, count=8)
    middles = cubes.table.set_index("path")[XYZ]
    nodules = table[table["label"] == 1]
    away = np.linalg.norm(nodules[XYZ].to_numpy() - middles.loc[nodules["path"]].to_numpy(), axis=1)
    assert (away < np.minimum(0.3 * nodules["diameter_mm"], OFFSET_MM) + 1e-6).all() and away.std() > 0.2
    first = nodules.drop_duplicates("path")
    near = first[XYZ].to_numpy() - middles.loc[first["path"]].to_numpy()
    assert (np.abs(near) <= 0.5).all() and (near != 0).all()  # in voxels of 1 mm; on their grid noise would tell nodules


def test_noise_tells_nothing_of_the_label(tmp_path, out):
    """Nodules in the middle of voxels, lung anywhere: were patches cut so, noise would be smoother in one of the two."""
    for k in range(40):
        write_cube(tmp_path / "cubes", f"1.3.{k}", 0, 3.2)
    table, hu, _ = cut(taken(tmp_path / "cubes", out), count=1)
    assert 0.25 < border_auc(table, hu[:, :, 2:-2, 2:-2, 2:-2].float() / 1400) < 0.75


def test_each_nodule_has_its_mask_and_its_depth_in_the_lung(folder, out):
    table, hu, masks = cut(taken(folder, out))
    nodules = (table["label"] == 1).to_numpy()
    bright = hu[torch.from_numpy(nodules.copy())] > -400
    assert masks.dtype == torch.uint8 and masks.shape == bright.shape
    assert ((masks > 0) == bright).float().mean() > 0.97  # trilinear edges differ by less than a voxel
    assert table["depth_mm"].notna().all() and (table["depth_mm"] > 0).all()


def test_one_seed_gives_one_set_of_patches(folder, out):
    cubes = taken(folder, out)
    first, again, other = (cut(cubes, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first[0], again[0])
    assert (first[1] == again[1]).all() and not first[0][XYZ].equals(other[0][XYZ])


def test_excluded_findings_and_other_nodules_are_kept_out_of_negatives(tmp_path, out):
    folder = tmp_path / "cubes"
    write_cube(folder, "1.2.0", 0, 3.5)
    write_cube(folder, "1.2.0", 1, 3.5, origin=(-83.0, -50.0, -300.0))  # overlaps: its nodule lies in the first cube, too
    (folder / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.0,-75,-8,-275,4\n")
    cubes = taken(folder, out)
    first = cubes.table.iloc[0].to_dict()
    found = findings_in(cubes, first, load_cube(first)[0])
    assert sorted(found[XYZ].to_numpy().round().tolist()) == [[-75, -8, -275], [-58, -25, -275]]
    table, _, _ = cut(cubes, count=12)
    beside = table[(table["label"] == 0) & (table["path"] == first["path"])]
    assert len(beside)
    for place in found[XYZ].to_numpy():
        assert (np.abs(beside[XYZ] - place).max(axis=1) > WIDTH / 2).all()


def test_a_detectors_false_positive_is_a_negative_where_its_patch_fits(tmp_path, out):
    folder = tmp_path / "cubes"
    write_cube(folder, "1.2.0", 0, 3.5)
    rows = [f"1.2.0_dcm_0.mha,1.2.0,{x},-25,-275,,false positive of a detector" for x in (-61, -52, -80)]  # fits; does not; the nodule
    (folder / "not_nodules.csv").write_text("\n".join(["file,seriesuid,coordX,coordY,coordZ,diameter_mm,source", *rows, ""]))
    table, _, _ = cut(taken(folder, out))
    assert table[table["kind"] == "false positive"]["coordX"].tolist() == [-61]
    assert (table["label"] == 0).sum() == 3


def test_the_lung_is_closed_over_vessels_and_holds_the_nodule(tmp_path, out):
    hu = np.full((50,) * 3, -850)
    hu[:, 20:23] = 0  # a vessel of 3 mm
    hu[:, :, :8] = 40  # a wall
    path = write_cube(tmp_path / "cubes", "1.2.0", 0, 4, hu=hu)
    scan, inside = load_cube({"path": path, "mask": path.with_name("1.2.0_seg_0.mha")})
    lung = cube_lung(scan, inside)
    assert lung[25, 21, 30] and not lung[25, 25, 3] and lung[inside].all()


def test_no_place_fits_a_patch_that_is_wider_than_the_cube(tmp_path):
    path = write_cube(tmp_path, "1.2.0", 0)
    scan, _ = load_cube({"path": path, "mask": path.with_name("1.2.0_seg_0.mha")})
    assert not fitting_places(scan, 52.0).any() and fitting_places(scan, 20.0).sum() == 30**3
