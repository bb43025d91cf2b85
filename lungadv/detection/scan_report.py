"""The findings in a scan as one page: slices to scroll through in three windows, and a list that jumps to each finding."""

from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.display import WINDOWS, make_upright
from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ
from lungadv.detection.weights import read_provenance
from lungadv.utils.html import picture_url, write_page

__all__ = ["encode_slices", "from_codes", "to_codes", "write_scan_report"]

# A grey value of a slice holds 10 HU in lung, 4 HU in soft tissue, 16 HU in bone: all three windows are shown from one picture.
HU_POINTS, CODE_POINTS = (-1024, -160, 240, 1300), (0, 90, 190, 255)
JPEG_QUALITY = 88
MAX_CHARACTERS = 17_000_000  # of all slices in the page, which stays under 20 MB


def to_codes(hu: np.ndarray) -> np.ndarray:
    """HU of any shape to the uint8 grey values of the page's slices, clipped to the range of HU_POINTS."""
    return np.interp(hu, HU_POINTS, CODE_POINTS).round().astype(np.uint8)


def from_codes(codes: np.ndarray) -> np.ndarray:
    """Grey values 0 to 255 back to HU: the inverse of `to_codes`, to half a step."""
    return np.interp(codes, CODE_POINTS, HU_POINTS)


def encode_slices(hu: np.ndarray, max_characters: int = MAX_CHARACTERS) -> tuple[list[str], tuple[int, int]]:
    """The axial slices of an upright volume (z, y, x) in HU as JPEG data: URLs, and their rows and columns.

    Where they would exceed `max_characters` together, all are averaged to fewer pixels in plane.
    """
    from PIL import Image

    shape, scale = np.array(hu.shape[1:]), 1.0
    while True:
        rows, columns = np.maximum(1, (shape * scale).round().astype(int)).tolist()
        urls = []
        for plane in hu:
            image = Image.fromarray(np.asarray(plane, dtype=np.float32))
            if (rows, columns) != tuple(shape):
                image = image.resize((columns, rows), Image.Resampling.BOX)
            urls.append(picture_url(Image.fromarray(to_codes(np.asarray(image))), "JPEG", quality=JPEG_QUALITY))
        total = sum(map(len, urls))
        if total <= max_characters or rows == columns == 1:
            return urls, (rows, columns)
        scale *= 0.95 * np.sqrt(max_characters / total)


def write_scan_report(scan: Scan, findings: pd.DataFrame, weights: str | Path, said: list[str], path: str | Path) -> None:
    """Write the page of a scan's findings (most probable first), whole or not at all; under 20 MB, no network.

    weights: a folder of weights; said: see `lungadv.detection.report.scan_warnings`. Raises InputError for weights without provenance.
    """
    made = read_provenance(weights)[1]
    upright = make_upright(scan)
    places = upright.to_voxel(findings[XYZ].to_numpy(float).reshape(-1, 3))
    data = _slices(upright) | {"windows": WINDOWS, "findings": _marks(upright, findings, places)}
    write_page(
        path,
        "findings.html",
        "findings.js",
        data=data,
        uid=scan.uid,
        notes=said,
        findings=findings.to_dict("records"),
        numbers=(places[:, 0].round().clip(0, len(upright.hu) - 1).astype(int) + 1).tolist(),
        size=scan.hu.shape[::-1],
        spacing=scan.spacing,
        resampled=(data["rows"], data["columns"]) != upright.hu.shape[1:],
        made={key: made.get(key) for key in ("profile", "seed", "data", "commit")},
    )


def _slices(upright):
    """What the page's script needs of an upright scan: pictures, their size, where they lie, the HU of each grey value."""
    urls, (rows, columns) = encode_slices(upright.hu)
    (width, height, spacing), (_, y, x) = upright.spacing, upright.hu.shape
    first, last = upright.to_world([[0, 0, 0], [len(urls) - 1, 0, 0]])[:, 2]
    return {
        "slices": urls,
        "rows": rows,
        "columns": columns,
        "size_mm": [x * width, y * height],
        "spacing_mm": spacing,
        "z_mm": [float(first), float((last - first) / max(1, len(urls) - 1))],
        "hu": from_codes(np.arange(256)).round(1).tolist(),
    }


def _marks(upright, findings, places):
    """Where to mark findings at voxels `places` (N, 3): slice from 0, mm from the edges of the first pixel, diameter and probability."""
    (width, height, _), marks = upright.spacing, []
    for (z, y, x), row in zip(places, findings.itertuples(), strict=True):
        mark = {"slice": z, "x_mm": (x + 0.5) * width, "y_mm": (y + 0.5) * height, "diameter_mm": row.diameter_mm}
        marks.append({name: float(value) for name, value in (mark | {"probability": row.probability}).items()})
    return marks
