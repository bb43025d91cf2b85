"""The tables of a data set that is ingested: nodules, excluded findings, mimics, and which of their rows are left out.

The nodules are LUNA16's annotations.csv, a CSV of the user's own, or what LIDC's readers marked.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lungadv.data.ingest.contents import Contents
from lungadv.data.ingest.sources import SOURCES
from lungadv.data.luna16 import read_excluded
from lungadv.data.tables import LUNA16, read_nodules, read_table
from lungadv.utils.errors import InputError

__all__ = ["Tables", "read_tables", "unknown_rows"]


@dataclass(frozen=True)
class Tables:
    """The tables of a data set: name of each, and its rows with `line`, or None where there is none."""

    names: dict[str, str]
    annotations: pd.DataFrame | None
    excluded: pd.DataFrame | None
    mimics: pd.DataFrame | None

    def of(self, name: str, uid: str) -> list[dict]:
        """The rows of one scan."""
        table = getattr(self, name)
        return [] if table is None else table[table["seriesuid"] == uid].to_dict("records")


def read_tables(root: Path, contents: Contents, kind: str, nodules: str | Path | None) -> Tables:
    """The tables of a data set; `nodules` takes the place of its annotations.csv.

    Raises InputError for a table that must be there and is not, and AnnotationError for one that cannot be read.
    """
    source = SOURCES[kind]
    if nodules and not source.tables:
        raise InputError(f"--nodules '{nodules}' does not go with --kind {kind}, whose nodules are in its XML: use --kind dicom")
    wanted = {key: name for key, name in source.tables.items() if not (nodules and key == "annotations")}
    paths = {key: root / place for key, name in wanted.items() if (place := contents.table(name))}
    if nodules:
        paths["annotations"] = Path(nodules).resolve()
    if source.needs_table and "annotations" not in paths:
        raise InputError(f"'{root}' holds no annotations.csv, LUNA16's table of nodules: put it there, or name it with --nodules")
    readers = {"annotations": read_nodules, "excluded": read_excluded, "mimics": _read_mimics}
    tables = {key: readers[key](path) for key, path in paths.items()}
    tables = {key: table.assign(line=table.index) for key, table in tables.items()}
    shown = {key: path.name if key == "annotations" and nodules else path.relative_to(root).as_posix() for key, path in paths.items()}
    return Tables(shown, *(tables.get(key) for key in ("annotations", "excluded", "mimics")))


def _read_mimics(path: Path) -> pd.DataFrame:
    columns = [*LUNA16, "kind"]
    return read_table(path, columns, repeats=True)[columns]


def unknown_rows(tables: Tables, taken: dict[str, dict], lines: list[dict], root: Path) -> list[dict]:
    """Lines of the report for rows of scans that were not taken, one a scan and table.

    Raises InputError when no row of the annotations names a scan that is there.
    """
    known, found = {line["seriesuid"]: line["status"] for line in lines}, []
    for name, file in tables.names.items():
        table = getattr(tables, name)
        strange = table[~table["seriesuid"].isin(taken)]
        if name == "annotations" and len(table) and not table["seriesuid"].isin(list(known)).any():
            first = f"{file}, line {table['line'].iloc[0]}: scan '{table['seriesuid'].iloc[0]}'"
            raise InputError(f"{first} is not under '{root}', nor that of any other row: ids are series uids, as text")
        for uid, rows in strange.groupby("seriesuid", sort=False):
            why = {"left out": "its series is no CT", None: "its scan is not there"}.get(known.get(uid), "its scan was refused")
            which = f"line {rows['line'].iloc[0]}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
            found.append({"seriesuid": uid, "path": file, "status": "left out", "reason": f"{which}: {why}", "rows": len(rows)})
    return found
