"""What LIDC's readers say of a scan: its nodules, or more about the rows of LUNA16's table."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lungadv.data.dataset import balls
from lungadv.data.ingest.contents import read_head
from lungadv.data.lidc import consensus
from lungadv.data.lidc_xml import read_lidc
from lungadv.data.scan import Scan
from lungadv.data.tables import LUNA16, XYZ, AnnotationError

__all__ = ["COLUMNS", "RADIOGRAPH", "Nodules", "find_readings", "nodules_beside_rows", "nodules_of_readers", "unread_nodules"]

COLUMNS = [*LUNA16, "type", "attachment", "spiculated", "readers"]  # of a nodule that is taken
RADIOGRAPH = "names no CT series: the reading of a radiograph?"
SERIES = re.compile(rb"<(?:\w+:)?(?:CT)?SeriesInstanceUID>\s*([0-9.]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Nodules:
    """Rows of nodules and of excluded findings, the nodules' mask uint8 (z, y, x) or None, and a note for the report."""

    nodules: list[dict] = field(default_factory=list)
    excluded: list[dict] = field(default_factory=list)
    masks: np.ndarray | None = None
    note: str = ""


def find_readings(root: Path, files: tuple[str, ...]) -> tuple[dict[str, str], list[dict]]:
    """LIDC's XML files by series uid, and lines of the report for those that are of no use. Radiographs' name no CT series."""
    found, lines = {}, []
    for name in files:
        match = SERIES.search(read_head(root / name))
        uid = match[1].decode() if match else ""
        if match and uid not in found:
            found[uid] = name
            continue
        why = f"a second reading of the series, besides '{found[uid]}'" if match else RADIOGRAPH
        lines.append({"seriesuid": uid, "path": name, "status": "left out", "reason": why})
    return found, lines


def unread_nodules(reading: Path | None, rows: list[dict], scan: Scan) -> Nodules:
    """Nothing: the source has no readings."""
    return Nodules()


def nodules_of_readers(reading: Path | None, rows: list[dict], scan: Scan) -> Nodules:
    """The readers' nodules, and as excluded what too few of them marked, or as small. Raises AnnotationError without a sound reading."""
    if reading is None:
        raise AnnotationError("no XML names this series: put its reading under the folder, or use --kind dicom")
    found = read_lidc(reading)
    table, masks = consensus(found, scan)
    counts = table["kind"] == "nodule"
    return Nodules(table.loc[counts, COLUMNS].to_dict("records"), table.loc[~counts, LUNA16].to_dict("records"), masks, found.remark)


def nodules_beside_rows(reading: Path | None, rows: list[dict], scan: Scan) -> Nodules:
    """What a reading beside LUNA16's table adds to its rows: type, spiculated and readers of each, and their masks.

    A reading that does not fit leaves the rows as they are, and the note says why.
    """
    if reading is None:
        return Nodules()
    try:
        found = read_lidc(reading)
        table, masks = consensus(found, scan)
    except AnnotationError as error:
        return Nodules(note=f"without its reading: {error}")
    known, joined = join_rows(rows, table, masks, scan)
    return Nodules(known, masks=joined, note=found.remark)


def join_rows(rows: list[dict], table: pd.DataFrame, masks: np.ndarray, scan: Scan) -> tuple[list[dict], np.ndarray | None]:
    """Find the readers' nodule of each of LUNA16's rows in a scan.

    Args:
        rows: LUNA16's, of one scan.
        table, masks: the readers', as of `lidc.consensus`.
        scan: the scan.

    Returns: type, spiculated and readers of each row, and the rows' masks (None without rows): outlined where the readers' nodule is, a
    ball elsewhere. A row and a nodule are one when their centres are closer than half the larger diameter.
    """
    nodules = table[table["diameter_mm"] > 0].reset_index(drop=True)
    if not rows:
        return [], None
    mine = pd.DataFrame(rows)
    distance = cdist(mine[XYZ], nodules[XYZ])
    near = distance < np.maximum.outer(mine["diameter_mm"].to_numpy(), nodules["diameter_mm"].to_numpy()) / 2
    pairs = dict(zip(*linear_sum_assignment(np.where(near, distance, 1e6)), strict=True))
    joined = balls(scan, mine)
    known = []
    for k in range(len(mine)):
        nodule = nodules.loc[pairs[k]] if k in pairs and near[k, pairs[k]] else None
        known.append({} if nodule is None else nodule[["type", "spiculated"]].to_dict() | {"readers": int(nodule["readers"])})
        if nodule is not None and nodule["label"]:
            joined[joined == k + 1] = 0
            joined[masks == nodule["label"]] = k + 1
    return known, joined
