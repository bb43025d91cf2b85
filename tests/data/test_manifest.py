"""Manifests good and bad."""

import shutil

import numpy as np
import pytest

from lungadv.data.dataset import check_nodules
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_volume
from lungadv.data.manifest import read_manifest
from lungadv.data.scan import Scan
from lungadv.utils.errors import InputError
from tests.data.manifests import MANIFEST, NODULES, row, write_manifest


def test_manifest_without_masks_small_nodules_apart(tmp_path):
    data = read_manifest(write_manifest(tmp_path))
    assert data.annotations["diameter_mm"].tolist() == [8, 10] and data.annotations["label"].tolist() == [1, 3]
    assert data.excluded["diameter_mm"].tolist() == [4] and data.of("nlst").annotations.empty and data.mimics.empty
    labels = data.labels("1.2")
    assert [abs((labels == k).sum() * 2 / (np.pi / 6 * d**3) - 1) < 0.15 for k, d in ((1, 8), (2, 10))] == [True, True]
    assert labels[5, 12, 10] == 1 and labels[5, 12, 20] == 0 and labels[10, 20, 14] == 2


def test_manifest_masks_are_renumbered(tmp_path):
    path = write_manifest(tmp_path)
    scan = read_scan(tmp_path / "a" / "1.2.mhd")
    masks = np.zeros(scan.hu.shape, np.uint8)
    masks[1, 1, :4] = [1, 2, 3, 0]
    for folder, values in (("masks", masks), ("seg-lungs-LUNA16", np.where(masks == 3, 5, masks + 3).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        write_volume(values, scan, tmp_path / folder / "1.2.mhd")
    data = read_manifest(path)
    assert data.labels("1.2")[1, 1, :4].tolist() == [1, 0, 2, 0]  # rows 1 and 3 of the file are rows 1 and 2 of the annotations
    assert not data.lungs("1.2")[1, 1, 2] and data.lungs("1.2")[0, 0, 0]  # 5 is LUNA16's trachea
    shifted = (scan.origin[0] + 1, *scan.origin[1:])
    for part, origin in ((slice(10), scan.origin), (slice(None), shifted)):
        write_volume(masks[part], Scan(scan.hu[part], scan.spacing, origin, np.eye(3), "1.2"), tmp_path / "masks" / "1.2.mhd")
        with pytest.raises(InputError, match="no mask on the grid"):
            data.labels("1.2")


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
def test_bad_manifests_name_the_row(tmp_path, case):
    change, reason = BAD[case]
    with pytest.raises(InputError, match=reason) as error:
        check_nodules(read_manifest(write_manifest(tmp_path, **change)))
    assert "\n" not in str(error.value)


def test_a_truncated_scan_is_named(tmp_path):
    path = write_manifest(tmp_path)
    (tmp_path / "a" / "1.3.zraw").write_bytes(b"x")
    with pytest.raises(InputError, match="scans.csv, line 3: .*cut short"):
        read_manifest(path)


def test_scan_files_on_links_are_read(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").mkdir()
    write_manifest(tmp_path / "disk")
    shutil.copy(tmp_path / "disk" / "scans.csv", tmp_path / "here")
    shutil.copy(tmp_path / "disk" / "annotations.csv", tmp_path / "here")
    (tmp_path / "here" / "a").symlink_to(tmp_path / "disk" / "a")
    assert read_manifest(tmp_path / "here" / "scans.csv").uids == ["1.2", "1.3"]


def test_spiculated_is_false_where_the_table_does_not_say(tmp_path):
    assert read_manifest(write_manifest(tmp_path)).annotations["spiculated"].tolist() == [False, False]
    lines = zip(NODULES.splitlines(), ("spiculated", "True", "False", ""), strict=True)
    (tmp_path / "annotations.csv").write_text("\n".join(f"{line},{word}" for line, word in lines) + "\n")
    data = read_manifest(tmp_path / "scans.csv")
    assert data.annotations["spiculated"].tolist() == [True, False] and data.excluded["spiculated"].tolist() == [False]
    assert data.annotations["spiculated"].dtype == bool
