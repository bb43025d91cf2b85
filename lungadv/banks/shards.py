"""The files of a bank: Parquet shards that any number of processes make side by side, and that are read back as tensors."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from lungadv.banks.recipes import AXES, COLUMNS, REMEDY
from lungadv.banks.search import BATCH, SearchContext, search_image, search_synthetic
from lungadv.data.tables import SMALLEST_MM
from lungadv.training.strategies import BANKS, BASELINE
from lungadv.utils.errors import InputError
from lungadv.utils.files import atomic_write
from lungadv.utils.locks import Lock, hold

__all__ = [
    "SHARD", "is_valid_shard", "lock", "make_missing_shards", "make_shard", "omitted_counts", "read_recipes", "shard_files",
    "summarise",
]  # fmt: skip

SHARD = 256  # searches in a file
OMITTED = "left_out"  # the key in a file's metadata


def shard_files(folder: Path, kind: str) -> list[Path]:
    """The Parquet files of "synthetic", "perturbed" or "noise", in order."""
    return sorted(folder.glob(f"{kind}-*.parquet"))


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a shard, all by default. Raises InputError when the file is damaged or has not got them.

    Each page of a file carries its checksum, so a flipped bit is noticed.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise InputError(f"{path} has no column '{min(missing)}': delete it and {REMEDY}")
            return file.read(columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged: delete it and {REMEDY} ({str(error).splitlines()[0]})") from error


def read_recipes(folder: Path, kind: str, columns: Sequence[str], bank: str | None = None) -> dict[str, torch.Tensor]:
    """Columns of all shards of a kind, of one bank where a shard holds two: {column: tensor (N,) or (N, length)}.

    One shard is in memory at a time beside what is returned. Raises InputError, which names the file, when one is damaged, holds
    what no bank can, or has another eps than those before it.
    """
    paths, found, filled = shard_files(folder, kind), {}, 0
    rows = sum(_count_rows(path, bank) for path in paths)
    for path in paths:
        table = read_shard(path, [*columns, *(["bank"] if bank else [])])
        if bank:
            table = table.filter(pc.field("bank") == bank)
        if len(table) == 0:
            continue
        part = {name: _to_tensor(table[name], name, path) for name in columns}
        for name, values in part.items():
            if name not in found:
                found[name] = values.new_empty(rows, *values.shape[1:])
            elif values.shape[1:] != found[name].shape[1:]:
                raise InputError(f"{path}: '{name}' is of another length than in the files before it: delete it and {REMEDY}")
            found[name][filled : filled + len(values)] = values
        filled += len(table)
        _check_recipes(path, part, found)
    return found


def _count_rows(path, bank):
    """Rows of a shard that belong to a bank, all by default."""
    names = read_shard(path, ["bank"] if bank else [])
    return len(names) if bank is None else pc.sum(pc.equal(names["bank"], bank)).as_py() or 0


def _check_recipes(path, part, found):
    """Raise InputError when numbers of a shard are none that a bank can have."""
    wrong = []
    if "place" in part and part["place"].min() < 0:
        wrong.append(f"place {part['place'].min()}")
    if "view" in part and (part["view"].min() < 0 or part["view"][:, 3].max() >= 8 * len(AXES)):
        wrong.append(f"a view of {part['view'].amin(0).tolist()} to {part['view'].amax(0).tolist()}")
    if "eps" in part and (part["eps"] != found["eps"][0]).any():
        wrong.append(f"eps {part['eps'].unique().tolist()} beside {found['eps'][0]}")
    if wrong:
        raise InputError(f"{path}: {wrong[0]} is no recipe of this bank: delete it and {REMEDY}")


def _to_tensor(column, name, path):
    """A column of numbers, of lists or of bytes, each of one length."""
    try:
        if pa.types.is_binary(column.type):
            return torch.from_numpy(np.stack([np.frombuffer(row, np.uint8) for row in column.to_pylist()]))
        values = column.to_numpy()
        return torch.from_numpy(np.stack(values) if pa.types.is_list(column.type) else values.copy())
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: rows of '{name}' are not alike: delete it and {REMEDY}") from error


def omitted_counts(schema: pa.Schema) -> dict[str, dict[str, int]]:
    """How many searches of a shard are in no bank: {bank: {reason: number}}.

    under_6mm: no nodule that counts; changed: the rebuilt patch is judged otherwise than the searched one.
    redrawn: smaller nodules that were drawn before, and dropped.
    """
    return json.loads((schema.metadata or {}).get(OMITTED.encode(), "{}"))


def is_valid_shard(path: Path, searches: int) -> bool:
    """Whether a shard is there, undamaged, and holds what became of that many searches."""
    try:
        table = read_shard(path)
        banks = omitted_counts(table.schema).values()
        return bool(banks) and len(table) == sum(searches - bank["under_6mm"] - bank["changed"] for bank in banks)
    except (InputError, ValueError, KeyError):
        return False


@contextmanager
def lock(path: Path, shared: bool = False, wait: bool = False) -> Iterator[Lock]:
    """Hold the lock beside `path`, as `utils.locks.hold`; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path.with_name(f".{path.name}.lock"), shared, wait) as held:
        yield held


def make_shard(context: SearchContext, kind: str, number: int, generator: torch.Generator) -> pa.Table:
    """The shard of that number of "synthetic", "perturbed" or "noise": the searches that go into a bank, a row each.

    generator: on the device of the networks. What is left out is counted in the metadata, see `omitted_counts`.
    Raises InputError when an answer is not a number, and when no nodule of a whole shard is large enough.
    """
    items, tables = context.items[kind][number * SHARD : (number + 1) * SHARD], []
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH].reset_index(drop=True)
        if kind == "synthetic":
            tables.append(search_synthetic(context, batch, generator))
        else:
            tables.append(search_image(context, kind, batch, generator))
    table = pd.concat(tables, ignore_index=True)
    _check_answers(table, f"{kind} shard {number}")
    small = table["diameter_mm"] < SMALLEST_MM if kind == "synthetic" else pd.Series(False, index=table.index)
    if small.all() and len(items) == SHARD:
        raise InputError(f"no synthetic nodule reaches {SMALLEST_MM:g} mm: train the synthesizer longer (synthesizer.updates)")
    changed = ~small & ((table["confidence_searched"] > 0.5) != (table["confidence_after"] > 0.5))
    numbers = pd.DataFrame({"redrawn": table.get("redraws", 0), "under_6mm": small, "changed": changed}, index=table.index)
    shard = pa.Table.from_pandas(table[~small & ~changed], preserve_index=False)
    return shard.replace_schema_metadata({OMITTED: numbers.groupby(table["bank"]).sum().to_json(orient="index")})


def _check_answers(table, name):
    """Raise InputError, which names shard and item, when a confidence or a loss is not finite."""
    numbers = table[[column for column in table if column.startswith(("confidence_", "loss_"))]]
    wrong = table["item"][~np.isfinite(numbers).all(axis=1)]
    if len(wrong):
        raise InputError(f"{name}, item {wrong.iloc[0]}: the answer of {BASELINE} is not a finite number: train that network again")


def make_missing_shards(context: SearchContext, folder: Path, new_generator: Callable[[str, int], torch.Generator]) -> None:
    """Make every shard in `folder` that is missing or damaged, first those that no other process is at.

    new_generator: the generator of a kind's shard of that number, on the device of the networks.
    A file appears when it is whole. A killed process leaves none, and lets go of its lock. On a disk that knows no locks several processes
    make the same files, each whole.
    """
    shards = {
        folder / f"{kind}-{number:06d}.parquet": (kind, number, min(SHARD, len(items) - number * SHARD))
        for kind, items in context.items.items()
        for number in range(-(-len(items) // SHARD))
    }
    with lock(folder, shared=True, wait=True):
        folder.mkdir(exist_ok=True)
        for wait in (False, True):
            for path in tqdm(list(shards), desc="waiting for others" if wait else "searching", disable=wait, mininterval=2):
                with lock(path, wait=wait) as held:
                    if held.free:
                        kind, number, searches = shards.pop(path)
                        for leftover in folder.glob(f".*.{path.name}") if held.sure else ():
                            leftover.unlink()
                        if not is_valid_shard(path, searches):
                            _write_shard(make_shard(context, kind, number, new_generator(kind, number)), path)


def _write_shard(shard, path):
    with atomic_write(path) as temporary:
        pq.write_table(shard, temporary, compression="zstd", write_page_checksum=True)


def summarise(folder: Path) -> pd.DataFrame:
    """Write bank_<name>.csv from the shards in `folder`, a shard at a time; returns a row of counts for each of BANKS.

    stored: patches; positive_before, positive_after: those that the network calls nodules. The other counts: see `omitted_counts`.
    Raises InputError when a shard is damaged.
    """
    columns = ["redrawn", "under_6mm", "changed", "stored", "positive_before", "positive_after"]
    counts = pd.DataFrame(0, index=pd.Index(BANKS, name="bank"), columns=columns)
    for kind in COLUMNS:
        for path in shard_files(folder, kind):
            shard = read_shard(path)
            for bank, numbers in omitted_counts(shard.schema).items():
                counts.loc[bank, list(numbers)] += list(numbers.values())
            shard = shard.drop_columns([name for name in ("code", "delta", "view") if name in shard.column_names])
            for bank, table in shard.to_pandas().groupby("bank", sort=False):
                target = folder / f"bank_{bank}.csv"
                table.drop(columns="bank").to_csv(target, mode="a", header=not target.exists(), index=False)
                before, after = (table[f"confidence_{name}"] > 0.5 for name in ("before", "after"))
                numbers = {"stored": len(table), "positive_before": before.sum(), "positive_after": after.sum()}
                counts.loc[bank, list(numbers)] += list(numbers.values())
    return counts.reset_index()
