"""Arrays on disk of which parts are read, and safetensors files that are written some rows at a time: nothing large is whole in memory."""

import json
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lungadv.utils.errors import InputError

__all__ = ["DiskArray", "stored_tensor", "write_array", "write_rows"]

DTYPES = {"I16": "<i2", "U8": "|u1", "F16": "<f2", "F32": "<f4"}  # of safetensors: the ones that are written here
HEADER_BYTES = 1024  # room for the header, which is known last; the format allows blanks at its end
MOST_HEADER = 2**20


@dataclass(frozen=True)
class DiskArray:
    """An array in a file: slicing gives a copy of that part. The file is mapped only meanwhile, so none of it stays in memory.

    dtype: as numpy writes it; state: size, time (ns) and number of the file; offset: bytes before the first value.
    It can be sent to another process, and takes no file handle. Slicing raises InputError once the file is gone or another one.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    state: tuple[int, int, int]
    offset: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if not math.prod(self.shape):  # what is empty cannot be mapped
            return np.zeros(self.shape, self.dtype)[index]
        try:
            with open(self.path, "rb") as file:
                if _state(file) == self.state:
                    return np.array(np.memmap(file, self.dtype, "r", self.offset, self.shape)[index])
        except FileNotFoundError:
            pass
        raise InputError(f"'{self.path}' is gone or was made again meanwhile: open it again")


def write_array(array: np.ndarray, path: str | Path) -> DiskArray:
    """Write an array's bytes as the file `path`, and give it back as a DiskArray."""
    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        file.write(array.data)
    with open(path, "rb") as file:
        return DiskArray(str(path), array.dtype.str, array.shape, _state(file))


def _state(file: BinaryIO) -> tuple[int, int, int]:
    """What tells an open file from another one of its path: size, time (ns) and number."""
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns, state.st_ino


def stored_tensor(path: str | Path, name: str) -> DiskArray:
    """A tensor of a safetensors file, as this module or the library wrote it. Raises InputError for another file, or one cut short."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            known = json.loads(file.read(min(size, MOST_HEADER)))[name]
            state = _state(file)
        array = DiskArray(str(path), DTYPES[known["dtype"]], tuple(known["shape"]), state, 8 + size + known["data_offsets"][0])
        if array.offset + math.prod(array.shape) * np.dtype(array.dtype).itemsize > state[0]:
            raise ValueError("it is cut short")
        return array
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"'{path}' holds no tensor '{name}' that can be read ({error}): make its stage again") from None


class RowWriter:
    """A safetensors file that grows: `append(name, rows)` adds rows to a tensor. The first name's go straight to the file.

    Those of other names wait in files beside it. See `write_rows`.
    """

    def __init__(self, path: Path):
        self.path, self.files, self.rows = path, {}, {}

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows (n, ...), of the dtype and shape of those before."""
        if name not in self.files:
            first = not self.files
            self.files[name] = open(self.path if first else self.path.with_name(f"{self.path.name}.{name}"), "w+b")
            self.files[name].write(bytes(HEADER_BYTES) if first else b"")
            self.rows[name] = np.empty((0, *rows.shape[1:]), rows.dtype), 0
        like, count = self.rows[name]
        if rows.shape[1:] != like.shape[1:] or rows.dtype != like.dtype:
            raise ValueError(f"rows of '{name}' are {rows.dtype} {rows.shape[1:]}, those before {like.dtype} {like.shape[1:]}")
        self.files[name].write(np.ascontiguousarray(rows).data)
        self.rows[name] = like, count + len(rows)

    def finish(self) -> None:
        """Put the tensors together and write the header."""
        if not self.files:
            raise InputError(f"'{self.path}' was given no rows: append each tensor at least once, be it without rows")
        header, end, kinds = {}, 0, {numpy: kind for kind, numpy in DTYPES.items()}
        for name, (like, count) in self.rows.items():
            shape = [count, *like.shape[1:]]
            start, end = end, end + math.prod(shape) * like.dtype.itemsize
            header[name] = {"dtype": kinds[like.dtype.str], "shape": shape, "data_offsets": [start, end]}
        whole, *others = self.files.values()
        for file in others:
            file.seek(0)
            _copy(file, whole)
        text = json.dumps(header).encode().ljust(HEADER_BYTES - 8)
        whole.seek(0)
        whole.write(struct.pack("<Q", len(text)) + text)

    def close(self) -> None:
        """Close the files, and remove those that lie beside the first."""
        for number, file in enumerate(self.files.values()):
            file.close()
            if number:
                Path(file.name).unlink()


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    while part := source.read(2**22):
        target.write(part)


@contextmanager
def write_rows(path: str | Path) -> Iterator[RowWriter]:
    """A `RowWriter` of the safetensors file `path`, which is whole when the block ends well. InputError when nothing was appended."""
    writer = RowWriter(Path(path))
    try:
        yield writer
        writer.finish()
    finally:
        writer.close()
