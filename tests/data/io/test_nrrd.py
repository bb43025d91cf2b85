"""NRRD headers against SimpleITK, and bad ones: each case is what a check of lungadv.data.io is needed for."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from lungadv.data.io.read import read_header
from lungadv.data.scan import ScanError
from tests.data.io.made_files import VOXELS, assert_read_as_by_itk, assert_refused, write_nrrd


def write_data(folder):
    """The files of voxels that the headers name."""
    size, content = VOXELS.nbytes, VOXELS.tobytes()
    for name, length in (("a", size), ("less", size - 1), ("more", size + 1)):
        (folder / f"{name}.raw").write_bytes(content.ljust(length)[:length])
    (folder / "big.raw").write_bytes(VOXELS.astype(">i2").tobytes())
    (folder / "late.raw").write_bytes(b"start" + content)
    (folder / "a.raw.gz").write_bytes(gzip.compress(content))
    (folder / "more.raw.gz").write_bytes(gzip.compress(content + b"xx"))
    (folder / "line.raw").write_bytes(b"one line\n" + content)


@pytest.mark.parametrize("changes", [
    {}, {"space": "RAS"}, {"space": "left-anterior-superior"}, {"endian": "big", "data_file": "big.raw"},
    {"byte_skip": "5", "data_file": "late.raw"}, {"byte_skip": "-1", "data_file": "late.raw"},
    {"encoding": "gzip", "data_file": "a.raw.gz"},
], ids=str)  # fmt: skip
def test_headers_written_by_hand_are_read_as_by_itk(tmp_path, changes):
    write_data(tmp_path)
    assert (assert_read_as_by_itk(write_nrrd(tmp_path / "a.nhdr", **changes)).hu == VOXELS).all()


HEADERS = {  # file: what its error must say, and the fields that are changed
    "nrrd_up.nhdr": ("outside its folder", {"data_file": "../a.raw"}),
    "nrrd_short.nhdr": ("too few", {"data_file": "less.raw"}),
    "nrrd_long.nhdr": ("too many", {"data_file": "more.raw"}),
    "nrrd_more.nhdr": ("more voxels", {"encoding": "gzip", "data_file": "more.raw.gz"}),
    "nrrd_space.nhdr": ("space: left-posterior", {"space": None}),
    "nrrd_scanner.nhdr": ("where left is", {"space": "scanner-xyz"}),
    "nrrd_metres.nhdr": ("store it in mm", {"space_units": '"m" "m" "m"'}),
    "nrrd_axes.nhdr": ("space directions", {"space_directions": None}),
    "nrrd_origin.nhdr": ("space origin", {"space_origin": None}),
    "nrrd_singular.nhdr": ("perpendicular", {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}),
    "nrrd_zero.nhdr": ("spacing", {"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}),
    "nrrd_text.nhdr": ("encoding", {"encoding": "ascii"}),
    "nrrd_lines.nhdr": ("skips lines", {"line_skip": "1", "data_file": "line.raw"}),
    "nrrd_huge.nhdr": ("more than this reads", {"sizes": "10000 10000 10000"}),
    "nrrd_skip.nhdr": ("skips", {"byte_skip": "-2"}),
    "nrrd_twice.nhdr": ("two lines 'type'", {"type": "short\ntype: uchar"}),
    "no_voxels.nrrd": ("too few", {"data_file": None}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_header_gets_one_clear_line(tmp_path, capfd, name):
    write_data(tmp_path)
    reason, changes = HEADERS[name]
    assert_refused(write_nrrd(tmp_path / name, **changes), reason)
    assert capfd.readouterr() == ("", "")  # SimpleITK prints nothing of its own


def test_a_file_without_voxels_is_named_from_the_header_alone(tmp_path):
    with pytest.raises(ScanError, match="too few"):
        read_header(write_nrrd(tmp_path / "no_voxels.nrrd", data_file=None))


def test_values_that_are_no_hu_are_refused(tmp_path):
    array = np.zeros((4, 5, 6), np.float32)
    array[2, 2, 2] = np.nan
    for name, reason, voxels, vector in (
        ("nan", "not finite", array, False),
        ("large", "no HU", np.full((4, 5, 6), 70_000, np.int32), False),
        ("long", "none of CT values", np.zeros((4, 5, 6), np.int64), False),
        ("flat", "2-dimensional", np.zeros((5, 6), np.int16), False),
        ("rgb", "4-dimensional (vector", np.zeros((4, 5, 6, 3), np.int16), True),
    ):
        sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=vector), str(tmp_path / f"{name}.nrrd"))
        assert_refused(tmp_path / f"{name}.nrrd", reason)


def test_another_file_is_no_nrrd(tmp_path):
    (tmp_path / "text.nrrd").write_text("hello\n")
    assert_refused(tmp_path / "text.nrrd", "no NRRD")
