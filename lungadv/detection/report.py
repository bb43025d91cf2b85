"""What the reader of findings gets: warnings, a contact sheet, a CSV, a 3D Slicer markups file, JSON."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.hounsfield import doubt_hu, padding_remark
from lungadv.data.lungs import extent_mm, slab_remark
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, to_unit
from lungadv.data.tables import write_table
from lungadv.detection.detect import COLUMNS, find_lungs
from lungadv.detection.seen import read_seen
from lungadv.detection.weights import read_provenance
from lungadv.utils.files import atomic_write

__all__ = ["contact_sheet", "scan_warnings", "write_findings", "write_json", "write_markups"]

THICK_MM = 3.0  # farther apart, slices (and pixels) miss small nodules
MIN_LITRES = 0.5  # of lung: less is in no whole chest of an adult, but in a scan of the abdomen
CHEST_MM = 250.0  # from foot to head; a slab should hold its share of MIN_LITRES
SHEET_PIXELS, SHEET_MM = 64, 1.0  # along a side of a picture of the contact sheet, mm between them
SHEET_COLUMNS = 4
RING_COLOUR = "#E69F00"
SHEET_STYLE = {"font.size": 9, "figure.dpi": 100}  # those of `lungadv.plots`, which lies above this room
MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)


def scan_warnings(scan: Scan, weights: str | Path, mask: np.ndarray | None = None) -> list[str]:
    """What to tell the reader of findings in this scan by these weights: sentences, empty when there is nothing.

    weights: a folder of weights; mask: the lungs, bool (z, y, x), where they are known. Raises InputError as `find_lungs` and
    `read_provenance` do.
    """
    said = [*scan.notes, *read_seen(weights).warnings(scan.uid)]
    short, upright = slab_remark(scan), int(np.abs(scan.direction[2]).argmax())  # the axis from foot to head
    mask = find_lungs(scan) if mask is None else mask
    litres = mask.sum() * np.prod(scan.spacing) / 1e6
    apart, wide = scan.spacing[upright], max(np.delete(scan.spacing, upright))
    if short:
        said.append(
            f"this scan {short}; "
            "nodules outside it were not seen, and findings near its first and last slices have less context than in training"
        )
    if doubt := doubt_hu(scan):
        said.append(f"this scan {doubt}; findings mean nothing if so")
    if padding := padding_remark(scan):
        said.append(f"{padding}: is the scan whole?")
    if litres < MIN_LITRES * (min(1, extent_mm(scan) / CHEST_MM) if short else 1):
        said.append(f"only {1000 * litres:.0f} ml of lung: is this a chest? findings outside the lungs mean nothing")
    if apart > THICK_MM:
        said.append(f"the slices are {apart:.1f} mm apart: nodules smaller than {2 * apart:.0f} mm may be missed, and diameters are rough")
    if wide > THICK_MM:
        said.append(f"the pixels are {wide:.1f} mm wide: nodules smaller than {2 * wide:.0f} mm may be missed, and diameters are rough")
    if read_provenance(weights)[0]["profile"] == "tiny":
        said.append("the weights are of the profile tiny, which only shows that everything runs: the findings mean nothing")
    return said


def contact_sheet(scan: Scan, findings: pd.DataFrame, path: str | Path, count: int = 12) -> None:
    """Draw the `count` most probable findings as a PNG: axial slices around each, ringed at its diameter, with the numbers."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = findings.head(count)
    centres = shown[["coordX", "coordY", "coordZ"]].to_numpy(float)
    patches = to_unit(extract_patches(scan, centres, SHEET_PIXELS, SHEET_MM))
    rows = -(-max(len(shown), 1) // SHEET_COLUMNS)
    with rc_context(SHEET_STYLE), atomic_write(path) as temporary:
        figure = Figure(figsize=(8, 2.6 * rows + 0.4))
        axes = figure.subplots(rows, SHEET_COLUMNS, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for row, patch, axis in zip(shown.itertuples(), patches, axes.flat, strict=False):
            _draw_finding(axis, row, np.asarray(patch)[0, SHEET_PIXELS // 2])
        title = f"{scan.uid}\n{len(findings)} findings, the first {len(shown)} of them. Not for clinical use."
        figure.suptitle(title, fontsize=7, parse_math=False)  # a file may be named with dollar signs
        figure.tight_layout()
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


def _draw_finding(axis, row, picture):
    """One picture of the contact sheet: a slice in [0, 1] with the finding in the middle, a row of the findings."""
    from matplotlib.patches import Circle

    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    centre = (SHEET_PIXELS - 1) / 2
    axis.add_patch(Circle((centre, centre), row.diameter_mm / SHEET_MM / 2 + 3, fill=False, color=RING_COLOUR, lw=1.2))
    axis.set_title(
        f"{row.Index + 1}: p {row.probability:.2f}, u {row.uncertainty:.2f}, {row.diameter_mm:.0f} mm\n"
        f"({row.coordX:.0f}, {row.coordY:.0f}, {row.coordZ:.0f}) mm",
        fontsize=7,
    )


def write_findings(findings: pd.DataFrame, path: str | Path) -> None:
    """Write findings as CSV, whole or not at all."""
    write_table(pd.DataFrame(findings, columns=COLUMNS), path, float_format="%.6g")


def write_markups(findings: pd.DataFrame, path: str | Path) -> None:
    """Write findings as the point list of a 3D Slicer markups file (.mrk.json), whole or not at all, most probable first.

    Positions are LPS mm, as in the findings, and the file says so: Slicer itself turns them to its own RAS.
    Source: the markups schema 1.0.3 of 3D Slicer.
    """
    points = [
        {
            "id": str(k),
            "label": f"{k}: p {row.probability:.2f}",
            "description": f"uncertainty {row.uncertainty:.2f}, {row.diameter_mm:.1f} mm",
            "position": [row.coordX, row.coordY, row.coordZ],
            "positionStatus": "defined",
            "visibility": True,
        }
        for k, row in enumerate(findings.itertuples(), 1)
    ]
    markups = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"@schema": MARKUPS_SCHEMA, "markups": [markups]}, indent=1) + "\n", encoding="utf-8")


def write_json(scan: Scan, findings: pd.DataFrame, weights: str | Path, said: list[str], path: str | Path) -> None:
    """Write findings as JSON, whole or not at all, with what they were made from.

    Keys: seriesuid, size and spacing_mm (x, y, z), coordinates ("LPS mm"), weights (profile, seed, data, commit, seen), warnings, findings
    (coordX, coordY, coordZ, probability, uncertainty, diameter_mm of each, most probable first).
    weights: a folder of weights; said: see `scan_warnings`.
    """
    made = read_provenance(weights)[1]
    content = {
        "seriesuid": scan.uid,
        "size": scan.hu.shape[::-1],
        "spacing_mm": scan.spacing,
        "coordinates": "LPS mm",
        "weights": {key: made.get(key) for key in ("stage", "profile", "seed", "data", "commit")} | {"seen": read_seen(weights).sources},
        "warnings": said,
        "not_for_clinical_use": True,
        "findings": findings[COLUMNS[1:]].astype(float).round(6).to_dict("records"),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
