"""ingest: LUNA16, LIDC-IDRI and DICOM through one door, and nothing wrong past it."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungadv import annotations, ct, datasets, ingest, lungs, pipeline, runs, store

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"
SHAPE, SPACING, ORIGIN = (20, 30, 30), (1.0, 1.0, 2.0), (-20.0, -25.0, -300.0)


def scan_of(uid, number=0):
    hu = np.random.default_rng(number).integers(-1000, 200, SHAPE, dtype=np.int16)
    return ct.Scan(hu, SPACING, ORIGIN, np.eye(3), uid)


def luna16(root, scans=10, table=None):
    """A folder in LUNA16's layout: scan k in subset k, a nodule of 8 mm in each."""
    rows = []
    for k in range(scans):
        folder = root / f"subset{k % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        ct.write_scan(scan_of(f"1.2.{k}", k), folder / f"1.2.{k}.mhd")
        rows.append(f"1.2.{k},{-10 + k % 10},-12,-280,8")
    (root / "annotations.csv").write_text("\n".join([HEADER, *rows, ""]) if table is None else table)
    return root


def dicom(root, people, first=0):
    """DICOM folders <patient>/<uid> of (patient, uid), whose voxels are numbered from `first`."""
    import pydicom

    for k, (patient, uid) in enumerate(people, start=first):
        folder = root / patient / uid
        folder.parent.mkdir(parents=True, exist_ok=True)
        ct.write_series(scan_of(uid, k), folder)
        for path in folder.iterdir():
            header = pydicom.dcmread(path)
            header.PatientID, header.ConvolutionKernel, header.KVP, header.Exposure = patient, "B40f", "120", "45"
            header.save_as(path)
    return root


def take(src, kind, out, nodules=None):
    return ingest.ingest(src, kind, out, nodules, workers=1)


def report_of(out):
    return pd.read_csv(out.with_suffix(".report.csv"), dtype=str, keep_default_na=False)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "manifest.csv"


# ---- LUNA16 ----


def test_luna16_folds_are_data_sets_and_the_stage_runs_on_them(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 20)
    (src / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.3,-5,-5,-290,-1\n1.2.3,-5,-5,290,-1\n")
    found = take(src, "luna16", out)
    assert (found["taken"], found["refused"], found["nodules"], found["by_type"]) == (20, 0, 20, {"unspecified": 20})
    table = pd.read_csv(out, dtype=str)
    assert table["fold"].astype(int).tolist() == [int(uid.split(".")[2]) % 10 for uid in table["seriesuid"]]
    assert [table["dataset"].eq(name).sum() for name in datasets.DATASETS] == [14, 2, 2, 2]
    first = table.iloc[0]
    assert first["shape"] == "20 30 30" and first["spacing"] == "1.0 1.0 2.0" and Path(first["path"]).parts[0] == "subset0"
    left = report_of(out).query("status == 'left out'")
    assert left["path"].tolist() == ["annotations_excluded.csv"] and "line 3: lies outside" in left["reason"].iloc[0]

    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    run = runs.open_run("tiny", 0, str(out))
    datasets.build(run)
    data = datasets.load(run)
    assert (data.scan("1.2.7").hu == scan_of("1.2.7", 7).hu).all() and len(data.excluded) == 1
    counted = pd.read_csv(run.path("datasets", "table1.csv")).query("source == 'this run'").set_index("benchmark")
    assert counted["images"].tolist() == [2, 2] and counted["total_nodules_ge_6mm"].tolist() == [2, 2] and counted["solid"].sum() == 0
    labels = data.labels("1.2.7")  # a ball of 8 mm
    assert labels.sum() * 2 == pytest.approx(np.pi / 6 * 8**3, rel=0.2)
    said = " ".join(datasets.left_out(data))
    for part in ("for 20 of 20 nodules", "Outlines are missing for 20 of 20 scans", "No mimics", "Lungs are missing for 20"):
        assert part in said and any(part in sentence for sentence in found["left_out"])


def test_the_store_holds_the_scan(tmp_path, out):
    take(luna16(tmp_path / "luna", 2), "luna16", out)
    row = pd.read_csv(out, dtype=str).iloc[1]
    kept, scan = store.open_scan(out.parent / row["store"]), scan_of("1.2.1", 1)
    assert (np.asarray(kept.hu) == scan.hu).all() and (kept.uid, kept.spacing, kept.origin) == (scan.uid, scan.spacing, scan.origin)
    assert kept.hu.sha256 == hashlib.sha256(scan.hu.astype("<i2").tobytes()).hexdigest()


def test_the_cards_counts_are_held_against_what_was_taken(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 3)
    assert take(src, "luna16", out)["expected"][0].startswith("luna16.json: scans 3 instead of 888, nodules 3 instead of 1186")
    (tmp_path / "data_manifests").mkdir()
    card = {"expected": {"scans": 3, "nodules": 3, "scans_with_nodules": 3, "of_another_kind": 5}}
    (tmp_path / "data_manifests" / "luna16.json").write_text(json.dumps(card))
    monkeypatch.setattr(runs, "repo_root", lambda: tmp_path)
    assert take(src, "luna16", out)["expected"] == ["luna16.json: all its counts are met (3 scans, 3 nodules, 3 scans with nodules)."]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A folder of coarse phantom scans with 4 or more nodules, in LUNA16's layout."""
    folder = tmp_path_factory.mktemp("phantoms") / "luna"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "GRID", {"shape": (64, 80, 96), "spacing": (2.5, 2.5, 2.5)})
        datasets.write_phantom(folder, 4, 5)
    return folder


def linked(root, folder, table):
    """A folder of links to what lies in another one, with an annotations.csv of its own."""
    root.mkdir()
    for path in folder.iterdir():
        (root / path.name).symlink_to(path)
    (root / "annotations.csv").unlink(missing_ok=True)
    table.to_csv(root / "annotations.csv", index=False)
    return root


def test_a_phantoms_folder_keeps_types_masks_and_mimics(phantoms, out):
    found = take(phantoms, "luna16", out)
    assert not any("look whether the positions are right" in sentence or "whole chest" in sentence for sentence in found["left_out"])
    assert set(report_of(out)["reason"]) == {""}
    data = datasets.read_manifest(out)
    wanted, mimics = (pd.read_csv(phantoms / name) for name in ("annotations.csv", "mimics.csv"))
    assert sorted(data.annotations["type"]) == sorted(wanted["type"]) and len(data.mimics) == len(mimics)
    for uid in data.uids:
        mask = ct.read_scan(phantoms / "masks" / f"{uid}.mhd").hu
        assert (data.labels(uid) == mask).all() and data.lungs(uid).mean() > 0.03
    assert not any("outlines" in sentence or "lungs" in sentence or "mimics" in sentence for sentence in datasets.left_out(data))


def test_a_flip_that_stays_inside_is_seen_in_the_voxels(phantoms, tmp_path, out):
    table = pd.read_csv(phantoms / "annotations.csv", dtype={"seriesuid": str})
    table = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    grids = {path.stem: ct.read_header(path) for path in phantoms.glob("*.mhd")}
    rows = table[["seriesuid", *datasets.XYZ]].itertuples(index=False)
    places = [grids[uid].to_voxel([xyz])[0] / grids[uid].hu.shape for uid, *xyz in rows]
    negated = linked(tmp_path / "luna", phantoms, table[[0.02 < min(place) and max(place) < 0.98 for place in places]])
    annotations.check_positions(pd.read_csv(negated / "annotations.csv"), grids, "annotations.csv")  # every row is inside
    with pytest.raises(runs.InputError, match="annotations.csv: . of . rows .* but . do as x and y negated .RAS"):
        take(negated, "luna16", out)
    assert not out.exists()


# ---- DICOM ----


def test_dicom_with_a_table_splits_by_patient(tmp_path, out):
    people = [("P1", "1.2.1"), ("P2", "1.2.2"), ("P1", "1.2.3")]
    src = dicom(tmp_path / "tcia", people)
    table = tmp_path / "nodules.csv"
    table.write_text(f"{HEADER},type\n1.2.1,-10,-12,-280,8,solid\n1.2.3,-10,-12,-280,9,ground_glass\n")
    found = take(src, "dicom", out, table)
    assert found["taken"] == 3 and found["by_type"] == {"solid": 1, "ground_glass": 1}
    manifest = pd.read_csv(out, dtype=str).set_index("seriesuid")
    assert manifest.loc["1.2.1", "dataset"] == manifest.loc["1.2.3", "dataset"] and manifest["patient"].tolist() == ["P1", "P1", "P2"]
    assert manifest.loc["1.2.2", ["kernel", "kvp", "mas", "thickness"]].tolist() == ["B40f", "120.0", "45.0", "2.0"]
    data = datasets.read_manifest(out)
    assert (data.scan("1.2.2").hu == scan_of("1.2.2", 1).hu).all() and len(data.annotations) == 2
    before = manifest["dataset"].to_dict()
    dicom(src, [("P3", "1.2.4")], first=3)
    take(src, "dicom", out, table)
    after = pd.read_csv(out, dtype=str).set_index("seriesuid")["dataset"].to_dict()
    assert len(after) == 4 and {uid: after[uid] for uid in before} == before


def test_two_series_in_one_folder_are_two_scans(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    (tmp_path / "one").mkdir()
    for path in src.rglob("*.dcm"):
        shutil.copy(path, tmp_path / "one" / f"{path.parent.name}-{path.name}")
    assert take(tmp_path / "one", "dicom", out)["taken"] == 2
    data = datasets.read_manifest(out)
    assert (data.scan("1.2.2").hu == scan_of("1.2.2", 1).hu).all()


@pytest.mark.parametrize("named", ["1.3.12.2.1107.{}", "CT.1.2.840.{}", "{}.dicom", "{}"])
def test_slices_are_found_whatever_their_names(tmp_path, out, named):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    for k, path in enumerate((src / "P1" / "1.2.1").iterdir()):
        path.rename(path.with_name(named.format(k)))
    assert take(src, "dicom", out)["taken"] == 1


def test_a_stray_file_is_named_and_costs_no_series(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    (src / "P1" / "1.2.1" / "notes.dcm").write_text("text renamed")
    (src / "P2" / "1.2.2" / "cut.dcm").write_bytes((src / "P2" / "1.2.2" / "0001.dcm").read_bytes()[:300])
    (src / "P3").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (src / "P3" / name).write_text("text renamed")
    found = take(src, "dicom", out)
    lines = report_of(out).set_index("path")
    assert (found["taken"], found["refused"]) == (2, 3)
    first = lines.loc["P1/1.2.1"].query("status == 'refused'")["reason"].iloc[0]
    assert first.startswith("'P1/1.2.1': file 'notes.dcm' is no DICOM file") and first.endswith("what else lies there was read without it")
    second = lines.loc["P2/1.2.2"].query("status == 'refused'")["reason"].iloc[0]
    assert "file 'cut.dcm' is a CT slice whose header ends too early" in second
    assert lines.loc["P3", "reason"].endswith("or remove it, and 1 more")
    assert (datasets.read_manifest(out).scan("1.2.1").hu == scan_of("1.2.1").hu).all()
    (src / "P1" / "1.2.1" / "notes.dcm").unlink()
    assert take(src, "dicom", out)["refused"] == 2


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


def test_folds_by_hash_have_the_proportions_and_do_not_move():
    folds = np.bincount([ingest.fold_of(f"P{k}") for k in range(5000)], minlength=10)
    assert len(folds) == 10 and folds.min() > 400 and folds.max() < 600
    assert [ingest.fold_of(name) for name in ("LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003")] == [6, 8, 7]


# ---- LIDC-IDRI ----

BOX = [(x, 8) for x in range(5, 15)] + [(15, y) for y in range(8, 18)]
BOX += [(x, 18) for x in range(15, 5, -1)] + [(5, y) for y in range(18, 8, -1)]  # an outline around 9 x 9 pixels


def reading(uid, readers=4, texture=5, slices=(8, 9, 10, 11)):
    """LIDC's XML of a box on some slices, outlined by each reader."""
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in BOX)
    place = "<imageZposition>{}</imageZposition><imageSOP_UID/><inclusion>TRUE</inclusion>"
    rois = "".join(f"<roi>{place.format(ORIGIN[2] + 2 * z)}{edges}</roi>" for z in slices)
    ratings = f"<characteristics><texture>{texture}</texture></characteristics>"
    nodule = f"<unblindedReadNodule><noduleID>1</noduleID>{ratings}{rois}</unblindedReadNodule>"
    empty = "<readingSession><servicingRadiologistID>a</servicingRadiologistID></readingSession>"
    sessions = f"<readingSession>{nodule}</readingSession>" * readers + empty * (4 - readers)
    header = f"<ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{header}{sessions}</LidcReadMessage>'


def test_lidc_readings_become_nodules_types_and_masks(tmp_path, out):
    src = dicom(tmp_path / "lidc", [("P1", "1.2.1"), ("P2", "1.2.2"), ("P3", "1.2.3")])
    for uid, readers in (("1.2.1", 4), ("1.2.2", 2)):
        (src / f"{uid}.xml").write_text(reading(uid, readers, texture=1))
    radiograph = "<ResponseHeader><CXRSeriesInstanceUid>1.9</CXRSeriesInstanceUid></ResponseHeader>"
    (src / "radiograph.xml").write_text(f"<IdriReadMessage>{radiograph}</IdriReadMessage>")
    found = take(src, "lidc", out)
    assert (found["taken"], found["refused"], found["by_type"]) == (2, 1, {"ground_glass": 1})
    lines = report_of(out).set_index("path")
    assert found["radiographs"] == 1
    assert "no XML names this series" in lines.loc["P3/1.2.3", "reason"] and "radiograph" in lines.loc["radiograph.xml", "reason"]
    data = datasets.read_manifest(out)
    assert data.annotations["seriesuid"].tolist() == ["1.2.1"] and data.excluded["seriesuid"].tolist() == ["1.2.2"]
    expected = np.zeros(SHAPE, np.uint8)
    expected[8:12, 9:18, 6:15] = 1
    assert (data.labels("1.2.1") == expected).all()
    assert pd.read_csv(out.parent / "annotations.csv")["readers"].tolist() == [4]
    assert found["expected"][0].startswith("lidc_idri.json: patients 2 instead of 1010")


def test_luna16_takes_types_and_outlines_from_readings_beside_it(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    (src / "LIDC-XML-only").mkdir()
    for k, texture in ((0, 3), (1, 5)):
        (src / "LIDC-XML-only" / f"{k}.xml").write_text(reading(f"1.2.{k}", texture=texture))
    centre = scan_of("1.2.0").to_world([[9.5, 13, 10]])[0]
    rows = [f"1.2.0,{','.join(map(str, centre + 1))},10", "1.2.0,-15,-20,-270,6", "1.2.1,-15,-20,-270,6", "1.2.2,-12,-12,-280,8"]
    (src / "annotations.csv").write_text("\n".join([HEADER, *rows, ""]))
    found = take(src, "luna16", out)
    assert found["by_type"] == {"unspecified": 3, "part_solid": 1}
    data = datasets.read_manifest(out)
    labels = data.labels("1.2.0")
    assert (labels == 1).sum() == 4 * 9 * 9 and labels[8, 9, 6] == 1  # the readers' outline
    assert (labels == 2).sum() * 2 == pytest.approx(np.pi / 6 * 6**3, rel=0.3)  # a ball where no reader's nodule lies
    assert data.scans["labels"].astype(bool).tolist() == [True, True, False]
    assert any("Outlines are missing for 1 of 3 scans with nodules" in sentence for sentence in found["left_out"])


def test_a_reading_that_does_not_fit_leaves_lunas_row_as_it_is(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    (src / "0.xml").write_text(reading("1.2.0", slices=(8, 900)))
    assert take(src, "luna16", out)["by_type"] == {"unspecified": 1}
    assert report_of(out)["reason"].iloc[0].startswith("without its reading: ") and "0.xml" in report_of(out)["reason"].iloc[0]


# ---- called again ----


def test_a_second_call_reads_nothing_and_gives_the_same(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 3)
    first = take(src, "luna16", out)
    made = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    os.utime(src / "subset0" / "1.2.0.zraw")  # another time, the same bytes
    monkeypatch.setattr(ct, "read_scan", None)
    assert take(src, "luna16", out) == first | {"unchanged": True} and not first["unchanged"]
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == made
    (src / "later.zip").write_bytes(b"PK")
    assert not take(src, "luna16", out)["unchanged"] and take(src, "luna16", out)["unchanged"]
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-10,-12,-280,9\n")
    assert not take(src, "luna16", out)["unchanged"]


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_scan_that_changed_since_is_an_error_that_names_it(tmp_path, out, change):
    src = luna16(tmp_path / "luna", 3)
    take(src, "luna16", out)
    data = src / "subset1" / "1.2.1.zraw"
    data.unlink()
    if change == "changed":
        ct.write_scan(scan_of("1.2.1", 77), src / "subset1" / "1.2.1.mhd")
    with pytest.raises(runs.InputError, match="1.2.1.(zraw|mhd)' (has changed|is gone) since it was read: .* delete '"):
        take(src, "luna16", out)
    if change == "changed":
        with pytest.raises(runs.InputError, match="line 3: .* it has changed, run `lungadv ingest` again"):
            datasets.read_manifest(out)


def test_scans_that_vanish_are_an_error_that_names_one(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    take(src, "luna16", out)
    for k, named in ((1, "delete '.*json'"), (2, "and 1 more, is gone since it was read: .* delete '.*items'")):
        (src / f"subset{k}").rename(tmp_path / f"away{k}")
        with pytest.raises(runs.InputError, match=f"subset1/1.2.1.mhd'.* {named}"):
            take(src, "luna16", out)
    assert len(pd.read_csv(out)) == 3
    shutil.rmtree(out.with_suffix(".items"))
    assert take(src, "luna16", out)["taken"] == 1


def test_a_link_to_nowhere_is_refused_and_costs_no_other(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    (src / "subset1" / "1.2.1.mhd").rename(tmp_path / "1.2.1.mhd")
    (src / "subset1" / "1.2.1.mhd").symlink_to(tmp_path / "absent.mhd")
    assert take(src, "luna16", out)["taken"] == 2
    assert "1.2.1.mhd' does not exist" in report_of(out)["reason"][1]
    (tmp_path / "1.2.1.mhd").replace(src / "subset1" / "1.2.1.mhd")
    assert take(src, "luna16", out)["taken"] == 3


@pytest.mark.parametrize("names", [["sub/1.2.1.raw"], ["a.raw", "b.raw"]])
def test_every_data_file_of_a_scan_is_watched(tmp_path, out, names):
    src = luna16(tmp_path / "luna", 2)
    folder, hu = src / "subset1", scan_of("1.2.1", 1).hu
    for path in folder.iterdir():
        path.unlink()
    (folder / "sub").mkdir()
    data = names[0] if len(names) == 1 else "LIST\n" + "\n".join(names)
    header = "NDims = 3\nDimSize = 30 30 20\nElementSpacing = 1 1 2\nOffset = -20 -25 -300\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    (folder / "1.2.1.mhd").write_text(f"{header}ElementType = MET_SHORT\nElementDataFile = {data}\n")
    for name, part in zip(names, np.split(hu, len(names)), strict=True):
        (folder / name).write_bytes(part.tobytes())
    take(src, "luna16", out)
    assert pd.read_csv(out)["bytes"][1] == hu.nbytes + (folder / "1.2.1.mhd").stat().st_size
    last = folder / names[-1]
    last.write_bytes(bytes(2) + last.read_bytes()[2:])
    with pytest.raises(runs.InputError, match=f"{last.name}' has changed since it was read"):
        take(src, "luna16", out)


def test_what_was_refused_is_read_again_once_mended(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    data = src / "subset1" / "1.2.1.zraw"
    whole = data.read_bytes()
    data.write_bytes(whole[:50])
    assert (take(src, "luna16", out)["taken"], report_of(out)["status"].tolist()) == (2, ["taken", "refused", "taken", "left out"])
    assert "1.2.1" in report_of(out)["reason"][1] and str(src) not in report_of(out)["reason"][1]
    data.write_bytes(whole)
    assert take(src, "luna16", out)["taken"] == 3 and set(report_of(out)["status"]) == {"taken"}


def test_a_missing_data_file_or_mask_brought_back_is_taken(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    data, mask = src / "subset1" / "1.2.1.zraw", src / "masks" / "1.2.2.mhd"
    whole = data.read_bytes()
    data.unlink()
    mask.parent.mkdir()
    ct.write_volume(np.ones((19, *SHAPE[1:]), np.uint8), ct.Scan(scan_of("").hu[:19], SPACING, ORIGIN, np.eye(3), ""), mask)
    assert take(src, "luna16", out)["taken"] == 1
    data.write_bytes(whole)
    ct.write_volume(np.ones(SHAPE, np.uint8), scan_of(""), mask)
    assert take(src, "luna16", out)["taken"] == 3


def test_what_was_withdrawn_is_used_no_more(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    row = ",".join(map(str, scan_of("1.2.0").to_world([[9.5, 13, 10]])[0]))
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,{row},10\n1.2.1,-10,-12,-280,8\n")
    (src / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.1,-5,-5,-290,-1\n")
    (src / "0.xml").write_text(reading("1.2.0"))
    take(src, "luna16", out)
    made = datasets.read_manifest(out)
    assert made.scans["labels"].astype(bool).tolist() == [True, False] and len(made.excluded) == 1
    (src / "masks").mkdir()
    ct.write_volume(np.ones(SHAPE, np.uint8), scan_of(""), src / "masks" / "1.2.0.mhd")
    take(src, "luna16", out)
    assert (datasets.read_manifest(out).labels("1.2.0") == 1).all()  # the data set's own come first
    shutil.rmtree(src / "masks")
    for name in ("0.xml", "annotations_excluded.csv"):
        (src / name).unlink()
    take(src, "luna16", out)
    data = datasets.read_manifest(out)
    assert not data.scans["labels"].any() and data.excluded.empty


def test_killed_anywhere_the_next_call_goes_on(tmp_path, out):
    src = luna16(tmp_path / "luna", 200)
    command = [sys.executable, "-m", "lungadv.cli", "ingest", str(src), "--kind", "luna16", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    items = out.with_suffix(".items")
    while process.poll() is None and len(list(items.glob("*.json"))) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, 9)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in items.glob("[0-9a-f]*.json")}
    assert 3 <= len(kept) < 200 and not out.exists()
    assert take(src, "luna16", out)["taken"] == 200
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert [path.name for path in out.parent.rglob(".*")] == [".lock"]


def test_what_a_killed_writer_left_is_removed(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    take(src, "luna16", out)
    made = {path for path in out.parent.rglob("*") if path.is_file()}
    for name in ("store/.99999.1.2.0.h5", ".99999.manifest.csv", "manifest.items/.99999.0a.json"):
        (out.parent / name).write_bytes(b"half")
    others = {out.parent / name for name in (".1password.cfg", ".1.notes.txt", "store/.1password.cfg")}
    for path in others:
        path.write_text("not ours")
    (out.parent / ".2.manifest.csv").mkdir()
    take(src, "luna16", out)
    assert {path for path in out.parent.rglob("*") if path.is_file()} == made | others


def test_a_full_disk_is_one_error_and_nothing_half_made(tmp_path, out, monkeypatch):
    src, write = luna16(tmp_path / "luna", 3), store._write_bytes
    calls = []

    def full(path, data):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(store, "_write_bytes", full)
    with pytest.raises(runs.InputError, match="no space is left on the disk of .*: make room and call again"):
        take(src, "luna16", out)
    assert not out.exists() and [path.name for path in (out.parent / "store").iterdir()] == ["1.2.0.h5"]
    assert take(src, "luna16", out)["taken"] == 3 and len(calls) == 4


def test_two_calls_at_once_do_not_mix(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    take(src, "luna16", out)
    with ingest._locked(out), pytest.raises(runs.InputError, match="is being made by another process"):
        take(src, "luna16", out)


def test_the_command_says_what_it_took_and_ends_with_one_line_when_it_cannot(tmp_path, out):
    def call(*arguments):
        command = [sys.executable, "-m", "lungadv.cli", "ingest", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, encoding="utf-8")

    done = call(luna16(tmp_path / "luna", 3), "--kind", "luna16", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 scans taken, 0 refused; 0 rows of tables and 0 files left out; each with its reason: ")
    assert "\n3 nodules: 3 unspecified\n" in done.stdout and "nothing changed" not in done.stdout
    again = call(tmp_path / "luna", "--kind", "luna16", "--out", out)
    assert again.stdout == f"{done.stdout}nothing changed: 3 scans compared with the manifest\n"
    (tmp_path / "empty").mkdir()
    failed = call(tmp_path / "empty", "--kind", "dicom", "--out", tmp_path / "b" / "m.csv")
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    assert call(tmp_path / "empty", "--kind", "nifti", "--out", out).returncode == 2


# ---- splits ----


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
    for call in (lambda: take(src, "dicom", out), lambda: datasets.read_manifest(out)):
        with pytest.raises(runs.InputError, match="manifest.csv, line 3: patient 'P1' is in nlst and train: .* `lungadv ingest` again"):
            call()


def test_one_of_a_thing_is_not_many(tmp_path, out):
    said = " ".join(take(luna16(tmp_path / "luna", 1), "luna16", out)["left_out"])
    assert "No nodule of 6 mm or more is in 'validation', 'in-house', 'nlst': a run needs one in each" in said
    assert "1 of 1 nodule:" in said and "1 of 1 scan with nodules:" in said and not re.search(r"\b1 (scans|nodules)", said)


# ---- bad input ----


def test_wrong_folders_and_kinds_are_named(tmp_path, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zips").mkdir()
    for k in range(10):
        (tmp_path / "zips" / f"subset{k}.zip").write_bytes(b"PK")
    luna, slices = luna16(tmp_path / "luna", 1), dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    bare = luna16(tmp_path / "bare", 1)
    (bare / "annotations.csv").unlink()
    for arguments, reason in (
        ((tmp_path / "absent", "luna16", out), "is no folder"),
        ((tmp_path / "empty", "luna16", out), "holds no scan"),
        ((tmp_path / "zips", "luna16", out), "unpack 'subset0.zip', .*, 'subset9.zip' first"),
        ((luna, "dicom", out), "it looks like --kind luna16"),
        ((slices, "luna16", out), "no scan file .*.mhd, .*nii.gz.: it looks like --kind dicom"),
        ((slices, "lidc", out), "it looks like --kind dicom"),
        ((luna, "nifti", out), "unknown kind 'nifti'"),
        ((bare, "luna16", out), "holds no annotations.csv"),
        ((luna, "luna16", luna / "manifest.csv"), "a folder of its own"),
        ((luna, "luna16", tmp_path / "bare" / "manifest"), "ends in .csv"),
    ):
        with pytest.raises(runs.InputError, match=reason):
            take(*arguments)
    (slices / "1.xml").write_text(reading("1.2.1"))
    with pytest.raises(runs.InputError, match="does not go with --kind lidc"):
        take(slices, "lidc", out, tmp_path / "nodules.csv")
    take(luna, "luna16", out)
    with pytest.raises(runs.InputError, match="was made from .*luna' as luna16"):
        take(slices, "dicom", out)


def test_a_zip_beside_scans_is_listed(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    (src / "subset7.zip").write_bytes(b"PK")
    found = take(src, "luna16", out)
    assert (found["left_out_rows"], found["left_out_files"]) == (0, 1)
    assert report_of(out).iloc[-1].tolist() == ["", "subset7.zip", "left out", "a zip file: unpack it first"]


def test_scans_of_another_kind_are_listed(tmp_path, out):
    src = dicom(luna16(tmp_path / "both", 1), [("P1", "1.2.1")])
    take(src, "luna16", out)
    assert report_of(out).iloc[-1].tolist() == ["", "P1/1.2.1", "left out", "is not read with --kind luna16"]
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.1,-10,-12,-280,8\n")
    take(src, "dicom", tmp_path / "b" / "m.csv")
    last = report_of(tmp_path / "b" / "m.csv").iloc[-1]
    assert last.tolist() == ["", "subset0/1.2.0.mhd", "left out", "is not read with --kind dicom"]


def test_a_mask_that_belongs_to_another_table_refuses_its_scan(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    table = pd.read_csv(src / "annotations.csv", dtype={"seriesuid": str}).assign(label=1)
    (src / "masks").mkdir()
    for k, shift in ((0, 0), (1, 9)):
        ball = datasets.balls(scan_of(f"1.2.{k}"), table[k : k + 1].assign(coordX=table["coordX"] + shift))
        ct.write_volume(ball, scan_of(""), src / "masks" / f"1.2.{k}.mhd")
    assert take(src, "luna16", out)["taken"] == 1
    reason = report_of(out)["reason"][1]
    assert "label 1 of 'masks/1.2.1.mhd' lies 9.0 mm from nodule 1 of its scan, which is 8 mm wide" in reason
    assert reason.endswith("the mask is of another table; get it again, or remove it")


def test_positions_that_are_flipped_against_their_mask_are_named(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    table = pd.DataFrame([["1.2.0", 2.5, 8.0, -280.0, 8.0], ["1.2.0", -7.5, 2.0, -270.0, 6.0]], columns=datasets.LUNA16)
    scan = ct.Scan(scan_of("1.2.0").hu, SPACING, (-15, -15, -300), np.eye(3), "1.2.0")  # which holds the flipped positions, too
    ct.write_scan(scan, src / "subset0" / "1.2.0.mhd")
    (src / "masks").mkdir()
    ct.write_volume(datasets.balls(scan, table), scan, src / "masks" / "1.2.0.mhd")
    table.assign(coordX=-table["coordX"], coordY=-table["coordY"]).to_csv(src / "annotations.csv", index=False)
    take(src, "luna16", out)
    reason = report_of(out)["reason"][0]
    assert "the mask is of another table; get it again, or remove it, or the positions are wrong" in reason
    assert reason.endswith(": they fit as x and y negated (RAS instead of LPS)")


def test_a_damaged_report_is_named(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    take(src, "luna16", out)
    for damage in ("{", "[]", "{}"):
        datasets.companion(out).write_text(damage)
        with pytest.raises(runs.InputError, match="manifest.ingest.json' cannot be read: delete it"):
            take(src, "luna16", out)
    datasets.companion(out).unlink()
    assert take(src, "luna16", out)["taken"] == 1


def test_patients_that_are_known_later_split_anew_once_the_manifest_is_deleted(tmp_path, out):
    src = luna16(tmp_path / "luna", 10)
    take(src, "luna16", out)
    (src / "metadata.csv").write_text("Series UID,Subject ID\n1.2.0,P0\n1.2.9,P0\n")
    with pytest.raises(runs.InputError, match="patient 'P0' is in nlst and train: .* column dataset of '.*manifest.csv', or delete it"):
        take(src, "luna16", out)
    out.unlink()
    take(src, "luna16", out)
    assert pd.read_csv(out)["dataset"].tolist()[9] == "train"


def test_tables_of_others_are_not_overwritten(tmp_path):
    src, other = luna16(tmp_path / "luna", 1), luna16(tmp_path / "other", 1)
    before = (other / "annotations.csv").read_text()
    with pytest.raises(runs.InputError, match="annotations.csv' exists and is not this manifest's"):
        take(src, "luna16", other / "manifest.csv")
    assert (other / "annotations.csv").read_text() == before


TABLES = {
    "column": ("seriesuid,coordX\n1.2.0,1\n", "no column coordY"),
    "number": (f"{HEADER}\n1.2.0,-10,x,-280,8\n", "annotations.csv, line 2: coordY 'x' is no number"),
    "comma": (f"{HEADER}\n1.2.0,-10,5,-12,-280,8\n", "annotations.csv, line 2 has 6 fields"),
    "twice": (f"{HEADER}\n1.2.0,-10,-12,-280,8\n1.2.0,-10,-12,-280,8\n", "line 3 repeats line 2"),
    "ids": (f"{HEADER}\n1.3E+55,-10,-12,-280,8\n", "line 2: seriesuid '1.3E.55' is a number"),
    "strangers": (f"{HEADER}\n7.7,-10,-12,-280,8\n7.8,-10,-12,-280,8\n", "annotations.csv, line 2: scan '7.7' is not under"),
    "flipped": (f"{HEADER}\n1.2.0,-9,24,-280,8\n1.2.1,5,20,-290,8\n", "all 2 rows of this table fit as x and y negated"),
    "swapped": (f"{HEADER}\n1.2.0,-280,-12,-10,8\n1.2.1,-290,-20,5,8\n", "all 2 rows of this table fit as x and z swapped"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_table_is_named_with_its_line(tmp_path, out, case):
    table, reason = TABLES[case]
    with pytest.raises(runs.InputError, match=reason) as error:
        take(luna16(tmp_path / "luna", 2, table), "luna16", out)
    assert "\n" not in str(error.value) and not out.exists()


def test_the_highest_table_is_used_and_two_as_high_are_refused(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    for folder in ("a/b", "z"):
        (src / folder).mkdir(parents=True)
    shutil.copy(src / "annotations.csv", src / "a" / "b")
    (src / "annotations.csv").rename(src / "z" / "annotations.csv")
    (src / "a" / "b" / "annotations.csv").write_text("another table")
    (src / "z" / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.1,-5,-5,290,-1\n")
    assert take(src, "luna16", out)["nodules"] == 2
    assert report_of(out)["path"].iloc[-1] == "z/annotations_excluded.csv"
    shutil.copy(src / "z" / "annotations.csv", src / "a")
    with pytest.raises(runs.InputError, match="'a/annotations.csv' and 'z/annotations.csv' are both there: keep one"):
        take(src, "luna16", out)
    assert take(src, "luna16", out, src / "z" / "annotations.csv")["nodules"] == 2


def test_a_nodule_outside_refuses_its_scan_and_unknown_scans_are_listed(tmp_path, out):
    rows = ["1.2.0,-10,-12,-280,8", "1.2.1,-10,-12,-280,8", "1.2.1,-10,-12,280,8", "7.7,0,0,0,5", "7.7,1,1,1,5"]
    found = take(luna16(tmp_path / "luna", 2, "\n".join([HEADER, *rows, ""])), "luna16", out)
    lines = report_of(out)
    assert (found["taken"], found["refused"], found["nodules"]) == (1, 1, 1)
    assert (found["left_out_rows"], found["left_out_files"]) == (4, 0)
    assert "annotations.csv, line 4: [-10.0, -12.0, 280.0] mm lies outside scan '1.2.1'" in lines["reason"][1]
    assert lines["reason"][2:].tolist() == ["line 3 and 1 more: its scan was refused", "line 5 and 1 more: its scan is not there"]


def test_a_series_in_two_places_is_in_neither(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    for suffix in (".mhd", ".zraw"):
        shutil.copy(src / "subset0" / f"1.2.0{suffix}", src / "subset2")
    found = take(src, "luna16", out)
    assert found["taken"] == 2 and found["refused"] == 2
    assert "the same series lies in 'subset2/1.2.0.mhd'" in report_of(out)["reason"][0]


@pytest.mark.parametrize("kept", ["subset0", "subset2"])
def test_of_a_series_in_two_places_the_one_that_stays_is_read(tmp_path, out, kept):
    src = luna16(tmp_path / "luna", 3)
    scans = {"subset0": scan_of("1.2.0", 0), "subset2": scan_of("1.2.0", 77)}
    ct.write_scan(scans["subset2"], src / "subset2" / "1.2.0.mhd")
    take(src, "luna16", out)
    for path in (src / ({*scans} - {kept}).pop()).glob("1.2.0.*"):
        path.unlink()
    assert take(src, "luna16", out)["taken"] == 3
    assert (datasets.read_manifest(out).scan("1.2.0").hu == scans[kept].hu).all()
    row = pd.read_csv(out, dtype=str).set_index("seriesuid").loc["1.2.0"]
    assert (np.asarray(store.open_scan(out.parent / row["store"]).hu) == scans[kept].hu).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_voxels_under_two_names_are_one_scan(tmp_path, out, workers):
    src, scan = luna16(tmp_path / "luna", 3), scan_of("", 1)
    ct.write_scan(scan, src / "subset0" / "copy.mhd")  # of 1.2.1, which lies in another subset
    ct.write_scan(ct.Scan(scan.hu, SPACING, (5, 6, 7), -np.eye(3), ""), src / "subset0" / "header.mhd")
    shape = ct.Scan(scan.hu.reshape(10, 60, 30), SPACING, ORIGIN, np.eye(3), "")
    ct.write_scan(shape, src / "subset0" / "shape.mhd")  # the same bytes, but another volume
    for _ in range(2):
        found = ingest.ingest(src, "luna16", out, workers=workers)
        reasons = report_of(out).set_index("path")["reason"]
        assert (found["taken"], found["refused"]) == (4, 2)
        for name in ("copy", "header"):
            assert reasons[f"subset0/{name}.mhd"] == "holds the same voxels as 'subset1/1.2.1.mhd': keep one of them"
        assert pd.read_csv(out)["seriesuid"].tolist() == ["1.2.0", "shape", "1.2.1", "1.2.2"]


@pytest.mark.parametrize("kept", ["1.2.1", "copy"])
def test_of_two_scans_of_the_same_voxels_either_may_stay(tmp_path, out, kept, monkeypatch):
    src = luna16(tmp_path / "luna", 2)
    for suffix in (".mhd", ".zraw"):
        shutil.copy(src / "subset1" / f"1.2.1{suffix}", src / "subset1" / f"copy{suffix}")
    header = src / "subset1" / "copy.mhd"
    header.write_text(header.read_text().replace("1.2.1.zraw", "copy.zraw"))
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-10,-12,-280,8\n")
    take(src, "luna16", out)
    for path in (src / "subset1").glob(f"{({'1.2.1', 'copy'} - {kept}).pop()}.*"):
        path.unlink()
    monkeypatch.setattr(ct, "read_scan", None)  # no voxel is read again
    assert take(src, "luna16", out)["taken"] == 2 and pd.read_csv(out)["seriesuid"].tolist() == ["1.2.0", kept]
    for path in (src / "subset1").iterdir():
        path.unlink()
    with pytest.raises(runs.InputError, match="is gone since it was read"):
        take(src, "luna16", out)


def test_what_is_no_whole_chest_is_taken_and_said(tmp_path, out):
    found = take(luna16(tmp_path / "luna", 5), "luna16", out)
    assert set(report_of(out)["reason"]) == {"covers only 40 mm: a slab, not a chest; no lungs found"}
    said = next(sentence for sentence in found["left_out"] if "whole chest" in sentence)
    first = "No whole chest is in 5 of 5 scans: 'subset0/1.2.0.mhd' (covers only 40 mm: a slab, not a chest; no lungs found), "
    assert said.startswith(first) and said.endswith(", and 2 more that the report names.")


def test_lungs_too_small_for_the_coarse_search_are_found_on_all_voxels(phantoms, monkeypatch):
    scan, searched = ct.read_scan(next(phantoms.glob("*.mhd"))), []
    mask = lungs.lung_mask
    monkeypatch.setattr(lungs, "lung_mask", lambda each: searched.append(each) or mask(each))
    assert ingest._partial(scan) == [] and len(searched) == 1
    coarse = searched[0]
    corners = [[0, 0, 0], np.array(coarse.hu.shape) - 1]
    steps = np.array(coarse.spacing[::-1]) / scan.spacing[::-1]
    assert np.allclose(coarse.to_world(corners), scan.to_world(corners * steps))  # the same body, with fewer voxels
    small = np.zeros(scan.hu.shape, bool)
    small[30, 40, 40] = True
    monkeypatch.setattr(lungs, "lung_mask", lambda each: small if each is scan else np.zeros(each.hu.shape, bool))
    assert ingest._partial(scan) == []


@pytest.mark.parametrize("axis, end", [(0, 0), (1, -1), (2, 0), (2, -1)])
def test_a_crop_says_how_much_lung_its_side_cuts(phantoms, monkeypatch, axis, end):
    scan = ct.read_scan(next(phantoms.glob("*.mhd")))  # voxels of 2.5 mm
    mask = np.zeros(scan.hu.shape, bool)
    mask[20:41, 20:41, 20:41] = True
    np.moveaxis(mask, axis, 0)[end][20:42, 20:41] = True
    monkeypatch.setattr(lungs, "lung_mask", lambda each: mask)
    monkeypatch.setattr(ingest, "COARSE_MM", 2.5)
    assert ingest._partial(scan) == []  # 22 x 21 voxels of 2.5 mm: 29 cm2
    np.moveaxis(mask, axis, 0)[end][20:42, 41:43] = True
    assert ingest._partial(scan) == ["a side cuts through 32 cm2 of lung: a part of a chest"]


def test_a_uid_that_is_a_path_writes_nothing_elsewhere(tmp_path, out):
    import pydicom

    src = dicom(tmp_path / "tcia", [("P1", "1.2.1"), ("P2", "1.2.2")])
    for path in (src / "P1" / "1.2.1").iterdir():
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID = "../../x"
        header.save_as(path)
    assert take(src, "dicom", out)["taken"] == 1
    assert "SeriesInstanceUID '../../x', which is not digits and dots" in report_of(out)["reason"][0]
    assert not list(tmp_path.rglob("x.*"))


def test_a_lung_mask_of_another_grid_refuses_its_scan(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    (src / "seg-lungs-LUNA16").mkdir()
    short = ct.Scan(scan_of("1.2.0").hu[:19], SPACING, ORIGIN, np.eye(3), "1.2.0")
    ct.write_volume(np.ones(short.hu.shape, np.uint8), short, src / "seg-lungs-LUNA16" / "1.2.0.mhd")
    assert take(src, "luna16", out)["taken"] == 1
    assert "seg-lungs-LUNA16/1.2.0.mhd' does not lie on the scan's grid" in report_of(out)["reason"][0]


def test_a_volume_without_air_is_no_ct(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    raw = ct.Scan((scan_of("1.2.1").hu + 1024).astype(np.int16), SPACING, ORIGIN, np.eye(3), "1.2.1")  # its intercept left out
    ct.write_scan(raw, src / "subset1" / "1.2.1.mhd")
    assert take(src, "luna16", out)["taken"] == 1 and "1.2.1.mhd' holds no air, its lowest value is 24" in report_of(out)["reason"][1]


def test_when_nothing_can_be_taken_the_first_reason_is_said(tmp_path, out):
    src = luna16(tmp_path / "luna", 1)
    (src / "subset0" / "1.2.0.zraw").write_bytes(b"x")
    (src / "subset1.zip").write_bytes(b"PK")
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-10,-12,-280,8\n7.7,-10,-12,-280,8\n")
    with pytest.raises(runs.InputError, match="none of 1 scan could be taken, the first because: .*1.2.0"):
        take(src, "luna16", out)
    assert report_of(out)["status"][0] == "refused" and not out.exists()


def test_paths_of_a_manifest_do_not_leave_the_ingested_folder(tmp_path, out):
    take(luna16(tmp_path / "luna", 2), "luna16", out)
    luna16(tmp_path / "other", 1)
    text = out.read_text()
    for path in ("../other/subset0/1.2.0.mhd", f"{tmp_path}/other/subset0/1.2.0.mhd"):
        out.write_text(text.replace("subset0/1.2.0.mhd", path))
        with pytest.raises(runs.InputError, match="line 2: .* leaves the ingested folder"):
            datasets.read_manifest(out)
    out.write_text(text)
    companion = datasets.companion(out)
    bad = (("{}", "does not say where"), ('{"root": "/no/such/folder"}', "is no folder"), ('{"root": "."}', "is no folder"))
    for content, reason in bad:
        companion.write_text(content)
        with pytest.raises(runs.InputError, match=reason):
            datasets.read_manifest(out)


def test_a_change_of_root_makes_the_pipeline_read_the_data_again(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 20)
    take(src, "luna16", out)
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    run = runs.open_run("tiny", 0, str(out))
    assert str(datasets.companion(out)) in pipeline.manifest_files(run)
    datasets.build(run)
    assert (datasets.load(run).scan("1.2.0").hu == scan_of("1.2.0", 0).hu).all()
    shutil.copytree(src, tmp_path / "moved")
    ct.write_scan(scan_of("1.2.0", 77), tmp_path / "moved" / "subset0" / "1.2.0.mhd")
    shutil.rmtree(out.parent)
    take(tmp_path / "moved", "luna16", out)
    datasets.build(run)
    assert (datasets.load(run).scan("1.2.0").hu == scan_of("1.2.0", 77).hu).all()


# ---- real files ----

REAL = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).parents[2] / "shared" / "real_ct")
CASE = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the real CT files are not here (set LUNGADV_REAL_CT)")


@needs_real
def test_the_real_lidc_case_as_luna16_takes_its_type_and_outline(tmp_path, out):
    src = tmp_path / "luna"
    (src / "subset0").mkdir(parents=True)
    for suffix in (".mhd", ".zraw"):
        (src / "subset0" / f"{CASE}{suffix}").symlink_to(REAL / "lidc_idri_0001" / f"{CASE}{suffix}")
    shutil.copy(REAL / "lidc_idri_0001" / "069.xml", src)
    shutil.copy(REAL / "luna16_tables" / "annotations.csv", src)
    shutil.copy(REAL / "luna16_tables" / "annotations_excluded_LIDC-IDRI-0001_only.csv", src / "annotations_excluded.csv")
    found = take(src, "luna16", out)
    assert (found["taken"], found["nodules"], found["by_type"]) == (1, 1, {"solid": 1})
    assert report_of(out)["reason"][0] == "" and found["left_out_rows"] == 1185  # of the other scans
    assert report_of(out)["reason"].str.contains("its scan is not there").sum() == 600  # of the 601 scans with nodules
    data = datasets.read_manifest(out)
    votes = ct.read_scan(REAL / "lidc_idri_0001" / f"{CASE}_nodule_votes.nii.gz").hu >= 2
    labels = data.labels(CASE) > 0
    assert 2 * (labels & votes).sum() / (labels.sum() + votes.sum()) > 0.99


@needs_real
def test_real_dicom_is_taken_or_refused_with_a_reason(tmp_path, out):
    (tmp_path / "real").mkdir()
    for name in ("cip_ct64", "lung_pet_ct_dx_A0002", "lidc_idri_0001"):
        shutil.copytree(REAL / name, tmp_path / "real" / name)
    take(tmp_path / "real", "dicom", out)
    lines = report_of(out).set_index("path")
    assert lines.loc["cip_ct64/ct-64Dicom", "status"] == lines.loc["lidc_idri_0001/dicom", "status"] == "taken"
    assert lines.loc["lung_pet_ct_dx_A0002/dicom", "status"] == "taken"
    assert lines.loc["lung_pet_ct_dx_A0002/dicom", "reason"] == "covers only 24 mm: a slab, not a chest"
    assert lines.loc["lidc_idri_0001/dicom", "reason"] == "covers only 22 mm: a slab, not a chest"
    assert lines.loc["cip_ct64/ct-64Dicom", "reason"] == ""
    manifest = pd.read_csv(out, dtype=str).set_index("path")
    assert manifest.loc["lung_pet_ct_dx_A0002/dicom", "shape"] == "3 512 512"  # three slices of 8 mm
    assert manifest.loc["lidc_idri_0001/dicom", ["kernel", "kvp", "thickness"]].tolist() == ["STANDARD", "120.0", "2.5"]


@needs_real
def test_a_real_reading_says_which_slices_are_missing(tmp_path, out):
    shutil.copytree(REAL / "lidc_idri_0001" / "dicom", tmp_path / "real" / "dicom")
    shutil.copy(REAL / "lidc_idri_0001" / "069.xml", tmp_path / "real")
    said = "9 slices are here, from z -125 to -105 mm; the reading needs z -242.5 to -150 mm too"
    with pytest.raises(runs.InputError, match=f"slices are missing: {said}"):
        take(tmp_path / "real", "lidc", out)


@needs_real
def test_a_real_scan_with_another_header_is_the_same_scan(tmp_path, out):
    (tmp_path / "real").mkdir()
    cropped = [f"totalsegmentator/{name}.nii.gz" for name in ("abdomen_example_ct_sm", "thorax_ct_cropped")]
    for path in ("cip_ct64/ct-64.nrrd", "cip_ct64/ct-64-transformed.nrrd", *cropped):
        shutil.copy(REAL / path, tmp_path / "real")
    (tmp_path / "real" / "annotations.csv").write_text(f"{HEADER}\n")
    take(tmp_path / "real", "luna16", out)
    reasons = report_of(out).set_index("seriesuid")["reason"]
    assert reasons["ct-64"] == "" and reasons["ct-64-transformed"] == "holds the same voxels as 'ct-64.nrrd': keep one of them"
    assert reasons["abdomen_example_ct_sm"] == "covers only 90 mm: a slab, not a chest"  # the lungs' bases are in it
    assert reasons["thorax_ct_cropped"] == "a side cuts through 190 cm2 of lung: a part of a chest"


def test_the_row_that_the_readme_adds_has_the_phantoms_columns():
    notebook = json.loads((Path(__file__).parents[1] / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    added = re.search(r"luna16_tables/annotations.csv \| sed 's/\$/(.*?)/'", text)[1]
    assert HEADER.count(",") + added.count(",") + 1 == len([*datasets.LUNA16, "type", "attachment"])
