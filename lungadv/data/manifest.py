"""A manifest of real scans: a CSV of seriesuid, path and dataset, checked row by row and read as a data set.

A path is that of a scan file, or of a DICOM folder that holds this series, relative to the manifest. Beside the manifest lie
annotations.csv (LUNA16's columns; `type` if known) and, where there are any, annotations_excluded.csv, mimics.csv,
seg-lungs-LUNA16/<uid>.mhd and masks/<uid>.mhd. A column `store` names the files from which patches are cut (see `store`). A column
`patient` guards the split. The scans.csv that a phantom run writes is such a manifest.

A manifest written by `lungadv ingest` may lie elsewhere than its scans. The folder that was ingested is written down beside it; paths start
there and do not leave it. Its columns of geometry save reading every header again.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data import luna16
from lungadv.data.dataset import DATASETS, EXTRA_TESTS, FILES, MIMICS, NODULES, Data, open_store, same_grid, series_in, set_types
from lungadv.data.io.read import files_of, read_header
from lungadv.data.kinds import NODULE_CUBE
from lungadv.data.orientation import check_positions
from lungadv.data.scan import AIR, Scan, ScanError
from lungadv.data.tables import LUNA16, SMALLEST_MM, UNSPECIFIED, AnnotationError, at_line, check_types, read_nodules, read_table
from lungadv.utils.errors import InputError
from lungadv.utils.files import read_json

__all__ = ["GEOMETRY", "TABLES", "check_patients", "companion", "empty_scan", "read_manifest", "root_of", "scan_files"]

GEOMETRY = ["shape", "spacing", "origin", "direction"]  # columns of an ingested manifest
TABLES = ("annotations.csv", "annotations_excluded.csv", "mimics.csv")  # beside a manifest


def read_manifest(path: str | Path) -> Data:
    """A manifest and the tables beside it, with absolute paths. Nodules under SMALLEST_MM count among the excluded.

    Raises InputError that names the file and row that is wrong, and the remedy.
    """
    try:
        return _read(Path(path).resolve())
    except AnnotationError as error:
        raise InputError(str(error)) from None


def _read(path: Path) -> Data:
    scans, root = _read_scans(path), root_of(path)
    scans["path"] = [str(_file_under(path, root, line, name)) for line, name in scans["path"].items()]
    _check_files(path, scans)
    for column, file in (("lungs", luna16.LUNGS), ("labels", luna16.NODULES)):
        scans[column] = [_first_existing((path.parent, root), file.format(uid)) for uid in scans["seriesuid"]]
    headers = {row["seriesuid"]: _header(path, line, row) for line, row in zip(scans.index, scans.to_dict("records"), strict=True)}
    stores = scans["store"] if "store" in scans else [""] * len(scans)
    rows = zip(scans.index, stores, headers.items(), strict=True)
    scans["store"] = [str(_store_file(path, line, name, *known)) if name else "" for line, name, known in rows]
    dataset = scans.set_index("seriesuid")["dataset"]
    nodules, others, mimics = (
        _read_positions(path.parent / name, columns, dataset, headers)
        for name, columns in zip(TABLES, (NODULES, NODULES, MIMICS), strict=True)
    )
    small = nodules["diameter_mm"] < SMALLEST_MM
    excluded = pd.concat([nodules[small], others], ignore_index=True)
    return Data(scans[["seriesuid", "dataset", *FILES]].reset_index(drop=True), nodules[~small].reset_index(drop=True), excluded, mimics)


def _read_scans(path: Path) -> pd.DataFrame:
    """The manifest's rows; their ids, data sets and patients are checked, their paths not."""
    scans = read_table(path, ["seriesuid", "path", "dataset"])
    if "kind" in scans and (scans["kind"] == NODULE_CUBE).any():
        raise InputError(f"'{path}' lists cubes of nodules, not scans: give a manifest of --kind luna16, lidc or dicom")
    if scans.empty:
        raise InputError(f"'{path}' lists no scan: add rows of seriesuid, path, dataset")
    twice = scans["seriesuid"][scans["seriesuid"].duplicated()]
    if len(twice):
        raise InputError(f"{at_line(path, twice.index[0])}: uid '{twice.iloc[0]}' comes twice: list each scan once")
    for line, dataset in scans["dataset"].items():
        if dataset not in (*DATASETS, *EXTRA_TESTS):
            raise InputError(f"{at_line(path, line)}: unknown data set '{dataset}': write one of {', '.join((*DATASETS, *EXTRA_TESTS))}")
    check_patients(path, scans)
    return scans


def _check_files(path: Path, scans: pd.DataFrame):
    """InputError for a scan file that two rows name; a DICOM folder may hold several series."""
    files = scans["path"][[not os.path.isdir(path) for path in scans["path"]]]
    twice = files[files.duplicated()]
    if len(twice):
        raise InputError(f"{at_line(path, twice.index[0])}: '{twice.iloc[0]}' is the scan of another row too: list each scan once")


def companion(manifest: str | Path) -> Path:
    """The file beside a manifest in which `lungadv ingest` wrote down the folder that its paths start from."""
    return Path(manifest).with_suffix(".ingest.json")


def root_of(manifest: Path) -> Path:
    """The folder that a manifest's paths start from: the one that was ingested, else the manifest's own.

    Raises InputError when what ingest wrote down beside the manifest names no folder.
    """
    path = companion(manifest)
    if not path.exists():
        return manifest.parent
    try:
        root = Path(read_json(path)["root"])
    except (InputError, KeyError, TypeError):
        raise InputError(f"'{path}' does not say where the scans lie: run `lungadv ingest` again") from None
    if not root.is_absolute() or not root.is_dir():
        raise InputError(f"'{path}' says that the scans lie in '{root}', which is no folder: correct its `root`, or ingest again")
    return root


def _first_existing(folders: Iterable[Path], name: str) -> str:
    """The first of some folders' files of a name, "" where none has it."""
    return next((str(folder / name) for folder in folders if (folder / name).exists()), "")


def check_patients(manifest: str | Path, scans: pd.DataFrame) -> None:
    """Raise InputError when a patient (column `patient`, where there is one) has scans in two data sets.

    scans: a manifest's rows, whose index holds line numbers. manifest: its file, for the message.
    """
    if "patient" not in scans:
        return
    known = scans[scans["patient"] != ""]
    for patient, rows in known.groupby("patient", sort=False):
        if rows["dataset"].nunique() > 1:
            which = " and ".join(sorted(rows["dataset"].unique()))
            where = f"{at_line(manifest, rows.index[-1])}: patient '{patient}'"
            anew = ", or delete it and run `lungadv ingest` again, which splits anew" if companion(manifest).exists() else ""
            remedy = f"correct the column dataset of '{manifest}'{anew}"
            raise InputError(f"{where} is in {which}: a patient belongs to one data set; {remedy}")


def scan_files(path: str | Path) -> list[Path]:
    """The files that a scan file consists of: itself and, of an .mhd or .nhdr, the data files that it names, where it can be read."""
    path = Path(path)
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return [path]
    try:
        return files_of(path)
    except ScanError:
        return [path]


def _file_under(manifest: Path, folder: Path, line: int, name: str) -> Path:
    """The file a manifest's row names; it must exist and lie under `folder` (links are not followed)."""
    file = Path(os.path.normpath(folder / name))
    if not name or not file.is_relative_to(folder):
        above = f"manifest's folder {folder}: put the manifest above its scans"
        whose = above if folder == manifest.parent else f"ingested folder {folder}: correct it"
        raise InputError(f"{at_line(manifest, line)}: path '{name}' leaves the {whose}")
    if not file.exists():
        raise InputError(f"{at_line(manifest, line)}: '{name}' does not exist in {folder}: correct the path")
    return file


def _header(manifest: Path, line: int, row: Mapping[str, str]) -> Scan:
    """A scan without voxels: as the manifest says, if its file has the size written there, else as the file's header says."""
    if not all(row.get(name) for name in GEOMETRY):
        return _read_header(manifest, line, row["path"], row["seriesuid"])
    file = Path(row["path"])
    size = sum(part.stat().st_size for part in scan_files(file)) if file.is_file() else None
    if size is not None and str(size) != row.get("bytes", ""):
        changed = f"has {size} bytes, not {row.get('bytes')}: it has changed, run `lungadv ingest` again"
        raise InputError(f"{at_line(manifest, line)}: '{file}' {changed}")
    try:
        shape = tuple(int(text) for text in row["shape"].split())
        spacing, origin, direction = ([float(text) for text in row[name].split()] for name in GEOMETRY[1:])
        return empty_scan(shape, spacing, origin, direction, row["seriesuid"])
    except ValueError as error:
        problem = f"{', '.join(GEOMETRY)} make no geometry ({error}): run `lungadv ingest` again"
        raise InputError(f"{at_line(manifest, line)}: {problem}") from None


def empty_scan(shape: tuple, spacing: Iterable[float], origin: Iterable[float], direction: Iterable[float], uid: str) -> Scan:
    """A scan whose geometry alone is known; direction is given as nine numbers. Its voxels take no memory."""
    return Scan(np.broadcast_to(np.int16(AIR), shape), spacing, origin, np.reshape(direction, (3, 3)), uid)


def _read_header(manifest: Path, line: int, file: str, uid: str) -> Scan:
    try:
        return read_header(file, series_in(file, uid))
    except ScanError as error:
        raise InputError(f"{at_line(manifest, line)}: {error}") from None


def _store_file(manifest: Path, line: int, name: str, uid: str, scan: Scan) -> Path:
    """The store that a manifest's row names; it must be that of its scan, of which `scan` is the header."""
    file = _file_under(manifest, manifest.parent, line, name)
    try:
        opened = open_store(file, uid)
    except ScanError as error:
        raise InputError(f"{at_line(manifest, line)}: {error}") from None
    if not same_grid(opened, scan):
        where = f"{at_line(manifest, line)}: store '{name}' {opened.hu.shape}"
        raise InputError(f"{where} is not of this scan {scan.hu.shape}: make it anew")
    return file


def _read_positions(path: Path, columns: list[str], dataset: pd.Series, headers: Mapping[str, Scan]) -> pd.DataFrame:
    """A table of nodules or mimics, each row inside the scan it names; `label` numbers a scan's rows from 1."""
    needed = path.name == TABLES[0]
    if not needed and not path.exists():
        return set_types(pd.DataFrame(columns=columns))
    table = read_nodules(path) if needed else read_table(path, LUNA16, repeats=True)
    table = table.assign(**{name: UNSPECIFIED if name == "type" else "" for name in columns if name not in table})
    if "type" in columns:
        check_types(table, path)
    check_positions(table, headers, path)
    table["label"] = table.groupby("seriesuid").cumcount() + 1
    return set_types(table.assign(dataset=table["seriesuid"].map(dataset))[columns].reset_index(drop=True))
