"""Packed voxels (zlib, gzip), unpacked once and to the last byte.

SimpleITK fills what a damaged or short packed file lacks with anything and does not see what is too much. The cases damaged.mhd,
z_less.mhd, z_half.mhd and z_more.mhd in test_metaimage, damaged.nii.gz, less.nii.gz and long_packed.nii.gz in test_nifti show it.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from lungadv.data.io.volume import CUT_SHORT
from lungadv.data.scan import ScanError

__all__ = ["unpack", "unpack_into"]


def unpack(stream: BinaryIO) -> Iterator[bytes]:
    """Pieces of what a zlib or gzip file of one or more members holds, at most 1 MiB each. Raises zlib.error."""
    block = stream.read(2**18)
    while block:
        member = zlib.decompressobj(47)  # either kind
        while not member.eof:
            block = block or stream.read(2**18)
            piece = member.decompress(block, 2**20)
            if not (block or piece):
                raise zlib.error("it ends too early")
            block = member.unconsumed_tail
            yield piece
        block = (member.unused_data or stream.read(2**18)).lstrip(b"\0")


def unpack_into(stream: BinaryIO, target: np.ndarray, skip: int, name: str) -> None:
    """Fill `target` (uint8) with what a packed file holds after `skip` bytes. Raises ScanError unless it is exactly that much."""
    at = -skip
    try:
        for piece in unpack(stream):
            end = at + len(piece)
            if end > len(target):
                raise ScanError(
                    f"file '{name}' holds more voxels than its header says: header and voxels do not belong together; copy both again"
                )
            if end > 0:
                target[max(at, 0) : end] = np.frombuffer(piece, np.uint8)[max(-at, 0) :]
            at = end
    except zlib.error as error:
        raise ScanError(f"file '{name}' cannot be unpacked ({error}){CUT_SHORT} or damaged") from None
    if at < len(target):
        raise ScanError(f"file '{name}' holds {at} of the {len(target)} bytes of voxels that its header says{CUT_SHORT}")
