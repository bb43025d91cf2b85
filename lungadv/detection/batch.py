"""Findings in every scan of a folder: the weights loaded once a process, what is finished left alone, a bad scan costing only itself."""

import functools
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

import lungadv
from lungadv.data.tables import write_table
from lungadv.detection import report, structured_report
from lungadv.detection.detect import COLUMNS, detect, find_lungs
from lungadv.detection.outputs import ENDINGS, Findings, write_outputs
from lungadv.detection.scan_folder import FoundScan, find_scans
from lungadv.detection.weights import Detector, load_detector, weights_digest
from lungadv.utils.errors import InputError, one_line, plural
from lungadv.utils.files import DiskFullError, atomic_write, fingerprint, guard_disk, is_unchanged, read_json, replace_folder, sha256
from lungadv.utils.locks import hold_alone
from lungadv.utils.outputs import check_folder
from lungadv.utils.processes import each_in_processes

__all__ = ["check_names", "search_folder"]

FINDINGS, SCANS, RECORD = "findings.csv", "scans.csv", "made.json"
LOCK, HALF = ".lock", ".part"  # of the folder of all outputs, and of a scan's folder that is being made
KILLED = "its process was killed, most likely because memory ran out: call again with fewer workers (--workers 1), or on a larger machine"


@dataclass(frozen=True)
class Answer:
    """What became of a scan: "searched", "unchanged" since an earlier call, or "failed" and the reason in `said`."""

    path: str
    status: str
    seriesuid: str = ""
    findings: int = 0
    likely: int = 0  # of probability over 0.5
    seconds: float = 0.0
    said: str = ""  # notes on the scan, or why it failed

    def line(self) -> str:
        """It in one line."""
        if self.status == "failed":
            return f"{self.path}: failed: {self.said}"
        found = f"{plural(self.findings, 'finding')}, {self.likely} of them with probability over 0.5"
        return f"{self.path}: {'unchanged, skipped' if self.status == 'unchanged' else f'in {self.seconds:.0f} s'}: {found}"


@dataclass(frozen=True)
class Job:
    """A scan to search, the folder of all outputs, the names of this scan's files by ENDINGS, the weights, and a digest of the terms."""

    scan: FoundScan
    out: Path
    files: tuple[tuple[str, str], ...]
    weights: Path
    key: str

    @property
    def folder(self) -> Path:
        """The folder of this scan's outputs."""
        return self.out / self.scan.name


def check_names(out: Path, options: Mapping[str, Path | None]) -> dict[str, str]:
    """The file names in each scan's folder by ENDINGS. Raises InputError for one with a folder or another ending, or named twice."""
    check_folder(out)
    if out.exists() and any(out.iterdir()) and not (out / LOCK).exists():
        raise InputError(f"'{out}' holds other files than findings of a folder of scans: name a new folder with --out")
    names = {"out": FINDINGS} | {name: str(path) for name, path in options.items() if path}
    for name, file in names.items():
        if Path(file).name != file or not file.endswith(ENDINGS[name]) or file == RECORD or list(names.values()).count(file) > 1:
            what = f"of a folder of scans, '{file}' names a file in each scan's own folder"
            raise InputError(f"{what}: give a name of its own that ends in {ENDINGS[name]}, without a folder")
    return names


def search_folder(
    root: Path, out: Path, names: Mapping[str, str], weights: Path, workers: int, tell: Callable[[str], None]
) -> tuple[list[Answer], int]:
    """Search every scan in a folder -> (an `Answer` a scan in the order of paths, how many series are no CT).

    out/<name>/ gets each scan's files (`names`, see `check_names`), whole or not at all; out/findings.csv all findings, out/scans.csv a
    row a scan. A scan is left alone if its outputs are whole, and its files, the weights and this package are those they were made from.
    weights: a folder; workers: processes of one thread, findings do not depend on them; tell: is given a line a scan when it is done.
    Raises InputError for weights that cannot be loaded, a folder without a scan, a full disk, and when another process writes there.
    """
    root, out = root.resolve(), out.resolve()
    load_detector(weights)  # what is wrong with them is said once
    key = hashlib.sha256(json.dumps([lungadv.__version__, weights_digest(weights), dict(names)]).encode()).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    with hold_alone(out / LOCK, f"folder '{out}'"), guard_disk(out):
        for half in out.glob(f".*{HALF}"):
            shutil.rmtree(half)
        scans, refused, others = find_scans(root, out)
        jobs = [Job(scan, out, tuple(names.items()), weights.resolve(), key) for scan in scans]
        done = (answer or _fail(jobs[k], KILLED) for k, answer in each_in_processes(_search, jobs, workers))
        failed = (Answer(path, "failed", said=one_line(Exception(why))) for path, why in refused.items())
        answers = {}
        for answer in itertools.chain(failed, done):
            answers[answer.path] = answer
            tell(f"[{len(answers)}/{len(jobs) + len(refused)}] {answer.line()}")
        for repeated in _repeated(jobs, answers):
            answers[repeated.path] = repeated
            tell(repeated.line())
        _write_tables(jobs, answers, out)
    return [answers[path] for path in sorted(answers)], others


def _search(job: Job) -> Answer:
    """Search one scan, or find that this is done. Whatever goes wrong with it is the answer, but DiskFullError ends all."""
    try:
        if job.folder.exists() and not (job.folder / RECORD).exists():
            raise InputError(f"'{job.folder}' is there and holds no findings: name another folder with --out, or rename the scan")
        return _unchanged(job) or _find(job)
    except DiskFullError:
        raise
    except MemoryError as error:
        said = f"memory ran out ({one_line(error)}): close other programs, or take a larger machine"
    except (InputError, ValueError, OSError) as error:
        said = one_line(error)
    except Exception as error:  # the other scans of a long night do not pay for it
        said = f"{type(error).__name__}: {one_line(error)}"
    return _fail(job, said)


def _fail(job: Job, said: str) -> Answer:
    """The answer that a scan failed, and why. Findings of the scan as it was, or of other weights, are removed."""
    if (job.folder / RECORD).exists():
        shutil.rmtree(job.folder)
    return Answer(job.scan.path, "failed", said=said)


def _unchanged(job: Job) -> Answer | None:
    """The answer of an earlier call, if it still holds."""
    try:
        record = read_json(job.folder / RECORD)
        root, files = job.scan.root, {os.path.relpath(file, job.scan.root) for file in job.scan.files()}
        same = record["key"] == job.key and {file["path"] for file in record["files"]} == files
        whole = same and all(sha256(job.folder / name) == digest for name, digest in record["outputs"].items())
        if whole and all(is_unchanged(file, root) for file in record["files"]):
            return replace(Answer(**record["answer"]), path=job.scan.path, status="unchanged")
    except (InputError, OSError, KeyError, TypeError):  # none, or not as it was written
        pass
    return None


def _find(job: Job) -> Answer:
    """Search one scan and write its files."""
    started, scan, names = time.perf_counter(), job.scan, dict(job.files)
    files = [fingerprint(file, scan.root) for file in scan.files()]
    images = structured_report.read_images(scan.place, scan.series) if "sr" in names else []
    volume = scan.read()
    mask = find_lungs(volume)
    table = detect(volume, _detector(job.weights, job.key), mask)
    notes = report.scan_warnings(volume, job.weights, mask)
    answer = Answer(scan.path, "searched", volume.uid, len(table), int((table.probability > 0.5).sum()), said="; ".join(notes))
    part = job.out / f".{scan.name}{HALF}"
    shutil.rmtree(part, ignore_errors=True)
    with guard_disk(job.out):
        part.mkdir()
        write_outputs(Findings(volume, table, job.weights, notes, images), {name: part / file for name, file in names.items()})
        answer = replace(answer, seconds=round(time.perf_counter() - started, 1))
        outputs = {file: sha256(part / file) for file in names.values()}
        record = {"key": job.key, "files": files, "outputs": outputs, "answer": asdict(answer)}
        (part / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        replace_folder(part, job.folder)
    return answer


@functools.lru_cache(1)
def _detector(weights: Path, key: str) -> Detector:
    """The networks in a folder of weights, read once a process and state of the folder."""
    return load_detector(weights)


def _repeated(jobs: list[Job], answers: dict[str, Answer]) -> Iterator[Answer]:
    """A failure for each scan whose seriesuid an earlier one has: findings in one table could not be told apart."""
    first = {}
    for path in (job.scan.path for job in jobs):
        uid = answers[path].seriesuid
        if answers[path].status != "failed" and first.setdefault(uid, path) != path:
            yield Answer(path, "failed", said=f"its id '{uid}' is that of '{first[uid]}', so its findings are not in {FINDINGS}: rename it")


def _write_tables(jobs: list[Job], answers: dict[str, Answer], out: Path) -> None:
    """Write the findings in all scans as one table, line by line, and a row a scan."""
    rows = pd.DataFrame([asdict(answers[path]) for path in sorted(answers)])
    write_table(rows, out / SCANS)
    with atomic_write(out / FINDINGS) as path, open(path, "w", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for job in jobs:
            if answers[job.scan.path].status != "failed":
                with open(job.folder / FINDINGS, encoding="utf-8") as own:
                    file.writelines(itertools.islice(own, 1, None))
