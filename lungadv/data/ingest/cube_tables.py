"""The tables that say more of cubes of nodules: patients, ratings and types, LUNA16's rows, and what is no nodule.

A table of nodules names cubes by `file` (patient, type, mask_mm, world_ok and the means of LIDC's ratings, each where known), or has
LUNA16's columns and is joined by position. not_nodules.csv (file, LUNA16's columns, source) or LUNA16's annotations_excluded.csv lists
what is no nodule.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.ingest.contents import Contents
from lungadv.data.luna16 import read_excluded
from lungadv.data.nodule_cubes import EXCLUDED, FALSE_POSITIVE, NOT_NODULES, NOT_NODULES_FILE, RATINGS
from lungadv.data.tables import LUNA16, UNSPECIFIED, XYZ, at_line, check_types, read_nodules, read_table, to_numbers
from lungadv.utils.errors import InputError, plural

__all__ = ["join_nodules", "join_not_nodules"]

SAME_MM = 1.0  # by how much a table's diameter of a mask may differ from that of the mask


def join_nodules(cubes: pd.DataFrame, table: Path) -> tuple[pd.DataFrame, list[str]]:
    """Join a table of nodules to cubes (path, seriesuid, coordX, coordY, coordZ, diameter_mm).

    Returns the cubes with patient, type, world_ok and RATINGS, and sentences on what was not joined.
    Raises InputError when no row is of these cubes, when a row is of another mask, when a series has two patients, and AnnotationError
    for a table that cannot be read.
    """
    rows = read_table(table, (), repeats=True)
    if "file" in rows:
        return _join_by_file(cubes, table)
    if not set(LUNA16) <= set(rows):
        raise InputError(f"'{table}' has neither a column file nor {', '.join(LUNA16)}: give a table of these nodules")
    return _join_by_place(cubes, table)


def _join_by_file(cubes, path):
    """Join a table that names the cubes' files."""
    rows = read_table(path, ["file"])
    twice = rows["file"][rows["file"].duplicated()]
    if len(twice):
        raise InputError(f"{at_line(path, twice.index[0])}: '{twice.iloc[0]}' comes twice: list each cube once")
    rows = rows.assign(line=rows.index).set_index("file")
    names = cubes["path"].map(lambda name: Path(name).name)
    known = rows.reindex(names).set_axis(cubes.index).assign(line=rows["line"].reindex(names).to_numpy())
    found = known["line"].notna()
    if not found.any():
        listed = f"{plural(len(rows), 'file')}, the first '{rows.index[0]}'" if len(rows) else "no file"
        raise InputError(f"'{path}' lists {listed}, and none is here: give the table of these cubes")
    _check_masks(cubes[found], known[found], path)
    joined = cubes.assign(
        patient=_texts(known, "patient"), type=_texts(known, "type").replace("", UNSPECIFIED), world_ok=_texts(known, "world_ok")
    )
    joined = joined.assign(**{name: _numbers(known, name, path) for name in RATINGS})
    check_types(joined.set_axis(known["line"].fillna(0).astype(int)), path)
    _check_patients(joined[found].set_axis(known["line"][found].astype(int)), path)
    absent, unlisted = len(rows) - int(found.sum()), int((~found).sum())
    said = [f"{path.name} does not list {unlisted} of {plural(len(cubes), 'cube')}: they have no type."] if unlisted else []
    return joined, said + ([f"{plural(absent, 'row')} of {path.name} are left out: their cubes are not here."] if absent else [])


def _texts(known, name):
    """A column of text that may be missing, "" where nothing is known."""
    return known[name].fillna("") if name in known else pd.Series("", known.index)


def _numbers(known, name, path):
    """A column of numbers that may be missing, NaN where nothing is known."""
    texts = _texts(known, name)
    return to_numbers(path, name, texts.set_axis(known["line"].fillna(0).astype(int)), blank=True).set_axis(known.index)


def _check_masks(cubes, known, path):
    """InputError when a table tells of other masks than those that are here."""
    if "mask_mm" not in known:
        return
    differs = (_numbers(known, "mask_mm", path) - cubes["diameter_mm"]).abs() > SAME_MM
    if differs.any():
        first = differs.idxmax()
        here = f"mask_mm {known['mask_mm'][first]}, but the mask of '{cubes['path'][first]}' has {cubes['diameter_mm'][first]:.2f} mm"
        raise InputError(f"{at_line(path, int(known['line'][first]))}: {here}: give the table of these cubes")


def _check_patients(rows, path):
    """InputError when a series has two patients."""
    for uid, named in rows[rows["patient"] != ""].groupby("seriesuid", sort=False):
        if named["patient"].nunique() > 1:
            other = named[named["patient"] != named["patient"].iloc[0]]
            what = f"series '{uid}' is of patient '{other['patient'].iloc[0]}', but of '{named['patient'].iloc[0]}' in a line above"
            raise InputError(f"{at_line(path, other.index[0])}: {what}: keep the one that is right")


def _join_by_place(cubes, path):
    """Join LUNA16's rows: the nearest of the series, whose centre must lie within the mask's radius."""
    rows = read_nodules(path)
    of_series = rows.groupby("seriesuid").indices
    if not any(uid in of_series for uid in cubes["seriesuid"]):
        raise InputError(f"'{path}' has no row of the {plural(len(cubes), 'cube')} here: give the table of these nodules")
    types, ok = [], []
    for uid, *centre, diameter in cubes[["seriesuid", *XYZ, "diameter_mm"]].itertuples(index=False):
        mine = rows.iloc[of_series.get(uid, [])]
        distance = np.linalg.norm(mine[XYZ].to_numpy(float) - centre, axis=1)
        near = len(mine) > 0 and distance.min() < diameter / 2
        types.append(mine["type"].iloc[distance.argmin()] if near else UNSPECIFIED)
        ok.append(str(bool(near)) if len(mine) else "")
    joined = cubes.assign(patient="", type=types, world_ok=ok, **dict.fromkeys(RATINGS, np.nan))
    unlisted = int((joined["world_ok"] == "").sum())
    return joined, [f"{path.name} has no row of the series of {plural(unlisted, 'cube')}."] if unlisted else []


def join_not_nodules(cubes: pd.DataFrame, root: Path, contents: Contents) -> tuple[pd.DataFrame, list[str]]:
    """What is no nodule, inside the cubes whose world position is not known to be wrong.

    cubes: path, seriesuid, world_ok, and `box`: the cube's outer faces, ((x, y, z) lowest, highest) in LPS mm.
    Returns NOT_NODULES without `dataset`, each position once a cube that holds it, and sentences.
    """
    ours, luna = contents.table(NOT_NODULES_FILE), contents.table("annotations_excluded.csv")
    rows = [_read_ours(root / ours)] if ours else [read_excluded(root / luna).assign(kind=EXCLUDED, file="")] if luna else []
    if not rows:
        return pd.DataFrame(columns=NOT_NODULES[:-1]), ["No excluded finding and no false positive is known: no table is here."]
    table, found, used = rows[0].reset_index(drop=True), [], set()
    of_series = table.groupby("seriesuid").indices
    for path, uid, ok, box in cubes[["path", "seriesuid", "world_ok", "box"]].itertuples(index=False):
        mine = table.iloc[of_series.get(uid, [])] if ok != "False" else table.iloc[:0]
        mine = mine[mine["file"].isin(["", Path(path).name])]
        inside = mine[((mine[XYZ] > box[0]) & (mine[XYZ] < box[1])).all(axis=1)]
        used |= set(inside.index)
        found.append(inside.assign(path=path))
    place, kept = ours or luna, pd.concat(found, ignore_index=True)[NOT_NODULES[:-1]]
    kinds = ", ".join(f"{(kept['kind'] == kind).sum()} {kind}" for kind in (EXCLUDED, FALSE_POSITIVE))
    return kept, [f"{place}: {kinds} in these cubes; {plural(len(table) - len(used), 'row')} left out, in none of them."]


def _read_ours(path):
    """not_nodules.csv: positions by file; a diameter may be empty."""
    table = read_table(path, ["file", *LUNA16, "source"], repeats=True, blank=["diameter_mm"])
    excluded = table["source"].str.contains("excluded")
    return table.assign(kind=np.where(excluded, EXCLUDED, FALSE_POSITIVE), diameter_mm=table["diameter_mm"].fillna(-1.0))
