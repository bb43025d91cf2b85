"""The one rule for what a mark hits: a point strictly inside a finding's radius, as in the LUNA16 challenge."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lungadv.data.tables import XYZ

__all__ = ["DEFAULT_DIAMETER_MM", "hits", "match_by_scan", "radius_mm"]

DEFAULT_DIAMETER_MM = 10.0  # of findings listed with a diameter below 0, as LUNA16's excluded ones are


def radius_mm(diameters: ArrayLike) -> np.ndarray:
    """Half of each diameter, (N,) in mm; a diameter below 0 stands for DEFAULT_DIAMETER_MM."""
    diameters = np.asarray(diameters)
    return np.where(diameters < 0, DEFAULT_DIAMETER_MM, diameters) / 2


def hits(points: ArrayLike, centres: ArrayLike, diameters: ArrayLike) -> np.ndarray:
    """Which point lies in which finding: bool (P, N).

    `points` (P, 3) and `centres` (N, 3) are world coordinates in mm, `diameters` (N,) in mm; see `radius_mm`. A point hits when
    its squared distance to the centre is less than the squared radius: on the radius is a miss (noduleCADEvaluationLUNA16.py).
    """
    points, centres = (np.asarray(places, float).reshape(-1, 3) for places in (points, centres))
    squared = ((points[:, None] - centres) ** 2).sum(axis=-1)
    return squared < radius_mm(diameters) ** 2


def match_by_scan(marks: pd.DataFrame, findings: pd.DataFrame) -> np.ndarray:
    """The pairs of a mark and a finding of the same scan that it hits: row numbers, int (2, pairs).

    Both tables have coordX, coordY, coordZ in mm and a column `scan` of any values; `findings` has diameter_mm.
    """
    points, centres, diameters = marks[XYZ].to_numpy(), findings[XYZ].to_numpy(), findings["diameter_mm"].to_numpy()
    pairs = [np.empty((2, 0), int)]
    rows_of = findings.groupby("scan").indices
    for scan, rows in marks.groupby("scan").indices.items():
        columns = rows_of.get(scan, np.empty(0, int))
        row, column = np.nonzero(hits(points[rows], centres[columns], diameters[columns]))
        pairs.append(np.stack([rows[row], columns[column]]))
    return np.concatenate(pairs, axis=1)
