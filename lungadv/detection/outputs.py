"""What is written of a scan's findings: the files that were asked for, each by its writer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lungadv.data.scan import Scan
from lungadv.detection import report, scan_report, structured_report

if TYPE_CHECKING:
    import pydicom

__all__ = ["ENDINGS", "Findings", "write_outputs"]

ENDINGS = {"out": ".csv", "sheet": ".png", "markups": ".mrk.json", "json": ".json", "page": ".html", "sr": ".dcm"}


@dataclass(frozen=True, eq=False)
class Findings:
    """The findings in a scan, and what a reader of them is told."""

    scan: Scan
    table: pd.DataFrame  # as `lungadv.detection.detect.detect` gives them
    weights: Path  # the folder of the weights
    notes: list[str]
    images: "list[pydicom.FileDataset]"  # the slices' headers, where a DICOM SR is written


def write_outputs(found: Findings, paths: Mapping[str, Path | None]) -> None:
    """Write the files of {name of ENDINGS: path}, each whole or not at all; those that were not asked for are None."""
    writers = {
        "out": partial(report.write_findings, found.table),
        "sheet": partial(report.contact_sheet, found.scan, found.table),
        "markups": partial(report.write_markups, found.table),
        "json": partial(report.write_json, found.scan, found.table, found.weights, found.notes),
        "page": partial(scan_report.write_scan_report, found.scan, found.table, found.weights, found.notes),
        "sr": partial(structured_report.write_sr, found.images, found.table, found.weights),
    }
    for name, path in paths.items():
        if path:
            writers[name](path)
