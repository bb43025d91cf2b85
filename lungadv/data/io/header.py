"""The header of a scan file: SimpleITK reads the geometry, and the promised voxels are compared with the files before any is read."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungadv.data.io.names import sitk_name
from lungadv.data.io.unpack import unpack_into
from lungadv.data.io.volume import CUT_SHORT, MOST_BYTES, MOST_PACKED, silence_itk
from lungadv.data.scan import ScanError

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "LONGEST_HEADER", "VolumeHeader", "check_file_size", "check_skip", "header_of", "pixel_type", "read_information", "read_planes",
    "stored_type",
]  # fmt: skip

LONGEST_HEADER = 2**20  # bytes
PIXEL_TYPES = {
    "8-bit signed integer": "i1", "8-bit unsigned integer": "u1", "16-bit signed integer": "i2", "16-bit unsigned integer": "u2",
    "32-bit signed integer": "i4", "32-bit unsigned integer": "u4", "32-bit float": "f4", "64-bit float": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class VolumeHeader:
    """What a scan file says: size and geometry (x, y, z) by SimpleITK; where the voxels lie, and how they become HU."""

    size: tuple
    spacing: tuple
    origin: tuple
    direction: np.ndarray
    dtype: np.dtype  # of the stored values, with their byte order
    files: tuple  # one, or several that hold equal parts of the slices
    start: int = 0  # bytes before the voxels in each file
    packed: bool = False  # zlib or gzip
    skip: int = 0  # bytes before the voxels in what is unpacked
    packed_bytes: int | None = None  # length of the packed voxels, where the header says so
    slope: float = 1
    intercept: float = 0

    @property
    def promised(self) -> int:
        """Bytes of voxels in each file."""
        return math.prod(self.size) * self.dtype.itemsize // len(self.files)


def read_information(path: Path, image_io: str) -> "sitk.ImageFileReader":
    """SimpleITK's reader of one kind of file after it has read the header, not the voxels. Raises ScanError where it cannot."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    try:
        with sitk_name(path) as name, silence_itk():
            reader.SetFileName(name)
            reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("ERROR: ")[-1][:200]
        if "orthonormal" in reason:
            raise ScanError("has axes that are not perpendicular (tilted gantry?): resample it to straight slices first") from None
        raise ScanError(f"has a header that SimpleITK cannot read ({reason}): is it complete? Write it again") from None
    if reader.GetDimension() != 3:
        raise ScanError(f"is {reader.GetDimension()}-dimensional: give one three-dimensional CT volume")
    return reader


def header_of(reader: "sitk.ImageFileReader", dtype: np.dtype, files: tuple, skip: int = 0, **facts) -> VolumeHeader:
    """The VolumeHeader of what SimpleITK has read. skip: bytes before the voxels in each file, unpacked; -1: they end the file."""
    if facts.get("slope", 1) <= 0:
        raise ScanError(f"has the rescale slope {facts['slope']:g}, with which denser is not brighter: store HU with slope 1")
    direction = np.reshape(reader.GetDirection(), (3, 3))
    header = VolumeHeader(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), direction, dtype, files, **facts)
    if skip == -1 and not header.packed:
        return replace(header, start=max(files[0].stat().st_size - header.promised, 0))
    check_skip(skip)
    return replace(header, skip=skip) if header.packed else replace(header, start=header.start + skip)


def check_skip(skip: int) -> None:
    """Raises ScanError for a number of bytes before the voxels that no header asks for."""
    if not 0 <= skip <= LONGEST_HEADER:
        raise ScanError(f"skips {skip} bytes before its voxels: correct the header")


def pixel_type(reader: "sitk.ImageFileReader", order: str) -> np.dtype:
    """The dtype of the voxels that SimpleITK names, in byte order '<' or '>', which it does not tell. Raises ScanError as `stored_type`."""
    import SimpleITK as sitk

    return stored_type(order, PIXEL_TYPES, sitk.GetPixelIDValueAsString(reader.GetPixelID()))


def stored_type(order: str, types: dict, name: object) -> np.dtype:
    """The dtype of stored voxels in byte order '<' or '>'. Raises ScanError for a type that no CT has."""
    if name not in types:
        raise ScanError(f"has voxels of the type '{name}', which is none of CT values: store it as signed 16-bit integers")
    return np.dtype(order + types[name])


def check_file_size(header: VolumeHeader) -> None:
    """Raises ScanError unless a header's voxels fill its files, no less and no more.

    Of packed ones the length alone shows whether it can be true: z_promises.mhd in test_metaimage would take gigabytes before it fails.
    """
    if header.promised * len(header.files) > MOST_BYTES:
        raise ScanError(f"promises {header.promised} bytes of voxels, more than this reads: store it as int16")
    for file in header.files:
        length, promised = file.stat().st_size - header.start, header.promised + header.skip
        least = most = promised
        if header.packed:
            least, most = max(promised / MOST_PACKED, header.packed_bytes or 0), header.packed_bytes or math.inf
        if length < least:
            raise ScanError(f"file '{file.name}' holds {length} bytes, too few for the {promised} of its header{CUT_SHORT}")
        if length > most:
            other = ": header and voxels do not belong together; copy both again"
            raise ScanError(f"file '{file.name}' holds {length} bytes, too many for the {promised} of its header{other}")


def read_planes(header: VolumeHeader) -> Iterator[np.ndarray]:
    """The stored values of each slice (y, x), from the first to the last. Raises ScanError for files that are cut short or damaged."""
    slices = header.size[2] // len(header.files)
    for file in header.files:
        with open(file, "rb") as stream:
            values = np.empty((slices, *header.size[1::-1]), dtype=header.dtype)
            target = values.reshape(-1).view(np.uint8)
            stream.seek(header.start)
            if header.packed:
                unpack_into(stream, target, header.skip, file.name)
            elif stream.readinto(target) != len(target):
                raise ScanError(f"file '{file.name}' ends too early{CUT_SHORT}")
        yield from values
