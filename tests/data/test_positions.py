"""Positions and labels of patches, by hand."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd

from lungadv.data.positions import background_positions, label_candidates, patch_positions
from lungadv.data.scan import Scan
from lungadv.data.walls import WALL

PLACES = ["coordX", "coordY", "coordZ"]


def findings(*rows, **columns):
    return pd.DataFrame(rows, columns=[*PLACES, "diameter_mm"], dtype=float).assign(**columns)


def test_labels_follow_the_strict_hit_rule_and_nodules_win():
    nodules, excluded = findings((0, 0, 0, 10), (100, 0, 0, 8)), findings((3, 0, 0, 10), (0, 50, 0, 6))
    places = [(4.9, 0, 0), (5, 0, 0), (8, 0, 0), (100, 3.9, 0), (100, 4, 0), (0, 50, 2.9), (0, 47, 0), (0, 3.5, 3.5)]
    marks = findings(*[(*place, np.nan) for place in places])
    assert label_candidates(marks, nodules, excluded).tolist() == [1, -1, 0, 1, 0, -1, 0, 1]
    assert label_candidates(marks, nodules.iloc[:0], excluded.iloc[:0]).tolist() == [0] * 8
    assert label_candidates(marks.iloc[:0], nodules, excluded).tolist() == []
    unmeasured = findings((0, 0, 0, -1))  # LUNA16 lists excluded findings like this: they count as 10 mm
    assert label_candidates(marks, nodules.iloc[:0], unmeasured).tolist() == [-1, 0, 0, 0, 0, 0, 0, -1]


def toy_scan():
    scan = Scan(np.full((40, 50, 60), -850, np.int16), (2.0, 2.0, 2.5), (-60.0, 10.0, 5.0), np.diag([1.0, -1.0, 1.0]), "1.2")
    lungs = np.zeros(scan.hu.shape, bool)
    lungs[5:35, 5:45, 5:55] = True
    return scan, lungs


def test_background_positions_lie_in_the_lungs_and_their_cubes_hold_no_nodule():
    scan, lungs = toy_scan()
    avoid = findings((0, -40, 50, 6), (30, -20, 70, 6))
    points = background_positions(lungs, scan, avoid, 20.0, 50, np.random.default_rng(0))
    assert len(points) == 50 and len(np.unique(points, axis=0)) == 50
    assert lungs[tuple(scan.to_voxel(points).round().astype(int).T)].all()
    assert np.abs(points[:, None] - avoid[PLACES].to_numpy()).max(axis=2).min() >= 20 / 2 + 6 / 2
    assert np.array_equal(points, background_positions(lungs, scan, avoid, 20.0, 50, np.random.default_rng(0)))
    assert len(background_positions(lungs, scan, avoid.iloc[:0], 20.0, 7, np.random.default_rng(0))) == 7


def test_no_room_gives_no_background_positions():
    scan, lungs = toy_scan()
    rng = np.random.default_rng(0)
    assert background_positions(lungs & False, scan, findings(), 20.0, 5, rng).shape == (0, 3)
    assert background_positions(lungs, scan, findings((0, -40, 50, 6)), 1000.0, 5, rng).shape == (0, 3)


def test_the_patch_table_of_a_scan_has_its_three_kinds():
    scan, lungs = toy_scan()
    data = SimpleNamespace(
        annotations=findings((0, -40, 50, 12), seriesuid="1.2", type="solid"),
        excluded=findings((30, -20, 70, 10), (0, 0, 0, 9), seriesuid=["1.2", "9.9"], type="solid"),
        lungs=lambda uid: lungs, labels=lambda uid: np.zeros(lungs.shape, np.uint8),
    )  # fmt: skip
    marks = findings((1, -40, 50, 7), (30, -21, 70, 7), (-30, -30, 30, 7), (-30, -30, 40, 7), seriesuid="1.2")
    marks = pd.concat([marks.assign(score=[0.2, 0.9, 0.5, 0.1]), findings((5, 5, 5, 7), seriesuid="9.9", score=0.99)])
    table = patch_positions(scan, data, marks, width=25.0, backgrounds=6, rng=np.random.default_rng(0))
    assert table.columns.tolist() == ["seriesuid", *PLACES, "kind", "label", "type", "diameter_mm", "score", *WALL]
    measured = table["kind"] != "candidate"
    assert table.loc[measured, WALL].notna().all(axis=None) and table.loc[~measured, WALL].isna().all(axis=None)
    assert Counter(table["kind"]) == {"nodule": 1, "candidate": 4, "background": 6} and (table["seriesuid"] == "1.2").all()
    assert table[table["kind"] == "candidate"][["score", "label"]].to_numpy().tolist() == [[0.2, 1], [0.9, -1], [0.5, 0], [0.1, 0]]
    assert table[table["kind"] != "candidate"]["label"].tolist() == [1] + [0] * 6


def test_the_depth_of_a_background_is_its_distance_to_the_nearest_face_of_a_box():
    scan, lungs = toy_scan()
    data = SimpleNamespace(
        annotations=findings((0, -40, 50, 12), seriesuid="1.2", type="solid"), excluded=findings(seriesuid="1.2", type="solid"),
        lungs=lambda uid: lungs, labels=lambda uid: np.zeros(lungs.shape, np.uint8),
    )  # fmt: skip
    marks = findings((1, -40, 50, 7), seriesuid="1.2", score=0.5)
    table = patch_positions(scan, data, marks, width=20.0, backgrounds=20, rng=np.random.default_rng(0))
    sites = table[table["kind"] == "background"]
    voxels = scan.to_voxel(sites[PLACES].to_numpy())
    faces = np.abs(np.stack([voxels - [4.5, 4.5, 4.5], [34.5, 44.5, 54.5] - voxels])) * scan.spacing[::-1]
    near = (sites["depth_mm"] < 10).to_numpy()
    assert near.sum() > 5 and np.abs(faces.min(axis=(0, 2)) - sites["depth_mm"])[near].max() < 1.5


def test_positions_lie_anywhere_between_voxels():
    scan, lungs = toy_scan()
    points = background_positions(lungs, scan, findings(), 20.0, 200, np.random.default_rng(0))
    shift = scan.to_voxel(points) % 1
    assert np.histogram(shift, bins=4, range=(0, 1))[0].min() > 100
