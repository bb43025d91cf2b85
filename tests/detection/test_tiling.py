"""Tiles fill a volume, stay small and leave no seam."""

import numpy as np
import pytest
import torch
from torch import nn

from lungadv.detection.candidates import best_boxes, predict_heatmap
from lungadv.detection.tiling import HALO, TILE_VOXELS, tiles
from lungadv.models.resunet import ResUNet
from lungadv.models.rpn import RPN, anchor_boxes, box_coder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def exact(monkeypatch):
    """float32 throughout, to compare whole volumes with slabs."""
    monkeypatch.setattr("lungadv.utils.device.fast_dtype", lambda device: torch.float32)


@pytest.mark.parametrize("shape", [(16, 16, 16), (152, 8, 4), (100, 64, 40)])
@pytest.mark.parametrize("most", [10, 70**3, TILE_VOXELS])
def test_cores_fill_a_volume_without_overlap_and_no_tile_is_larger_than_allowed(shape, most):
    times = np.zeros(shape, int)
    for core, seen in tiles(shape, most):
        times[core] += 1
        assert all(part.start % 4 == 0 and (part.stop - part.start) % 4 == 0 for part in (*core, *seen))
        assert np.prod([part.stop - part.start for part in seen]) <= max(most, 64**3)
        for inner, outer, side in zip(core, seen, shape, strict=True):
            assert outer == slice(max(inner.start - HALO, 0), min(inner.stop + HALO, side))
    assert (times == 1).all()


@pytest.mark.parametrize("sides", [(172, 232, 288), (360, 360, 360), (704, 360, 440)])
def test_a_tile_stays_bounded_whatever_the_volume(sides):
    boxes = tiles(sides)
    sizes = [np.prod([part.stop - part.start for part in seen]) for _, seen in boxes]
    assert max(sizes) <= TILE_VOXELS and sum(sizes) < 3 * np.prod(sides)


def test_a_volume_that_is_no_larger_than_a_tile_is_one():
    assert tiles((144, 124, 164)) == [((slice(0, 144), slice(0, 124), slice(0, 164)),) * 2]


@pytest.mark.parametrize("most", [10, 68**3, 10**9])
def test_tiles_leave_no_seam(exact, most):
    torch.manual_seed(0)
    network, boxes = ResUNet(4).eval(), RPN(4, 2).eval()
    for head in (network.heat, boxes.objectness, boxes.boxes):
        nn.init.normal_(head.weight, std=3.0)
    volume = torch.rand(72, 56, 48, generator=generator())
    with torch.no_grad():
        whole = network(volume[None, None])[0].sigmoid()[0, 0]
        objectness, codes = boxes(volume[None, None])
    assert whole.std() > 0.01
    torch.testing.assert_close(predict_heatmap(network, volume, most), whole, atol=1e-5, rtol=0)
    scores, best = objectness[0].sigmoid().topk(50)
    expected = box_coder().decode_single(codes[0, best], anchor_boxes(volume[None, None], [2, 4])[best])
    found, found_scores = best_boxes(boxes, volume, [2, 4], 50, most)
    torch.testing.assert_close(found_scores, scores, atol=1e-5, rtol=0)
    same = (found_scores[1:] - found_scores[:-1]).abs() > 1e-4  # where the order is certain
    same = torch.cat([same, torch.ones(1, dtype=bool)]) & torch.cat([torch.ones(1, dtype=bool), same])
    assert same.sum() > 10
    torch.testing.assert_close(found[same], expected[same], atol=1e-3, rtol=0)
