"""Helpers for batches: tensors whose first dimension counts the samples."""

from dataclasses import fields
from typing import Any

import torch

__all__ = ["Rows", "at_least_float32", "column", "sample_dims", "take", "where"]


def sample_dims(tensor: torch.Tensor) -> tuple[int, ...]:
    """All dimensions of a tensor (N, ...) but the first."""
    return tuple(range(1, tensor.ndim))


def column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value a sample, (N,), shaped (N, 1, ...) to broadcast over `like` (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The floating type in which losses are kept: float32, or float64 where `dtype` is."""
    return torch.promote_types(dtype, torch.float32)


def take(value: Any, rows: torch.Tensor) -> Any:
    """The samples `rows` (indices or bool) of a tensor, a ball, or each part of a tuple. None stays None."""
    if isinstance(value, tuple):
        return tuple(take(part, rows) for part in value)
    return None if value is None else value[rows]


def where(chosen: torch.Tensor, ours: tuple, others: tuple) -> tuple[torch.Tensor, ...]:
    """Of each pair of tensors (N, ...): the samples of the first where `chosen` (N,) bool is true, else those of the second."""
    return tuple(torch.where(column(chosen, a), a, b) for a, b in zip(ours, others, strict=True))


class Rows:
    """Base of dataclasses whose fields all have the samples as first dimension: an index slices every field."""

    def __getitem__(self, rows: torch.Tensor):
        return type(self)(*(take(getattr(self, field.name), rows) for field in fields(self)))
