"""datasets: the tiny phantom written and read back, manifests good and bad."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungadv import ct, datasets, phantom, runs

TYPES = list(phantom.TYPES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with its datasets stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGADV_RUNS", str(tmp_path_factory.mktemp("runs")))
        run = runs.open_run("tiny", 0)
        datasets.build(run)
        yield run


@pytest.fixture(scope="module")
def data(run):
    return datasets.load(run)


def test_layout_is_luna16s(run, data):
    root = run.path("datasets")
    for uid, dataset in data.scans[["seriesuid", "dataset"]].itertuples(index=False):
        for folder, voxels in ((dataset, "raw"), ("seg-lungs-LUNA16", "zraw"), ("masks", "zraw")):
            assert (root / folder / f"{uid}.mhd").exists() and (root / folder / f"{uid}.{voxels}").exists()
    for name in datasets.DATASETS:
        part = data.of(name)
        assert (root / name / "seriesuids.csv").read_text().split() == part.uids
        table = pd.read_csv(root / name / "annotations.csv", dtype={"seriesuid": str})
        assert table.columns[:5].tolist() == datasets.LUNA16 and len(table) == len(part.annotations)
    assert (root / "provenance.json").exists()


def test_data_sets_share_no_scan(run, data):
    uids = [uid for name in datasets.DATASETS for uid in data.of(name).uids]
    assert len(uids) == len(set(uids)) == len(data.scans)
    for profile in ("tiny", "quick", "full"):
        rows = datasets.recipes(runs.Run(profile, 0, "phantom", None, Path()))
        assert len({index for _, index, _ in rows}) == len(rows)
        assert {dataset for dataset, _, _ in rows} == set(datasets.DATASETS)


def test_recipes_hold_what_the_paper_and_the_manifest_say():
    def types(profile, dataset):
        rows = [recipe for name, _, recipe in datasets.recipes(runs.Run(profile, 3, "phantom", None, Path())) if name == dataset]
        found = pd.Series([nodule["type"] for recipe in rows for nodule in recipe["nodules"]]).value_counts()
        return len(rows), sum(bool(recipe["nodules"]) for recipe in rows), [int(found[name]) for name in TYPES]

    assert types("full", "in-house") == (174, 97, [94, 7, 13, 36])
    assert types("full", "nlst") == (272, 83, [103, 19, 3, 6])
    for dataset, printed in (("in-house", [94, 7, 13, 36]), ("nlst", [103, 19, 3, 6])):
        scans, _, counts = types("quick", dataset)
        assert 24 <= scans <= 30 and 280 <= sum(counts) <= 320
        assert np.allclose(np.array(counts) / sum(counts), np.array(printed) / sum(printed), atol=0.01)
    solid, _, part_solid, ground_glass = types("quick", "train")[2]
    assert part_solid + ground_glass < 0.1 * solid


def test_one_seed_gives_one_plan_and_another_seed_another():
    def plan(seed):
        return datasets.recipes(runs.Run("quick", seed, "phantom", None, Path()))

    assert plan(0) == plan(0) != plan(1)


def test_tables_and_voxels_agree(data):
    for uid in data.uids:
        rows = data.annotations[data.annotations["seriesuid"] == uid].reset_index(drop=True)
        scan, labels, lungs = data.scan(uid), data.labels(uid), data.lungs(uid)
        assert scan.uid == uid and labels.shape == scan.hu.shape == lungs.shape and lungs.dtype == bool and labels.dtype == np.uint8
        assert set(np.unique(labels)) <= set(range(len(rows) + 1)) and 0.03 < lungs.mean() < 0.6
        for k, row in rows.iterrows():
            centre = row[datasets.XYZ].to_numpy(float)
            mask = np.argwhere(labels == k + 1)
            assert len(mask) > 0, f"nodule {k} of {uid} has no mask"
            assert np.linalg.norm(scan.to_world([mask.mean(0)])[0] - centre) < row["diameter_mm"] / 2
    assert (data.annotations["diameter_mm"] >= 6).all() and 0 < (data.excluded["diameter_mm"] < 6).sum() < len(data.excluded)
    assert set(data.annotations["type"]) <= set(TYPES) and len(data.mimics) > 0


def test_the_written_scan_is_the_phantoms(run, data):
    dataset, index, recipe = datasets.recipes(run)[0]
    made = phantom.simulate(recipe, run.seed, index)
    read = data.scan(made.scan.uid)
    assert (read.hu == made.scan.hu).all() and np.allclose(read.origin, made.scan.origin)
    assert data.of(dataset).uids[0] == made.scan.uid
    large = made.nodules[(made.nodules["diameter_mm"] >= 6) & (made.nodules["readers"] >= phantom.NEEDED)]
    rows = data.annotations[data.annotations["seriesuid"] == made.scan.uid]
    assert np.allclose(rows[datasets.XYZ], large[datasets.XYZ]) and rows["type"].tolist() == large["type"].tolist()
    assert ((data.labels(made.scan.uid) > 0) == np.isin(made.labels, large.index + 1)).all()


def test_table1_is_counted_from_the_annotations(run, data):
    table = pd.read_csv(run.path("datasets", "table1.csv"))
    for name in datasets.BENCHMARKS:
        row = table[(table["benchmark"] == name) & (table["source"] == "this run")].iloc[0]
        part = data.of(name)
        assert row["images"] == len(part.uids) and row["images_with_nodules"] == part.annotations["seriesuid"].nunique()
        assert [row[kind] for kind in TYPES] == [(part.annotations["type"] == kind).sum() for kind in TYPES]
        assert row["total_nodules_ge_6mm"] == len(part.annotations)
    assert table[table["source"] == "paper"]["total_nodules_ge_6mm"].tolist() == [150, 131]


def test_a_phantom_runs_scans_csv_is_a_manifest(run, data):
    again = runs.open_run("tiny", 0, str(run.path("datasets", "scans.csv")))
    datasets.build(again)
    read = datasets.load(again)
    pd.testing.assert_frame_equal(read.annotations, data.annotations)
    pd.testing.assert_frame_equal(read.excluded[datasets.LUNA16], data.excluded[datasets.LUNA16])
    pd.testing.assert_frame_equal(read.mimics, data.mimics)
    uid = data.of("nlst").uids[0]
    assert (read.labels(uid) == data.labels(uid)).all() and (read.lungs(uid) == data.lungs(uid)).all()
    assert all(Path(path).is_absolute() and Path(path).exists() for path in read.scans["path"])


def test_unknown_names_are_input_errors(data):
    with pytest.raises(runs.InputError, match="data set 'test'"):
        data.of("test")
    with pytest.raises(runs.InputError, match="no scan '9.9'"):
        data.scan("9.9")


@pytest.mark.parametrize("name", ["luna16", "lidc_idri", "nlst"])
def test_data_set_cards_say_where_from_and_on_what_terms(name):
    card = json.loads((runs.repo_root() / "data_manifests" / f"{name}.json").read_text())
    assert all(card[key] for key in ("title", "origin", "reference", "licence", "get", "expected")) and card["doi"][0].startswith("10.")


# ---- manifests ----

MANIFEST = "seriesuid,path,dataset\n1.2,a/1.2.mhd,train\n1.3,a/1.3.mhd,nlst\n"
NODULES = """seriesuid,coordX,coordY,coordZ,diameter_mm,type
1.2,10,12,-290,8,solid
1.2,20,12,-290,4,solid
1.2,14,20,-280,10,ground_glass
"""


def write_manifest(folder, manifest=MANIFEST, annotations=NODULES):
    (folder / "a").mkdir()
    for uid in ("1.2", "1.3"):
        ct.write_scan(ct.Scan(np.full((20, 30, 30), -800, np.int16), (1, 1, 2), (0, 0, -300), np.eye(3), uid), folder / "a" / f"{uid}.mhd")
    (folder / "scans.csv").write_text(manifest)
    if annotations is not None:
        (folder / "annotations.csv").write_text(annotations)
    return folder / "scans.csv"


def test_manifest_without_masks_small_nodules_apart(tmp_path):
    data = datasets.read_manifest(write_manifest(tmp_path))
    assert data.annotations["diameter_mm"].tolist() == [8, 10] and data.annotations["label"].tolist() == [1, 3]
    assert data.excluded["diameter_mm"].tolist() == [4] and data.of("nlst").annotations.empty and data.mimics.empty
    labels = data.labels("1.2")
    assert [abs((labels == k).sum() * 2 / (np.pi / 6 * d**3) - 1) < 0.15 for k, d in ((1, 8), (2, 10))] == [True, True]
    assert labels[5, 12, 10] == 1 and labels[5, 12, 20] == 0 and labels[10, 20, 14] == 2


def test_manifest_masks_are_renumbered(tmp_path):
    path = write_manifest(tmp_path)
    scan = ct.read_scan(tmp_path / "a" / "1.2.mhd")
    masks = np.zeros(scan.hu.shape, np.uint8)
    masks[1, 1, :4] = [1, 2, 3, 0]
    for folder, values in (("masks", masks), ("seg-lungs-LUNA16", np.where(masks == 3, 5, masks + 3).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        ct.write_volume(values, scan, tmp_path / folder / "1.2.mhd")
    data = datasets.read_manifest(path)
    assert data.labels("1.2")[1, 1, :4].tolist() == [1, 0, 2, 0]  # rows 1 and 3 of the file are rows 1 and 2 of the annotations
    assert not data.lungs("1.2")[1, 1, 2] and data.lungs("1.2")[0, 0, 0]  # 5 is LUNA16's trachea
    shifted = (scan.origin[0] + 1, *scan.origin[1:])
    for part, origin in ((slice(10), scan.origin), (slice(None), shifted)):
        ct.write_volume(masks[part], ct.Scan(scan.hu[part], scan.spacing, origin, np.eye(3), "1.2"), tmp_path / "masks" / "1.2.mhd")
        with pytest.raises(runs.InputError, match="no mask on the grid"):
            data.labels("1.2")


def row(*values):
    return "seriesuid,coordX,coordY,coordZ,diameter_mm,type\n" + ",".join(values) + "\n"


BAD = {
    "column": ({"manifest": "seriesuid,path\n1.2,a/1.2.mhd\n"}, "no column dataset"),
    "empty": ({"manifest": "seriesuid,path,dataset\n"}, "lists no scan"),
    "nothing": ({"manifest": ""}, "cannot be read as CSV"),
    "dataset": ({"manifest": "seriesuid,path,dataset\n1.2,a/1.2.mhd,test\n"}, "line 2: unknown data set 'test'"),
    "file": ({"manifest": "seriesuid,path,dataset\n1.2,a/1.2.mhd,train\n1.9,a/1.9.mhd,train\n"}, "line 3: 'a/1.9.mhd' does not exist"),
    "patient": (
        {"manifest": "seriesuid,path,dataset,patient\n1.2,a/1.2.mhd,train,P1\n1.3,a/1.3.mhd,nlst,P1\n"},
        "line 3: patient 'P1' is in nlst and train: a patient belongs to one data set; correct the column dataset of '/.*scans.csv'$",
    ),
    "twice": ({"manifest": MANIFEST + "1.2,a/1.3.mhd,nlst\n"}, "line 4: uid '1.2' comes twice"),
    "same file": ({"manifest": MANIFEST + "1.4,a/../a/1.3.mhd,nlst\n"}, "line 4: .*1.3.mhd' is the scan of another row too"),
    "escape": ({"manifest": "seriesuid,path,dataset\n1.2,../1.2.mhd,train\n"}, "leaves the manifest's folder"),
    "absolute": ({"manifest": "seriesuid,path,dataset\n1.2,/etc/hostname,train\n"}, "leaves the manifest's folder"),
    "nopath": ({"manifest": "seriesuid,path,dataset\n1.2,,train\n"}, "leaves the manifest's folder"),
    "noscan": ({"manifest": "seriesuid,path,dataset\n1.2,annotations.csv,train\n"}, "scans.csv, line 2: .* no scan file"),
    "noannotations": ({"annotations": None}, "annotations.csv' cannot be read"),
    "acolumn": ({"annotations": "seriesuid,coordX\n1.2,3\n"}, "no column coordY, coordZ, diameter_mm"),
    "outside": ({"annotations": row("1.2", "10", "12", "290", "8", "solid")}, "csv, line 2: .* outside scan '1.2' .* fit as z negated"),
    "unlisted": ({"annotations": row("7.7", "10", "12", "-290", "8", "solid")}, "line 2: scan '7.7' is not among the 2 given"),
    "nan": ({"annotations": row("1.2", "nan", "12", "-290", "8", "solid")}, "line 2: coordX 'nan' is no number"),
    "text": ({"annotations": row("1.2", "ten", "12", "-290", "8", "solid")}, "line 2: coordX 'ten' is no number"),
    "size": ({"annotations": row("1.2", "10", "12", "-290", "-1", "solid")}, "line 2: diameter_mm -1 is not above 0"),
    "type": ({"annotations": row("1.2", "10", "12", "-290", "8", "cyst")}, "line 2: unknown type 'cyst'"),
    "nonodule": ({"annotations": row()}, "data set 'train' has no nodule of 6 mm or more"),
    "nonodules": ({}, "data set 'validation' has no nodule of 6 mm or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_manifests_name_the_row_and_leave_nothing(tmp_path, monkeypatch, case):
    change, reason = BAD[case]
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    run = runs.open_run("tiny", 0, str(write_manifest(tmp_path, **change)))
    with pytest.raises(runs.InputError, match=reason) as error:
        datasets.build(run)
    assert "\n" not in str(error.value)
    assert not [path for path in run.folder.rglob("*") if path.is_file()]


def test_a_truncated_scan_is_named(tmp_path):
    path = write_manifest(tmp_path)
    (tmp_path / "a" / "1.3.zraw").write_bytes(b"x")
    with pytest.raises(runs.InputError, match="scans.csv, line 3: .*cut short"):
        datasets.read_manifest(path)


# ---- phantoms for others ----


COARSE = {"shape": (64, 80, 96), "spacing": (2.5, 2.5, 2.5)}  # seconds matter here, not looks


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "GRID", COARSE)
        datasets.write_phantom(folder / "mhd", 2, 5, "ultralow")
        datasets.write_phantom(folder / "dicom", 1, 5, file_format="dicom")
    return folder


def test_phantoms_are_luna16s_files(written):
    uids = (written / "mhd" / "seriesuids.csv").read_text().split()
    names = sorted(path.name for path in (written / "mhd").iterdir())
    tables = ["annotations.csv", "annotations_excluded.csv", "masks", "mimics.csv", "seg-lungs-LUNA16", "seriesuids.csv"]
    assert len(uids) == 2 and names == sorted([*tables, *(f"{uid}{suffix}" for uid in uids for suffix in (".mhd", ".zraw"))])
    table = pd.read_csv(written / "mhd" / "annotations.csv", dtype={"seriesuid": str})
    assert table.columns.tolist() == [*datasets.LUNA16, "type", "attachment"] and set(table["seriesuid"]) == set(uids)


@pytest.mark.parametrize("kind, photons", [("mhd", 1e4), ("dicom", 1.5e5)])
def test_phantom_files_are_the_simulated_scan_at_its_dose(written, monkeypatch, kind, photons):
    monkeypatch.setattr(datasets, "GRID", COARSE)
    first = datasets.FIRST_INDEX["phantom"]
    made = phantom.simulate(datasets._person(5, first, photons), 5, first)  # whatever the number of scans written
    uid = (written / kind / "seriesuids.csv").read_text().split()[0]
    read = ct.read_scan(written / kind / (uid if kind == "dicom" else f"{uid}.mhd"))
    assert (read.hu == made.scan.hu).all() and read.uid == uid == made.scan.uid
    assert np.allclose(read.to_world([[1, 2, 3]]), made.scan.to_world([[1, 2, 3]]), atol=1e-3)


def test_both_phantom_formats_hold_the_same(written, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "GRID", COARSE)
    datasets.write_phantom(tmp_path / "mhd", 1, 5)
    volumes, slices = tmp_path / "mhd", written / "dicom"
    uid = (volumes / "seriesuids.csv").read_text().strip()
    tables = ["annotations.csv", "annotations_excluded.csv", "mimics.csv", "seriesuids.csv"]
    masks = [f"{folder}/{uid}{suffix}" for folder in ("masks", "seg-lungs-LUNA16") for suffix in (".mhd", ".zraw")]
    assert all((volumes / name).read_bytes() == (slices / name).read_bytes() for name in tables + masks)
    assert sorted(path.name for path in slices.iterdir()) == sorted([uid, "masks", "seg-lungs-LUNA16", *tables])
    volume, series = ct.read_scan(volumes / f"{uid}.mhd"), ct.read_scan(slices / uid)
    assert (volume.hu == series.hu).all() and (volume.direction == series.direction).all()
    assert (volume.uid, volume.spacing, volume.origin) == (series.uid, series.spacing, series.origin)


def test_phantom_bad_arguments(tmp_path):
    for arguments, reason in (
        ((tmp_path, 1, 0), "exists already"),
        ((tmp_path / "a", 0, 0), "0 scans: give 1 or more"),
        ((tmp_path / "a", 1, 0, "bright"), "dose 'bright'"),
        ((tmp_path / "a", 1, 0, -3), "dose '-3'"),
        ((tmp_path / "a", 1, 0, "0.5"), "dose '0.5': .* from 1 to 1e"),
        ((tmp_path / "a", 1, 0, "1e13"), "dose '1e13'"),
        ((tmp_path / "a", 1, 0, "nan"), "dose 'nan'"),
        ((tmp_path / "a", 1, 0, "low", "nifti"), "mhd or dicom"),
    ):
        with pytest.raises(runs.InputError, match=reason):
            datasets.write_phantom(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_phantom_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "GRID", {"shape": (4, 4, 4)})
    with pytest.raises(runs.InputError, match="phantom scan 40000"):
        datasets.write_phantom(tmp_path / "a", 1, 0)
    assert list(tmp_path.iterdir()) == []


def test_scan_files_on_links_are_read(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").mkdir()
    write_manifest(tmp_path / "disk")
    shutil.copy(tmp_path / "disk" / "scans.csv", tmp_path / "here")
    shutil.copy(tmp_path / "disk" / "annotations.csv", tmp_path / "here")
    (tmp_path / "here" / "a").symlink_to(tmp_path / "disk" / "a")
    assert datasets.read_manifest(tmp_path / "here" / "scans.csv").uids == ["1.2", "1.3"]


def test_spiculated_is_false_where_the_table_does_not_say(tmp_path):
    assert datasets.read_manifest(write_manifest(tmp_path)).annotations["spiculated"].tolist() == [False, False]
    lines = zip(NODULES.splitlines(), ("spiculated", "True", "False", ""), strict=True)
    (tmp_path / "annotations.csv").write_text("\n".join(f"{line},{word}" for line, word in lines) + "\n")
    data = datasets.read_manifest(tmp_path / "scans.csv")
    assert data.annotations["spiculated"].tolist() == [True, False] and data.excluded["spiculated"].tolist() == [False]
    assert data.annotations["spiculated"].dtype == bool
