r"""A scan on disk in compressed blocks: a patch is read without reading the scan.

A `.zraw` is one stream: the last voxel can be had only after all before it are unpacked. Here the volume is cut into blocks, each packed by
itself, so a patch costs the blocks that it touches. With patch and block of $p_k$ and $c_k$ voxels along axis $k$ that is on average

$$ \prod_k (p_k + c_k - 1) \quad \text{voxels for} \quad \prod_k p_k . $$

For a given number of voxels in a block the product is least when $c_k \propto p_k$. A patch is a cube in mm, so a block is one too.

The file is HDF5 with one data set `hu`, int16 (z, y, x). Blocks are shuffled, deflated at level 1 and guarded by a checksum (Fletcher-32).
HDF5 itself guards its index and headers. The attribute `scan` is a line of JSON: uid, spacing, origin, direction and the SHA-256 of the
voxels. `perf/store.py` measures sides of 8 to 40 mm: 16 mm is the fastest or near it.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungadv.data.scan import Scan, ScanError

__all__ = ["Voxels", "chunk_shape", "open_scan", "write"]

CHUNK_MM = 16  # the side of a block
FORMAT = 1  # of what a store's header says


def chunk_shape(scan: Scan) -> tuple[int, int, int]:
    """The voxels (z, y, x) of a block: CHUNK_MM a side, at least one voxel and at most the scan."""
    voxels = np.round(CHUNK_MM / np.array(scan.spacing[::-1])).astype(int)
    return tuple(np.clip(voxels, 1, scan.hu.shape).tolist())


def _header(scan: Scan) -> bytes:
    """What a store says of its scan, as JSON."""
    known = {
        "format": FORMAT,
        "uid": scan.uid,
        "spacing": scan.spacing,
        "origin": scan.origin,
        "direction": scan.direction.tolist(),
        "sha256": hashlib.sha256(np.ascontiguousarray(scan.hu, dtype="<i2")).hexdigest(),
    }
    return json.dumps(known).encode()


def write(scan: Scan, path: str | Path) -> None:
    """Write a scan as the store `path` (.h5), in place of an older one. The same scan gives the same bytes.

    The file is packed in memory, written under another name and renamed. After a full disk or a killed process the older store is there.
    Raises ScanError when it cannot be written (no such folder, disk full).
    """
    import h5py

    path, packed = Path(path), io.BytesIO()
    packing = {"chunks": chunk_shape(scan), "shuffle": True, "compression": "gzip", "compression_opts": 1, "fletcher32": True}
    with h5py.File(packed, "w", libver="v110") as file:
        file.create_dataset("hu", data=scan.hu, **packing).attrs["scan"] = np.bytes_(_header(scan))
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        _write_bytes(temporary, packed.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        remedy = "give a file in an existing folder with that much space that you may write to"
        raise ScanError(f"store '{path}' of {packed.getbuffer().nbytes} bytes cannot be written ({error.strerror}): {remedy}") from None


def _write_bytes(path: Path, data: memoryview):
    """Write a file to the disk, or leave none."""
    with open(path, "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise


@contextmanager
def _reading(path: str | Path) -> Iterator:
    """The HDF5 data set of a store, open. What HDF5 finds wrong becomes one ScanError that names the file."""
    import h5py

    if not Path(path).is_file():
        raise ScanError(f"store '{path}' does not exist: make it with store.write")
    try:
        with h5py.File(path, "r", locking=False) as file:  # stores never change, and some file systems have no locks
            hu = file["hu"] if isinstance(file.get("hu", getlink=True), h5py.HardLink) else None  # no link into another file
            if not isinstance(hu, h5py.Dataset) or hu.chunks is None or "scan" not in hu.attrs:
                raise ScanError(f"'{path}' is no store of a scan: make one with store.write")
            yield hu
    except (OSError, RuntimeError, KeyError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise ScanError(f"store '{path}' is damaged or no store ({reason}): make it anew with store.write") from None


@dataclass(frozen=True, eq=False)
class Voxels:
    """The voxels of a store, int16 (z, y, x): slicing (numbers, steps of 1 and more) reads that part, np.asarray all.

    The file is open only while it is read. So voxels can be sent to another process, and thousands of scans take no file handles.
    Slicing raises ScanError for a store that is damaged, or was replaced by that of another scan.
    """

    path: str
    header: bytes
    shape: tuple[int, int, int]

    dtype = np.dtype(np.int16)
    ndim = 3

    @property
    def size(self) -> int:
        """How many voxels."""
        return math.prod(self.shape)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the voxels (int16, little-endian, in the order z, y, x), as the store's header says; no voxel is read."""
        return json.loads(self.header)["sha256"]

    def __getitem__(self, index) -> np.ndarray:
        with _reading(self.path) as hu:
            if bytes(hu.attrs["scan"]) != self.header:
                raise ScanError(f"store '{self.path}' was replaced by that of another scan: open it again")
            return hu[index]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


def open_scan(path: str | Path) -> Scan:
    """The scan of a store, its `hu` a Voxels: works where a scan's voxels are only sliced, as in `extract_patches`.

    Raises ScanError, here or when voxels are read, for what is missing, damaged or no store.
    """
    path = os.path.abspath(path)
    with _reading(path) as hu:
        header, shape, dtype = bytes(hu.attrs["scan"]), hu.shape, hu.dtype
    try:
        known = json.loads(header)
        if known["format"] != FORMAT or dtype != np.int16 or len(shape) != 3:
            raise ValueError(f"format {known['format']}, {dtype} {shape}")
        return Scan(Voxels(path, header, shape), known["spacing"], known["origin"], np.array(known["direction"]), known["uid"])
    except (ValueError, KeyError, TypeError) as error:
        raise ScanError(f"store '{path}' has no sound header ({error}): make it anew with store.write") from None
