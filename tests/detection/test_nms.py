"""Non-maximum suppression against MONAI's."""

import numpy as np
import pytest
import torch

from lungadv.detection.nms import nms, pairs_above_iou


@pytest.mark.parametrize("threshold", [0, 0.1, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize("kind", ["lattice", "scattered", "stacked"])
def test_nms_is_monais(kind, threshold):
    """Also with equal scores, equal boxes, overlaps of exactly the threshold, and sides from 1 to 100."""
    from monai.data.box_utils import non_max_suppression

    draw = np.random.default_rng(0)
    if kind == "lattice":  # overlaps such as 1/4, 1/2: on the threshold
        low, side = draw.integers(0, 6, (600, 3)), draw.choice([1, 2, 4], (600, 3))
    elif kind == "scattered":
        low, side = draw.uniform(-300, 300, (1500, 3)), np.exp(draw.uniform(0, np.log(100), (1500, 3)))
    else:
        low, side = np.repeat(draw.uniform(0, 50, (5, 3)), 100, axis=0), np.repeat(draw.uniform(0, 20, (5, 3)), 100, axis=0)
    boxes = np.hstack([low, low + side]).astype(np.float32)
    scores = draw.random(len(boxes)).round(2).astype(np.float32)
    expected = non_max_suppression(torch.tensor(boxes), torch.tensor(scores), threshold).tolist()
    assert nms(boxes, scores, threshold).tolist() == expected
    assert nms(boxes, scores, threshold, block=64).tolist() == expected


@pytest.mark.parametrize("threshold", [0, 0.01, 0.1, 0.3, 0.6, 0.8])
def test_overlapping_finds_every_pair_of_box_iou(threshold):
    """Among flat, long and cubic boxes, one inside another, shifted along one axis and along all."""
    from monai.data.box_utils import box_iou

    draw = np.random.default_rng(1)
    side = np.exp(draw.uniform(0, np.log(8), (1200, 3)))
    centre = draw.choice([0, 1, 3], (1200, 1)) * draw.normal(size=(1200, 3)) * draw.choice([0.05, 1], (1200, 3))
    boxes = np.hstack([centre - side / 2, centre + side / 2]).astype(np.float32)
    expected = (box_iou(torch.tensor(boxes[:500]), torch.tensor(boxes[500:])) > threshold).nonzero().tolist()
    assert len(expected) and sorted(pairs_above_iou(boxes[:500], boxes[500:], threshold).T.tolist()) == expected


def test_nms_of_no_box_and_of_bad_boxes():
    assert len(nms(np.empty((0, 6)), np.empty(0), 0.1)) == 0
    box = np.array([[0, 0, 0, 1, 1, 1.0]])
    assert nms(box, np.array([0.5]), 0.1).tolist() == [0]
    with pytest.raises(ValueError, match="1 boxes and 2 scores"):
        nms(box, np.zeros(2), 0.1)
    for bad, score in ((box * np.nan, 0), (box, np.nan), (-box, 0)):
        with pytest.raises(ValueError, match="boxes: "):
            nms(bad, np.array([score], float), 0.1)
