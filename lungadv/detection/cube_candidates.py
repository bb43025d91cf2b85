"""Candidates in a cube of a scan: what candidate generation would propose there, without the scan's lungs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage
from torch import nn

from lungadv.data.patches import resample
from lungadv.data.scan import AIR, Scan
from lungadv.detection.candidates import Calibration, candidates_on_grid, merge_sources
from lungadv.settings import CandidateSettings

__all__ = ["LUNG_HU", "cube_candidates"]

LUNG_HU = -500  # what is darker is lung
CLOSE_MM, GROW_MM = 7.5, 5.0  # vessels and nodules on a wall belong to the lung, as in `lung_grid`


def cube_candidates(
    networks: Mapping[str, nn.Module], calibration: Calibration, cube: Scan, settings: CandidateSettings, count: int
) -> pd.DataFrame:
    """The `count` best candidates of a cube, best first, with the columns of `find_candidates`; those of the whole scan may be others."""
    grid = resample(cube, settings.spacing)
    sides = [(0, -side % 4) for side in grid.hu.shape]  # the networks halve the sides twice
    grid = replace(grid, hu=np.pad(grid.hu, sides, constant_values=AIR))
    raw = candidates_on_grid(networks, grid, _lung(grid.hu, settings.spacing), settings)
    return merge_sources(raw, calibration, settings).head(count)


def _lung(hu, spacing):
    """Where the lung of a cube is, by threshold, closed and grown: bool (D, H, W)."""
    close, grow = (max(1, round(mm / spacing)) for mm in (CLOSE_MM, GROW_MM))
    dark = np.pad(ndimage.binary_opening(hu < LUNG_HU), close)
    closed = ndimage.binary_closing(dark, iterations=close)[(slice(close, -close),) * 3]
    return ndimage.binary_dilation(closed, iterations=grow)
