"""The tables that are scored: read, checked, reduced to the listed scans, and divided into groups of nodules."""

import itertools
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.hits import match_by_scan, radius_mm
from lungadv.data.orientation import MISTAKES
from lungadv.data.tables import UNSPECIFIED, XYZ, AnnotationError, at_line, check_scans, read_table

__all__ = [
    "FINDING_COLUMNS",
    "MARK_COLUMNS",
    "SIZE_GROUPS",
    "CheckedTables",
    "axis_changes",
    "cap_marks",
    "check_padding",
    "check_table",
    "check_tables",
    "describe_counts",
    "read_findings",
    "read_marks",
    "select_listed",
    "size_group",
    "size_masks",
    "type_masks",
    "warn_of_other_scans",
    "warn_of_wrong_positions",
]

MARK_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")
FINDING_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
SIZE_GROUPS = {"under 6": 0.0, "6-8": 6.0, "8-12": 8.0, "12-20": 12.0, "20+": 20.0}  # mm: the least diameter of each
SCANS_TRIED = 100  # with nodules: in as many the axes are tried
PROOF = 3  # nodules that an unusual mistake must explain: one of 47 changes hits one or two by chance


# Files


def read_marks(path: str | Path) -> pd.DataFrame:
    """A detector's marks from a CSV: MARK_COLUMNS, the index holds the file's line numbers. A mark that comes twice counts twice.

    Raises AnnotationError as `read_table` does, and for a file without the column probability.
    """
    table = read_table(path, MARK_COLUMNS[:4], repeats=True)
    if "probability" not in table:
        hint = "these are candidates (class says what they are): score them" if "class" in table else f"it needs {', '.join(MARK_COLUMNS)}"
        raise AnnotationError(f"'{path}' has no column probability: {hint}")
    return table[list(MARK_COLUMNS)]


def read_findings(path: str | Path, repeats: bool = False) -> pd.DataFrame:
    """Nodules from a CSV: FINDING_COLUMNS, and type if the file has it; the index holds the file's line numbers.

    repeats: whether a row may come twice, as among the excluded ones. Warns of a diameter of 0; raises as `read_table` does.
    """
    table = read_table(path, FINDING_COLUMNS, repeats)
    none = table.index[table["diameter_mm"] == 0]
    if len(none):
        warnings.warn(f"{at_line(path, none[0])}: diameter_mm is 0 ({len(none)} such): no mark can lie in it; correct it", stacklevel=2)
    return table[[*FINDING_COLUMNS, *table.columns.intersection(["type"])]]


# Checks


def check_table(table: pd.DataFrame, columns: Iterable[str], name: str) -> pd.DataFrame:
    """The `columns` of a table, the first of them ids, the others as float64; `name` is the table's name in messages.

    Raises ValueError for a missing column, an id that is not text or a number that is not finite.
    """
    columns = list(columns)
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{name}: no column '{missing[0]}'; it has {', '.join(map(str, table.columns))}; LUNA16's names are expected")
    table = table.loc[:, columns].reset_index(drop=True)
    if not table["seriesuid"].map(lambda uid: isinstance(uid, str)).all():
        raise ValueError(f"{name}: column seriesuid holds numbers or gaps, not text; read it with dtype={{'seriesuid': str}}")
    for column in columns[1:]:
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            row = table.loc[bad[0]]
            raise ValueError(f"{name}: row {bad[0]} (seriesuid {row.seriesuid}) has {column} = {row[column]}; give a finite number")
        table[column] = numbers
    return table


def check_padding(table: pd.DataFrame, scans: Iterable[str], place: str) -> None:
    """ValueError at the first row whose id differs from a listed one by leading zeros, blanks or the suffix of a scan file alone.

    place: how the message names the rows, as in "marks.csv, line"; the table's index holds their numbers.
    """

    def bare(uid):
        return re.sub(r"\.(mhd|mha|nrrd|nii(\.gz)?)$", "", uid.strip()).lstrip("0")

    listed = {bare(uid): uid for uid in scans}
    for row, uid in table["seriesuid"][~table["seriesuid"].isin(scans)].drop_duplicates().items():
        alike = listed.get(bare(uid))
        if alike:
            what = f"seriesuid '{uid}' is not listed but '{alike}' is"
            padded = uid.strip().lstrip("0") == alike.strip().lstrip("0")
            remedy = "leading zeros or blanks differ; read ids as text" if padded else "take the suffix of its file off the id"
            raise ValueError(f"{place} {row}: {what}: {remedy}")


def select_listed(table: pd.DataFrame, scans: pd.Index, name: str) -> pd.DataFrame:
    """The rows of listed scans, with column `scan`, int: the position in the list (of `check_scans`).

    Raises ValueError when ids differ by leading zeros alone; `name` is the table's name in that message.
    """
    position = scans.get_indexer(table["seriesuid"])
    check_padding(table, scans, f"{name}, row")
    return table.assign(scan=position)[position >= 0].reset_index(drop=True)


def cap_marks(marks: pd.DataFrame, max_per_scan: int) -> pd.DataFrame:
    """The marks whose probability is above the (max_per_scan + 1)-th largest of their `scan`: ties at the cap leave together."""
    order = np.lexsort((-marks["probability"], marks["scan"]))
    scan, probability = marks["scan"].to_numpy()[order], marks["probability"].to_numpy()[order]
    rank = np.arange(len(scan)) - np.searchsorted(scan, scan)  # within the scan, from 0
    bar = pd.Series(probability[rank == max_per_scan], index=scan[rank == max_per_scan])
    return marks[marks["probability"] > marks["scan"].map(bar).fillna(-np.inf)].reset_index(drop=True)


@dataclass(frozen=True)
class CheckedTables:
    """What is scored: the tables of the listed scans, each with column `scan`, the position of its scan in the list."""

    marks: pd.DataFrame  # MARK_COLUMNS, capped
    nodules: pd.DataFrame  # FINDING_COLUMNS
    excluded: pd.DataFrame  # FINDING_COLUMNS
    scans: pd.Index  # the ids of the listed scans
    counts: dict  # of scans, marks and rows that are left out; see `check_tables`


def check_tables(
    marks: pd.DataFrame, annotations: pd.DataFrame, scans: Iterable[str], excluded: pd.DataFrame | None, max_per_scan: int
) -> CheckedTables:
    """Check the tables that `froc` takes, keep the rows of listed scans, and cap the marks.

    Counts: scans, scans_without_marks, marks_given = unknown_scan + over_cap + marks, and the rows of other scans among the
    annotations (nodules_unknown_scan) and the excluded (excluded_unknown_scan). Raises ValueError as `froc` says.
    """
    if max_per_scan < 1:
        raise ValueError(f"max_per_scan is {max_per_scan}: give a number from 1 up")
    scans = check_scans(scans)
    given = check_table(marks, MARK_COLUMNS, "marks")
    annotated = check_table(annotations, FINDING_COLUMNS, "annotations")
    left_out = annotated.iloc[:0] if excluded is None else check_table(excluded, FINDING_COLUMNS, "excluded")
    nodules, beside = select_listed(annotated, scans, "annotations"), select_listed(left_out, scans, "excluded")
    listed = select_listed(given, scans, "marks")
    if len(given) and len(annotated) and not len(listed) and not len(nodules):
        ids = f"the marks have '{given['seriesuid'][0]}', the annotations '{annotated['seriesuid'][0]}', the list '{scans[0]}'"
        raise ValueError(f"no mark and no nodule is of a listed scan ({ids}): give the list of the scans that were searched")
    kept = cap_marks(listed, max_per_scan)
    counts = {
        "scans": len(scans),
        "scans_without_marks": len(scans) - listed["scan"].nunique(),
        "marks_given": len(given),
        "unknown_scan": len(given) - len(listed),
        "over_cap": len(listed) - len(kept),
        "marks": len(kept),
        "nodules_unknown_scan": len(annotated) - len(nodules),
        "excluded_unknown_scan": len(left_out) - len(beside),
    }
    return CheckedTables(kept, nodules, beside, scans, counts)


# Warnings


def axis_changes() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Mistakes in positions and what puts them right: {name: function of (N, 3) mm}.

    Those of MISTAKES, then every order and sign of the axes.
    """
    changes = dict(MISTAKES)
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        name = ", ".join(f"{'-' if sign < 0 else ''}coord{'XYZ'[axis]}" for axis, sign in zip(order, signs, strict=True))
        changes[f"x, y, z = {name}"] = lambda xyz, order=order, signs=signs: xyz[:, order] * signs
    return changes


def warn_of_wrong_positions(marks: pd.DataFrame, nodules: pd.DataFrame, found: int, few: float = 0.1, many: float = 0.3) -> None:
    """Warn when `found` is less than the share `few` of the nodules and the positions say why.

    Either `many` would be hit with swapped or flipped axes, or one of the tables looks like voxel indices and the other does not.
    marks, nodules: tables with column `scan`, as of `check_tables`.
    """
    if found >= few * len(nodules) or marks.empty:
        return
    changes = axis_changes()

    def count_hits(mistake, marks, nodules):
        changed = marks.assign(**dict(zip(XYZ, changes[mistake](marks[XYZ].to_numpy()).T, strict=True)))
        return len(np.unique(match_by_scan(changed, nodules)[1]))

    tried = nodules["scan"].unique()[:SCANS_TRIED]
    some = [table[table["scan"].isin(tried)] for table in (marks, nodules)]
    best = max(changes, key=lambda mistake: count_hits(mistake, *some))
    many_hits = count_hits(best, marks, nodules)
    if many_hits >= max(many * len(nodules), 1 if best in MISTAKES else PROOF):
        warnings.warn(
            f"the marks hit {found / len(nodules):.0%} of the nodules but would hit {many_hits / len(nodules):.0%} with {best}; "
            "coordinates must be LPS millimetres in x, y, z",
            stacklevel=3,
        )
        return
    tables = {"marks": marks[XYZ].to_numpy(), "nodules": nodules[XYZ].to_numpy()}
    for (name, xyz), other in zip(tables.items(), reversed(tables.values()), strict=True):
        if sign := _sign_of_voxels(xyz, other):
            warnings.warn(
                f"the marks hit {found / len(nodules):.0%} of the nodules, and the {name} look like voxel indices: {sign}; "
                "coordinates must be LPS millimetres in x, y, z",
                stacklevel=3,
            )


def _sign_of_voxels(xyz, other):
    """What makes positions (N, 3) look like voxel indices and the other (M, 3) not, in words; None if nothing does."""
    if (xyz >= 0).all() and (other < 0).any(axis=0).sum() >= 2:
        return "none of their coordinates is negative, as some of the others are"
    if (xyz == xyz.round()).all() and (xyz >= 0).all() and (other != other.round()).mean() > 0.5:
        return "all of their coordinates are whole numbers, as the others are not"
    return None


def warn_of_other_scans(marks: pd.DataFrame, nodules: pd.DataFrame, counts: dict) -> None:
    """Warn when there is no mark, none of a listed scan, or when the scans without any mark hold most of the nodules.

    marks, nodules: tables with column `scan`, and their counts, as of `check_tables`.
    """
    if not counts["marks_given"]:
        warnings.warn("there is no mark at all: is this the right file?", stacklevel=3)
    elif counts["unknown_scan"] == counts["marks_given"]:
        warnings.warn("no mark is of a listed scan: are marks and scans of the same data set?", stacklevel=3)
    elif len(marks) and len(nodules) and (silent := (~nodules["scan"].isin(marks["scan"])).mean()) > 0.5:
        warnings.warn(
            f"{counts['scans_without_marks']} of {counts['scans']} listed scans have no mark and hold {silent:.0%} of the nodules; "
            "list the scans that were searched, no others (one fold, or all?)",
            stacklevel=3,
        )


def describe_counts(counts: dict) -> list[str]:
    """What became of the marks and rows of a Froc's counts, in sentences; where nothing was ignored they say so."""
    found, marks = f"{counts['nodules_found']} of {counts['nodules']} nodules are hit", f"{counts['marks']} marks count"
    where = f"{counts['scans']} scans, {counts['scans_without_marks']} of them without a mark"
    ignored = {
        "marks of scans that are not listed": counts["unknown_scan"],
        "marks over the cap": counts["over_cap"],
        "marks on excluded findings": counts["dropped_on_excluded"],
        "further hits on a nodule": counts["duplicates"],
        "nodules of scans that are not listed": counts["nodules_unknown_scan"],
        "excluded findings of scans that are not listed": counts["excluded_unknown_scan"],
    }
    some = [f"{name} {count}" for name, count in ignored.items() if count]
    return [
        f"{found}; {where}",
        f"of {counts['marks_given']} marks given {marks}: {counts['on_nodules']} on nodules, {counts['false_positives']} false positives, "
        f"{counts['dropped_on_excluded']} on excluded findings alone",
        "ignored: " + (", ".join(some) if some else "nothing"),
    ]


# Groups of nodules


def size_group(diameters: pd.Series | np.ndarray) -> np.ndarray:
    """The key of SIZE_GROUPS that holds each diameter (N,) in mm: texts (N,); a diameter below 0 stands for 10 mm."""
    return np.array(list(SIZE_GROUPS))[np.searchsorted(list(SIZE_GROUPS.values()), 2 * radius_mm(diameters), side="right") - 1]


def size_masks(annotations: pd.DataFrame) -> dict[str, np.ndarray]:
    """Groups by diameter for `froc_by_group`: {key of SIZE_GROUPS: bool (N,)}, those that occur."""
    size = size_group(annotations["diameter_mm"])
    return {name: size == name for name in SIZE_GROUPS if name in size}


def type_masks(annotations: pd.DataFrame) -> dict[str, np.ndarray]:
    """Groups by column `type` for `froc_by_group`: {type: bool (N,)} in alphabetical order; an empty or missing type is UNSPECIFIED."""
    types = annotations["type"].fillna("").replace("", UNSPECIFIED)
    return {kind: (types == kind).to_numpy() for kind in sorted(types.unique())}
