"""Values that are no HU: an intercept left out, applied twice or to some slices, a slope that is 0 or negative."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.hounsfield import doubt_hu, padding_remark
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan
from lungadv.data.lungs import lung_mask
from lungadv.data.scan import AIR, Scan, ScanError
from lungadv.detection.detect import find_lungs
from lungadv.detection.report import scan_warnings
from lungadv.detection.weights import default_weights
from lungadv.utils.errors import InputError
from tests.data.ingest.folders import HEADER, report_of, take
from tests.data.made_scans import to_sitk, write_dicom
from tests.data.real_files import REAL, real

LEFT_OUT, TWICE = "was the rescale intercept left out?", "was the rescale intercept applied twice?"


def chest(shape=(30, 64, 64), seed=0):
    """A body with two lungs, vessels and a spine in the room's air, 5 mm a voxel, with noise: (HU, what lies outside a round field)."""
    z, y, x = (np.indices(shape).T - (np.array(shape) - 1) / 2).T * 5.0
    hu = np.full(shape, -1000.0)
    hu[(x / 140) ** 2 + (y / 100) ** 2 < 1] = 45
    for side in (-65, 65):
        hu[((x - side) / 45) ** 2 + (y / 70) ** 2 + (z / 70) ** 2 < 1] = -860
    hu[(x % 40 < 5) & (y % 40 < 5) & (hu == -860)] = 30
    hu[x**2 + (y - 75) ** 2 < 12**2] = 900
    hu += np.random.default_rng(seed).normal(0, 20, shape)
    return np.rint(hu), x**2 + y**2 > 155**2


def variants():
    """The chest as it is and as errors of conversion leave it: name to (values, what is doubted)."""
    hu, corners = chest()
    raw, padded = hu + 1024, np.where(corners, -2000, hu)
    return {
        "as it is": (hu, ""),
        "clipped at the room's air": (hu.clip(-1000), ""),
        "padded corners": (padded, ""),
        "body cut out of the room": (np.where(hu < -920, -3024, hu), ""),
        "left out": (raw, LEFT_OUT),
        "left out, 0 to 4095": (raw.clip(0, 4095), LEFT_OUT),
        "left out, padded corners": (np.where(corners, -2000, raw), LEFT_OUT),
        "left out, one dark voxel": (np.where(np.arange(raw.size).reshape(raw.shape) == 5, -1024, raw), LEFT_OUT),
        "left out, intercept of -1000": (hu + 1000, LEFT_OUT),
        "twice": (hu - 1024, TWICE),
        "twice, padded corners": (padded - 1024, TWICE),
        "twice, intercept of -1000": (hu - 1000, TWICE),
        "twice, cut off at -1024": ((hu - 1024).clip(-1024), TWICE),
        "0 to 255": ((hu.clip(-1000, 400) + 1000) / 1400 * 255, LEFT_OUT),
        "0 to 1": ((hu.clip(-1000, 400) + 1000) / 1400, LEFT_OUT),
    }


def write(values, path):
    sitk.WriteImage(to_sitk(Scan(np.rint(values).astype(np.int16), (5, 5, 5), (0, 0, 0), np.eye(3), "a")), str(path))
    return read_scan(path)


@pytest.mark.parametrize("name", variants())
def test_what_is_no_hu_is_doubted_and_what_is_is_not(tmp_path, name):
    values, reason = variants()[name]
    doubt = doubt_hu(write(values, tmp_path / "a.mhd"))
    assert reason in doubt and bool(doubt) == bool(reason) and "\n" not in doubt


def test_much_air_or_lung_around_is_no_doubt():
    hu = np.full((60, 128, 128), AIR, np.int16)  # a small body in a wide field
    hu[:30, 40:104, 30:94] = chest()[0]
    assert doubt_hu(Scan(hu, (5, 5, 5), (0, 0, 0), np.eye(3), "a")) == ""
    lung = np.random.default_rng(0).normal(-880, 30, (20, 20, 20)).astype(np.int16)
    lung[::4, ::4] = 40
    assert doubt_hu(Scan(lung, (5, 5, 5), (0, 0, 0), np.eye(3), "a")) == ""
    lung[::4, ::4] = -880
    lung[9:12, 9:12, 9:12] = 50  # a nodule in lung alone
    assert doubt_hu(Scan(lung, (5, 5, 5), (0, 0, 0), np.eye(3), "a")) == ""


@real
def test_real_scans_are_not_doubted_until_their_intercept_is_wrong(tmp_path):
    for name in ("lidc_idri_0001/dicom", "cip_ct64/ct-64.nrrd", "totalsegmentator/thorax_ct_cropped.nii.gz", "lung_pet_ct_dx_A0002/dicom"):
        scan = read_scan(REAL / name)
        assert doubt_hu(scan) == ""
        for shift, reason in ((1024, LEFT_OUT), (-1024, TWICE)):
            assert reason in doubt_hu(write(scan.hu.astype(int) + shift, tmp_path / "a.mhd"))


def wrong_intercepts(folder, chosen=range(30)):
    """A series whose stored values are HU already, while some headers ask to subtract 1024 again."""
    scan = Scan(chest()[0].astype(np.int16), (5, 5, 5), (0, 0, 0), np.eye(3), "1.2.9")

    def edit(dataset, z):
        dataset.RescaleIntercept = -1024 if z in chosen else 0

    write_dicom(folder, edit, scan)


def test_ingest_refuses_an_intercept_applied_twice(tmp_path, out):
    wrong_intercepts(tmp_path / "data" / "twice")
    wrong_intercepts(tmp_path / "data" / "some", range(4, 7))
    for path in (tmp_path / "data" / "some").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "1.2.10"
        dataset.save_as(path)
    assert take(tmp_path / "data", "dicom", out)["taken"] == 1
    lines = report_of(out).set_index("path")
    assert lines.loc["twice", "reason"].startswith("'twice' holds hardly any tissue, ") and TWICE in lines.loc["twice", "reason"]
    assert "% of all are -1024 or less" in lines.loc["twice", "reason"]
    assert "RescaleIntercepts from -1024 to 0: look whether file '0005.dcm' is as bright" in lines.loc["some", "reason"]


def test_ingest_tells_of_a_scan_that_is_mostly_padding(tmp_path, out):
    hu = np.full((30, 96, 96), -2048, np.int16)
    hu[:, 20:84, 20:84] = chest()[0].clip(-1000)
    (tmp_path / "data").mkdir()
    write_scan(Scan(hu, (5, 5, 5), (0, 0, 0), np.eye(3), "1.2.0"), tmp_path / "data" / "1.2.0.mhd")
    (tmp_path / "data" / "annotations.csv").write_text(f"{HEADER}\n")
    take(tmp_path / "data", "luna16", out)
    assert "56% of its voxels are padding" in report_of(out)["reason"][0]
    assert padding_remark(read_scan(tmp_path / "data" / "1.2.0.mhd")) and not padding_remark(write(chest()[0], tmp_path / "b.mhd"))


@pytest.mark.parametrize("name", ["left out, padded corners", "twice"])
def test_detect_says_why_no_lungs_are_found(tmp_path, name):
    values, reason = variants()[name]
    write(values, tmp_path / "a.mhd")
    done = CliRunner().invoke(app, ["detect", str(tmp_path / "a.mhd"), "--out", str(tmp_path / "findings.csv")])
    assert done.exit_code == 1 and not (tmp_path / "findings.csv").exists()
    assert done.stderr.startswith("error: no lungs were found in scan 'a', which holds ") and reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_same_chest_in_hu_has_lungs():
    scan = Scan(chest()[0].astype(np.int16), (5, 5, 5), (0, 0, 0), np.eye(3), "a")
    assert lung_mask(scan).any() and find_lungs(scan).any()


def test_findings_in_doubtful_values_are_warned_of():
    scan = Scan((chest()[0] - 1024).clip(-1024).astype(np.int16), (5, 5, 5), (0, 0, 0), np.eye(3), "a", notes=("a note",))
    with pytest.raises(InputError, match="applied twice"):
        find_lungs(scan)
    said = scan_warnings(scan, default_weights(), np.ones(scan.hu.shape, bool))
    assert said[0] == "a note" and any(TWICE in sentence and "; findings mean nothing" in sentence for sentence in said)


@pytest.mark.parametrize("slope", [0, -1, -0.5])
def test_a_slope_that_turns_bright_into_dark_is_refused(tmp_path, slope):
    write_dicom(tmp_path / "series", lambda dataset, z: setattr(dataset, "RescaleSlope", slope))
    with pytest.raises(ScanError, match=f"'0001.dcm' has RescaleSlope {slope:g}, with which denser is not brighter"):
        read_scan(tmp_path / "series")
    write_scan(Scan(chest()[0].astype(np.int16), (5, 5, 5), (0, 0, 0), np.eye(3), "a"), tmp_path / "a.mhd")
    header = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(header.replace("DimSize", f"ElementToIntensityFunctionSlope = {slope}\nDimSize"))
    with pytest.raises(ScanError, match=f"a.mhd': has the rescale slope {slope:g}, with which denser is not brighter: store HU"):
        read_scan(tmp_path / "a.mhd")
