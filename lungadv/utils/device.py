"""The device to compute on, and the type in which its convolutions are fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_in_float32 = ContextVar("_in_float32", default=False)


def get_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it, float32 elsewhere and within `full_precision`."""
    if _in_float32.get():
        return torch.float32
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """The context in which convolutions compute in `fast_dtype`."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def full_precision() -> Iterator[None]:
    """Within this context convolutions compute in float32 on every processor."""
    token = _in_float32.set(True)
    try:
        yield
    finally:
        _in_float32.reset(token)
