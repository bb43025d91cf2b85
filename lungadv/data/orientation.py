"""Whether the positions of a table lie in their scans, and on nodules: flipped and swapped axes, voxels instead of mm.

When a row lies outside its scan, the usual mistakes are tried on all rows, because one row alone may fit by chance. A flip may leave
every row inside: x and y of a nodule near the middle of the patient can be negated without leaving the scan. Only the voxels show that.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ, AnnotationError, at_line, quoted

__all__ = ["CORRECTIONS", "MISTAKES", "check_appearance", "check_positions", "inside_scan", "looks_like_nodule"]

ToVoxel = Callable[[Scan, np.ndarray], np.ndarray]  # positions (N, 3) of a table -> fractional voxels (N, 3) z, y, x

MISTAKES = {  # what is wrong with positions (N, 3), and what puts them right
    "x and y negated (RAS instead of LPS)": lambda xyz: xyz * [-1, -1, 1],
    "z negated": lambda xyz: xyz * [1, 1, -1],
    "x and z swapped": lambda xyz: xyz[:, ::-1],
    "x and z swapped and x and y negated": lambda xyz: xyz[:, ::-1] * [-1, -1, 1],
}
CORRECTIONS: dict[str, ToVoxel] = {  # each mistake, and the voxels of the corrected positions
    **{name: lambda scan, xyz, change=change: scan.to_voxel(change(xyz)) for name, change in MISTAKES.items()},
    "voxel indices x, y, z instead of mm": lambda scan, xyz: xyz[:, ::-1],
    "voxel indices z, y, x instead of mm": lambda scan, xyz: xyz,
}


def _as_given(scan: Scan, xyz: np.ndarray) -> np.ndarray:
    """The voxels of positions in LPS mm, as they should be."""
    return scan.to_voxel(xyz)


def inside_scan(voxels: np.ndarray, shape: tuple) -> np.ndarray:
    """Which fractional voxels (N, 3) lie in a volume of `shape` (z, y, x), half a voxel beyond the centres included: bool (N,)."""
    return ((voxels >= -0.5) & (voxels <= np.array(shape) - 0.5)).all(axis=1)


def check_positions(table: pd.DataFrame, scans: Mapping[str, Scan], path: str | Path) -> None:
    """Raise AnnotationError at the first row of an unknown scan, or outside its scan.

    Args:
        table: seriesuid and XYZ (LPS mm); its index holds line numbers.
        scans: {uid: scan, or its header}.
        path: the table's file, for the message.

    When all rows (of the table, or of that scan) would fit with axes flipped or swapped, or as voxel indices, the error says so.
    """
    for line, uid in table["seriesuid"][~table["seriesuid"].isin(list(scans))].items():
        raise AnnotationError(
            f"{at_line(path, line)}: scan {quoted(uid)} is not among the {len(scans)} given: add it, correct the id or remove the row"
        )
    outside = ~_rows_inside(table, scans, _as_given)
    if not outside.any():
        return
    line = table.index[outside.argmax()]
    uid, xyz = table["seriesuid"].iloc[outside.argmax()], table[XYZ].to_numpy(dtype=float)[outside.argmax()]
    voxel, shape = scans[uid].to_voxel([xyz])[0].round(1).tolist(), scans[uid].hu.shape
    place = f"{xyz.round(2).tolist()} mm lies outside scan {quoted(uid)} (voxel {tuple(voxel)} of {shape}, z, y, x)"
    hint = _name_mistake(table, scans, uid)
    raise AnnotationError(f"{at_line(path, line)}: {place}: {hint}coordinates are LPS mm in x, y, z; correct them")


def _rows_inside(table: pd.DataFrame, scans: Mapping[str, Scan], to_voxel: ToVoxel) -> np.ndarray:
    """Which rows lie in their scan: bool (N,)."""
    inside = np.zeros(len(table), dtype=bool)
    xyz = table[XYZ].to_numpy(dtype=float)
    for uid, rows in table.groupby("seriesuid").indices.items():
        inside[rows] = inside_scan(to_voxel(scans[uid], xyz[rows]), scans[uid].hu.shape)
    return inside


def _name_mistake(table: pd.DataFrame, scans: Mapping[str, Scan], uid: str) -> str:
    """Which mistakes, put right, bring every row of the table, or else of the scan, into its scan; "" for none."""
    for rows, which in ((table, "table"), (table[table["seriesuid"] == uid], "scan")):
        fitting = [name for name, to_voxel in CORRECTIONS.items() if _rows_inside(rows, scans, to_voxel).all()]
        if fitting:
            return f"all {len(rows)} rows of this {which} fit as {', or '.join(fitting)}; "
    return ""


LUNG_HU = (-990, -500)  # lung lies between
SURROUNDINGS_MM = 8  # from a nodule's border: there is lung
MIN_LUNG_SHARE = 0.3  # of the surroundings
CONTRAST_HU = 50  # at least; ground glass has that much, too
MAX_DIAMETER_MM = 60  # a larger nodule is taken for one of that size
MAX_ROWS = 200  # of a long table that are looked at
EXPECTED_SHARE = 0.8  # of rows that look like nodules in a right table, at least
CORRECTED_SHARE = 0.6  # the same once a mistake is put right
MIN_GAIN = 3  # more rows that look like nodules prove a mistake: chance seldom gives so many


def looks_like_nodule(scan: Scan, voxel: np.ndarray, diameter: float) -> bool:
    """Whether something brighter than the lung around it lies at a place in a scan; False outside.

    voxel: fractional, (3,) z, y, x. diameter: mm.
    """
    shape, spacing, radius = np.array(scan.hu.shape), np.array(scan.spacing[::-1]), min(diameter, MAX_DIAMETER_MM) / 2
    if not inside_scan(voxel[None], shape)[0]:
        return False
    reach = (radius + SURROUNDINGS_MM) / spacing
    first, last = np.maximum(np.floor(voxel - reach), 0).astype(int), np.minimum(np.ceil(voxel + reach) + 1, shape).astype(int)
    hu = np.asarray(scan.hu[tuple(map(slice, first, last))])
    z, y, x = (((np.arange(*ends) - middle) * step) ** 2 for *ends, middle, step in zip(first, last, voxel, spacing, strict=True))
    distance = np.sqrt(z[:, None, None] + y[:, None] + x)
    around = hu[(distance > radius) & (distance <= radius + SURROUNDINGS_MM)]
    core = hu[distance <= max(radius / 2, distance.min())]
    lung = around[(around > LUNG_HU[0]) & (around < LUNG_HU[1])]
    return len(lung) > 0 and len(lung) >= MIN_LUNG_SHARE * len(around) and core.mean() > np.median(lung) + CONTRAST_HU


def check_appearance(table: pd.DataFrame, scans: Mapping[str, Scan], path: str | Path) -> str:
    """Whether the rows of a table look like nodules: a sentence of doubt, or "" where they do.

    Args:
        table: LUNA16's columns, every row inside its scan.
        scans: {uid: scan}, of which a few voxels around each row are read.
        path: the table's file, for the message.

    Raises AnnotationError when clearly more rows look like nodules once a mistake is put right. Another place in the chest looks like a
    nodule less often than one time in two. So a table of one or two rows is never refused. One of three is refused only if no row looks
    right and all three do once corrected.
    """
    table = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_ROWS)).astype(int))]
    given = _rows_like_nodules(table, scans, _as_given)
    if given.sum() >= EXPECTED_SHARE * len(table):
        return ""
    corrected = {name: _rows_like_nodules(table, scans, to_voxel) for name, to_voxel in CORRECTIONS.items()}
    best = max(corrected, key=lambda name: corrected[name].sum())
    gain = int(corrected[best].sum() - given.sum())
    said = f"{Path(path).name}: {given.sum()} of {len(table)} rows looked at lie on something brighter than the lung around it"
    if gain >= MIN_GAIN and corrected[best].mean() >= CORRECTED_SHARE:
        raise AnnotationError(f"{said}, but {corrected[best].sum()} do as {best}: coordinates are LPS mm in x, y, z; correct them")
    if gain > 0:
        return f"{said}, and {corrected[best].sum()} as {best}: look whether the positions are right."
    return f"{said}: look whether the positions are right." if given.mean() < 1 - CORRECTED_SHARE else ""


def _rows_like_nodules(table: pd.DataFrame, scans: Mapping[str, Scan], to_voxel: ToVoxel) -> np.ndarray:
    """Which rows look like a nodule in their scan: bool (N,)."""
    rows = zip(table["seriesuid"], table[XYZ].to_numpy(dtype=float), table["diameter_mm"], strict=True)
    return np.array([looks_like_nodule(scans[uid], to_voxel(scans[uid], xyz[None])[0], size) for uid, xyz, size in rows], dtype=bool)
