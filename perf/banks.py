"""Banks made, on disk, in memory, and rebuilt on the fly in training against tensors. Prints; see perf/README.md."""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lungadv.banks.recipes import COLUMNS
from lungadv.banks.shards import SHARD, make_shard, read_recipes, shard_files
from lungadv.models.dense_unet import new_network
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages.banks import search_context
from lungadv.pipeline.stages.fpr import read_bank
from lungadv.pipeline.stages.patches import real_patches
from lungadv.settings import load_settings
from lungadv.training.losses import classification_loss
from lungadv.training.sampling import batch_composition, classification_batches
from lungadv.training.strategies import BANKS, STRATEGIES
from lungadv.utils.device import get_device

ROUNDS, UPDATES = 7, 2
PAPER = {"perturbed": 22_169, "noise": 100_000, "synthetic": 2 * 389_280}  # patches of 64^3


class Tensors:
    """A bank's patches, rebuilt once and for all."""

    def __init__(self, bank):
        self.patches = torch.cat([bank[rows].cpu() for rows in torch.arange(len(bank)).split(64)])
        self.fixed = bank.fixed

    def __len__(self):
        return len(self.patches)

    def __getitem__(self, rows):
        return self.patches[rows]


def pools(run, plan, content):
    """The positives and negatives of a strategy, (pool, share) pairs, with banks {name: content}."""
    real, half = real_patches(run), run.settings.fpr.batch_size // 2
    named = ((1, plan.positives), (0, plan.negatives))
    return [batch_composition(real[label], [content[name] for name in names], half) for label, names in named]


def seconds(network, batches, updates):
    """Seconds on the clock and of the processor for some updates."""
    device = get_device()
    clock, process = time.perf_counter(), time.process_time()
    for _ in range(updates):
        loss = classification_loss(network, *(part.to(device) for part in next(batches)))
        loss.backward()
        loss.item()
    return time.perf_counter() - clock, time.process_time() - process


def compare(run, name, loaded):
    """Print updates per second from tensors and from recipes, and the ratio in shuffled pairs."""
    plan, ways = STRATEGIES[name], {"tensors": {key: Tensors(bank) for key, bank in loaded.items()}, "recipes": loaded}
    network = new_network(plan.output, run.settings.fpr.width).to(get_device()).train()
    size = run.settings.patch.size
    batches = {
        way: classification_batches(*pools(run, plan, content), size, torch.Generator().manual_seed(0)) for way, content in ways.items()
    }
    spent = {way: [] for way in ways}
    for turn in range(ROUNDS + 1):
        for way in random.sample(list(ways), len(ways)):
            found = seconds(network, batches[way], UPDATES)
            if turn:  # the first warms up
                spent[way].append(found)
    spent = {way: np.array(values) / UPDATES for way, values in spent.items()}
    ratio = np.quantile(spent["recipes"] / spent["tensors"], (0.25, 0.5, 0.75), axis=0)
    each = {way: 1 / np.median(values[:, 0]) for way, values in spent.items()}
    clock, cpu = (f"{ratio[1, k]:.3f} ({ratio[0, k]:.3f} to {ratio[2, k]:.3f})" for k in (0, 1))
    print(f"{name:18} {each['tensors']:8.2f} {each['recipes']:8.2f}   {clock}   {cpu}")


def sizes(run):
    """Print the bytes a patch of a run's banks, and what the paper's bank would take at 64^3."""
    counts = pd.read_csv(run.path("banks", "counts.csv")).set_index("bank")["stored"]
    voxels, total = run.settings.patch.size**3, 0
    sizes = [settings.synthesizer.latent_size for settings in (load_settings("full"), run.settings)]
    longer = 2 * 4 * (sizes[0] - sizes[1])  # a code and its change, float32
    print("\nbank        patches   bytes a patch   bits a voxel   the paper's patches   GB at 64^3")
    for kind, number in PAPER.items():
        stored = sum(count for bank, count in counts.items() if bank.split("-")[0] == kind)
        bytes_a_patch = sum(path.stat().st_size for path in shard_files(run.path("banks"), kind)) / stored
        large = bytes_a_patch + longer if kind == "synthetic" else bytes_a_patch * 64**3 / voxels
        total += large * number / 1e9
        bits = 8 * bytes_a_patch / voxels
        print(f"{kind:10} {stored:8}   {bytes_a_patch:13.0f}   {bits:12.2f}   {number:19}   {large * number / 1e9:10.2f}")
    print(f"together {total:.2f} GB; the limit is 10 GB")


def memory(shards):
    """Print how far reading a bank of noise of 64^3, in a process of its own, raises the peak of memory, and the bank's size."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for k in range(shards):
            columns = {"bank": ["noise"] * 256, "seed": rng.integers(2**62, size=256), "eps": [0.02] * 256}
            columns["delta"] = [rng.bytes(64**3 // 4) for _ in range(256)]
            pq.write_table(pa.table(columns), Path(folder, f"noise-{k:06d}.parquet"), compression="zstd")
        risen = subprocess.run([sys.executable, __file__, "--read", folder], check=True, capture_output=True, encoding="utf-8").stdout
    print(f"{256 * shards:7} patches of 64^3: {16 * shards:5} MiB, read with {int(risen):5} MiB more than before")


def peak():
    """The most memory of this process so far, in MiB; ru_maxrss would begin at that of the process it was started from."""
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))) // 1024


def read(folder):
    """Read a bank of noise and print the MiB by which the peak has risen."""
    before = peak()
    bank = read_recipes(Path(folder), "noise", COLUMNS["noise"], "noise")
    assert len(bank["delta"])
    print(peak() - before)


def make(run, shards):
    """Print how fast the first shards of a run's banks are made on the device, and how long all of them and the paper's would take."""
    context = search_context(run)
    print(f"{get_device()}, {torch.get_num_threads()} threads, patches of {run.settings.patch.size}^3")
    print("bank         patches a second   this run's bank, minutes   the paper's number, hours   peak MiB after each shard")
    for kind, items in context.items.items():
        made, peaks, started = 0, [], time.perf_counter()
        for k in range(min(shards, -(-len(items) // SHARD))):
            make_shard(context, kind, k, run.generator("banks", kind, k, device=context.device))
            made += len(items[k * SHARD : (k + 1) * SHARD])
            peaks.append(peak())
        each = 2 if kind == "synthetic" else 1  # as drawn and as searched
        rate = each * made / (time.perf_counter() - started)
        print(f"{kind:10} {rate:18.1f} {each * len(items) / rate / 60:26.1f} {PAPER[kind] / rate / 3600:27.1f}   {peaks}")


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--make", type=int, metavar="SHARDS", help="time the making of so many shards of each kind instead")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return
    run = open_run(options.profile, options.seed)
    torch.set_num_threads(1)
    if options.make:
        make(run, options.make)
        return
    loaded = {name: read_bank(run, name)[1] for name in BANKS}
    print("strategy             updates a second    recipes / tensors")
    print("                    tensors  recipes   time                     of CPU; at most 1.10 is asked for")
    for name, plan in STRATEGIES.items():
        if plan.positives and not plan.online:
            compare(run, name, loaded)
    sizes(run)
    print()
    for shards in (4, 16):
        memory(shards)


if __name__ == "__main__":
    main()
