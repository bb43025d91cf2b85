"""From networks to candidates: bright balls at known places, known boxes, counts by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv.data.scan import Scan
from lungadv.detection.candidates import (
    Calibration,
    calibrate,
    calibrated_score,
    find_candidates,
    find_peaks,
    heatmap_candidates,
    merge_sources,
    propose_boxes,
    raw_candidates,
    refine_peaks,
    top_candidates,
)
from lungadv.models.rpn import anchor_boxes, box_coder
from lungadv.settings import load_settings
from lungadv.utils.errors import InputError

SETTINGS = replace(
    load_settings("tiny").candidates, spacing=2.5, anchors=(5.0, 10.0), per_source=30, merge_distance=6.0, per_scan=5, sigma=3.0
)
PLACES = ["coordX", "coordY", "coordZ"]
STRAIGHT = np.eye(3)
TURNED = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # the array's y runs along the body, its x to the right


def chest(balls=(), spacing=(1.25, 1.5, 2.0), direction=STRAIGHT, shape=(40, 50, 60)):
    """A scan of air-filled lungs with soft balls at world positions (sigma 3.5 mm), and its lungs."""
    scan = Scan(np.zeros(shape, np.int16), spacing, (-31.0, 17.0, 250.0), direction, "1.2.3")
    world = scan.to_world(np.indices(shape).reshape(3, -1).T)
    hu = np.full(len(world), -850.0)
    for ball in balls:
        hu += 850 * np.exp(-np.sum((world - ball) ** 2, axis=1) / (2 * 3.5**2))
    lungs = np.zeros(shape, bool)
    lungs[11:-5, 17:-6, 18:-8] = True  # far enough in that the grid is cut
    return Scan(hu.reshape(shape).astype(np.int16), spacing, scan.origin, direction, "1.2.3"), lungs


class Bright(nn.Module):
    """Heatmap logits that grow with the voxel's own value."""

    def forward(self, x):
        return 20 * (x - 0.3), x


class Boxes(nn.Module):
    """Objectness from the value at each anchor's centre; every box is its anchor, the smaller of which scores better."""

    def __init__(self, anchors=2):
        super().__init__()
        self.anchors = anchors

    def forward(self, x):
        value = 20 * (x[:, 0, 1::2, 1::2, 1::2] - 0.3)
        objectness = torch.stack([value - k for k in range(self.anchors)], dim=-1).reshape(len(x), -1)
        return objectness, torch.zeros(*objectness.shape, 6)


class Fixed(nn.Module):
    """The same answer to anything."""

    def __init__(self, *answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


UNCALIBRATED = Calibration({"blob": np.empty(0), "rpn": np.empty(0)}, 1)


def fakes():
    return {"blob": Bright(), "blob-ggo": Bright(), "rpn": Boxes()}


def marks(rows, uid="1", source="blob"):
    """Marks from (x, score) or (x, score, diameter), along a line."""
    rows = [(*row, np.nan)[:3] for row in rows]
    table = pd.DataFrame(rows, columns=["coordX", "score", "diameter_mm"], dtype=float)
    return table.assign(seriesuid=uid, source=source, coordY=0.0, coordZ=0.0)


def test_peaks_are_the_highest_local_maxima_inside():
    heat, inside = np.zeros((12, 12, 12), np.float32), np.ones((12, 12, 12), bool)
    for place, value in {(2, 2, 2): 0.5, (2, 2, 4): 0.4, (2, 2, 9): 0.7, (9, 9, 9): 0.9, (6, 6, 6): 0.3, (9, 2, 9): 5e-5}.items():
        heat[place] = value
    inside[9, 9, 9] = False
    voxels, scores = find_peaks(heat, inside, 10, radius=2)
    assert voxels.tolist() == [[2, 2, 9], [2, 2, 2], [6, 6, 6]] and np.allclose(scores, [0.7, 0.5, 0.3])
    voxels, scores = find_peaks(heat, inside, 1, radius=2)
    assert voxels.tolist() == [[2, 2, 9]]
    assert len(find_peaks(0 * heat, inside, 10, radius=2)[0]) == 0


def test_refined_peaks_are_the_tops_of_gaussians_and_stay_within_half_a_voxel():
    rng = np.random.default_rng(0)
    centres = np.array([[5.0, 5.0, 5.0], [5.0, 15.0, 6.0], [16.0, 5.0, 12.0], [19.0, 19.0, 0.0]]) + rng.uniform(-0.49, 0.49, (4, 3))
    centres[3] = [19.0, 19.0, 0.0]  # a corner
    voxels = np.round(centres).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"))
    heat = 0.8 * np.exp(-((grid[None] - centres[:, :, None, None, None]) ** 2).sum(1) / (2 * 1.2**2)).max(0)
    np.testing.assert_allclose(refine_peaks(heat, voxels), centres, atol=1e-3)
    rough = rng.random((20, 20, 20))
    assert np.abs(refine_peaks(rough, voxels) - voxels).max() <= 0.5
    assert np.array_equal(refine_peaks(np.full((20, 20, 20), 0.3), voxels), voxels)
    assert refine_peaks(heat, np.empty((0, 3), int)).shape == (0, 3)


def test_the_fused_heatmap_has_the_peaks_of_both_networks(monkeypatch):
    maps = {"blob": torch.zeros(8, 8, 8), "blob-ggo": torch.zeros(8, 8, 8)}
    maps["blob"][2, 2, 2], maps["blob-ggo"][5, 5, 5] = 0.9, 0.4
    monkeypatch.setattr("lungadv.detection.candidates.predict_heatmap", lambda network, volume: maps[network])
    grid = Scan(np.zeros((8, 8, 8), np.int16), (1, 1, 1), (0, 0, 0), np.eye(3), "1.2")
    found = heatmap_candidates({name: name for name in maps}, grid, np.ones((8, 8, 8), bool), replace(SETTINGS, per_source=9))
    scores = {source: rows["score"].round(6).tolist() for source, rows in found.groupby("source")}
    assert scores == {"blob": pytest.approx([0.9, 0.4]), "blob-all": pytest.approx([0.9]), "blob-ggo": pytest.approx([0.4])}


def test_proposals_decode_known_codes_and_drop_overlaps():
    volume, sizes = torch.zeros(16, 20, 24), [4, 8]
    truth = torch.tensor([[2.0, 3, 4, 7, 8, 9], [8, 9, 10, 15, 16, 17], [1, 12, 14, 4, 15, 17]])
    anchors = anchor_boxes(volume[None, None], sizes)
    centres = (anchors[:, :3] + anchors[:, 3:]) / 2
    objectness, codes = torch.full((1, len(anchors)), -9.0), torch.zeros(1, len(anchors), 6)
    for box, score in zip(truth, (3.0, 2.0, 1.0), strict=True):
        near = (centres - (box[:3] + box[3:]) / 2).norm(dim=1).topk(2, largest=False).indices
        objectness[0, near] = torch.tensor([score, score - 0.1])  # twice the same box
        codes[0, near] = box_coder().encode_single(box.expand(2, -1), anchors[near])
    places, diameters, scores = propose_boxes(Fixed(objectness, codes), volume, sizes, 3, smallest=0.5)
    np.testing.assert_allclose(places, (truth[:, :3] + truth[:, 3:]) / 2, atol=1e-4)
    np.testing.assert_allclose(diameters, [5, 7, 3], atol=1e-4)
    np.testing.assert_allclose(scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid(), atol=1e-6)


def test_of_two_boxes_that_share_a_third_the_better_is_proposed(monkeypatch):
    boxes = torch.tensor([[0.0, 0, 0, 8, 8, 8], [0, 0, 4, 8, 8, 12], [20, 20, 20, 28, 28, 28]])  # 4 / 12 of the first two is shared
    monkeypatch.setattr("lungadv.detection.candidates.best_boxes", lambda *_: (boxes, torch.tensor([0.9, 0.8, 0.7])))
    centres, diameters, scores = propose_boxes(None, None, (4,), 9, smallest=0.5)
    assert scores.tolist() == pytest.approx([0.9, 0.7]) and diameters.tolist() == [8, 8] and centres[0].tolist() == [4, 4, 4]


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_detect_finds_balls_at_their_world_positions(direction):
    scan, _ = chest(direction=direction)
    balls = scan.to_world([[12.0, 20.0, 20.0], [27.0, 33.0, 41.0]])
    found = find_candidates(fakes(), UNCALIBRATED, *chest(balls, direction=direction), SETTINGS)
    assert found.columns.tolist() == ["seriesuid", *PLACES, "score", "source", "diameter_mm"]
    assert (found["seriesuid"] == "1.2.3").all() and found["score"].is_monotonic_decreasing
    distance = np.linalg.norm(found[PLACES].to_numpy()[:, None] - balls, axis=2)
    assert (distance.min(0) < 3.5).all() and set(distance[:2].argmin(1)) == {0, 1}


def test_raw_candidates_keep_both_sources_apart_and_a_box_its_size():
    scan, _ = chest()
    ball = scan.to_world([[20.0, 25.0, 30.0]])
    raw = raw_candidates(fakes(), *chest(ball), SETTINGS)
    best = raw.sort_values("score", ascending=False).groupby("source").first()
    assert best.index.tolist() == ["blob", "blob-all", "blob-ggo", "rpn"]
    assert (np.linalg.norm(best[PLACES].to_numpy() - ball, axis=1) < 4).all()
    assert raw[raw["source"] == "blob"]["diameter_mm"].isna().all()
    assert best.loc["rpn", "diameter_mm"] == 2 * 2.5  # its anchor: two voxels


def test_nothing_found_is_an_empty_table():
    class Silent(nn.Module):
        def forward(self, x):
            return torch.full_like(x, -50.0), x

    class Elsewhere(nn.Module):
        def forward(self, x):
            objectness, codes = Boxes()(x)
            return objectness, torch.tensor([-1e3, -1e3, -1e3, 0, 0, 0]).expand_as(codes)  # every box far away, outside the lungs

    networks = fakes() | {"blob": Silent(), "blob-ggo": Silent(), "rpn": Elsewhere()}
    scan, lungs = chest()
    lungs[:, :, :30] = False
    found = find_candidates(networks, UNCALIBRATED, scan, lungs, SETTINGS)
    assert len(found) == 0 and found.columns.tolist() == ["seriesuid", *PLACES, "score", "source", "diameter_mm"]


def test_the_calibrated_score_counts_what_is_at_least_as_high():
    reference = np.sort(np.random.default_rng(0).random(200))
    scores = np.linspace(-0.1, 1.1, 50)
    expected = [1 / (1 + (reference >= score).sum() / 4) for score in scores]
    np.testing.assert_allclose(calibrated_score(scores, reference, 4), expected)
    assert (np.diff(calibrated_score(scores, reference, 4)) >= 0).all() and calibrated_score(np.array([2.0]), reference, 4) == 1


def test_union_keeps_the_better_score_of_two_the_place_of_the_blob_and_the_size_of_the_box():
    reference = Calibration({"blob": np.linspace(0, 1, 101), "rpn": np.linspace(0, 1, 101) / 2}, 2)
    raw = pd.concat([marks([(0, 0.95), (51, 0.2), (104, 0.5)]), marks([(4, 0.1, 8.0), (53, 0.45, 11.0), (90, 0.3, 5.0)], source="rpn")])
    found = top_candidates(raw, reference, SETTINGS)
    assert found["coordX"].tolist() == [0, 51, 90, 104] and found["source"].tolist() == ["blob", "rpn", "rpn", "blob"]
    assert found["diameter_mm"].tolist()[:3] == [8.0, 11.0, 5.0] and np.isnan(found["diameter_mm"][3])
    np.testing.assert_allclose(found["score"], [1 / (1 + above / 2) for above in (6, 11, 41, 51)])


@pytest.mark.parametrize("away, place", [(2.9, 2.9), (5.9, 0.0)])
def test_union_moves_a_box_to_a_blob_only_where_they_all_but_coincide(away, place):
    reference = Calibration({"blob": np.linspace(0, 1, 11), "rpn": np.linspace(0, 1, 11)}, 1)
    found = top_candidates(pd.concat([marks([(0, 0.9, 6.0)], source="rpn"), marks([(away, 0.5)])]), reference, SETTINGS)
    assert found["coordX"].tolist() == [place] and found["diameter_mm"].tolist() == [6.0]


def test_union_of_a_chain_keeps_both_ends():
    reference = Calibration({"blob": np.linspace(0, 1, 11), "rpn": np.empty(0)}, 1)
    raw = marks([(0, 0.9), (5, 0.5), (10, 0.1)])
    assert top_candidates(raw, reference, SETTINGS)["coordX"].tolist() == [0, 10]


def test_union_of_nothing_is_nothing():
    reference = Calibration({"blob": np.linspace(0, 1, 11), "rpn": np.empty(0)}, 1)
    assert top_candidates(marks([]), reference, SETTINGS).empty


@pytest.mark.parametrize("seed", range(5))
def test_a_scan_keeps_the_best_of_its_candidates_none_nearer_than_allowed(random_raw, seed):
    raw = random_raw(4, 40, seed)
    calibration = calibrate(raw, 4)
    for _, table in raw.groupby("seriesuid"):
        found, everything = (each(table, calibration, SETTINGS) for each in (top_candidates, merge_sources))
        assert len(found) == SETTINGS.per_scan < len(everything)
        pd.testing.assert_frame_equal(found, everything.head(SETTINGS.per_scan))
        apart = np.linalg.norm(everything[PLACES].to_numpy()[:, None] - everything[PLACES].to_numpy(), axis=2)
        assert apart[~np.eye(len(apart), dtype=bool)].min() > SETTINGS.merge_distance


def test_a_source_that_finds_much_in_a_scan_leaves_the_other_room():
    reference = Calibration({"blob": np.linspace(0, 1, 11), "rpn": np.linspace(0, 1, 11)}, 1)
    crowd, lone = marks([(20 * k, 0.99 - 0.001 * k) for k in range(SETTINGS.per_scan)]), marks([(9, 0.3, 6.0)], source="rpn")
    found = top_candidates(pd.concat([crowd, lone]), reference, SETTINGS)
    assert len(found) == SETTINGS.per_scan and found["coordX"].tolist()[:3] == [0, 9, 20]


def test_calibration_is_the_sorted_scores_of_each_source():
    raw = pd.concat([marks([(0, 0.9), (9, 0.1)]), marks([(0, 0.3)], source="rpn"), marks([(0, 0.2)], source="blob-all")])
    calibration = calibrate(raw, 2)
    assert calibration.scores["blob"].tolist() == [0.1, 0.9] and calibration.scores["rpn"].tolist() == [0.3] and calibration.scans == 2
    with pytest.raises(InputError, match="nothing in the validation scans"):
        calibrate(raw.iloc[:0], 2)


def test_a_scan_without_lungs_is_an_input_error():
    scan, lungs = chest()
    with pytest.raises(InputError, match="no lungs"):
        find_candidates(fakes(), UNCALIBRATED, scan, lungs & False, SETTINGS)
