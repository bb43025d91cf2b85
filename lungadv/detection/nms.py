"""Greedy non-maximum suppression of boxes: MONAI's result, at many times its speed.

Two boxes overlap by more than a share of their union only if their centres are near. A tree of the centres finds the pairs to compare.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

__all__ = ["nms", "pairs_above_iou"]

LARGEST_BLOCK = 4096  # boxes compared at once: bounds the memory


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float, block: int = 1024) -> np.ndarray:
    """Greedy non-maximum suppression: indices of the boxes that stay, by falling score; of equal scores the earlier comes first.

    boxes: (N, 6), corner to corner; scores: (N,); threshold in [0, 1]. A box goes when its intersection over union with a better one
    that stays is above the threshold, as in MONAI's `non_max_suppression`. `block` boxes are compared at first, then twice as many.
    Raises ValueError for lengths that differ, a box whose far corner lies before its near one, and what is not finite.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 6)
    if len(boxes) != len(scores):
        raise ValueError(f"{len(boxes)} boxes and {len(scores)} scores: give a score a box")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and (boxes[:, 3:] >= boxes[:, :3]).all()):
        raise ValueError("boxes: a corner or score is not finite, or a far corner lies before the near one; give low and high corners")
    order = np.argsort(-np.asarray(scores), kind="stable")
    boxes, left, kept = boxes[order], np.arange(len(order)), []
    while len(left):
        first, left = left[:block], left[block:]
        block = min(2 * block, LARGEST_BLOCK)
        kept.append(first[_stay(boxes[first], threshold)])
        left = np.delete(left, pairs_above_iou(boxes[kept[-1]], boxes[left], threshold)[1])
    return order[np.concatenate(kept)] if kept else order


def _stay(boxes, threshold):
    """Which of the boxes (N, 6), best first, stay: bool (N,)."""
    better, worse = pairs_above_iou(boxes, boxes, threshold)
    better, worse = better[better < worse], worse[better < worse]
    by_better = np.argsort(better)
    starts = np.searchsorted(better[by_better], np.arange(len(boxes) + 1)).tolist()
    worse, stays = worse[by_better], np.ones(len(boxes), bool)
    for row in np.unique(better).tolist():
        if stays[row]:
            stays[worse[starts[row] : starts[row + 1]]] = False
    return stays


def pairs_above_iou(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs of boxes whose intersection over union is above the threshold: row numbers, int (2, P).

    a, b: float32 (N, 6) and (M, 6), corner to corner. Computed in float32 as MONAI's `box_iou`.
    """
    pairs, apart = [np.empty((2, 0), int)], _largest_distance(threshold)
    for rows, tree, side in _centre_trees(a):
        for columns, other, other_side in _centre_trees(b):
            near = tree.sparse_distance_matrix(other, apart * (side + other_side) / 2, output_type="ndarray")
            pairs.append(np.stack([rows[near["i"]], columns[near["j"]]]))
    pairs = np.concatenate(pairs, axis=1)
    i, j = pairs
    inter = np.ones(len(i), np.float32)
    for low, high in ((0, 3), (1, 4), (2, 5)):
        inter *= np.maximum(np.minimum(a[i, high], b[j, high]) - np.maximum(a[i, low], b[j, low]), 0)
    union = _volumes(a)[i] + _volumes(b)[j] - inter
    return pairs[:, inter / (union + np.finfo(np.float32).eps) > threshold]


def _largest_distance(threshold):
    """How far apart, in mean sides, centres of boxes can be whose intersection over union is above the threshold t.

    Boxes whose centres are the share q of an axis' mean side apart have at most 1 - q of it in common. That is at most
    sqrt((1 - q) / (1 + q)) of their sides' geometric mean. Of the geometric mean of the volumes they share more than 2 t / (1 + t).
    So the sum of artanh(q) over axes is below ln((1 + t) / (2 t)), where artanh(q) > 1.7 q^2; and on each axis q < 1 - t.
    """
    together = np.sqrt(np.log((1 + threshold) / (2 * max(threshold, 1e-9))) / 1.7)
    return 1.001 * min(together, np.sqrt(3) * (1 - threshold))  # float32 rounds: a little more


def _centre_trees(boxes):
    """(rows, tree of their centres, longest side) of the boxes whose longest sides are within a factor of four.

    One tree for all would have the largest box set the distance.
    """
    centres, sides = (boxes[:, :3].astype(float) + boxes[:, 3:]) / 2, functools.reduce(np.maximum, (boxes[:, 3:] - boxes[:, :3]).T)
    size = np.frexp(sides)[1] // 2
    groups = [np.flatnonzero(size == one) for one in np.unique(size)]
    return [(rows, cKDTree(centres[rows], balanced_tree=False), float(sides[rows].max())) for rows in groups]


def _volumes(boxes):
    """Of boxes (N, 6): (N,)."""
    sides = boxes[:, 3:] - boxes[:, :3]
    return sides[:, 0] * sides[:, 1] * sides[:, 2]
