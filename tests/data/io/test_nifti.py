"""NIfTI headers against SimpleITK, and bad ones: each case is what a check of lungadv.data.io is needed for."""

import gzip

import numpy as np
import pytest

from lungadv.data.io.read import read_header, read_scan
from lungadv.data.scan import ScanError
from tests.data.io.made_files import VOXELS, assert_read_as_by_itk, assert_refused, write_nifti


@pytest.mark.parametrize("fields", [
    {"no sform": ("h", 254, 0)}, {"no qform": ("h", 252, 0)}, {"slope": ("2f", 112, 2.0, -24.0)}, {"unscaled": ("2f", 112, 0.0, 0.0)},
    {"one time": ("8h", 40, 4, 6, 5, 4, 1, 1, 1, 1)},
], ids=str)  # fmt: skip
def test_nifti_headers_are_read_as_by_itk(tmp_path, fields):
    path = write_nifti(tmp_path / "a.nii", VOXELS // 4, **fields)
    if "one time" in fields:
        assert (read_scan(path).hu == VOXELS // 4).all()
    else:
        assert_read_as_by_itk(path)


def test_a_gzip_of_several_members_is_one_file(tmp_path):
    content = write_nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + b"\0" * 100)
    assert (read_scan(tmp_path / "a.nii.gz").hu == VOXELS).all()


HEADERS = {  # file: what its error must say, and the fields that are changed: (format, byte, values)
    "no_position": ("qform and sform code 0", {"codes": ("2h", 252, 0, 0)}),
    "moved": ("more than 0.5 mm apart", {"qoffset": ("f", 268, 9.0)}),
    "metres": ("other units than mm", {"units": ("B", 123, 1)}),
    "singular": ("perpendicular", {"q": ("h", 252, 0), "srow": ("8f", 280, *[1, 0, 0, 0] * 2)}),
    "nan": ("not finite", {"q": ("h", 252, 0), "srow": ("f", 280, np.nan)}),
    "slope": ("readers take differently", {"slope": ("f", 112, np.inf)}),
    "no_slope": ("readers take differently", {"slope": ("2f", 112, 0.0, -1024.0)}),
    "huge": ("more than this reads", {"size": ("3h", 42, 10000, 10000, 10000)}),
    "promises": ("too few", {"size": ("3h", 42, 1000, 1000, 500)}),
    "long": ("too many", {"size": ("h", 46, 3)}),
    "offset": ("begin at byte", {"offset": ("f", 108, 0.0)}),
    "rgb": ("type '128'", {"type": ("h", 70, 128)}),
    "time": ("4-dimensional", {"size": ("8h", 40, 4, 6, 5, 2, 2, 1, 1, 1)}),
    "pair": ("NIfTI-1", {"magic": ("4s", 344, b"ni1")}),
}


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_header_gets_one_clear_line(tmp_path, capfd, name, packed):
    reason, fields = HEADERS[name]
    path = write_nifti(tmp_path / f"{name}.nii", **fields)
    if packed:
        path = tmp_path / f"{name}_packed.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / f"{name}.nii").read_bytes()))
        reason = "more voxels" if name == "long" else reason
    assert_refused(path, reason)
    assert capfd.readouterr() == ("", "")  # SimpleITK prints nothing of its own


def test_a_length_that_does_not_fit_is_named_from_the_header_alone(tmp_path):
    with pytest.raises(ScanError, match="too few"):
        read_header(write_nifti(tmp_path / "promises.nii", **HEADERS["promises"][1]))


def test_a_packed_file_that_is_cut_or_damaged_is_refused(tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 1500, (80, 100, 100), dtype=np.int16)
    content = write_nifti(tmp_path / "a.nii", voxels).read_bytes()
    packed = gzip.compress(content)
    late = len(packed) - 5000
    for name, data in (
        ("less", gzip.compress(content[:-2])), ("half", packed[:late]), ("damaged", packed[:late] + bytes(20) + packed[late + 20 :]),
    ):  # fmt: skip
        (tmp_path / f"{name}.nii.gz").write_bytes(data)
        assert_refused(tmp_path / f"{name}.nii.gz", "cut short")


@pytest.mark.parametrize("kind", ["nii", "nii.gz"])
def test_another_file_is_no_nifti(tmp_path, kind):
    (tmp_path / f"text.{kind}").write_text("hello\n")
    assert_refused(tmp_path / f"text.{kind}", "NIfTI-1")
