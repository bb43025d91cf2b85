"""MetaImage headers against SimpleITK, and bad ones: each case is what a check of lungadv.data.io is needed for."""

import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from lungadv.data.io.read import files_of, read_header, read_scan
from lungadv.data.io.write import write_scan
from lungadv.data.scan import ScanError
from tests.data.io.made_files import VOXELS, assert_read_as_by_itk, assert_refused, write_mhd
from tests.data.made_scans import DIRECTIONS, noise_scan


def test_headers_written_by_hand_are_read_as_by_itk(tmp_path):
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "big.raw").write_bytes(VOXELS.astype(">i2").tobytes())
    (tmp_path / "late.raw").write_bytes(b"start" + VOXELS.tobytes())
    for z, plane in enumerate(VOXELS):
        (tmp_path / f"{z}.raw").write_bytes(plane.tobytes())
    for k, changes in enumerate((
        {}, {"BinaryDataByteOrderMSB": "True", "ElementDataFile": "big.raw"}, {"HeaderSize": "5", "ElementDataFile": "late.raw"},
        {"HeaderSize": "-1", "ElementDataFile": "late.raw"}, {"ElementDataFile": "LIST\n0.raw\n1.raw\n2.raw\n3.raw"},
        {"Offset": None, "Position": "1 2 3", "Comment": "any"},
    )):  # fmt: skip
        assert (assert_read_as_by_itk(write_mhd(tmp_path / f"{k}.mhd", **({"HeaderSize": None} | changes))).hu == VOXELS).all()


def test_a_suffix_in_capitals_and_the_files_of_a_scan(tmp_path):
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    assert (read_scan(write_mhd(tmp_path / "A.MHD")).hu == VOXELS).all()
    assert files_of(tmp_path / "A.MHD") == [tmp_path / "A.MHD", tmp_path / "a.raw"]


def test_a_header_scales_its_values(tmp_path):
    (tmp_path / "a.raw").write_bytes((VOXELS // 4).tobytes())
    path = write_mhd(tmp_path / "scaled.mhd", ElementToIntensityFunctionSlope="2", ElementToIntensityFunctionOffset="-24")
    assert (read_scan(path).hu == VOXELS // 4 * 2 - 24).all()


def test_a_header_has_the_scans_geometry(tmp_path):
    scan = noise_scan(DIRECTIONS["oblique"])
    write_scan(scan, tmp_path / "a.mhd")
    header = read_header(tmp_path / "a.mhd")
    assert header.hu.shape == scan.hu.shape and np.allclose(header.to_world([[3, 4, 5]]), scan.to_world([[3, 4, 5]]))
    (tmp_path / "a.zraw").unlink()
    with pytest.raises(ScanError, match="not beside it"):
        read_header(tmp_path / "a.mhd")


HEADERS = {  # file: what its error must say, and the fields that are changed
    "raw_short.mhd": ("too few", {"ElementDataFile": "less.raw"}),
    "raw_long.mhd": ("too many", {"ElementDataFile": "more.raw"}),
    "z_less.mhd": ("cut short", {"CompressedData": "True", "ElementDataFile": "less.zraw"}),
    "z_more.mhd": ("more voxels", {"CompressedData": "True", "ElementDataFile": "more.zraw"}),
    "z_half.mhd": ("cannot be unpacked", {"CompressedData": "True", "ElementDataFile": "half.zraw"}),
    "z_says.mhd": ("too few", {"CompressedData": "True", "CompressedDataSize": "9999", "ElementDataFile": "less.zraw"}),
    "z_promises.mhd": ("too few", {"DimSize": "1000 1000 1000", "CompressedData": "True", "ElementDataFile": "less.zraw"}),
    "absolute.mhd": ("by its whole path", {"ElementDataFile": "{folder}/a.raw"}),
    "in/up.mhd": ("outside its folder", {"ElementDataFile": "../a.raw"}),
    "in/linked.mhd": ("outside its folder", {"ElementDataFile": "link.raw"}),
    "in/circle.mhd": ("data file", {"ElementDataFile": "circle.raw"}),
    "in/back.mhd": ("outside its folder", {"ElementDataFile": "..\\a.raw"}),
    "in/lost.mhd": ("not beside it", {"ElementDataFile": "D:\\scans\\a.raw"}),
    "in/listed.mhd": ("outside its folder", {"ElementDataFile": "LIST\n../a.raw\n../a.raw"}),
    "list_short.mhd": ("too many", {"ElementDataFile": "LIST\na.raw\na.raw"}),
    "list_odd.mhd": ("lists 3 files", {"ElementDataFile": "LIST\na.raw\na.raw\na.raw"}),
    "huge.mhd": ("more than this reads", {"DimSize": "10000 10000 10000"}),
    "promises.mhd": ("too few", {"DimSize": "1000 1000 1000"}),
    "doubles.mhd": ("store it as int16", {"DimSize": "1000 1000 1000", "ElementType": "MET_DOUBLE"}),
    "negative.mhd": ("at least two slices", {"DimSize": "6 5 -4"}),
    "words.mhd": ("DimSize", {"DimSize": "6 5 four"}),
    "flat.mhd": ("2-dimensional", {"NDims": "2"}),
    "many.mhd": ("4096-dimensional", {"NDims": "4096", "DimSize": "2 " * 400}),
    "no_direction.mhd": ("TransformMatrix = 1 0 0", {"TransformMatrix": None}),
    "no_offset.mhd": ("no field 'Offset'", {"Offset": None}),
    "no_spacing.mhd": ("no field 'ElementSpacing'", {"ElementSpacing": None}),
    "zero_spacing.mhd": ("spacing", {"ElementSpacing": "0.7 0.8 0"}),
    "thick.mhd": ("spacing", {"ElementSpacing": "1 1 700"}),
    "singular.mhd": ("perpendicular", {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}),
    "infinite.mhd": ("Offset", {"Offset": "1 2 inf"}),
    "colour.mhd": ("3 values a voxel", {"ElementNumberOfChannels": "3"}),
    "type.mhd": ("MET_FLUFF", {"ElementType": "MET_FLUFF"}),
    "ascii.mhd": ("as text", {"BinaryData": "False"}),
    "twice.mhd": ("two lines 'DimSize'", {"DimSize": "6 5 4\nDimSize = 6 5 3"}),
    "endless.mhd": ("a line of", {"Comment": "9" * 5000}),
    "skip.mhd": ("skips -2 bytes", {"HeaderSize": "-2"}),
}  # fmt: skip


def write_data(folder):
    """The files of voxels that the headers name."""
    size, content = VOXELS.nbytes, VOXELS.tobytes()
    for name, length in (("a", size), ("less", size - 1), ("more", size + 1)):
        (folder / f"{name}.raw").write_bytes(content.ljust(length)[:length])
    packed = zlib.compress(content)
    (folder / "less.zraw").write_bytes(zlib.compress(content[:-2]))
    (folder / "more.zraw").write_bytes(zlib.compress(content + b"xx"))
    (folder / "half.zraw").write_bytes(packed[: len(packed) // 2])
    (folder / "outside").mkdir()
    (folder / "outside" / "a.raw").write_bytes(content)
    (folder / "in").mkdir()
    (folder / "in" / "link.raw").symlink_to(folder / "outside" / "a.raw")
    (folder / "in" / "circle.raw").symlink_to(folder / "in" / "circle.raw")


def test_a_data_file_below_named_as_windows_does_is_read(tmp_path):
    write_data(tmp_path)
    scan = read_scan(write_mhd(tmp_path / "a.mhd", ElementDataFile="outside\\a.raw"))
    assert (scan.hu == VOXELS).all()
    (tmp_path / "outside\\a.raw").write_bytes(bytes(VOXELS.nbytes))  # where names may hold it, the file of that very name
    assert not read_scan(tmp_path / "a.mhd").hu.any()


def write_case(folder, name):
    write_data(folder)
    return write_mhd(folder / name, **{key: value and value.format(folder=folder) for key, value in HEADERS[name][1].items()})


@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_header_gets_one_clear_line(tmp_path, capfd, name):
    assert_refused(write_case(tmp_path, name), HEADERS[name][0])
    assert capfd.readouterr() == ("", "")  # SimpleITK prints nothing of its own


@pytest.mark.parametrize("name", ["raw_short.mhd", "raw_long.mhd", "z_promises.mhd"])
def test_a_data_file_of_another_length_is_named_from_the_header_alone(tmp_path, name):
    with pytest.raises(ScanError, match="too few|too many"):
        read_header(write_case(tmp_path, name))


def test_a_bad_data_file_gets_one_clear_line(tmp_path):
    for name in ("short", "lost", "damaged"):
        write_scan(noise_scan(), tmp_path / f"{name}.mhd")
    content = (tmp_path / "short.zraw").read_bytes()
    (tmp_path / "short.zraw").write_bytes(content[:2000])
    (tmp_path / "damaged.zraw").write_bytes(content[:5000] + bytes(100) + content[5100:])
    (tmp_path / "lost.zraw").unlink()
    for name, reason in (("short", "cut short"), ("lost", "not beside it"), ("damaged", "cannot be unpacked"), ("missing", "not exist")):
        assert_refused(tmp_path / f"{name}.mhd", reason)
    with pytest.raises(ScanError, match="too few"):
        read_header(tmp_path / "short.mhd")


@pytest.mark.parametrize("shape, vector, reason", [((4, 5, 6, 3), True, "3 values"), ((2, 4, 5, 6), False, "4-dimensional")])
def test_colour_and_time_are_refused(tmp_path, shape, vector, reason):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(shape, np.int16), isVector=vector), str(tmp_path / "a.mha"))
    assert_refused(tmp_path / "a.mha", reason)


@pytest.mark.parametrize("kind", ["mhd", "mha"])
def test_another_file_is_no_metaimage(tmp_path, kind):
    (tmp_path / f"text.{kind}").write_text("hello\n")
    assert_refused(tmp_path / f"text.{kind}", "ElementDataFile")


@pytest.mark.parametrize("size", [";", "-", "1e999"])
def test_what_itk_prints_of_a_damaged_header_is_not_seen(tmp_path, capfd, size):
    """ITK writes lines of its own on stderr, past Python: the one line is the error's."""
    write_mhd(tmp_path / "a.mha", ElementDataFile="LOCAL", CompressedData="True", CompressedDataSize=size)
    with open(tmp_path / "a.mha", "ab") as file:
        file.write(zlib.compress(VOXELS.tobytes()))
    with pytest.raises(ScanError, match="a.mha") as error:
        read_scan(tmp_path / "a.mha")
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")
