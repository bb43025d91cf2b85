"""How a scan is shown: with upright axes, in one of the usual windows."""

from dataclasses import replace

import numpy as np

from lungadv.data.patches import upright_axes
from lungadv.data.scan import Scan

__all__ = ["WINDOWS", "make_upright"]

WINDOWS = {"lung": (-600, 1500), "mediastinum": (40, 400), "bone": (400, 1800)}  # level and width in HU


def make_upright(scan: Scan) -> Scan:
    """The same scan with its array axes exchanged and flipped so that z, y, x run as nearly as possible along LPS z, y, x.

    No voxel is interpolated: a scan that is tilted against the patient's axes stays tilted.
    """
    order, flips = upright_axes(scan.direction)
    hu = np.asarray(scan.hu)
    steps = np.array([flip.step for flip in flips])
    first = np.zeros(3)  # the voxel of the given array that comes first
    first[list(order)] = np.where(steps < 0, np.array(hu.shape)[list(order)] - 1, 0)
    along = [2 - axis for axis in order[::-1]]  # the array's axis for LPS x, y, z
    return replace(
        scan,
        hu=hu.transpose(order)[flips],
        spacing=tuple(np.take(scan.spacing, along)),
        origin=tuple(scan.to_world([first])[0]),
        direction=scan.direction[:, along] * steps[::-1],
    )
