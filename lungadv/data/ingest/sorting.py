"""Which scans are taken and which refused, and why: series in two places, the same voxels twice, rows and masks that do not fit.

A scan with a row that cannot be is refused, row and all: a nodule that went missing would count as a false positive when it is found. Two
scans of the same voxels, under two names or with two headers, are one: on two sides of the split it would be trained on and tested.
"""

from pathlib import Path

import numpy as np

from lungadv.data import store
from lungadv.data.ingest.items import is_taken
from lungadv.data.ingest.tables import Tables
from lungadv.data.luna16 import NODULES
from lungadv.data.manifest import empty_scan
from lungadv.data.orientation import CORRECTIONS, check_appearance, check_positions, inside_scan
from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ, AnnotationError

__all__ = ["doubt_positions", "refuse_strange_masks", "sort_out"]


def _grid(series: dict) -> Scan:
    """The geometry in a record as a scan without voxels."""
    return empty_scan(*(series["geometry"][name] for name in ("shape", "spacing", "origin", "direction")), series["uid"])


def sort_out(records: list[dict], tables: Tables) -> tuple[dict[str, dict], list[dict]]:
    """Sort records into the series taken, by uid and each with its rows, and lines of the report.

    A series in two places is not taken: it may be in halves. Of two scans of the same voxels, the one whose uid comes first is.
    What is no CT has lines of its own, see `others.other_lines`.
    Raises AnnotationError when the annotations lie outside their scans and all would fit with axes flipped or swapped.
    """
    series = [found | {"path": record["path"]} for record in records for found in record["series"] if "other" not in found]
    _check_axes(tables, {found["uid"]: _grid(found) for found in series if is_taken(found)})
    places = {}
    for found in series:
        places.setdefault(found["uid"], []).append(found["path"])
    twins, taken, lines = _twins(series), {}, []
    for found in series:
        uid = found["uid"]
        others = [path for path in places[uid] if path != found["path"]] if uid else []
        twice = f"the same series lies in '{others[0]}': keep one, or put its slices together" if others else None
        same = f"holds the same voxels as '{twins[uid]}': keep one of them" if uid in twins else None
        problem = found.get("refused") or twice or same or _join_annotations(found, tables)
        noted = "; ".join(filter(None, [found.get("note"), *found.get("partial", [])]))
        status = {"status": "refused" if problem else "taken", "reason": problem or noted}
        lines.append({"seriesuid": uid, "path": found["path"]} | status)
        if not problem:
            taken[uid] = found
    for name in ("excluded", "mimics"):
        for found in taken.values():
            found[name], outside = _rows_inside(found, tables, name)
            lines += outside
    return taken, lines


def _twins(series: list[dict]) -> dict[str, str]:
    """Series that hold the voxels of one whose uid comes before theirs, whatever the headers: {uid: the path of that one, or its uid}."""
    first, twins = {}, {}
    for found in sorted((found for found in series if is_taken(found)), key=lambda found: (found["uid"], found["path"])):
        one = first.setdefault((found["voxels"], *found["geometry"]["shape"]), found)
        if one["uid"] != found["uid"]:
            twins[found["uid"]] = one["path"] if one["path"] != found["path"] else one["uid"]
    return twins


def _check_axes(tables: Tables, grids: dict[str, Scan]):
    """AnnotationError when nodules lie outside their scans and all would fit with axes flipped or swapped: then the table is wrong."""
    if tables.annotations is None:
        return
    rows = tables.annotations[tables.annotations["seriesuid"].isin(list(grids))]
    try:
        check_positions(rows, grids, tables.names["annotations"])
    except AnnotationError as error:
        if "rows of this table fit" in str(error):
            raise


def _join_annotations(series: dict, tables: Tables) -> str | None:
    """Put the rows of the annotations into a series' record; why the scan cannot be taken, or None."""
    uid = series["uid"]
    if tables.annotations is not None:
        rows = tables.annotations[tables.annotations["seriesuid"] == uid]
        try:
            check_positions(rows, {uid: _grid(series)}, tables.names["annotations"])
        except AnnotationError as error:
            return str(error)
        known = series["nodules"] or [{}] * len(rows)  # what the readings say of them
        series["nodules"] = [row | more for row, more in zip(rows.to_dict("records"), known, strict=True)]
    return None


def _rows_inside(series: dict, tables: Tables, name: str) -> tuple[list[dict], list[dict]]:
    """A scan's excluded findings or mimics: those inside it, and lines of the report for the others."""
    uid, rows = series["uid"], tables.of(name, series["uid"])
    kept = list(series.get(name, []))
    if not rows:
        return kept, []
    inside = inside_scan(_grid(series).to_voxel([[row[axis] for axis in XYZ] for row in rows]), series["geometry"]["shape"])
    why = "lies outside its scan"
    lines = [
        {"seriesuid": uid, "path": tables.names[name], "status": "left out", "reason": f"line {row['line']}: {why}", "rows": 1}
        for row, fits in zip(rows, inside, strict=True)
        if not fits
    ]
    return kept + [row for row, fits in zip(rows, inside, strict=True) if fits], lines


def doubt_positions(tables: Tables, taken: dict[str, dict], folder: Path) -> str:
    """What is doubtful about where the nodules of a table lie, a sentence or "".

    folder: of the stores. Raises AnnotationError when the voxels show a flip or swap.
    """
    if tables.annotations is None:
        return ""
    rows = tables.annotations[tables.annotations["seriesuid"].isin(list(taken))]
    scans = {uid: store.open_scan(folder / taken[uid]["made"][0]) for uid in rows["seriesuid"].unique()}
    return check_appearance(rows, scans, tables.names["annotations"])


def refuse_strange_masks(taken: dict[str, dict], lines: list[dict]) -> None:
    """Refuse scans with a mask whose label k lies farther than a diameter from their k-th nodule: it was made for another table.

    Removes them from `taken`, and says so in their `lines` of the report.
    """
    for line in (line for line in lines if line["status"] == "taken"):
        problem = _strange_label(taken[line["seriesuid"]])
        if problem:
            line |= {"status": "refused", "reason": problem}
            del taken[line["seriesuid"]]


def _strange_label(series: dict) -> str | None:
    """Why the labels of a scan's mask are not its nodules, or None."""
    labels = [(k, centre, series["nodules"][k - 1]) for k, *centre in series["labels"] if k <= len(series["nodules"])]
    if not labels:
        return None
    numbers, centres, rows = zip(*labels, strict=True)
    xyz, sizes = np.array([[row[axis] for axis in XYZ] for row in rows]), np.array([row["diameter_mm"] for row in rows])
    apart = np.linalg.norm(xyz - centres, axis=1)
    if (apart <= sizes).all():
        return None
    first, grid = (apart > sizes).argmax(), _grid(series)
    corrected = {name: grid.to_world(to_voxel(grid, xyz)) for name, to_voxel in CORRECTIONS.items()}
    fitting = [name for name, places in corrected.items() if (np.linalg.norm(places - centres, axis=1) <= sizes).all()]
    flipped = f", or the positions are wrong: they fit as {', or '.join(fitting)}" if fitting else ""
    where = f"{apart[first]:.1f} mm from nodule {numbers[first]} of its scan, which is {sizes[first]:g} mm wide"
    mask = f"label {numbers[first]} of '{NODULES.format(series['uid'])}' lies {where}"
    return f"{mask}: the mask is of another table; get it again, or remove it{flipped}"
