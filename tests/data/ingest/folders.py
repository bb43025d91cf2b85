"""Folders of data sets to ingest, made by hand."""

import numpy as np
import pandas as pd

from lungadv.data.ingest import ingest
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.scan import Scan

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"


SHAPE, SPACING, ORIGIN = (20, 30, 30), (1.0, 1.0, 2.0), (-20.0, -25.0, -300.0)


def scan_of(uid, number=0):
    hu = np.random.default_rng(number).integers(-1000, 200, SHAPE, dtype=np.int16)
    return Scan(hu, SPACING, ORIGIN, np.eye(3), uid)


def luna16(root, scans=10, table=None):
    """A folder in LUNA16's layout: scan k in subset k, a nodule of 8 mm in each."""
    rows = []
    for k in range(scans):
        folder = root / f"subset{k % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        write_scan(scan_of(f"1.2.{k}", k), folder / f"1.2.{k}.mhd")
        rows.append(f"1.2.{k},{-10 + k % 10},-12,-280,8")
    (root / "annotations.csv").write_text("\n".join([HEADER, *rows, ""]) if table is None else table)
    return root


def dicom(root, people, first=0):
    """DICOM folders <patient>/<uid> of (patient, uid), whose voxels are numbered from `first`."""
    import pydicom

    for k, (patient, uid) in enumerate(people, start=first):
        folder = root / patient / uid
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_series(scan_of(uid, k), folder)
        for path in folder.iterdir():
            header = pydicom.dcmread(path)
            header.PatientID, header.ConvolutionKernel, header.KVP, header.Exposure = patient, "B40f", "120", "45"
            header.save_as(path)
    return root


def linked(root, folder, table):
    """A folder of links to what lies in another one, with an annotations.csv of its own."""
    root.mkdir()
    for path in folder.iterdir():
        (root / path.name).symlink_to(path)
    (root / "annotations.csv").unlink(missing_ok=True)
    table.to_csv(root / "annotations.csv", index=False)
    return root


def take(src, kind, out, nodules=None):
    return ingest(src, kind, out, nodules, workers=1)


def report_of(out):
    return pd.read_csv(out.with_suffix(".report.csv"), dtype=str, keep_default_na=False)


BOX = [(x, 8) for x in range(5, 15)] + [(15, y) for y in range(8, 18)]


BOX += [(x, 18) for x in range(15, 5, -1)] + [(5, y) for y in range(18, 8, -1)]  # an outline around 9 x 9 pixels


def reading(uid, readers=4, texture=5, slices=(8, 9, 10, 11)):
    """LIDC's XML of a box on some slices, outlined by each reader."""
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in BOX)
    place = "<imageZposition>{}</imageZposition><imageSOP_UID/><inclusion>TRUE</inclusion>"
    rois = "".join(f"<roi>{place.format(ORIGIN[2] + 2 * z)}{edges}</roi>" for z in slices)
    ratings = f"<characteristics><texture>{texture}</texture></characteristics>"
    nodule = f"<unblindedReadNodule><noduleID>1</noduleID>{ratings}{rois}</unblindedReadNodule>"
    empty = "<readingSession><servicingRadiologistID>a</servicingRadiologistID></readingSession>"
    sessions = f"<readingSession>{nodule}</readingSession>" * readers + empty * (4 - readers)
    header = f"<ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{header}{sessions}</LidcReadMessage>'
