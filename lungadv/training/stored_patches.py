"""Patches on disk as a pool to draw from: rows are read when they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lungadv.data.disk_array import DiskArray, stored_tensor
from lungadv.data.scan import to_unit
from lungadv.training.augment import center_crop

__all__ = ["StoredPatches", "open_patches"]


@dataclass(frozen=True, eq=False)
class StoredPatches:
    """N rows of the patches (M, 1, Q, Q, Q) in a file; `patches[rows]` is a tensor, as of a tensor. rows: numbers, bool (N,) or a slice.

    size: with it, the middle (n, 1, size, size, size) float32 in [0, 1] is given, else what is stored.
    """

    stored: DiskArray
    index: np.ndarray  # (N,) rows of the file
    size: int | None = None

    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 1, Q, Q, Q), Q being `size` where it is given."""
        return (len(self), 1, *[self.size or self.stored.shape[-1]] * 3)

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        index = self.index[rows if isinstance(rows, slice) else np.asarray(rows)]
        patches = torch.from_numpy(self.stored[index])
        return patches if self.size is None else to_unit(center_crop(patches, self.size).float())

    def subset(self, rows: np.ndarray) -> "StoredPatches":
        """The patches of these rows, numbers or bool (N,), not yet read."""
        return replace(self, index=self.index[rows])

    def split(self, count: int) -> Iterator[torch.Tensor]:
        """The patches, `count` at a time, as `torch.Tensor.split`."""
        return (self[first : first + count] for first in range(0, len(self), count))


def open_patches(path: str | Path, key: str) -> StoredPatches:
    """All rows of a tensor (M, 1, Q, Q, Q) of a safetensors file. Raises InputError as `stored_tensor` does."""
    stored = stored_tensor(path, key)
    return StoredPatches(stored, np.arange(len(stored)))
