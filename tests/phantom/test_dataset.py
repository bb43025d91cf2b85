"""Simulated scans for others: LUNA16's files or DICOM, at a dose."""

import numpy as np
import pandas as pd
import pytest

from lungadv.data.io.read import read_scan
from lungadv.data.tables import LUNA16
from lungadv.phantom import dataset as phantom_dataset
from lungadv.phantom.dataset import FIRST_INDEX, deal_recipes, draw_recipe, parse_dose, split_excluded, write_phantom
from lungadv.phantom.simulate import simulate
from lungadv.utils.errors import InputError


def test_nodules_are_dealt_over_the_scans():
    plan = {"scans": 5, "positive_scans": 3, "nodules": {"solid": 6, "ground_glass": 2}, "small_nodules": 4, "disputed": 1}
    plan |= {"mimics": 2, "photons": [3e4, 1e4], "iodine": [0, 300], "kernel": ["soft", "sharp", "soft"], "shift": False}
    dealt = deal_recipes(plan, np.random.default_rng(0))
    assert sum(len(recipe["nodules"]) > 0 for recipe in dealt) == 3
    assert sum(len(recipe["nodules"]) for recipe in dealt) == 8 and sum(recipe["small_nodules"] for recipe in dealt) == 4
    assert [recipe["photons"] for recipe in dealt] == [3e4, 1e4, 3e4, 1e4, 3e4]
    assert [recipe["kernel"] for recipe in dealt] == ["soft", "sharp", "soft", "soft", "sharp"]
    with pytest.raises(InputError, match="6 positive scans do not fit 5 scans and 8 nodules"):
        deal_recipes(plan | {"positive_scans": 6}, np.random.default_rng(0))


def test_small_and_disputed_nodules_are_excluded():
    nodules = pd.DataFrame({"diameter_mm": [8.0, 4.0, 6.0, 7.0], "type": "solid", "readers": [3, 4, 4, 2]})
    agreed, excluded, labels = split_excluded(nodules, np.arange(5, dtype=np.uint8))
    assert agreed["label"].tolist() == [1, 2] and excluded["diameter_mm"].tolist() == [4, 7] and labels.tolist() == [0, 1, 0, 2, 0]


def test_a_person_is_drawn_from_seed_and_index_alone():
    assert draw_recipe(3, 1, 1e4) == draw_recipe(3, 1, 1e4) != draw_recipe(3, 2, 1e4)
    assert parse_dose("low") == parse_dose("30000") == 30000


COARSE = {"shape": (64, 80, 96), "spacing": (2.5, 2.5, 2.5)}  # seconds matter here, not looks


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom_dataset, "GRID", COARSE)
        write_phantom(folder / "mhd", 2, 5, "ultralow")
        write_phantom(folder / "dicom", 1, 5, file_format="dicom")
    return folder


def test_phantoms_are_luna16s_files(written):
    uids = (written / "mhd" / "seriesuids.csv").read_text().split()
    names = sorted(path.name for path in (written / "mhd").iterdir())
    tables = ["annotations.csv", "annotations_excluded.csv", "masks", "mimics.csv", "seg-lungs-LUNA16", "seriesuids.csv"]
    assert len(uids) == 2 and names == sorted([*tables, *(f"{uid}{suffix}" for uid in uids for suffix in (".mhd", ".zraw"))])
    table = pd.read_csv(written / "mhd" / "annotations.csv", dtype={"seriesuid": str})
    assert table.columns.tolist() == [*LUNA16, "type", "attachment"] and set(table["seriesuid"]) == set(uids)


@pytest.mark.parametrize("kind, photons", [("mhd", 1e4), ("dicom", 1.5e5)])
def test_phantom_files_are_the_simulated_scan_at_its_dose(written, monkeypatch, kind, photons):
    monkeypatch.setattr(phantom_dataset, "GRID", COARSE)
    first = FIRST_INDEX["phantom"]
    made = simulate(draw_recipe(5, first, photons), 5, first)  # whatever the number of scans written
    uid = (written / kind / "seriesuids.csv").read_text().split()[0]
    read = read_scan(written / kind / (uid if kind == "dicom" else f"{uid}.mhd"))
    assert (read.hu == made.scan.hu).all() and read.uid == uid == made.scan.uid
    assert np.allclose(read.to_world([[1, 2, 3]]), made.scan.to_world([[1, 2, 3]]), atol=1e-3)


def test_both_phantom_formats_hold_the_same(written, monkeypatch, tmp_path):
    monkeypatch.setattr(phantom_dataset, "GRID", COARSE)
    write_phantom(tmp_path / "mhd", 1, 5)
    volumes, slices = tmp_path / "mhd", written / "dicom"
    uid = (volumes / "seriesuids.csv").read_text().strip()
    tables = ["annotations.csv", "annotations_excluded.csv", "mimics.csv", "seriesuids.csv"]
    masks = [f"{folder}/{uid}{suffix}" for folder in ("masks", "seg-lungs-LUNA16") for suffix in (".mhd", ".zraw")]
    assert all((volumes / name).read_bytes() == (slices / name).read_bytes() for name in tables + masks)
    assert sorted(path.name for path in slices.iterdir()) == sorted([uid, "masks", "seg-lungs-LUNA16", *tables])
    volume, series = read_scan(volumes / f"{uid}.mhd"), read_scan(slices / uid)
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
        with pytest.raises(InputError, match=reason):
            write_phantom(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_phantom_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_dataset, "GRID", {"shape": (4, 4, 4)})
    with pytest.raises(InputError, match="phantom scan 40000"):
        write_phantom(tmp_path / "a", 1, 0)
    assert list(tmp_path.iterdir()) == []
