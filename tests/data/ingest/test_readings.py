"""Nodules, types and masks from LIDC's readings, alone and beside LUNA16's rows."""

import numpy as np
import pandas as pd
import pytest

from lungadv.data.ingest.readings import find_readings
from lungadv.data.manifest import read_manifest
from tests.data.ingest.folders import HEADER, SHAPE, dicom, luna16, reading, report_of, scan_of, take


def test_readings_are_found_by_series_and_others_listed(tmp_path):
    for name in ("a.xml", "again.xml"):
        (tmp_path / name).write_text(reading("1.2.1"))
    (tmp_path / "film.xml").write_text("<IdriReadMessage><ResponseHeader><Modality>CXR</Modality></ResponseHeader></IdriReadMessage>")
    (tmp_path / "voc.xml").write_text("<annotation/>")
    found, lines = find_readings(tmp_path, ("a.xml", "again.xml", "film.xml", "voc.xml"))
    assert found == {"1.2.1": "a.xml"} and [line["path"] for line in lines] == ["again.xml", "film.xml", "voc.xml"]
    assert lines[0]["reason"] == "a second reading of the series, besides 'a.xml'" and "radiograph" in lines[1]["reason"]


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
    data = read_manifest(out)
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
    data = read_manifest(out)
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
