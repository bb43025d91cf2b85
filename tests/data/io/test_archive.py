"""Scans in a .zip."""

import shutil
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
import SimpleITK as sitk

from lungadv.data.io.read import read_header, read_scan
from lungadv.data.scan import ScanError
from tests.data.io.made_files import write_nifti
from tests.data.made_scans import to_sitk, write_dicom


def test_a_zip_of_any_kind(tmp_path, monkeypatch):
    scan = write_dicom(tmp_path / "deep" / "series")
    for kind in (".mhd", ".mha", ".nhdr", ".nii.gz"):
        (tmp_path / kind).mkdir()
        sitk.WriteImage(to_sitk(scan), str(tmp_path / kind / f"a{kind}"))
    temporary = tmp_path / "temporary"  # the system's own is everybody's
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for folder, uid in ((".mhd", "a"), (".mha", "a"), (".nhdr", "a"), (".nii.gz", "a"), ("deep", scan.uid)):
        path = Path(shutil.make_archive(str(tmp_path / f"z{folder}"), "zip", tmp_path / folder))
        again, header = read_scan(path), read_header(path)
        assert (again.hu == scan.hu).all() and again.uid == uid and header.spacing == again.spacing
    assert not list(temporary.iterdir())  # nothing is left behind
    temporary.rmdir()
    monkeypatch.undo()
    path = Path(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path, "."))
    with pytest.raises(ScanError, match="scans, such as"):
        read_scan(path)


def test_members_named_as_windows_does_are_read(tmp_path):
    scan = write_dicom(tmp_path / "series")
    (tmp_path / "mhd").mkdir()
    sitk.WriteImage(to_sitk(scan), str(tmp_path / "mhd" / "a.mhd"))
    for folder, first, uid in (("series", "study\\ct 1", scan.uid), ("mhd", "study", "a"), ("series", "12:30 h/ct", scan.uid)):
        with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("study\\", b"")  # a folder
            for path in (tmp_path / folder).iterdir():
                archive.writestr(f"{first}\\{path.name}", path.read_bytes())
        again = read_scan(tmp_path / "scan.zip")
        assert (again.hu == scan.hu).all() and again.uid == uid


def test_bad_zips_get_one_clear_line(tmp_path):
    inside = write_nifti(tmp_path / "a.nii").read_bytes()
    link = zipfile.ZipInfo("link.raw")
    link.external_attr = 0o120777 << 16
    for name, members, reason in (
        ("up", {"../a.nii": inside}, "would leave"),
        ("deep", {"b/../../a.nii": inside}, "would leave"),
        ("root", {"/a.nii": inside}, "would leave"),
        ("drive", {"C:/a.nii": inside}, "would leave"),
        ("back", {"..\\a.nii": inside}, "would leave"),
        ("back deep", {"b\\..\\..\\a.nii": inside}, "would leave"),
        ("back root", {"\\a.nii": inside}, "would leave"),
        ("back share", {"\\\\host\\share\\a.nii": inside}, "would leave"),
        ("back drive", {"C:\\a.nii": inside}, "would leave"),
        ("drive here", {"c:a.nii": inside}, "would leave"),
        ("down", {"b/../a.nii": inside}, "'b/../a.nii', whose name goes up and down: zip"),
        ("back twice", {"b\\a.nii": inside, "b/a.nii": inside}, "one name"),
        ("both", {"b": b"", "b\\a.nii": inside}, "no folder can hold together"),
        ("long", {"b" * 300 + ".nii": inside}, "no folder can hold together"),
        ("link", {link: "/etc/passwd"}, "is a link"),
        ("nothing", {}, "no DICOM series"),
        ("bad", {"a.nii": inside[:-3]}, "a.nii.*too few"),
        ("case", {"a.nii": inside, "A.nii": inside}, "one name"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        with pytest.raises(ScanError, match=reason) as error:
            read_scan(tmp_path / f"{name}.zip")
        assert f"{name}.zip" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path.parent / "a.nii").exists()
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", inside)
        archive.writestr("b.nii", inside)
    content = (tmp_path / "bomb.zip").read_bytes()
    (tmp_path / "bomb.zip").write_bytes(content.replace(struct.pack("<I", len(inside)), struct.pack("<I", 0xFFFFFFF0)))
    with pytest.raises(ScanError, match="bomb.zip.*unpacks to more"):
        read_scan(tmp_path / "bomb.zip")
    (tmp_path / "cut.zip").write_bytes(content[:100])
    with pytest.raises(ScanError, match="cannot be unpacked"):
        read_scan(tmp_path / "cut.zip")
