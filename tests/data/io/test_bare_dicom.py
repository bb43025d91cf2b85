"""DICOM slices without preamble and meta header, as old archives and network dumps hold them."""

import io

import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from lungadv.data.io.dicom_slice import begins_as_dicom
from lungadv.data.io.read import read_header, read_scan
from lungadv.data.scan import ScanError
from tests.data.ingest.folders import dicom, report_of, scan_of, take
from tests.data.made_scans import write_dicom

SYNTAXES = {"implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian, "big endian": ExplicitVRBigEndian}


def strip(folder, syntax=ImplicitVRLittleEndian, meta=False, suffix=".dcm"):
    """Write each slice of a folder in a transfer syntax, without its preamble and, unless `meta`, its meta header."""
    for path in sorted(folder.iterdir()):
        dataset, written = pydicom.dcmread(path), io.BytesIO()
        if syntax == RLELossless:
            dataset.compress(syntax)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(written, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        content = written.getvalue()[132:]
        path.unlink()
        path.with_suffix(suffix).write_bytes(content if meta else content[int.from_bytes(content[8:12], "little") + 12 :])


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("meta", [False, True], ids=["bare", "meta header"])
@pytest.mark.parametrize("suffix", [".dcm", ""], ids=["dcm", "no suffix"])
def test_slices_without_preamble_are_read(tmp_path, syntax, meta, suffix):
    scan = write_dicom(tmp_path / "series")
    strip(tmp_path / "series", syntax, meta, suffix)
    again, header = read_scan(tmp_path / "series"), read_header(tmp_path / "series")
    assert (again.hu == scan.hu).all() and header.spacing == again.spacing and again.uid == scan.uid


def test_a_preamble_whose_meta_header_names_no_syntax_is_read(tmp_path):
    scan = write_dicom(tmp_path / "series")
    for path in (tmp_path / "series").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta.TransferSyntaxUID
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert (read_scan(tmp_path / "series").hu == scan.hu).all()


@pytest.mark.parametrize("suffix", [".dcm", ""], ids=["dcm", "no suffix"])
def test_ingest_finds_them_by_how_they_begin(tmp_path, out, suffix):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    strip(src / "P1" / "1.2.1", suffix=suffix)
    assert take(src, "dicom", out)["taken"] == 1
    assert (read_scan(src).hu == scan_of("1.2.1").hu).all()


def test_compressed_pixels_without_a_syntax_are_refused_with_the_remedy(tmp_path, out):
    src = dicom(tmp_path / "tcia", [("P1", "1.2.1")])
    strip(src / "P1" / "1.2.1", RLELossless)
    with pytest.raises(ScanError, match="'0001.dcm' has compressed pixels but no meta header .*: add the meta header with its Transfer"):
        read_scan(src)
    dicom(src, [("P2", "1.2.2")], first=1)
    assert take(src, "dicom", out)["taken"] == 1
    assert "no meta header that says how: add the meta header" in report_of(out)["reason"][0]


def test_bare_files_that_are_damaged_or_no_slices_get_one_line(tmp_path):
    for name, change, reason in (
        ("cut", lambda content: content[:200], "is a CT slice whose header ends too early"),
        ("short", lambda content: content[:-50], "bytes of pixels"),
        ("moved", lambda content: b"DICM" + content, "its mark DICM is at byte 0 and not at 128, though its name may be"),
        ("noise", lambda content: b"\x08\0\x05\0" + bytes(range(256)) * 3, "'0003.dcm' (is no DICOM file|cannot be read|has no)"),
        ("zeros", lambda content: b"\x08\0\x05\0" + bytes(2000), "'0003.dcm' is no DICOM file"),
        ("deflated", lambda content: b"\2\0\0\0UL\4\0\0\0\0\0\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99" + bytes(300), "is deflated"),
    ):
        write_dicom(tmp_path / name)
        strip(tmp_path / name)
        path = tmp_path / name / "0003.dcm"
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ScanError, match=reason) as error:
            read_scan(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_what_begins_otherwise_is_no_dicom():
    assert begins_as_dicom(bytes(128) + b"DICM")
    for start in (b"", b"\x08\0\x05\0CS", b"\x08\0\x05\0" + b"\xff" * 200):
        assert not begins_as_dicom(start)
    for start in (b"\0", b"text ", b"\x1f\x8b\x08\0", b"PK\3\4"):
        assert not begins_as_dicom(start * 132)
