"""Scans in two places, the same voxels twice, masks and positions that do not fit."""

import shutil

import numpy as np
import pandas as pd
import pytest

from lungadv.data.dataset import balls
from lungadv.data.ingest import ingest
from lungadv.data.io.read import read_header
from lungadv.data.io.write import write_scan, write_volume
from lungadv.data.orientation import check_positions
from lungadv.data.scan import Scan
from lungadv.data.tables import LUNA16, XYZ
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import ORIGIN, SPACING, linked, luna16, report_of, scan_of, take


def test_a_flip_that_stays_inside_is_seen_in_the_voxels(phantoms, tmp_path, out):
    table = pd.read_csv(phantoms / "annotations.csv", dtype={"seriesuid": str})
    table = table.assign(coordX=-table["coordX"], coordY=-table["coordY"])
    grids = {path.stem: read_header(path) for path in phantoms.glob("*.mhd")}
    rows = table[["seriesuid", *XYZ]].itertuples(index=False)
    places = [grids[uid].to_voxel([xyz])[0] / grids[uid].hu.shape for uid, *xyz in rows]
    negated = linked(tmp_path / "luna", phantoms, table[[0.02 < min(place) and max(place) < 0.98 for place in places]])
    check_positions(pd.read_csv(negated / "annotations.csv"), grids, "annotations.csv")  # every row is inside
    with pytest.raises(InputError, match="annotations.csv: . of . rows .* but . do as x and y negated .RAS"):
        take(negated, "luna16", out)
    assert not out.exists()


def test_a_mask_that_belongs_to_another_table_refuses_its_scan(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    table = pd.read_csv(src / "annotations.csv", dtype={"seriesuid": str}).assign(label=1)
    (src / "masks").mkdir()
    for k, shift in ((0, 0), (1, 9)):
        ball = balls(scan_of(f"1.2.{k}"), table[k : k + 1].assign(coordX=table["coordX"] + shift))
        write_volume(ball, scan_of(""), src / "masks" / f"1.2.{k}.mhd")
    assert take(src, "luna16", out)["taken"] == 1
    reason = report_of(out)["reason"][1]
    assert "label 1 of 'masks/1.2.1.mhd' lies 9.0 mm from nodule 1 of its scan, which is 8 mm wide" in reason
    assert reason.endswith("the mask is of another table; get it again, or remove it")


def test_positions_that_are_flipped_against_their_mask_are_named(tmp_path, out):
    src = luna16(tmp_path / "luna", 2)
    table = pd.DataFrame([["1.2.0", 2.5, 8.0, -280.0, 8.0], ["1.2.0", -7.5, 2.0, -270.0, 6.0]], columns=LUNA16)
    scan = Scan(scan_of("1.2.0").hu, SPACING, (-15, -15, -300), np.eye(3), "1.2.0")  # which holds the flipped positions, too
    write_scan(scan, src / "subset0" / "1.2.0.mhd")
    (src / "masks").mkdir()
    write_volume(balls(scan, table), scan, src / "masks" / "1.2.0.mhd")
    table.assign(coordX=-table["coordX"], coordY=-table["coordY"]).to_csv(src / "annotations.csv", index=False)
    take(src, "luna16", out)
    reason = report_of(out)["reason"][0]
    assert "the mask is of another table; get it again, or remove it, or the positions are wrong" in reason
    assert reason.endswith(": they fit as x and y negated (RAS instead of LPS)")


def test_a_series_in_two_places_is_in_neither(tmp_path, out):
    src = luna16(tmp_path / "luna", 3)
    for suffix in (".mhd", ".zraw"):
        shutil.copy(src / "subset0" / f"1.2.0{suffix}", src / "subset2")
    found = take(src, "luna16", out)
    assert found["taken"] == 2 and found["refused"] == 2
    assert "the same series lies in 'subset2/1.2.0.mhd'" in report_of(out)["reason"][0]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_voxels_under_two_names_are_one_scan(tmp_path, out, workers):
    src, scan = luna16(tmp_path / "luna", 3), scan_of("", 1)
    write_scan(scan, src / "subset0" / "copy.mhd")  # of 1.2.1, which lies in another subset
    write_scan(Scan(scan.hu, SPACING, (5, 6, 7), -np.eye(3), ""), src / "subset0" / "header.mhd")
    shape = Scan(scan.hu.reshape(10, 60, 30), SPACING, ORIGIN, np.eye(3), "")
    write_scan(shape, src / "subset0" / "shape.mhd")  # the same bytes, but another volume
    for _ in range(2):
        found = ingest(src, "luna16", out, workers=workers)
        reasons = report_of(out).set_index("path")["reason"]
        assert (found["taken"], found["refused"]) == (4, 2)
        for name in ("copy", "header"):
            assert reasons[f"subset0/{name}.mhd"] == "holds the same voxels as 'subset1/1.2.1.mhd': keep one of them"
        assert pd.read_csv(out)["seriesuid"].tolist() == ["1.2.0", "shape", "1.2.1", "1.2.2"]
