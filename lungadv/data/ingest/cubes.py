"""Cubes of nodules, taken as they lie in a clone: read, checked, hashed, split by patient and written down as a manifest.

A clone that is not whole is refused as a whole, and nothing is written: what it lacks would otherwise be missing without a word.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lungadv.data.ingest.contents import Contents, read_head
from lungadv.data.ingest.cube_tables import join_nodules, join_not_nodules
from lungadv.data.ingest.files import report_file, write_json, written_files
from lungadv.data.ingest.report import compare_card
from lungadv.data.ingest.split import fold_of, read_patients
from lungadv.data.kinds import NODULE_CUBE
from lungadv.data.manifest import check_patients, companion
from lungadv.data.nodule_cubes import COLUMNS, DATASETS, NOT_NODULES, NOT_NODULES_FILE, RATINGS, cube_name, load_cube, measure_mask
from lungadv.data.scan import ScanError
from lungadv.data.tables import UNSPECIFIED, XYZ, read_table, write_table
from lungadv.utils.errors import InputError, plural
from lungadv.utils.files import guard_disk, sha256
from lungadv.utils.processes import map_in_processes

__all__ = ["TERMS", "ingest_cubes", "split_cubes"]

WHOLE = 50  # voxels of a cube's side, of 1 mm
POINTER = b"version https://git-lfs"
SAME_AS_SCANS = {7: "validation", 9: "test"}  # folds of `split.fold_of`; those of 0 to 6 train, 8 is shared
TERMS = (
    "Cubes are those of NODE21 (github.com/node21challenge/node21_generation_baseline, Apache-2.0), cut from LUNA16 (CC BY 4.0), which is "
    "a part of LIDC-IDRI (CC BY 3.0, The Cancer Imaging Archive). Name all three where you show them. NODE21's own release may "
    "have stricter terms than its sources: pass no cube on before you have read them."
)


def ingest_cubes(root: Path, contents: Contents, kind: str, out: Path, nodules: str | Path | None, workers: int) -> dict:
    """Read the cubes of a folder and write their manifest; returns the report, as `run.ingest` does.

    Raises InputError for a clone that is not whole (pointers of Git LFS, masks without a cube and cubes without a mask), an empty mask,
    two files of one cube, a table that fits other cubes, and a patient in two data sets. AnnotationError as the tables' readers.
    """
    cubes = _read_cubes(root, contents, workers)
    cubes, said = _describe(cubes, root, contents, nodules)
    cubes = cubes.assign(kind=NODULE_CUBE, dataset=_datasets(cubes, out))
    check_patients(out, cubes.set_axis(range(2, len(cubes) + 2)))
    others, sentences = join_not_nodules(cubes, root, contents)
    others["dataset"] = others["path"].map(dict(zip(cubes["path"], cubes["dataset"], strict=True)))
    report = _report(cubes, root, kind, out, contents)
    report["left_out"] = [*_remarks(cubes), *said, *sentences, TERMS]
    with guard_disk(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        before = _written(out)
        _write(cubes, others, [*contents.scans, *contents.folders, *contents.zips], report, out)
        return report | {"unchanged": _written(out) == before}


def _pairs(root: Path, contents: Contents) -> list[tuple[str, str]]:
    """Cubes and masks by path. InputError unless each cube has a mask, each mask a cube, and both are here, not in Git LFS."""
    cubes = {name: (Path(name).parent / named[2]).as_posix() for name in contents.cubes if (named := cube_name(name))}
    there, masks = set(contents.cubes), set(cubes.values())
    remedy = "complete the clone (`git checkout .`, then `git lfs pull`)"
    bare = [(name, f"has no mask '{mask}'") for name, mask in cubes.items() if mask not in there]
    lone = [(name, "is a mask without its cube") for name in contents.cubes if name not in cubes and name not in masks]
    pointers = [(name, "is a pointer of Git LFS, not the file") for name in contents.cubes if read_head(root / name).startswith(POINTER)]
    for wrong in (pointers, bare, lone):
        if wrong:
            name, what = wrong[0]
            more = f"; it is the first of {len(wrong)} such" if len(wrong) > 1 else ""
            raise InputError(f"'{root / name}' {what}{more}: {remedy}")
    return list(cubes.items())


def _read_cubes(root: Path, contents: Contents, workers: int) -> pd.DataFrame:
    """What is kept of each cube, as `_read_cube`. InputError for what cannot be read, and for one cube in two files."""
    jobs, doing = [(str(root), *pair) for pair in _pairs(root, contents)], "reading cubes"
    if workers < 2:
        found = [_read_cube(job) for job in tqdm(jobs, desc=doing)]
    else:
        found = map_in_processes(_read_cube, jobs, workers, doing, "call again with --workers 1")
    wrong = [one["problem"] for one in found if "problem" in one]
    if wrong:
        raise InputError(wrong[0] + (f" (the first of {len(wrong)} such)" if len(wrong) > 1 else ""))
    cubes = pd.DataFrame(found)
    for keys in (["seriesuid", "number"], ["voxels"]):
        twice = cubes[cubes.duplicated(keys, keep=False)]
        if len(twice):
            first, second = twice.loc[(twice[keys] == twice[keys].iloc[0]).all(axis=1), "path"].iloc[:2]
            raise InputError(f"'{first}' and '{second}' are one cube in two files: keep one, with its mask")
    return cubes


def _read_cube(job: tuple[str, str, str]) -> dict:
    """What is kept of a cube (root, path, mask), or what is wrong with it as `problem`."""
    root, name, mask = job
    uid, number, _ = cube_name(name)
    try:
        scan, inside = load_cube({"path": Path(root) / name, "mask": Path(root) / mask})
    except ScanError as error:
        return {"problem": str(error)}
    centre, diameter = measure_mask(scan, inside)
    size = np.array(scan.hu.shape)
    corners = scan.to_world([-np.ones(3) / 2, size - 0.5])
    return {
        "seriesuid": uid,
        "number": number,
        "path": name,
        "mask": mask,
        **dict(zip(XYZ, centre.round(3), strict=True)),
        "diameter_mm": round(diameter, 3),
        "cut_off": bool((size < WHOLE).any()),
        "padded": scan.padded,
        "sha256": sha256(Path(root) / name),
        "bytes": (Path(root) / name).stat().st_size,
        "voxels": hashlib.sha256(scan.hu.tobytes()).hexdigest(),
        "size": "x".join(map(str, size[::-1])),
        "box": (corners.min(axis=0), corners.max(axis=0)),
    }


def _describe(cubes, root, contents, nodules):
    """The cubes with patients, types, ratings and world_ok, where tables say them, and sentences."""
    path = Path(nodules).resolve() if nodules else None
    said = []
    if path is None and (beside := contents.table("annotations.csv")):
        path = root / beside
    if path is None and (unused := contents.table("nodules.csv")):
        said.append(f"'{unused}' was not used: name it with --nodules, if it is of these cubes.")
    blank = dict(patient="", type=UNSPECIFIED, world_ok="", **dict.fromkeys(RATINGS, np.nan))
    joined, sentences = join_nodules(cubes, path) if path else (cubes.assign(**blank), [])
    listed = read_patients(root, contents).ids | dict(joined.loc[joined["patient"] != "", ["seriesuid", "patient"]].to_numpy().tolist())
    known = [listed.get(uid, "") for uid in joined["seriesuid"]]
    unknown = joined["seriesuid"][[not patient for patient in known]].nunique()
    if unknown:
        said.append(
            f"Patients are unknown for {unknown} series: each counts as one, so two scans of a person may be on both sides of the split; "
            "--nodules with a column patient, or TCIA's metadata.csv, would say who is who."
        )
    patients = [patient or uid for patient, uid in zip(known, joined["seriesuid"], strict=True)]
    return joined.assign(patient=patients), [*said, *sentences]


def split_cubes(patient: str) -> str:
    """The data set of a patient, or of a series whose patient is not known: by its hash alone, so that more cubes move nobody.

    About 70 % train, 15 % validation, 15 % test. Who trains here trains in a manifest of LIDC-IDRI's scans too.
    """
    fold = fold_of(patient)
    half = hashlib.sha256(f"cubes {patient}".encode()).digest()[0] % 2
    return "train" if fold < 7 else SAME_AS_SCANS.get(fold, DATASETS[1 + half])


def _datasets(cubes, out):
    """The data set of each cube; one that stands in an existing manifest keeps its own, since whoever changed it meant it."""
    kept = {}
    if out.exists():
        table = read_table(out, ["path", "dataset"])
        kept = dict(zip(table["path"], table["dataset"], strict=True))
    return [kept.get(path, split_cubes(patient)) for path, patient in zip(cubes["path"], cubes["patient"], strict=True)]


def _remarks(cubes: pd.DataFrame) -> list[str]:
    """Sentences on what was taken: the split, and what is unusual about cubes."""
    parts = [f"{name} {(cubes['dataset'] == name).sum()} ({cubes['patient'][cubes['dataset'] == name].nunique()})" for name in DATASETS]
    wrong, unknown = ((cubes["world_ok"] == word).sum() for word in ("False", ""))
    sentences = [f"Cubes and patients of each data set: {', '.join(parts)}; a cube is no scan, and its counts are not LUNA16's FROC."]
    if wrong:
        sentences.append(f"The world position of {plural(wrong, 'cube')} is wrong (flipped series): the mask's middle is used, as in all.")
    if unknown:
        sentences.append(f"No table says whether the world position of {plural(unknown, 'cube')} is right: the mask's middle is used.")
    cut, padded = int(cubes["cut_off"].sum()), int((cubes["padded"] > 0).sum())
    if cut or padded:
        sentences.append(f"{plural(cut, 'cube')} cut off at a scan's edge, {padded} with padding, which is read as air.")
    untyped = int((cubes["type"] == UNSPECIFIED).sum())
    return sentences + ([f"Types are missing for {untyped} of {plural(len(cubes), 'nodule')}."] if untyped else [])


def _report(cubes, root, kind, out, contents):
    """The report's counts, as those of scans."""
    counts = {"cubes": len(cubes), "series": cubes["seriesuid"].nunique(), "patients": cubes["patient"].nunique()}
    types = cubes["type"].value_counts()
    return {
        "root": str(root),
        "kind": kind,
        "lines": str(report_file(out)),
        "unit": "cube",
        "taken": len(cubes),
        "refused": 0,
        "left_out_rows": 0,
        "left_out_files": len(contents.scans) + len(contents.folders) + len(contents.zips),
        "other_modalities": {},
        "nodules": len(cubes),
        "by_type": {str(name): int(number) for name, number in types.items()},
        "expected": compare_card(kind, counts),
    }


def _write(cubes, others, left, report, out):
    """Write what belongs to the manifest, and the manifest last."""
    reasons = [_reason(cube) for cube in cubes.to_dict("records")]
    taken = cubes[["seriesuid", "path"]].assign(status="taken", reason=reasons)
    rest = pd.DataFrame({"seriesuid": "", "path": left, "status": "left out", "reason": "is no cube of a nodule"})
    write_table(pd.concat([taken, rest]), report_file(out))
    write_table(others[NOT_NODULES], out.parent / NOT_NODULES_FILE)
    write_json(companion(out), report)
    write_table(cubes[COLUMNS], out)


def _reason(cube: dict) -> str:
    """What is unusual about a cube, "" where nothing is."""
    unusual = {
        "its world position is wrong": cube["world_ok"] == "False",
        f"cut off: {cube['size']} voxels": cube["cut_off"],
        f"{cube['padded']} voxels of padding": cube["padded"] > 0,
    }
    return "; ".join(what for what, there in unusual.items() if there)


def _written(out):
    """The bytes of what was written, by name."""
    beside = out.parent / NOT_NODULES_FILE
    return written_files(out) | ({beside.name: beside.read_bytes()} if beside.exists() else {})
