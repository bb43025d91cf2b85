"""What is checked of one scan: its HU, the grids of its masks, and whether it shows a whole chest."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lungadv.data import luna16, lungs
from lungadv.data.hounsfield import doubt_hu, padding_remark
from lungadv.data.io.read import read_header, read_scan
from lungadv.data.scan import Scan, ScanError

__all__ = ["check_hu", "check_volumes", "coverage_remarks", "label_centres", "volumes_of"]

COARSE_MM = 4.0  # between the voxels among which lungs are looked for first
CUT_CM2 = 30  # of lung on one side of a scan; a whole chest has little or none


def check_hu(path: Path, scan: Scan) -> None:
    """Raise ScanError for a volume without the air or the tissue of every CT of a chest: a mask, or values that are no HU."""
    if doubt := doubt_hu(scan):
        raise ScanError(f"'{path}' {doubt}")


def volumes_of(root: Path, uid: str) -> list[str]:
    """The masks of lungs and nodules that the data set has for a scan, as paths relative to its folder."""
    return [name for name in (luna16.LUNGS.format(uid), luna16.NODULES.format(uid)) if (root / name).exists()]


def check_volumes(root: Path, volumes: list[str], scan: Scan) -> None:
    """Raise ScanError when a mask does not lie on its scan's grid."""
    corners = [[0, 0, 0], scan.hu.shape]
    for path in (root / name for name in volumes):
        header = read_header(path)
        if header.hu.shape != scan.hu.shape or not np.allclose(header.to_world(corners), scan.to_world(corners), atol=0.1):
            raise ScanError(f"'{path}' does not lie on the scan's grid {scan.hu.shape}: get it again")


def label_centres(path: Path) -> list[list[float]]:
    """The centre (mm) of each label of a mask of nodules, as rows of label, x, y, z."""
    mask = read_scan(path)
    centres = {k: np.argwhere(mask.hu == k).mean(axis=0) for k in np.unique(mask.hu[mask.hu > 0]).tolist()}
    return [[k, *mask.to_world([centre])[0].tolist()] for k, centre in centres.items()]


def coverage_remarks(scan: Scan) -> list[str]:
    """What a scan lacks of a whole chest, a few words each: a slab, a crop through lung, no lungs at all, mostly padding."""
    mask, spacing = _find_lungs(scan)
    sides = [np.take(mask, end, axis).sum() * np.prod(np.delete(spacing, axis)) for axis in range(3) for end in (0, -1)]
    cut = max(sides) / 100
    crop = f"a side cuts through {cut:.0f} cm2 of lung: a part of a chest" if cut > CUT_CM2 else ""
    return [*filter(None, [lungs.slab_remark(scan) or crop, "" if mask.any() else "no lungs found", padding_remark(scan)])]


def _find_lungs(scan: Scan) -> tuple[np.ndarray, tuple]:
    """The lungs on voxels COARSE_MM apart, which takes a tenth of the time, or else on all: mask (z, y, x), and its spacing in z, y, x."""
    steps = np.maximum(np.round(COARSE_MM / np.array(scan.spacing)), 1).astype(int)
    x, y, z = steps
    coarse = replace(scan, hu=np.ascontiguousarray(scan.hu[::z, ::y, ::x]), spacing=tuple((steps * scan.spacing).tolist()))
    mask = lungs.lung_mask(coarse)
    return (mask, coarse.spacing[::-1]) if mask.any() else (lungs.lung_mask(scan), scan.spacing[::-1])
