"""What ingest tells: counts, the counts of the data set's card beside them, and what the split rests on."""

import json

import pandas as pd

from lungadv.data.ingest.others import count_others
from lungadv.data.ingest.readings import RADIOGRAPH
from lungadv.data.ingest.sources import SOURCES
from lungadv.data.ingest.split import PATIENTS, Patients, patient_of
from lungadv.data.luna16 import subset_of
from lungadv.utils.errors import InputError, plural
from lungadv.utils.files import repo_root

__all__ = ["compare_card", "count", "count_expected", "remarks"]

EXPECTED = {  # what a data-set card counts, and how it is counted here
    "scans": lambda taken: len(taken),
    "ct_series": lambda taken: len(taken),
    "patients": lambda taken: len({patient_of(series) for series in taken.values()}),
    "nodules": lambda taken: sum(len(series["nodules"]) for series in taken.values()),
    "scans_with_nodules": lambda taken: sum(bool(series["nodules"]) for series in taken.values()),
    "excluded_findings": lambda taken: sum(len(series["excluded"]) for series in taken.values()),
}


def count(taken: dict[str, dict], lines: list[dict]) -> dict:
    """How many scans were taken and refused, rows, files and series of other modalities left out, nodules in all and by type."""
    nodules = [row for series in taken.values() for row in series["nodules"]]
    types = pd.Series([row["type"] for row in nodules], dtype=str).value_counts()
    return {
        "taken": len(taken),
        "refused": sum(line["status"] == "refused" for line in lines),
        "left_out_rows": sum(line.get("rows", 0) for line in lines),
        "left_out_files": sum(line["status"] == "left out" and "rows" not in line and "modality" not in line for line in lines),
        "other_modalities": count_others(lines),
        "radiographs": sum(line["reason"] == RADIOGRAPH for line in lines),
        "nodules": len(nodules),
        "by_type": {str(name): int(number) for name, number in types.items()},
    }


def count_expected(taken: dict[str, dict]) -> dict[str, int]:
    """What a data-set card counts of scans, counted in the records of those that were taken."""
    return {name: counted(taken) for name, counted in EXPECTED.items()}


def compare_card(kind: str, counts: dict[str, int]) -> list[str]:
    """The counts of the data set's card beside those found, a sentence; none where there is no card, as outside a clone."""
    name = SOURCES[kind].card
    try:
        card = json.loads((repo_root() / "data_manifests" / name).read_text(encoding="utf-8")) if name else None
    except (OSError, InputError):
        card = None
    if card is None:
        return []
    counts = {name.replace("_", " "): (counts[name], number) for name, number in card["expected"].items() if name in counts}
    differ = {name: pair for name, pair in counts.items() if pair[0] != pair[1]}
    if not differ:
        return [f"{name}: all its counts are met ({', '.join(f'{found} {what}' for what, (found, _) in counts.items())})."]
    found = ", ".join(f"{what} {found} instead of {expected}" for what, (found, expected) in differ.items())
    return [f"{name}: {found}. It is a part of that data set, or another one."]


def _who_is_who(listed: Patients) -> str:
    """What would tell, or should have told, whose scans those without a patient id are."""
    remedy = f"TCIA's {PATIENTS} of the collection, put under the folder, would say who is who"
    if listed.unused:
        return f"the {PATIENTS} that is there was not used ({listed.unused}): {remedy}"
    if listed.place:
        return f"'{listed.place}' does not list them"
    return remedy


def remarks(taken: dict[str, dict], listed: Patients) -> list[str]:
    """What the split rests on, where it is not what one would expect, and which scans show no whole chest: a sentence each."""
    patients = {series["header"].get("patient") for series in taken.values()} - {None, ""}
    unnamed = sum(not series["header"].get("patient") for series in taken.values())
    sentences, subsets = [], {}
    if unnamed:
        sentences.append(
            f"Patient ids are missing for {unnamed} of {plural(len(taken), 'scan')}: each counts as a patient, so two scans of one "
            f"person may be on both sides of the split; {_who_is_who(listed)}."
        )
    partial = [f"'{series['path']}' ({'; '.join(series['partial'])})" for series in taken.values() if series["partial"]]
    if partial:
        more = f", and {len(partial) - 3} more that the report names" if len(partial) > 3 else ""
        sentences.append(f"No whole chest is in {len(partial)} of {plural(len(taken), 'scan')}: {', '.join(partial[:3])}{more}.")
    for series in taken.values():
        subsets.setdefault(patient_of(series), set()).add(subset_of(series["path"]))
    apart = sum(len(found) > 1 for found in subsets.values())
    if apart:
        whose = plural(apart, "patient")
        sentences.append(f"Several subsets hold scans of {whose}: all of a patient's are in the data set of the lowest.")
    if len(patients) == 1 and not unnamed and len(taken) > 1:
        sentences.append(f"All {len(taken)} scans bear the patient id '{patients.pop()}': they are one patient, in one data set.")
    return sentences
