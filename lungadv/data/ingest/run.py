"""The whole of ingest: what lies there, what each scan is, what is taken, and the manifest."""

import hashlib
import json
import os
from pathlib import Path

import pandas as pd

from lungadv.data.dataset import left_out
from lungadv.data.ingest.contents import Contents, find_contents
from lungadv.data.ingest.cubes import ingest_cubes
from lungadv.data.ingest.files import (
    check_out,
    file_uid,
    items_folder,
    lock_manifest,
    record_name,
    report_file,
    write_json,
    written_files,
)
from lungadv.data.ingest.items import VERSION, Job
from lungadv.data.ingest.others import describe_others, other_lines
from lungadv.data.ingest.output import manifest_rows, write_tables
from lungadv.data.ingest.readings import find_readings
from lungadv.data.ingest.records import forget_repeated, read_all
from lungadv.data.ingest.report import compare_card, count, count_expected, remarks
from lungadv.data.ingest.sorting import doubt_positions, refuse_strange_masks, sort_out
from lungadv.data.ingest.sources import SOURCES, check_source
from lungadv.data.ingest.split import name_patients, read_patients
from lungadv.data.ingest.tables import Tables, read_tables, unknown_rows
from lungadv.data.manifest import companion, read_manifest
from lungadv.data.tables import FORMULA, AnnotationError, write_table
from lungadv.utils.errors import InputError, has_control, plural, printable
from lungadv.utils.files import guard_disk, sha256

__all__ = ["ingest"]


def ingest(src: str | Path, kind: str, out: str | Path, nodules: str | Path | None = None, workers: int = 2) -> dict:
    """Read a data set once, check it, and write a manifest and what belongs to it.

    Args:
        src: the folder of the data set; it is only read.
        kind: one of sources.SOURCES.
        out: the manifest, a .csv in a folder of its own.
        nodules: a CSV of nodules with LUNA16's columns and `type` where known, in place of the data set's annotations.csv; without one a
            DICOM data set has none. Of cubes it may instead have a column `file`, see `cube_tables`.
        workers: processes that read; results do not depend on it.

    Returns: the report, in which `unchanged` says whether the manifest and the tables beside it are as an earlier call left them.

    Raises InputError for what concerns the whole: an empty or wrong folder, a table that cannot be read, a scan that changed since it was
    read, one patient in two data sets, a full disk. What concerns one scan is a refusal in the report.
    """
    root, out = Path(src).resolve(), Path(out).resolve()
    try:
        check_out(out, root, kind)
        contents = find_contents(root, skip=out.parent)
        check_source(contents, kind, root)
        if SOURCES[kind].items == "cubes":
            return ingest_cubes(root, contents, kind, out, nodules, workers)
        tables = read_tables(root, contents, kind, nodules)
        items_folder(out).mkdir(parents=True, exist_ok=True)
        with lock_manifest(out), guard_disk(out.parent):
            before = written_files(out)
            report = _make(root, contents, kind, tables, out, workers)
            return report | {"unchanged": written_files(out) == before}
    except AnnotationError as error:
        raise InputError(str(error)) from None


def _make(root: Path, contents: Contents, kind: str, tables: Tables, out: Path, workers: int) -> dict:
    """Read what lies there, sort it out, and write the manifest; returns the report."""
    patients = read_patients(root, contents)
    xml, useless = find_readings(root, contents.xml if SOURCES[kind].uses_readings else ())
    jobs, misnamed = _jobs(root, contents, kind, tables, xml, out), _misnamed(contents, kind)
    if not jobs:
        raise InputError(f"{misnamed[0]['reason']}; it is the first of {plural(len(misnamed), 'scan')}, and none can be taken")
    records = read_all(jobs, workers)
    forget_repeated(records, items_folder(out))
    taken, lines = sort_out(records, tables)
    doubt = doubt_positions(tables, taken, out.parent)
    refuse_strange_masks(taken, lines)
    name_patients(taken, patients)
    lines += misnamed + other_lines(records)
    lines += unknown_rows(tables, taken, lines, root) + useless + _unread(contents, kind)
    _write_report(lines, out)
    if not taken:
        raise InputError(_why_none(lines, root))
    write_tables(out, manifest_rows(taken, out), taken)
    report = {"root": str(root), "kind": kind, "lines": str(report_file(out)), "unit": "scan", **count(taken, lines)}
    report["expected"] = compare_card(kind, count_expected(taken))
    write_json(companion(out), report)  # first without the sentences, so that the manifest can be read
    report["left_out"] = [*filter(None, [doubt, describe_others(lines)]), *remarks(taken, patients), *left_out(read_manifest(out))]
    write_json(companion(out), report)
    return report


def _why_none(lines: list[dict], root: Path) -> str:
    """Why no scan could be taken, one line."""
    refused = [line["reason"] for line in lines if line["status"] == "refused"]
    if refused:
        return f"none of {plural(len(refused), 'scan')} could be taken, the first because: {refused[0]}"
    return f"'{root}' holds no series of CT slices. {describe_others(lines)}".strip()


def _write_report(lines: list[dict], out: Path) -> None:
    """Write the report, one line a scan. Names of files that are not UTF-8 are shown by their bytes."""
    columns = ["seriesuid", "path", "status", "reason"]
    write_table(pd.DataFrame([[printable(line[name]) for name in columns] for line in lines], columns=columns), report_file(out))


def _misnamed(contents: Contents, kind: str) -> list[dict]:
    """Lines of the report that refuse scans under names that a manifest cannot hold: it is a table of text, opened in spreadsheets."""
    lines = []
    for path in getattr(contents, SOURCES[kind].items):
        uid = file_uid(path) if SOURCES[kind].items == "scans" else ""
        if why := _name_problem(path, uid):
            lines.append({"seriesuid": uid, "path": path, "status": "refused", "reason": f"'{path}': {why}: rename it"})
    return lines


def _name_problem(path: str, uid: str) -> str:
    """Why a manifest cannot hold a scan of this path, whose name makes it the id `uid` ("" for a folder of slices), or ""."""
    if printable(path) != path:
        return "a name in this path is not UTF-8 text"
    if has_control(path):
        return "a name in this path has a line break or another control character"
    return f"its id '{uid}' would be a formula in a spreadsheet" if uid.startswith(FORMULA) else ""


def _unread(contents: Contents, kind: str) -> list[dict]:
    """Lines of the report for zips, and for what this kind does not read."""
    other = contents.folders if SOURCES[kind].items == "scans" else contents.scans
    reasons = dict.fromkeys(contents.zips, "a zip file: unpack it first")
    reasons |= dict.fromkeys([*other, *contents.cubes], f"is not read with --kind {kind}")
    return [{"seriesuid": "", "path": name, "status": "left out", "reason": reason} for name, reason in reasons.items()]


def _jobs(root: Path, contents: Contents, kind: str, tables: Tables, xml: dict[str, str], out: Path) -> list[Job]:
    """What is to be read, one by one: all but what `_misnamed` refuses."""
    digests = {uid: sha256(root / file) for uid, file in xml.items()}
    jobs = []
    for path in getattr(contents, SOURCES[kind].items):
        uid = file_uid(path) if SOURCES[kind].items == "scans" else ""
        if _name_problem(path, uid):
            continue
        rows, mine, slices = [], xml, []
        if uid:
            mine = {uid: xml[uid]} if uid in xml else {}
            rows = tables.of("annotations", uid) if mine else []  # which a reading is joined to
        else:
            slices = sorted(os.listdir(root / path))
        key = json.dumps([VERSION, kind, rows, sorted(digests[uid] for uid in mine), slices])
        record = items_folder(out) / record_name(path)
        jobs.append(Job(root, path, kind, out.parent, record, rows, mine, hashlib.sha256(key.encode()).hexdigest()))
    return jobs
