"""From stored values to a Scan, whatever file they come from: sizes are bounded, padding becomes air, values must be HU."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lungadv.data.scan import AIR, LOWEST_HU, Scan, ScanError

__all__ = ["CUT_SHORT", "MOST_BYTES", "MOST_PACKED", "empty_scan", "fill_scan", "naming", "rescale", "silence_itk"]

MOST_BYTES = 2**32  # of voxels in one scan: 2048 slices of 1024 x 1024; what promises more is refused
MOST_PACKED = 1032  # bytes that one byte of a packed file can stand for (deflate)
CUT_SHORT = ": copy it again, it is cut short"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A ScanError raised inside names the path, and so does one for a file that the system cannot read."""
    try:
        yield
    except ScanError as error:
        raise ScanError(f"'{path}': {error}") from None
    except OSError as error:
        raise ScanError(f"'{path}' cannot be read ({error.strerror}): check the disk and the rights") from None


@contextmanager
def silence_itk() -> Iterator[None]:
    """What ITK's readers print of a damaged file, past Python, goes nowhere: their errors are raised besides, and told in one line."""
    try:
        kept = os.dup(2)
    except OSError:  # a program without a stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def empty_scan(size: tuple, spacing: tuple, origin: tuple, direction: np.ndarray, uid: str) -> Scan:
    """A Scan of `size` (x, y, z) whose voxels are all AIR and take no memory. Raises ScanError for sizes that no CT volume has."""
    if len(size) != 3 or min(size) < 2:
        raise ScanError(f"is {len(size)}-dimensional of size {tuple(size)}: give one three-dimensional CT volume of at least two slices")
    if math.prod(size) * 2 > MOST_BYTES:
        raise ScanError(f"promises {' x '.join(map(str, size))} voxels, more than this reads: correct its header, or crop it")
    return Scan(np.broadcast_to(np.int16(AIR), size[::-1]), spacing, origin, direction, uid)


def fill_scan(scan: Scan, planes: Iterable[tuple]) -> Scan:
    """The scan with its HU, rounded to int16: `planes` gives of each slice the values (y, x) and the mask of its padding, or None.

    Values below LOWEST_HU are padding, too. Raises ScanError for values that are not finite or no HU.
    """
    hu, padded = np.empty(scan.hu.shape, dtype=np.int16), 0
    for z, (values, padding) in enumerate(planes):
        if padding is not None:
            values = np.where(padding, np.float64(AIR), values)
            padded += int(padding.sum())
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ScanError("holds values that are not finite (NaN?): replace them by the HU of air, -1000")
        if low < -32768 or high > 32767:
            raise ScanError(f"has values from {low:g} to {high:g}, which are no HU: apply the rescale slope and intercept first")
        hu[z] = np.rint(values) if values.dtype.kind == "f" else values
        if low < LOWEST_HU:
            below = hu[z] < LOWEST_HU
            hu[z][below] = AIR
            padded += int(below.sum())
    return replace(scan, hu=hu, padded=padded)


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """HU of stored values: float64, or the values themselves for slope 1 and intercept 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as not finite
        return stored if (slope, intercept) == (1, 0) else stored * float(slope) + float(intercept)
