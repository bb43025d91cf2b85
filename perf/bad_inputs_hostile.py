"""Files made to do harm: refused in one line, or read for what they are; nothing in them is executed, nothing is written elsewhere."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pandas as pd
from bad_input_files import HEADER, case, every, ingested, luna16, mhd, nhdr, rows, scan_of, series

from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.lidc_xml import read_lidc
from lungadv.detection.report import write_findings


@case("zip bomb: more than a scan can be")
def _(folder):
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.raw", b"0")
        archive.writestr("a.mhd", b"0")
    first, *entries = (folder / "scan.zip").read_bytes().split(b"PK\x01\x02")
    entries = [entry[:20] + struct.pack("<I", 2**32 - 2) + entry[24:] for entry in entries]  # the unpacked size that is promised
    (folder / "scan.zip").write_bytes(b"PK\x01\x02".join([first, *entries]))
    read_scan(folder / "scan.zip")


@case("zip with a link")
def _(folder):
    link = zipfile.ZipInfo("scan.raw")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    read_scan(folder / "scan.zip")


@case("packed voxels that unpack without end")
def _(folder):
    import zlib

    mhd(folder, data=lambda content: zlib.compress(bytes(10**8)))


@case("XML with an external entity")
def _(folder):
    (folder / "reading.xml").write_text('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><LidcReadMessage>&x;</LidcReadMessage>')
    read_lidc(folder / "reading.xml")


@case("XML nested without end")
def _(folder):
    (folder / "reading.xml").write_text("<a>" * 10**6)
    read_lidc(folder / "reading.xml")


def with_link(make):
    """A series beside one of whose slices `make` puts a link."""

    def read(folder):
        write_series(scan_of(), folder / "series")
        make(folder / "series/0007.dcm", folder / "series/link.dcm")
        read_scan(folder / "series")

    return read


@case("symbolic link to a slice among slices")
def _(folder):
    with_link(lambda slice_, link: link.symlink_to(slice_))(folder)


@case("hard link to a slice among slices")
def _(folder):
    with_link(lambda slice_, link: os.link(slice_, link))(folder)


@case("symbolic link to itself among slices")
def _(folder):
    with_link(lambda slice_, link: link.symlink_to(link))(folder)


@case("symbolic link to a device among slices")
def _(folder):
    write_series(scan_of(), folder / "series")
    (folder / "series/0007.dcm").unlink()
    (folder / "series/0007.dcm").symlink_to("/dev/zero")
    read_scan(folder / "series")


@case(".mhd naming an absolute path")
def _(folder):
    mhd(folder, header=lambda text: text.replace("scan.zraw", "/etc/passwd"))


@case(".mhd naming a link to a file outside its folder")
def _(folder):
    (folder / "link.zraw").symlink_to("/etc/passwd")
    mhd(folder, header=lambda text: text.replace("scan.zraw", "link.zraw"))


@case(".nhdr naming an absolute path")
def _(folder):
    nhdr(folder, "/etc/passwd")


@case(".nhdr naming a file above its folder")
def _(folder):
    nhdr(folder, "../scan.raw")


@case("safetensors whose header has 2 GB")
def _(folder):
    from lungadv.detection.weights import load_detector, shipped_folder

    for path in shipped_folder().rglob("*.*"):
        target = folder / path.relative_to(shipped_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    weights = next((folder / "fpr").rglob("weights.safetensors"))
    weights.write_bytes(struct.pack("<Q", 2**31) + weights.read_bytes()[8:])
    load_detector(folder)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@case("npz with pickled arrays")
def _(folder):
    from lungadv.evaluation.stress_io import load_patches

    np.savez(folder / "patches.npz", positives=np.array([Touch(folder / "executed")], dtype=object), negatives=np.zeros(3))
    try:
        load_patches(folder / "patches.npz")
    finally:
        assert not (folder / "executed").exists()


@case("pickle named .npz")
def _(folder):
    from lungadv.evaluation.stress_io import load_patches

    (folder / "patches.npz").write_bytes(pickle.dumps(Touch(folder / "executed")))
    try:
        load_patches(folder / "patches.npz")
    finally:
        assert not (folder / "executed").exists()


@case("scan named as a formula, its findings")
def _(folder):
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "uncertainty", "diameter_mm"]
    write_findings(pd.DataFrame([["=cmd|' /C calc'!A0", 1, 2, 3, 0.9, 0.1, 8]], columns=columns), folder / "findings.csv")
    return (folder / "findings.csv").read_text().splitlines()[1]


@case("scan named as a formula, ingested")
def _(folder):
    (folder / "data").mkdir()
    write_scan(scan_of("0"), folder / "data/=1+1.mhd")
    return luna16(folder, *rows())


@case("patient named as a formula, ingested")
def _(folder):
    import pydicom

    write_series(scan_of(), folder / "data/series")
    for path in (folder / "data/series").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "@SUM(A1)"
        dataset.save_as(path)
    (folder / "data/series/notes.dcm").write_text("text\n")
    ingested(folder, "dicom")
    return pd.read_csv(folder / "made/manifest.csv", dtype=str)["patient"][0]


@case("scan whose name has a line break")
def _(folder):
    write_scan(scan_of(), folder / "scan.mhd")
    (folder / "scan.mhd").rename(folder / "a\nb.mhd")
    read_scan(folder / "a\nb.mhd")


@case("SeriesInstanceUID with a slash")
def _(folder):
    series(folder, every(SeriesInstanceUID="1.2/3"))


@case("SeriesInstanceUID with a line break")
def _(folder):
    series(folder, every(SeriesInstanceUID="1.2\n3"))


@case("seriesuid with a line break in a table")
def _(folder):
    return luna16(folder, *rows(), '"7\n7",-6,-5,-292,8', header=HEADER)
