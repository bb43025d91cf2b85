"""Stress tests from files: patches from an .npz, a model from a factory, and a report written into a folder."""

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.torch import save_file

from lungadv.evaluation.audit import Report
from lungadv.evaluation.stress import check_pair
from lungadv.utils.files import atomic_write

__all__ = ["load_patches", "make_model", "write_report"]


def load_patches(path: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The arrays `positives` and `negatives` of an .npz file, each float32 (N, 1, D, H, W) in [0, 1]; never unpickles.

    Raises ValueError that names the file, for one that is no .npz, lacks an array, or holds what `check_pair` refuses.
    """
    try:
        clean = check_pair(*_read_arrays(path, ("positives", "negatives")))
    except ValueError as error:
        raise ValueError(f"patches {path}: {error}") from None
    return clean["positives"], clean["negatives"]


def _read_arrays(path, names):
    """Arrays of an .npz by their names. Raises ValueError for a file that is none, or unpacks to more than there is memory for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of odd headers
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array: save both with numpy.savez(path, positives=..., negatives=...)")
            with file:
                missing = [name for name in names if name not in file.files]
                if missing:
                    raise ValueError(f"no array {' and no '.join(missing)}, only {', '.join(file.files)[:200] or 'nothing'}")
                if (size := sum(member.file_size for member in file.zip.infolist())) > psutil.virtual_memory().available:
                    raise ValueError(f"it unpacks to {size / 2**30:.1f} GiB, more than the free memory: give fewer patches")
                return [file[name] for name in names]
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's reader of headers raise errors of many kinds
        if "allow_pickle" in str(error):
            raise ValueError("it holds Python objects, or is no .npz file") from None
        damaged = "" if isinstance(error, ValueError) else f"it cannot be read ({type(error).__name__}), so it may be damaged: "
        raise ValueError(f"{damaged}{str(error)[:300]}") from None


def make_model(factory: str) -> Callable[[torch.Tensor], Any]:
    """The model that a factory `package.module:function` returns, called without arguments; modules of the working folder are found too.

    The working folder is the same afterwards, whatever the factory did.
    Raises ValueError that says which step failed (importing, finding, calling) and why.
    """
    name, _, function = factory.partition(":")
    if not name or not function.isidentifier():
        raise ValueError(f"factory {factory!r} is not of the form package.module:function")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        with contextlib.chdir(here):
            make = getattr(importlib.import_module(name), function, None)
            model = make() if callable(make) else None
    except (Exception, SystemExit) as error:
        where = ": modules are looked for in the current folder and among the installed ones" if isinstance(error, ImportError) else ""
        raise ValueError(f"factory {factory!r} failed with {type(error).__name__}: {error}{where}") from error
    finally:
        with contextlib.suppress(ValueError):  # the factory may have taken it out
            sys.path.remove(here)
    if not callable(make):
        raise ValueError(f"factory {factory!r}: module {name} has no function {function}")
    if not callable(model):
        raise ValueError(f"factory {factory!r} returned {type(model).__name__}, not a model that can be called with patches")
    return model


def write_report(result: Report, folder: str | Path) -> None:
    """Write a report into a folder, made where it is missing.

    Files: stress.csv, audit.csv, loss.csv, report.json, report.png, examples.safetensors.
    """
    from lungadv.evaluation.stress_figure import draw_report

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stress", "audit", "loss"):
        with atomic_write(folder / f"{name}.csv") as path:
            getattr(result, name).to_csv(path, index=False, float_format="%.7g")
    with atomic_write(folder / "report.json") as path:
        path.write_text(json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(folder / "examples.safetensors") as path:
        save_file(result.examples, path)
    with atomic_write(folder / "report.png") as path:
        draw_report(result).savefig(path, format="png", metadata={"Software": None})
