"""Which data set a scan belongs to."""

import shutil

import numpy as np
import pandas as pd
import pytest

from lungadv.data.ingest import items
from lungadv.data.ingest.split import fold_of
from lungadv.data.manifest import read_manifest
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import dicom, luna16, take


def test_folds_by_hash_have_the_proportions_and_do_not_move():
    folds = np.bincount([fold_of(f"P{k}") for k in range(5000)], minlength=10)
    assert len(folds) == 10 and folds.min() > 400 and folds.max() < 600
    assert [fold_of(name) for name in ("LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003")] == [6, 8, 7]


def test_tcias_list_names_the_patients_that_luna16_does_not(tmp_path, out):
    src = luna16(tmp_path / "luna", 10)
    assert any("Patient ids are missing for 10 of 10 scans" in sentence for sentence in take(src, "luna16", out)["left_out"])
    assert pd.read_csv(out, dtype=str)["dataset"].tolist()[9] == "nlst"
    shutil.rmtree(out.parent)
    people = {"1.2.0": "P0", "1.2.9": "P0", "1.2.3": "P3", "7.7": "P7"}
    rows = [f'{uid},"LIDC-IDRI, all",{patient}' for uid, patient in people.items()]
    (src / "metadata.csv").write_text("\n".join(["Series UID,Collection,Subject ID", *rows, ""]))
    said = take(src, "luna16", out)["left_out"]
    table = pd.read_csv(out, dtype=str).set_index("seriesuid")
    assert table.loc[["1.2.0", "1.2.9"], "patient"].tolist() == ["P0", "P0"] and table.loc["1.2.5", "patient"] == "1.2.5"
    assert table.loc["1.2.9", ["fold", "dataset"]].tolist() == ["0", "train"]
    for part in ("Patient ids are missing for 7 of 10 scans", "Several subsets hold scans of 1 patient:"):
        assert any(part in sentence for sentence in said)


def test_a_split_written_into_the_manifest_is_kept(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    take(src, "luna16", out)
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    table.assign(dataset=["train", "nlst", "validation"]).to_csv(out, index=False)
    take(src, "luna16", out)
    assert pd.read_csv(out)["dataset"].tolist() == ["train", "nlst", "validation"]


def test_a_patient_in_two_data_sets_is_an_error(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P1", "1.2.2")])
    take(src, "dicom", out)
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    table.assign(dataset=["train", "nlst"]).to_csv(out, index=False)
    for call in (lambda: take(src, "dicom", out), lambda: read_manifest(out)):
        with pytest.raises(InputError, match="manifest.csv, line 3: patient 'P1' is in nlst and train: .* `lungadv ingest` again"):
            call()


def test_patients_that_are_known_later_split_anew_once_the_manifest_is_deleted(tmp_path, out):
    src = luna16(tmp_path / "luna", 10)
    take(src, "luna16", out)
    (src / "metadata.csv").write_text("Series UID,Subject ID\n1.2.0,P0\n1.2.9,P0\n")
    with pytest.raises(InputError, match="patient 'P0' is in nlst and train: .* column dataset of '.*manifest.csv', or delete it"):
        take(src, "luna16", out)
    out.unlink()
    take(src, "luna16", out)
    assert pd.read_csv(out)["dataset"].tolist()[9] == "train"


@pytest.mark.parametrize("columns", ["SeriesInstanceUID,PatientID", "Series Instance UID,Patient Id", "series_uid,subject_id"])
def test_tcias_newer_lists_have_other_names_of_columns(tmp_path, out, columns):
    src = luna16(tmp_path / "luna", 3)
    (src / "metadata.csv").write_text(f"\ufeffCollection,{columns}\nLIDC,1.2.0,P0\nLIDC,1.2.1, P0\nLIDC,1.2.2,P2 \n", encoding="utf-8")
    assert not any("metadata.csv" in sentence for sentence in take(src, "luna16", out)["left_out"])
    assert pd.read_csv(out, dtype=str)["patient"].tolist() == ["P0", "P0", "P2"]


def test_a_list_that_is_not_used_is_named_with_its_columns(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    for text, reason in (
        ("uid,Subject ID\n1.2.0,P0\n", "('metadata.csv' has no column Series UID or SeriesInstanceUID, only uid, Subject ID)"),
        ("a,b\n1,2\n", "no column Series UID or SeriesInstanceUID and Subject ID or PatientID, only a, b)"),
        ("Series UID,Subject ID\n1.2.0\n", "(metadata.csv, line 2 has 1 fields, the header 2: complete the row)"),
        ("", "('metadata.csv' cannot be read as CSV (it is empty): give a table)"),
        ("Series UID,Subject ID\n7.7,P0\n", "'metadata.csv' does not list them."),
    ):
        (src / "metadata.csv").write_text(text)
        said = take(src, "luna16", out)["left_out"]
        assert any("Patient ids are missing for 2 of 2 scans" in sentence and reason in sentence for sentence in said), said


def test_a_series_of_two_patients_is_an_error_before_scans_are_read(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 2)
    (src / "metadata.csv").write_text("SeriesInstanceUID,PatientID\n1.2.0,P0\n1.2.0,P0\n1.2.0,P1\n")
    monkeypatch.setattr(items, "read_scan", None)
    with pytest.raises(InputError, match="metadata.csv, line 4: series '1.2.0' is of patient 'P1', but of 'P0' in a line above: keep"):
        take(src, "luna16", out)
