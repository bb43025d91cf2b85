"""What bad inputs are made from: small scans as files, series and data sets, and the list of cases that modules fill."""

import numpy as np
import pandas as pd

from lungadv.data.ingest import ingest
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.scan import Scan

CASES = {}
HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"


def case(name):
    """Register a function that makes a bad input in a folder and reads it: it raises the message, or returns that of a report."""

    def register(function):
        CASES[name] = function
        return function

    return register


def scan_of(uid="1.2.3", left=-20):
    """A small chest that begins at x = `left` mm: lung in tissue, and a nodule of 8 mm around (left + 14, -5, -292) mm."""
    hu = np.full((20, 40, 40), 40, np.int16)
    hu[:, 4:-4, 4:-4] = -850
    hu[5:9, 12:19, 11:18] = 30
    hu[0, 0, : len(uid)] = list(uid.encode())  # no two scans hold the same voxels
    return Scan(hu, (1, 1, 2), (left, -20, -306), np.eye(3), uid)


def mhd(folder, header=lambda text: text, data=lambda content: content):
    """A scan file whose header and voxels were changed, and read."""
    path = folder / "scan.mhd"
    write_scan(scan_of("scan"), path)
    path.write_text(header(path.read_text()))
    path.with_suffix(".zraw").write_bytes(data(path.with_suffix(".zraw").read_bytes()))
    return read_scan(path)


def nhdr(folder, data):
    """A detached NRRD header that names `data`, read."""
    lines = ["NRRD0004", "type: short", "dimension: 3", "space: lps", "sizes: 40 40 20", "endian: little", "encoding: raw"]
    lines += ["space directions: (1,0,0) (0,1,0) (0,0,2)", "space origin: (0,0,0)", f"data file: {data}", "", ""]
    (folder / "scan.nhdr").write_text("\n".join(lines))
    read_scan(folder / "scan.nhdr")


def series(folder, change=lambda slices: None):
    """A DICOM series whose slices {file: pydicom dataset} were changed, and read."""
    import pydicom

    write_series(scan_of(), folder / "series")
    slices = {path: pydicom.dcmread(path) for path in sorted((folder / "series").iterdir())}
    change(slices)
    for path, dataset in slices.items():
        dataset.save_as(path)
    return read_scan(folder / "series")


def every(**values):
    """A change of attributes of all slices."""
    return lambda slices: [setattr(dataset, name, value) for dataset in slices.values() for name, value in values.items()]


def luna16(folder, *rows, header=HEADER, left=-20):
    """Four scans in LUNA16's layout with these rows of annotations.csv, ingested -> the first refusal of the report."""
    for k in range(4):
        (folder / f"data/subset{k}").mkdir(parents=True, exist_ok=True)
        write_scan(scan_of(f"1.2.{k}", left), folder / f"data/subset{k}/1.2.{k}.mhd")
    (folder / "data/annotations.csv").write_text("\n".join([header, *rows, ""]))
    return ingested(folder, "luna16")


def ingested(folder, kind):
    out = folder / "made/manifest.csv"
    ingest(folder / "data", kind, out, workers=1)
    lines = pd.read_csv(out.with_suffix(".report.csv"), dtype=str, keep_default_na=False)
    return lines[lines["status"] != "taken"].iloc[0][["path", "reason"]].str.cat(sep=": ")


def reported(folder, kind, **terms):
    """What ingest says besides its counts, one sentence after the other: notes of scans that were taken, and what was left out."""
    out = folder / "made/manifest.csv"
    report = ingest(folder / "data", kind, out, workers=1, **terms)
    notes = pd.read_csv(out.with_suffix(".report.csv"), dtype=str, keep_default_na=False)["reason"]
    return f"{report['taken']} taken: " + "; ".join(filter(None, [*notes, *report["left_out"]]))


def rows(change=lambda x, y, z: (x, y, z), left=-20):
    """A nodule in each of the four scans, its coordinates changed."""
    return [f"1.2.{k},{','.join(map(str, change(left + 14, -5, -292)))},8" for k in range(4)]
