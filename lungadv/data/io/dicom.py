"""DICOM series: found by what files hold, ordered by position, and read only as one stack of parallel, equally spaced slices."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungadv.data.io.dicom_slice import (
    check_slice,
    is_ct_slice,
    is_image,
    number_of,
    numbers_of,
    other_kind,
    read_full_header,
    read_pixels,
    read_slice_header,
    shape_of,
    text_of,
)
from lungadv.data.io.slice_grid import check_duplicates, fit_grid
from lungadv.data.io.volume import empty_scan, fill_scan, naming
from lungadv.data.scan import Scan, ScanError

if TYPE_CHECKING:
    import pydicom

__all__ = ["Series", "find_series", "read_full_headers", "read_series", "read_slices"]

SPACING_ALIKE = 1e-4  # of the spacing of pixels, which some files round: 0.05 mm across 512 pixels of 1 mm
INTERCEPTS_APART = 500  # HU: between slices of one series


@dataclass(frozen=True)
class Series:
    """What the headers of a DICOM series say: text is '' and a number NaN where they do not.

    mas: tube current x exposure time, or else Exposure (mAs). thickness: mm. Slice by slice, sorted by file name: the files, the
    positions (x, y, z mm of the first pixel) and the SOPInstanceUIDs (sops). other: what it is where no file is a CT slice ('PT', ...).
    """

    uid: str
    modality: str
    description: str
    patient: str
    study: str
    frame_of_reference: str
    manufacturer: str
    model: str
    kernel: str
    kvp: float
    mas: float
    thickness: float
    files: tuple
    positions: tuple
    sops: tuple
    other: str = ""


def find_series(folder: str | Path) -> tuple[list[Series], dict[Path, str]]:
    """The DICOM series of a folder without its subfolders, and what may be damaged slices -> (list of `Series`, {file: why}).

    Series of every modality, images or not: `other` tells them from CT. No pixel is read.
    A file that cannot be used costs its own series at most: the others stay.
    """
    found, refused, series = {}, {}, []
    for file in sorted(path for path in Path(folder).iterdir() if path.is_file() or not path.exists()):  # a link to nothing is a slice lost
        try:
            header = read_slice_header(file)
        except (ScanError, OSError) as error:
            refused[file] = str(error)
        else:
            if header is not None:
                kind = "" if is_image(header) else other_kind(header)  # no image is mixed into a series of slices
                found.setdefault((text_of(header, "SeriesInstanceUID"), kind), []).append((file, header))
    for (uid, _), headers in found.items():
        try:
            series.append(_describe(uid, headers))
        except ScanError as error:
            refused[headers[0][0]] = str(error)
    return series, refused


def read_slices(series: Series) -> Scan:
    """The Scan of a `Series`, from its files alone whatever else lies beside them. Raises ScanError as `read_scan`."""
    with naming(Path(series.files[0]).parent):
        return _stack_scan([(file, read_slice_header(file)) for file in series.files], voxels=True)


def read_series(folder: Path, series: str | None, voxels: bool) -> Scan:
    """The Scan of the series with this UID, or of the only CT series, in a folder and below. Not `voxels`: its geometry alone.

    Raises ScanError where there is none or a choice, and for a file that may be a damaged slice.
    """
    with naming(folder):
        return _stack_scan(_choose_series(_headers_below(folder), series), voxels)


def read_full_headers(folder: Path, series: str | Series | None) -> "list[pydicom.FileDataset]":
    """All attributes but the pixels of the slices that `read_series` reads, or of a `Series`, sorted by file name.

    Raises ScanError as `read_series` does.
    """
    with naming(folder):
        known = isinstance(series, Series)
        files = series.files if known else [file for file, _ in _choose_series(_headers_below(folder), series)]
        return [read_full_header(file) for file in files]


def _describe(uid, headers):
    """The Series of the files and headers of one."""
    (_, first), kinds = headers[0], {other_kind(header) for _, header in headers}
    current, time, exposure = (number_of(first, name) for name in ("XRayTubeCurrent", "ExposureTime", "Exposure"))
    return Series(
        uid,
        *(text_of(first, name) for name in (
            "Modality", "SeriesDescription", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Manufacturer",
            "ManufacturerModelName", "ConvolutionKernel",
        )),
        kvp=number_of(first, "KVP"),
        mas=exposure if math.isnan(current * time) else current * time / 1000,
        thickness=number_of(first, "SliceThickness"),
        files=tuple(file for file, _ in headers),
        positions=tuple(numbers_of(header, "ImagePositionPatient", 3, (math.nan,) * 3) for _, header in headers),
        sops=tuple(text_of(header, "SOPInstanceUID") for _, header in headers),
        other=" and ".join(sorted(kinds)) if all(kinds) else "",
    )  # fmt: skip


def _headers_below(folder):
    """The DICOM headers of images in a folder and below: {SeriesInstanceUID: [(file, header), ...]}, sorted by file name."""
    found, others = {}, {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for file in (Path(parent) / name for name in sorted(names)):
            header = read_slice_header(file)
            if header is not None:
                group = found if is_image(header) else others
                group.setdefault(text_of(header, "SeriesInstanceUID"), []).append((file, header))
    if not found:
        beside = f", but {_listed(others)}" if others else ""
        raise ScanError(f"holds no DICOM series of images{beside}: give the folder that holds the slices, or the scan file itself")
    return found


def _choose_series(found, series):
    """The files and headers of the series asked for, or of the only one with CT slices."""
    if series is None:
        candidates = [uid for uid, headers in found.items() if any(is_ct_slice(header) for _, header in headers)]
        if len(candidates) > 1:
            raise ScanError(f"holds {_listed(found)}; choose one by its UID (series=..., --series)")
        series = candidates[0] if candidates else next(iter(found))
        if not candidates and len(found) > 1:
            raise ScanError(f"holds no series of CT slices, but {_listed(found)}")
    if series not in found:
        raise ScanError(f"holds no series {series}, but {_listed(found)}")
    return found[series]


def _listed(found):
    """The series of a folder in words."""
    lines = []
    for uid, headers in found.items():
        kind, description = text_of(headers[0][1], "Modality"), text_of(headers[0][1], "SeriesDescription")
        lines.append(f"{uid[:64]} ({kind}, {len(headers)} files{', ' + description[:40] if description else ''})")
    return " ".join(f"{len(found)} series: {'; '.join(lines)}".split())


def _stack_scan(slices, voxels):
    """The Scan of the files and headers of one series."""
    for file, header in slices:
        check_slice(file, header)
    pixel_spacing = _check_alike(slices)
    slices, origin, step, axes, note = _sort_slices(slices)
    first = slices[0][1]
    size = (*shape_of(first)[::-1], len(slices))
    spacing = (pixel_spacing[1], pixel_spacing[0], step)
    scan = empty_scan(size, spacing, origin, axes, text_of(first, "SeriesInstanceUID"))
    scan = replace(scan, notes=tuple(filter(None, (note, _rescale_note(slices)))))
    return fill_scan(scan, (read_pixels(file) for file, _ in slices)) if voxels else scan


def _rescale_note(slices):
    """What is to be told of intercepts so far apart that some slices may be no HU; "" of others."""
    intercepts = [numbers_of(header, "RescaleIntercept", 1)[0] for _, header in slices]
    low, high = min(intercepts), max(intercepts)
    if high - low < INTERCEPTS_APART:
        return ""
    file = slices[intercepts.index(min((low, high), key=intercepts.count))][0].name
    return f"its slices have RescaleIntercepts from {low:g} to {high:g}: look whether file '{file}' is as bright as its neighbours"


def _orientations(slices):
    """The directions of rows and columns (N, 2, 3) of each slice."""
    return np.array([numbers_of(header, "ImageOrientationPatient", 6) for _, header in slices]).reshape(-1, 2, 3)


def _check_alike(slices):
    """The PixelSpacing (down, across) of all slices. Raises ScanError unless they are alike and parallel."""
    for _, header in slices:
        numbers_of(header, "ImagePositionPatient", 3)
    orientations = _orientations(slices)
    slanted = np.abs(orientations @ orientations.transpose(0, 2, 1) - np.eye(2)).max((1, 2)) > 1e-2
    if slanted.any():
        file, header = slices[slanted.argmax()]
        shown = "\\".join(f"{number:g}" for number in numbers_of(header, "ImageOrientationPatient", 6))
        raise ScanError(f"file '{file.name}' has ImageOrientationPatient {shown}, not two perpendicular unit axes: export the series again")
    if np.ptp(orientations, axis=0).max() > 1e-3:
        raise ScanError("holds slices of different orientations (a localizer?): keep one stack of parallel slices")
    for name, count, share in (("Rows", 1, 0), ("Columns", 1, 0), ("PixelSpacing", 2, SPACING_ALIKE)):
        values = [numbers_of(header, name, count) for _, header in slices]
        if (np.ptp(values, axis=0) > share * np.abs(values[0])).any():
            raise ScanError(f"holds slices of different {name} {sorted(set(values))[:3]}: keep one stack of equal slices")
    if len({text_of(header, "FrameOfReferenceUID") for _, header in slices}) > 1:
        raise ScanError("holds slices of different frames of reference: two acquisitions are mixed; keep one")
    if len(slices) == 1:
        raise ScanError("holds a single slice: give a series of at least two")
    return values[0]


def _sort_slices(slices):
    """The slices sorted along their normal -> (slices, origin, step in mm, direction (3, 3), what is to be told of their places).

    Raises ScanError unless they are straight and equally spaced.
    """
    positions = np.array([numbers_of(header, "ImagePositionPatient", 3) for _, header in slices])
    rows, columns = _orientations(slices[:1])[0]
    normal = np.cross(rows, columns)
    order = np.argsort(positions @ normal)
    positions, slices = positions[order], [slices[k] for k in order]
    heights = positions @ normal
    acquisitions = {text_of(header, "AcquisitionNumber") for _, header in slices}
    check_duplicates(heights, [file.name for file, _ in slices], acquisitions)
    first, step, note = fit_grid(heights)
    drift = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(drift).max() > 0.5:
        tilt = np.degrees(np.arctan2(np.linalg.norm(drift[-1]), heights[-1] - heights[0]))
        raise ScanError(f"holds slices stacked aslant by {tilt:.1f} degrees (a tilted gantry): resample it to straight slices first")
    origin = tuple(positions[0] + (first - heights[0]) * normal)
    return slices, origin, step, np.column_stack([rows, columns, normal]), note
