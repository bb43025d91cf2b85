"""Lengths are of mm: at any spacing the same physical windows, and at that of the profiles the voxels that they always had."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lungadv.data.positions import SHIFT_MM, shift_margin
from lungadv.data.scan import Scan
from lungadv.detection import candidates
from lungadv.evaluation.stress_synthetic import AROUND_MM, _dilate
from lungadv.models.dense_unet import MIDDLE_MM, new_network
from lungadv.settings import load_settings
from lungadv.training.checkpoint import load_network, save_network
from lungadv.utils.lengths import whole_voxels

SPACINGS = [0.625, 1.0, 1.25]


def test_the_nearest_number_of_voxels_is_taken():
    assert [whole_voxels(5.0, spacing) for spacing in (0.625, 1.0, 1.25, 2.5, 100.0)] == [8, 5, 4, 2, 1]
    assert whole_voxels(50.0, 2.5, step=4) == 20 and whole_voxels(1.0, 2.5, least=2, step=2) == 2


@pytest.mark.parametrize("spacing", SPACINGS)
def test_training_patches_are_shifted_by_as_many_mm(spacing):
    assert abs(shift_margin(spacing) * spacing - SHIFT_MM) <= spacing / 2


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_head_looks_at_as_many_mm_around_the_centre(spacing, tmp_path):
    network = new_network("evidence", 4, spacing)
    assert network.middle % 2 == 0 and abs(network.middle * 4 * spacing - MIDDLE_MM) <= 4 * spacing
    save_network(network, tmp_path)
    assert load_network(tmp_path).middle == network.middle


def test_the_head_of_finer_patches_sees_the_four_middle_voxels(monkeypatch):
    network, seen = new_network("logits", 4, 0.625), set()
    coarse = torch.zeros(1, network.unet.coarse.channels, 8, 8, 8)
    for place in range(16):
        maps = torch.zeros(1, 8, 16, 16, 16)
        maps[0, :, place, 8, 8] = 1.0
        monkeypatch.setattr(network.unet, "forward", lambda x, maps=maps: (coarse, maps))
        seen |= {(place, tuple(network(torch.zeros(1))[0].tolist()))}
    answers = dict(seen)
    assert len({answers[k] for k in (6, 7, 8, 9)}) == 1 and answers[5] == answers[10] == answers[0] != answers[6]


def test_a_head_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="middle is 3 voxels"):
        new_network("evidence", 4, 0.625).__class__("evidence", 4, 3)


@pytest.mark.parametrize("spacing", [*SPACINGS, 2.5])
@pytest.mark.parametrize("apart, peaks", [(4.0, 1), (8.0, 2)])
def test_peaks_keep_as_many_mm_apart(spacing, apart, peaks, monkeypatch):
    x = (np.arange(round(40 / spacing)) + 0.5) * spacing - 20
    along = np.maximum(np.exp(-((x + apart / 2) ** 2) / 8), 0.9 * np.exp(-((x - apart / 2) ** 2) / 8))
    flat = np.exp(-(x**2) / 8)
    heat = torch.from_numpy((flat[:, None, None] * flat[:, None] * along).astype(np.float32))
    heat += 1e-6 * torch.rand(heat.shape, generator=torch.Generator().manual_seed(0))  # no two voxels are equal
    monkeypatch.setattr(candidates, "predict_heatmap", lambda network, volume: heat)
    grid = Scan(np.zeros(heat.shape, np.int16), (spacing,) * 3, (0.0, 0.0, 0.0), np.eye(3), "1")
    settings = replace(load_settings("full").candidates, spacing=spacing)
    found = candidates.heatmap_candidates({"blob": None, "blob-ggo": None}, grid, np.ones(heat.shape, bool), settings)
    assert (found[found["source"] == "blob"]["score"] > 0.5).sum() == peaks


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_smallest_box_is_as_many_mm_wide(spacing, monkeypatch):
    given = []
    monkeypatch.setattr(candidates, "propose_boxes", lambda *terms: given.append(terms[-1]) or (np.zeros((0, 3)), np.zeros(0), np.zeros(0)))
    monkeypatch.setattr(candidates, "heatmap_candidates", lambda *terms: candidates._candidate_table(terms[1], [], np.zeros(0), "blob", []))
    scan = Scan(np.zeros((20, 20, 20), np.int16), (2.0,) * 3, (0.0, 0.0, 0.0), np.eye(3), "1")
    settings = replace(load_settings("full").candidates, spacing=spacing)
    candidates.raw_candidates({"rpn": None}, scan, np.ones(scan.hu.shape, bool), settings)
    assert given[0] * spacing == pytest.approx(1.25)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_crops_are_as_many_mm_wide(spacing):
    settings = replace(load_settings("quick").candidates, spacing=spacing)
    assert settings.crop_size % 4 == 0 and abs(settings.crop_size * spacing - settings.crop) <= 2 * spacing


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_surroundings_of_a_nodule_are_as_many_mm_wide(spacing):
    mask = torch.zeros(1, 1, 21, 21, 21)
    mask[0, 0, 10, 10, 10] = 1
    grown = _dilate(mask, spacing)[0, 0, 10, 10].sum().item()
    assert abs((grown - 1) / 2 * spacing - AROUND_MM) <= spacing / 2


def test_the_profiles_have_the_voxels_that_they_had():
    crops = {profile: load_settings(profile).candidates.crop_size for profile in ("tiny", "quick", "standard", "full")}
    assert crops == {"tiny": 16, "quick": 20, "standard": 20, "full": 64}
    for profile in ("tiny", "quick", "standard"):
        settings = load_settings(profile)
        spacing = settings.patch.spacing
        assert (shift_margin(spacing), new_network("logits", 4, spacing).middle) == (2, 2)
        assert whole_voxels(candidates._PEAK_MM, settings.candidates.spacing) == 2
        assert candidates._SMALLEST_MM / settings.candidates.spacing == 0.5
