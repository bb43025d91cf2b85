"""Balls that stand for masks, and labels renumbered."""

import numpy as np
import pandas as pd

from lungadv.data.dataset import balls, relabel
from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ


def test_balls_have_the_annotated_volume():
    grid = Scan(np.zeros((20, 20, 20), np.int16), (1, 1, 2), (0, 0, 0), np.eye(3), "grid")
    ball = balls(grid, pd.DataFrame([[10, 10, 20, 12.0]], columns=[*XYZ, "diameter_mm"]))
    assert abs(ball.sum() * 2 / (np.pi / 6 * 12**3) - 1) < 0.05 and ball[10, 10, 10] == 1


def test_labels_are_renumbered():
    assert relabel(np.array([0, 1, 2, 3, 4], np.uint8), np.array([2, 0, 1])).tolist() == [0, 2, 0, 1, 0]
