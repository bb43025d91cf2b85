"""Checks of the arguments of an attack, before anything is computed. Each raises ValueError and says what to give instead."""

from numbers import Integral

import numpy as np
import torch

from .tensors import at_least_float32, column

__all__ = ["check_context", "check_search", "check_tensor", "check_tuples", "known_loss", "per_sample"]


def check_tensor(start: object) -> None:
    """`start` is one tensor. Raises ValueError for anything else."""
    if isinstance(start, np.ndarray):
        raise ValueError("start is a numpy array: give a tensor, torch.from_numpy(...)")
    if not torch.is_tensor(start):
        raise ValueError(f"start is a {type(start).__name__}, not one tensor (N, ...): only pgd takes several")


def per_sample(value: float | torch.Tensor, start: torch.Tensor, name: str, unit: str) -> torch.Tensor:
    """`value`, one number from 0 up or one a sample (N,), as a column (N, 1, ...) of the type and device of `start` (N, ...)."""
    try:
        value = torch.as_tensor(value, dtype=start.dtype, device=start.device)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}: give a number from 0 up, {unit}") from None
    if value.ndim and value.shape != start.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: give one number, or one for each of the {len(start)} samples")
    if not (value.isfinite() & (value >= 0)).all():
        raise ValueError(f"{name} is negative, infinite or NaN: give a number from 0 up, {unit}")
    return column(value.expand(len(start)), start)


def known_loss(loss_start: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The loss of the start (N,) that the caller knows already, at least float32."""
    loss_start = torch.as_tensor(loss_start, device=start.device).detach()
    if loss_start.shape != start.shape[:1]:
        raise ValueError(f"loss_start has shape {tuple(loss_start.shape)}: give the loss of each of the {len(start)} samples")
    return loss_start.to(at_least_float32(loss_start.dtype))


def check_tuples(count: int, **arguments) -> None:
    """Each argument is a tuple or list of `count` values, one for each tensor of the start."""
    for name, value in arguments.items():
        if not isinstance(value, tuple | list) or len(value) != count:
            raise ValueError(f"start is a tuple of {count} tensors: give {name} as a tuple of {count} too, one for each")


def check_search(start: torch.Tensor, context: tuple, steps: int, restarts: int, random_start: bool) -> None:
    """Steps, restarts and context of a search from `start` (N, ...) make sense together."""
    if not all(isinstance(number, Integral) and number >= 1 for number in (steps, restarts)):
        raise ValueError(f"steps = {steps} and restarts = {restarts}: both are whole numbers from 1 up")
    if restarts > 1 and not random_start:
        raise ValueError("restarts without random_start would all be the same: set random_start=True or restarts=1")
    check_context(start, context)


def check_context(start: torch.Tensor, context: tuple) -> None:
    """`context` is a tuple of tensors with one row for each sample of `start` (N, ...)."""
    if torch.is_tensor(context):
        raise ValueError("context is one tensor: give a tuple of tensors, (context,)")
    for position, tensor in enumerate(context):
        if not torch.is_tensor(tensor):
            raise ValueError(f"context[{position}] is a {type(tensor).__name__}: give tensors, one row a sample")
        if len(tensor) != len(start):
            raise ValueError(f"context[{position}] has {len(tensor)} rows, start has {len(start)}: one row a sample")
