"""The manifest and the tables beside it."""

import hashlib
from pathlib import Path

import pandas as pd

from lungadv.data.ingest.readings import COLUMNS
from lungadv.data.ingest.split import DATASET_OF_FOLD, kept_split, patient_folds, patient_of
from lungadv.data.manifest import GEOMETRY, TABLES, check_patients
from lungadv.data.tables import LUNA16, write_table

__all__ = ["MANIFEST", "manifest_rows", "write_tables"]

MANIFEST = ["seriesuid", "path", "dataset", "patient", "fold", "sha256", "bytes", *GEOMETRY, "thickness", "kernel", "kvp", "mas", "store"]
ROWS = ("nodules", "excluded", "mimics")  # of a record, in the order of TABLES
TABLE_COLUMNS = (COLUMNS, LUNA16, [*LUNA16, "kind"])


def manifest_rows(taken: dict[str, dict], out: Path) -> pd.DataFrame:
    """The manifest's rows; scans that stand in an existing one keep their data set."""
    rows, folds, split = [], patient_folds(taken), kept_split(out)
    for uid, series in taken.items():
        patient, geometry, header, files = patient_of(series), series["geometry"], series["header"], series["files"]
        digests = [file["sha256"] for file in files]
        rows.append(
            {
                "seriesuid": uid,
                "path": series["path"],
                "dataset": split.get(uid, DATASET_OF_FOLD[folds[patient]]),
                "patient": patient,
                "fold": folds[patient],
                "sha256": digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
                "bytes": sum(file["bytes"] for file in files),
                **{name: " ".join(f"{value!r}" for value in geometry[name]) for name in GEOMETRY},
                **{name: header.get(name) for name in ("thickness", "kernel", "kvp", "mas")},
                "store": series["made"][0],
            }
        )
    return pd.DataFrame(rows, columns=MANIFEST)


def write_tables(out: Path, manifest: pd.DataFrame, taken: dict[str, dict]) -> None:
    """Write the manifest and the tables beside it. InputError when a patient is in two data sets."""
    # the split may be that of an earlier call, which knew the patients less well, or one written by hand
    check_patients(out, manifest.set_axis(range(2, len(manifest) + 2)))
    for name, key, columns in zip(TABLES, ROWS, TABLE_COLUMNS, strict=True):
        rows = [{"seriesuid": uid} | row for uid, series in taken.items() for row in series[key]]
        if rows or key == "nodules":
            table = pd.DataFrame(rows, columns=columns)
            whole = {"readers": "Int64"} if "readers" in table else {}
            write_table(table.astype(whole), out.parent / name)
        else:
            (out.parent / name).unlink(missing_ok=True)  # of an earlier call
    write_table(manifest, out)
