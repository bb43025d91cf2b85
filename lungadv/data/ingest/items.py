"""One scan file, or one folder of DICOM slices with all its series: read, checked, hashed, and its store and masks written.

A worker writes the record of what it found last. A record is there or it is not: whatever was killed, the next call begins with the scans
that have none.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lungadv.data import luna16, store
from lungadv.data.ingest.files import file_uid
from lungadv.data.ingest.scan_checks import check_hu, check_volumes, coverage_remarks, label_centres, volumes_of
from lungadv.data.ingest.sources import SOURCES
from lungadv.data.io.dicom import Series, find_series, read_slices
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_volume
from lungadv.data.manifest import scan_files
from lungadv.data.scan import Scan, ScanError
from lungadv.data.tables import AnnotationError
from lungadv.utils.files import atomic_write, fingerprint, guard_disk

__all__ = ["VERSION", "Job", "is_taken", "read_item", "record_digest"]

VERSION = 6  # of what is kept of a scan: a new one reads everything again


@dataclass(frozen=True)
class Job:
    """A scan file or DICOM folder `path` under `root`, what is known of its nodules, and the folder `out` for masks and stores."""

    root: Path
    path: str
    kind: str
    out: Path
    record: Path
    rows: list[dict] = field(default_factory=list)  # of annotations.csv, where a reading says more
    xml: dict[str, str] = field(default_factory=dict)  # LIDC's readings: series uid to file
    key: str = ""  # of everything above that decides the record


def is_taken(series: dict) -> bool:
    """Whether a series of a record was read: neither refused nor left out as no CT."""
    return "refused" not in series and "other" not in series


def read_item(job: Job) -> dict:
    """Read a scan file, or each series of a folder; returns its record, also written. InputError when the disk is full.

    A record holds key, path and series: each with its uid and either `refused`, the reason; `other`, what it is instead of CT; or all
    that is kept of it. Written beside them is their digest.
    """
    record = {"key": job.key, "path": job.path, "series": _read_series(job)}
    with atomic_write(job.record) as path:
        path.write_text(json.dumps(record | {"sha256": record_digest(record)}), encoding="utf-8")
    return record


def record_digest(record: dict) -> str:
    """The digest of all that a record holds: one that a bad disk or somebody changed is read anew, not believed."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _read_series(job: Job) -> list[dict]:
    """The records of a job's series."""
    path = job.root / job.path
    if not path.is_dir():
        return [_take(job, lambda: read_scan(path), file_uid(path), scan_files(path), {})]
    found, spoilt = find_series(path)  # folders below: other jobs
    series = [_leave_out(job, one) if one.other else _take_series(job, one) for one in found]
    if not spoilt:
        return series
    others = f", and {len(spoilt) - 1} more" if len(spoilt) > 1 else ""
    rest = "; what else lies there was read without it" if found else ""
    return [*series, _refuse(job, "", f"'{path}': {next(iter(spoilt.values()))}{others}{rest}")]


def _take_series(job: Job, series: Series) -> dict:
    """The record of a DICOM series of CT slices."""
    return _take(job, lambda: read_slices(series), series.uid, series.files, _header(series))


def _leave_out(job: Job, series: Series) -> dict:
    """The record of a DICOM series that is no CT: what it is, and its files."""
    uid = series.uid if re.fullmatch(r"[0-9.]{1,64}", series.uid) else ""
    return {"uid": uid, "other": series.other, "files": [fingerprint(file, job.root) for file in series.files]}


def _header(series: Series) -> dict:
    """The patient and how the scan was made, of a DICOM series: what is not known is left out."""
    known = {name: getattr(series, name) for name in ("patient", "kernel", "kvp", "mas", "thickness")}
    return {name: value for name, value in known.items() if value != "" and value == value}  # nan is not itself


def _take(job: Job, read: Callable[[], Scan], uid: str, files: list[Path], header: dict) -> dict:
    """Read one series and write its nodule masks and store; returns its record, or that of a refusal."""
    own_masks, reading = luna16.NODULES.format(uid), job.xml.get(uid)
    try:
        scan = read()
        check_hu(job.root / job.path, scan)
        volumes = volumes_of(job.root, uid)
        check_volumes(job.root, volumes, scan)
        labels = label_centres(job.root / own_masks) if own_masks in volumes else []
        found = SOURCES[job.kind].nodules(job.root / reading if reading else None, job.rows, scan)
    except (ScanError, AnnotationError, OSError) as error:
        return _refuse(job, uid, error)
    made, voxels = _write_files(job.out, uid, scan, None if own_masks in volumes else found.masks)
    geometry = {"shape": scan.hu.shape, "spacing": scan.spacing, "origin": scan.origin, "direction": scan.direction.ravel().tolist()}
    return {
        "uid": uid,
        "files": [fingerprint(file, job.root) for file in files],
        "volumes": volumes,
        "labels": labels,
        "header": header,
        "geometry": geometry,
        "voxels": voxels,
        "nodules": found.nodules,
        "excluded": found.excluded,
        "note": "; ".join(filter(None, [found.note, *scan.notes])),
        "partial": coverage_remarks(scan),
        "made": made,
    }


def _write_files(out: Path, uid: str, scan: Scan, masks: np.ndarray | None) -> tuple[list[str], str]:
    """Write a scan's store, and its masks or none: the files made, relative to `out`, and the digest of the voxels."""
    made = [f"store/{uid}.h5"]
    with guard_disk(out):
        (out / "store").mkdir(exist_ok=True)
        store.write(scan, out / made[0])
        voxels = store.open_scan(out / made[0]).hu.sha256
        if masks is not None:
            (out / "masks").mkdir(exist_ok=True)
            made.append(luna16.NODULES.format(uid))
            write_volume(masks, scan, out / made[1])
        else:
            for suffix in (".mhd", ".zraw"):  # of an earlier call
                (out / "masks" / f"{uid}{suffix}").unlink(missing_ok=True)
    return made, voxels


def _refuse(job: Job, uid: str, error: Exception | str) -> dict:
    """The record of a refusal."""
    return {"uid": uid, "refused": " ".join(str(error).split()).replace(f"{job.root}/", "")}
