"""Does memory stay flat as scans grow in number? `python perf/memory.py RUN [--profile tiny] [--scans 4]`

RUN is a finished run of the phantom. Its first training scans are taken 1, 4 and 16 times over, each copy under an id of its own, from
the same files. In a process each, the patches of all are cut and written, and batches drawn from them. Then all lung grids are written,
and crops drawn from them. Printed are seconds and the most memory above that of the imports.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lungadv.data.dataset import Data, load_data
from lungadv.data.disk_array import write_rows
from lungadv.pipeline.runs import Run, open_run
from lungadv.pipeline.stages.patches import _cut_patches
from lungadv.training.candidate_crops import candidate_crops, training_grids
from lungadv.training.sampling import sample_batch
from lungadv.training.stored_patches import open_patches

TIMES, BATCHES = (1, 4, 16), 50


def repeat(data: Data, count: int, times: int) -> Data:
    """The first `count` scans of `data`, `times` times over under other ids, read from the scan files themselves."""

    def copies(table):
        parts = [table.assign(seriesuid=table["seriesuid"] + f".{number}") for number in range(times)]
        return pd.concat(parts, ignore_index=True)

    uids = data.uids[:count]
    tables = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    tables = {name: copies(table[table["seriesuid"].isin(uids)]) for name, table in tables.items()}
    return Data(**tables | {"scans": tables["scans"].assign(store="")})


def measure(run: Run, data: Data) -> dict[str, float]:
    """Seconds of each part, and the most memory in MiB above that of the imports."""
    before, seconds, rng = _peak(), {}, np.random.default_rng(0)
    candidates = pd.DataFrame(columns=["seriesuid", "coordX", "coordY", "coordZ", "score"])
    with tempfile.TemporaryDirectory() as folder:
        folder, started = Path(folder), time.perf_counter()
        with write_rows(folder / "a.safetensors") as writer:
            _cut_patches(run, data, candidates, "train", writer.append)
        seconds["patches"], started = time.perf_counter() - started, time.perf_counter()
        pool, generator = open_patches(folder / "a.safetensors", "hu"), torch.Generator().manual_seed(0)
        for _ in range(BATCHES):
            sample_batch(pool, run.settings.fpr.batch_size, run.settings.patch.size, generator)
        seconds["batches"], started = time.perf_counter() - started, time.perf_counter()
        settings = run.settings.candidates
        crops = candidate_crops(training_grids(data, settings.spacing, folder), settings.crop_size, settings.batch_size, rng)
        seconds["grids"], started = time.perf_counter() - started, time.perf_counter()
        for _ in range(BATCHES):
            next(crops)
        seconds["crops"] = time.perf_counter() - started
        seconds["disk MiB"] = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    return seconds | {"peak MiB": _peak() - before}


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """Measure each number of scans in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--times", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.times:
        data = repeat(load_data(options.run / "datasets").of("train"), options.scans, options.times)
        print(json.dumps(measure(open_run(options.profile), data)))
        return
    rows = []
    for times in TIMES:
        terms = [str(options.run), "--profile", options.profile, "--scans", str(options.scans), "--times", str(times)]
        shown = subprocess.check_output([sys.executable, __file__, *terms], stderr=subprocess.DEVNULL)
        rows.append({"scans": times * options.scans} | json.loads(shown.splitlines()[-1]))
    print(pd.DataFrame(rows).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
