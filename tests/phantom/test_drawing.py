"""Painting: tubes keep their volume."""

import numpy as np
import pytest

from lungadv.phantom.drawing import capsule_coverage
from lungadv.phantom.grid import Grid


@pytest.mark.parametrize("spacing", [0.7, 1.25, 2.5])
@pytest.mark.parametrize("radius", [0.3, 0.6, 1.0, 3.0])
def test_tubes_keep_their_volume_at_every_resolution(radius, spacing):
    grid = Grid((int(100 / spacing), int(60 / spacing), int(60 / spacing)), (spacing,) * 3)
    start, end = np.array([[10.0, -12, 3]]), np.array([[90.0, 9, 14]])
    volume = capsule_coverage(grid, start, end, [radius], [radius]).sum() * spacing**3
    assert volume == pytest.approx(np.pi * radius**2 * np.linalg.norm(end - start) + 4 / 3 * np.pi * radius**3, rel=0.06)
