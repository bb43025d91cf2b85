"""The stage `datasets`: the tiny phantom written and read back, a manifest checked, Table I counted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungadv.data.dataset import BENCHMARKS, DATASETS, EXTRA_TESTS
from lungadv.data.tables import LUNA16, TYPES, XYZ
from lungadv.phantom.simulate import CONSENSUS, simulate
from lungadv.pipeline.runs import Run, open_run
from lungadv.pipeline.stages.datasets import build, load, recipes
from lungadv.utils.errors import InputError
from tests.data.manifests import write_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with its datasets stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGADV_RUNS", str(tmp_path_factory.mktemp("runs")))
        run = open_run("tiny", 0)
        build(run)
        yield run


@pytest.fixture(scope="module")
def data(run):
    return load(run)


def test_layout_is_luna16s(run, data):
    root = run.path("datasets")
    for uid, dataset in data.scans[["seriesuid", "dataset"]].itertuples(index=False):
        for folder, voxels in ((dataset, "raw"), ("seg-lungs-LUNA16", "zraw"), ("masks", "zraw")):
            assert (root / folder / f"{uid}.mhd").exists() and (root / folder / f"{uid}.{voxels}").exists()
    for name in DATASETS:
        part = data.of(name)
        assert (root / name / "seriesuids.csv").read_text().split() == part.uids
        table = pd.read_csv(root / name / "annotations.csv", dtype={"seriesuid": str})
        assert table.columns[:5].tolist() == LUNA16 and len(table) == len(part.annotations)
    assert (root / "provenance.json").exists()


def test_data_sets_share_no_scan(run, data):
    names = (*DATASETS, *EXTRA_TESTS)
    uids = [uid for name in names for uid in data.of(name).uids]
    assert len(uids) == len(set(uids)) == len(data.scans)
    for profile in ("tiny", "quick", "standard", "full"):
        rows = recipes(Run(profile, 0, "phantom", None, Path()))
        assert len({index for _, index, _ in rows}) == len(rows)
        assert {dataset for dataset, _, _ in rows} == set(names)


def test_recipes_hold_what_the_paper_and_the_manifest_say():
    def types(profile, dataset):
        rows = [recipe for name, _, recipe in recipes(Run(profile, 3, "phantom", None, Path())) if name == dataset]
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
        return recipes(Run("quick", seed, "phantom", None, Path()))

    assert plan(0) == plan(0) != plan(1)


def test_tables_and_voxels_agree(data):
    for uid in data.uids:
        rows = data.annotations[data.annotations["seriesuid"] == uid].reset_index(drop=True)
        scan, labels, lungs = data.scan(uid), data.labels(uid), data.lungs(uid)
        assert scan.uid == uid and labels.shape == scan.hu.shape == lungs.shape and lungs.dtype == bool and labels.dtype == np.uint8
        assert set(np.unique(labels)) <= set(range(len(rows) + 1)) and 0.03 < lungs.mean() < 0.6
        for k, row in rows.iterrows():
            centre = row[XYZ].to_numpy(float)
            mask = np.argwhere(labels == k + 1)
            assert len(mask) > 0, f"nodule {k} of {uid} has no mask"
            assert np.linalg.norm(scan.to_world([mask.mean(0)])[0] - centre) < row["diameter_mm"] / 2
    assert (data.annotations["diameter_mm"] >= 6).all() and 0 < (data.excluded["diameter_mm"] < 6).sum() < len(data.excluded)
    assert set(data.annotations["type"]) <= set(TYPES) and len(data.mimics) > 0


def test_the_written_scan_is_the_phantoms(run, data):
    dataset, index, recipe = recipes(run)[0]
    made = simulate(recipe, run.seed, index)
    read = data.scan(made.scan.uid)
    assert (read.hu == made.scan.hu).all() and np.allclose(read.origin, made.scan.origin)
    assert data.of(dataset).uids[0] == made.scan.uid
    large = made.nodules[(made.nodules["diameter_mm"] >= 6) & (made.nodules["readers"] >= CONSENSUS)]
    rows = data.annotations[data.annotations["seriesuid"] == made.scan.uid]
    assert np.allclose(rows[XYZ], large[XYZ]) and rows["type"].tolist() == large["type"].tolist()
    assert ((data.labels(made.scan.uid) > 0) == np.isin(made.labels, large.index + 1)).all()


def test_table1_is_counted_from_the_annotations(run, data):
    table = pd.read_csv(run.path("datasets", "table1.csv"))
    for name in BENCHMARKS:
        row = table[(table["benchmark"] == name) & (table["source"] == "this run")].iloc[0]
        part = data.of(name)
        assert row["images"] == len(part.uids) and row["images_with_nodules"] == part.annotations["seriesuid"].nunique()
        assert [row[kind] for kind in TYPES] == [(part.annotations["type"] == kind).sum() for kind in TYPES]
        assert row["total_nodules_ge_6mm"] == len(part.annotations)
    assert table[table["source"] == "paper"]["total_nodules_ge_6mm"].tolist() == [150, 131]


def test_a_phantom_runs_scans_csv_is_a_manifest(run, data):
    again = open_run("tiny", 0, str(run.path("datasets", "scans.csv")))
    build(again)
    read = load(again)
    pd.testing.assert_frame_equal(read.annotations, data.annotations)
    pd.testing.assert_frame_equal(read.excluded[LUNA16], data.excluded[LUNA16])
    pd.testing.assert_frame_equal(read.mimics, data.mimics)
    uid = data.of("nlst").uids[0]
    assert (read.labels(uid) == data.labels(uid)).all() and (read.lungs(uid) == data.lungs(uid)).all()
    assert all(Path(path).is_absolute() and Path(path).exists() for path in read.scans["path"])


def test_unknown_names_are_input_errors(data):
    with pytest.raises(InputError, match="data set 'test'"):
        data.of("test")
    with pytest.raises(InputError, match="no scan '9.9'"):
        data.scan("9.9")


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"manifest": ""}, "cannot be read as CSV"), ({}, "data set 'validation' has no nodule of 6 mm or more")],
)
def test_bad_manifests_leave_nothing(tmp_path, monkeypatch, change, reason):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    run = open_run("tiny", 0, str(write_manifest(tmp_path, **change)))
    with pytest.raises(InputError, match=reason):
        build(run)
    assert not [path for path in run.folder.rglob("*") if path.is_file()]
