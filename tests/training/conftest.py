"""Shared by the tests of training: two training scans of candidate generation."""

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.training.candidate_crops import TrainingGrid


@pytest.fixture
def grids():
    """Two volumes, one voxel lit in each nodule; the nodule of the second is of a rare type."""
    out = []
    for places, kind in (([(9, 12, 20), (22, 5, 11)], "solid"), ([(14, 14, 14)], "ground_glass")):
        volume = torch.zeros(28, 30, 32)
        for place in places:
            volume[place] = 1.0
        table = pd.DataFrame(places, columns=["z", "y", "x"]).astype(float).assign(radius=1.0, type=kind)
        added = 0.9 * volume * (kind == "solid")  # what the nodule adds to lung of 0.1
        out.append(TrainingGrid(torch.stack([volume, added]).half(), np.argwhere(np.ones((28, 30, 32))), table))
    return out
