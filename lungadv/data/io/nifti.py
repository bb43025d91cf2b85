"""NIfTI (.nii, .nii.gz), whose world is RAS. Source: nifti1.h.

SimpleITK reads size and geometry. The names of files beside a check are the cases of test_nifti that need it.
"""

import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lungadv.data.io.header import LONGEST_HEADER, VolumeHeader, header_of, read_information, stored_type
from lungadv.data.io.unpack import unpack
from lungadv.data.scan import ScanError

__all__ = ["read_nifti_header"]

TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}  # SimpleITK names that of scaled values


def read_nifti_header(path: Path) -> VolumeHeader:
    """The header of a .nii or .nii.gz. Raises ScanError for what is not one complete three-dimensional CT volume in mm."""
    packed = path.suffix.lower() == ".gz"
    start = _start_of(path, packed)
    if start[:4] in ((540).to_bytes(4, "little"), (540).to_bytes(4, "big")):
        raise ScanError("is NIfTI-2: store it as NIfTI-1")
    if not packed and start[:2] == b"\x1f\x8b":
        raise ScanError("is packed: name it .nii.gz")
    if packed and not start and _start_of(path, packed=False)[344:348] == b"n+1\0":
        raise ScanError("is not packed: name it .nii")
    order = {(348).to_bytes(4, "little"): "<", (348).to_bytes(4, "big"): ">"}.get(start[:4])
    if len(start) < 352 or not order or start[344:348] != b"n+1\0":  # pair.nii
        raise ScanError("is no single NIfTI-1 file: is it complete, and the kind of file its name says?")

    def numbers(kind, at):
        return struct.unpack_from(order + kind, start, at)

    if start[123] & 7 not in (0, 2):  # metres.nii: the 0.5 mm below would be 0.5 m
        raise ScanError("is measured in other units than mm: store it in mm")
    (offset,), (slope, intercept) = numbers("f", 108), numbers("2f", 112)
    if not (352 <= offset <= LONGEST_HEADER and offset == int(offset)):  # offset.nii
        raise ScanError(f"says that its voxels begin at byte {offset:g}: is it complete?")
    if not np.isfinite([slope, intercept]).all() or (slope == 0 != intercept):  # slope.nii, no_slope.nii
        raise ScanError(f"has the rescale slope {slope} and intercept {intercept}, which readers take differently: store HU with slope 1")
    dtype = stored_type(order, TYPES, numbers("h", 70)[0])  # rgb.nii
    _check_position(numbers)
    reader = read_information(path, "NiftiImageIO")
    if reader.GetNumberOfComponents() > 1:  # vector.nii
        raise ScanError(f"has {reader.GetNumberOfComponents()} values a voxel: give one CT volume of HU")
    return header_of(reader, dtype, (path,), int(offset), packed=packed, slope=slope or 1, intercept=intercept)  # 0 means: not scaled


def _start_of(path, packed):
    with open(path, "rb") as stream:
        try:
            return next(unpack(stream), b"") if packed else stream.read(352)
        except zlib.error:
            return b""


def _check_position(numbers: Callable) -> None:
    """Raises ScanError unless a file says how it lies in the patient, by sform or qform; where it has both, they must agree."""
    qform, sform = numbers("2h", 252)
    if qform <= 0 and sform <= 0:  # no_position.nii
        raise ScanError("does not say how it lies in the patient (qform and sform code 0): set one from the original DICOM series")
    from_q, from_s = _qform(numbers), np.reshape(numbers("12f", 280), (3, 4))
    if not np.isfinite(from_s if sform > 0 else from_q).all():  # nan.nii
        raise ScanError("has a position in the patient that is not finite: correct its qform or sform")
    corner = np.array([*numbers("3h", 42), 1])
    if qform > 0 and sform > 0 and not np.abs((from_q - from_s) * corner).sum(axis=1).max() < 0.5:  # moved.nii
        raise ScanError("has two positions in the patient, qform and sform, more than 0.5 mm apart: keep the one of the scanner")


def _qform(numbers):
    """Voxel (x, y, z) to RAS mm (3, 4) by the quaternion. Source: nifti1.h, METHOD 2."""
    import SimpleITK as sitk

    pixdim = np.array(numbers("8f", 76))
    b, c, d, *shift = numbers("6f", 256)
    versor = sitk.VersorTransform((b, c, d, math.sqrt(max(1 - (b * b + c * c + d * d), 0))))
    turn = np.reshape(versor.GetMatrix(), (3, 3))
    return np.column_stack([turn * pixdim[1:4] * [1, 1, -1 if pixdim[0] < 0 else 1], shift])
