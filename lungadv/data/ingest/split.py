"""Which data set a scan belongs to: by LUNA16's subset, or by the patient's id; all scans of a patient share it.

A fold is LUNA16's subset; elsewhere it is the patient's id, hashed, modulo ten. It stays what it is when scans are added. Folds 0 to 6
train, 7 validates, 8 and 9 are the benchmarks. LUNA16 has no second hospital, so the two are two samples of one data set. LUNA16's files
do not name patients, and some people of LIDC-IDRI were scanned twice: TCIA's metadata.csv of the collection says who is who.
"""

import hashlib
from pathlib import Path

import pandas as pd

from lungadv.data.ingest.contents import Contents
from lungadv.data.luna16 import subset_of
from lungadv.data.tables import AnnotationError, read_table

__all__ = ["DATASET_OF_FOLD", "PATIENTS", "fold_of", "kept_split", "name_patients", "patient_folds", "patient_of"]

DATASET_OF_FOLD = ("train",) * 7 + ("validation", "in-house", "nlst")
PATIENTS = ("metadata.csv", "Series UID", "Subject ID")  # TCIA's list of what was downloaded, and its columns


def fold_of(patient: str) -> int:
    """The fold, 0 to 9, of a patient id: from its hash alone, so that more scans move nobody."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % len(DATASET_OF_FOLD)


def name_patients(taken: dict[str, dict], root: Path, contents: Contents) -> None:
    """Write the patients of TCIA's list into the records of series whose files have none, such as LUNA16's."""
    patients = _read_patients(root, contents)
    for uid, series in taken.items():
        if uid in patients:
            series["header"].setdefault("patient", patients[uid])


def _read_patients(root: Path, contents: Contents) -> dict[str, str]:
    """Patient ids by series uid, as TCIA's list says; none without one."""
    name, *columns = PATIENTS
    place = contents.table(name)
    try:
        table = read_table(root / place, columns, repeats=True) if place else pd.DataFrame(columns=columns)
    except AnnotationError:  # another table of this name
        return {}
    return dict(zip(*(table[column] for column in columns), strict=True))


def patient_of(series: dict) -> str:
    """The patient's id, or the series' where none is known."""
    return series["header"].get("patient") or series["uid"]


def patient_folds(taken: dict[str, dict]) -> dict[str, int]:
    """The fold of each patient: the lowest of the subsets that hold a scan of theirs, or by the hash of their id."""
    folds = {}
    for series in taken.values():
        patient, fold = patient_of(series), subset_of(series["path"])
        fold = fold_of(patient) if fold is None else fold
        folds[patient] = min(fold, folds.get(patient, fold))
    return folds


def kept_split(out: Path) -> dict[str, str]:
    """The data set of each scan in an existing manifest: whoever changed it meant it."""
    if not out.exists():
        return {}
    table = read_table(out, ["seriesuid", "dataset"])
    return dict(zip(table["seriesuid"], table["dataset"], strict=True))
