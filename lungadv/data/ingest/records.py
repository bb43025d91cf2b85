"""The records of all scans: old ones where they still hold, new ones from worker processes.

A record of an earlier call counts if its scan's files are as they were, and what it was made from (annotations, readings) is the same. What
was refused is read again, and so is what has a record that is not as it was written. A file that changed since is an error that names it:
which version was meant, only its owner knows.
"""

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from lungadv.data.ingest.files import record_name
from lungadv.data.ingest.items import Job, is_taken, read_item, record_digest
from lungadv.data.ingest.scan_checks import volumes_of
from lungadv.utils.errors import InputError
from lungadv.utils.files import is_unchanged, read_json
from lungadv.utils.processes import map_in_processes

__all__ = ["forget_repeated", "read_all"]

KILLED = "call again, it goes on where it stopped; fewer workers need less memory (--workers 1, in Python workers=1)"


def read_all(jobs: list[Job], workers: int) -> list[dict]:
    """The records of all jobs; a bar shows how far the reading is. One worker reads in this process.

    Raises InputError for a scan that changed or is gone since it was read, and when a worker was killed.
    """
    _check_gone(jobs)
    records = {job.path: record for job in jobs if (record := _old_record(job))}
    new = [job for job in jobs if job.path not in records]
    records |= {record["path"]: record for record in _read(new, min(workers, len(new)))}
    return [records[job.path] for job in jobs]


def _check_gone(jobs: list[Job]):
    """InputError when scans that an earlier call took are no longer there: a disk that is not mounted would change the split unseen."""
    root, items, known = jobs[0].root, jobs[0].record.parent, {job.record for job in jobs}
    absent = {file: held for file in sorted({*items.glob("*.json")} - known) if (held := _held(file)[1])}
    there = {voxels for file in known if absent for voxels in _held(file)[1]}  # one of two scans of the same voxels may go
    gone = [(_held(file)[0], file) for file, held in absent.items() if not held <= there]
    if gone:
        path, file = gone[0]
        more, old = (f", and {len(gone) - 1} more,", items) if len(gone) > 1 else ("", file)
        raise InputError(f"'{root / path}'{more} is gone since it was read: bring it back, or delete '{old}'")


def _held(file: Path) -> tuple[str, set[str]]:
    """A record's path, and the digests of the voxels of its series that were read: none where there is no record."""
    record = _load(file)
    return (record["path"], {series.get("voxels", "") for series in record["series"] if is_taken(series)}) if record else ("", set())


def _load(file: Path) -> dict | None:
    """A record as it was written, or None."""
    try:
        record = read_json(file)
    except InputError:
        return None
    return record if record.pop("sha256", "") == record_digest(record) else None


def _read(jobs: list[Job], workers: int) -> list[dict]:
    """The records of jobs that have none."""
    doing = "reading scans"
    if workers < 2:
        with tqdm(jobs, desc=doing, disable=not jobs) as bar:
            return [read_item(job) for job in bar]
    return map_in_processes(read_item, jobs, workers, doing, KILLED)


def _old_record(job: Job) -> dict | None:
    """The record of an earlier call, or None where none holds. InputError for a changed scan."""
    record = _load(job.record)
    if record is None:
        return None
    taken = [series for series in record["series"] if is_taken(series)]
    for series in taken:
        changed = next((file["path"] for file in series["files"] if not is_unchanged(file, job.root)), None)
        if changed:
            what = "has changed" if (job.root / changed).exists() else "is gone"
            remedy = f"bring it back, or delete '{job.record}' to read it anew"
            raise InputError(f"'{job.root / changed}' {what} since it was read: {remedy}")
    others = [file for series in record["series"] if "other" in series for file in series["files"]]
    refused = any("refused" in series for series in record["series"])
    if refused or record["key"] != job.key or not all(is_unchanged(file, job.root) for file in others):
        return None
    whole = all((job.out / name).exists() for series in taken for name in series["made"])
    return record if whole and all(series["volumes"] == volumes_of(job.root, series["uid"]) for series in taken) else None


def forget_repeated(records: list[dict], items: Path) -> None:
    """Remove the records of series that lie in two places: both wrote the same store, so the one that is kept must be read again."""
    count = Counter(series["uid"] for record in records for series in record["series"] if series["uid"] and "other" not in series)
    for record in records:
        if any(count[series["uid"]] > 1 for series in record["series"]):
            (items / record_name(record["path"])).unlink(missing_ok=True)
