"""Which data set a scan belongs to: by LUNA16's subset, or by the patient's id; all scans of a patient share it.

A fold is LUNA16's subset; elsewhere it is the patient's id, hashed, modulo ten. It stays what it is when scans are added. Folds 0 to 6
train, 7 validates, 8 and 9 are the benchmarks. LUNA16 has no second hospital, so the two are two samples of one data set. LUNA16's files
do not name patients, and some people of LIDC-IDRI were scanned twice: TCIA's metadata.csv of the collection says who is who.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lungadv.data.ingest.contents import Contents
from lungadv.data.luna16 import subset_of
from lungadv.data.tables import AnnotationError, at_line, read_table

__all__ = [
    "DATASET_OF_FOLD", "PATIENTS", "Patients", "fold_of", "kept_split", "name_patients", "patient_folds", "patient_of", "read_patients",
]  # fmt: skip

DATASET_OF_FOLD = ("train",) * 7 + ("validation", "in-house", "nlst")
PATIENTS = "metadata.csv"  # TCIA's list of what was downloaded
SERIES_COLUMNS = ("Series UID", "SeriesInstanceUID")  # the names of its columns have changed, and differ in blanks and capitals
PATIENT_COLUMNS = ("Subject ID", "PatientID")


def fold_of(patient: str) -> int:
    """The fold, 0 to 9, of a patient id: from its hash alone, so that more scans move nobody."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % len(DATASET_OF_FOLD)


@dataclass(frozen=True)
class Patients:
    """Patient ids by series uid, as TCIA's list says; the list's place, "" without one; and why it was not used, or ""."""

    ids: dict[str, str] = field(default_factory=dict)
    place: str = ""
    unused: str = ""


def name_patients(taken: dict[str, dict], patients: Patients) -> None:
    """Write the patients of TCIA's list into the records of series whose files have none, such as LUNA16's."""
    for uid, series in taken.items():
        if uid in patients.ids:
            series["header"].setdefault("patient", patients.ids[uid])


def read_patients(root: Path, contents: Contents) -> Patients:
    """TCIA's list of patients, where there is one. Another table of its name is not used.

    Raises InputError when two lists lie equally high, AnnotationError when a series is of two patients.
    """
    place = contents.table(PATIENTS)
    if place is None:
        return Patients()
    try:
        table = read_table(root / place, (), repeats=True)
    except AnnotationError as error:
        return Patients(place=place, unused=str(error).replace(f"{root}/", ""))
    names = [next(filter(None, (_column(table, name) for name in known)), None) for known in (SERIES_COLUMNS, PATIENT_COLUMNS)]
    if None in names:
        lacking = " and ".join(" or ".join(known) for known, name in zip((SERIES_COLUMNS, PATIENT_COLUMNS), names, strict=True) if not name)
        found = ", ".join(table.columns[:8]) + (" and more" if len(table.columns) > 8 else "")
        return Patients(place=place, unused=f"'{place}' has no column {lacking}, only {found}")
    return Patients(_ids(table, *names, place), place)


def _column(table: pd.DataFrame, name: str) -> str | None:
    """The column of a table that has this name but for blanks, signs and capitals, or None."""
    plain = {re.sub(r"[\W_]", "", column).lower(): column for column in table.columns}
    return plain.get(name.replace(" ", "").lower())


def _ids(table: pd.DataFrame, series: str, patient: str, place: str) -> dict[str, str]:
    """Patient ids by series uid. AnnotationError where two rows contradict each other."""
    known = {}
    for line, uid, name in zip(table.index, table[series].str.strip(), table[patient].str.strip(), strict=True):
        if name and known.setdefault(uid, name) != name:
            problem = f"series '{uid}' is of patient '{name}', but of '{known[uid]}' in a line above: keep the one that is right"
            raise AnnotationError(f"{at_line(place, line)}: {problem}")
    return known


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
