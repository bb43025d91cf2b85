"""What `lungadv detect` costs: seconds and peak memory of a whole call, and the memory of candidate generation on the largest scans."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import typer

from lungadv.data.io.read import read_header
from lungadv.data.lung_grid import lung_grid, unit_volume
from lungadv.data.lungs import lung_mask
from lungadv.data.scan import AIR, Scan
from lungadv.detection.candidates import find_peaks
from lungadv.detection.tiling import sliding_window, tiles
from lungadv.detection.weights import default_weights
from lungadv.models.resunet import ResUNet
from lungadv.models.rpn import RPN
from lungadv.phantom.realism import REAL
from lungadv.settings import load_settings
from lungadv.utils.errors import InputError
from lungadv.utils.files import real_folder
from lungadv.utils.lengths import whole_voxels

LIMITS = {"seconds": 60.0, "GiB": 4.0}
LARGE = (700, 512, 512)  # voxels of 1 x 0.7 x 0.7 mm


def peak_gib():
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(name, value, limit=None):
    """A line of the table."""
    held = "" if limit is None else f"<= {limit:g}   {'held' if value <= limit else 'NOT held'}"
    print(f"{name:<66} {value:>8.2f} {held}", flush=True)


def call(scan, weights):
    """Run `lungadv detect` in a process of its own on two cores: wall seconds, processor seconds, peak GiB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.csv"
        terms = ["detect", str(scan), "--out", str(out), "--weights", str(weights)]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "2"}
        process = subprocess.Popen([sys.executable, "-m", "lungadv.cli", *terms], env=environment, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise InputError(f"lungadv detect {scan} failed")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, used.ru_maxrss / 2**20


def main(weights: Path = None, scan: Path = None):
    """Measure a call on a scan (default: LIDC-IDRI-0001 of LUNGADV_REAL_CT), then the memory of the full profile on the largest scan."""
    print(f"{'measure':<66} {'value':>8} wanted")
    scan = scan or real_folder() / REAL
    if scan.exists():
        seconds, computing, gib = call(scan, weights or default_weights())
        size = " x ".join(map(str, read_header(scan).hu.shape[::-1]))
        row(f"lungadv detect, {size}: wall seconds", seconds, LIMITS["seconds"])
        row("  processor seconds", computing)
        row("  peak GiB", gib, LIMITS["GiB"])
    else:
        print(f"no scan at {scan}: give one with --scan, or name the folder of real scans in LUNGADV_REAL_CT")
    for name, value in json.loads(subprocess.check_output([sys.executable, __file__, "large"])).items():
        row(name, value)


def large():
    """Print, as JSON, the peak GiB after each step of candidate generation in the full profile on a scan of LARGE; one tile a network."""
    settings, peak = load_settings("full").candidates, {}
    z, y, x = (np.linspace(-1, 1, side)[(...,) + (None,) * k] for side, k in zip(LARGE, (2, 1, 0), strict=True))
    hu = np.full(LARGE, 40, np.int16)
    for plane, height in zip(hu, z[:, 0, 0], strict=True):
        plane[(x / 0.9) ** 2 + (y / 0.7) ** 2 > 1] = AIR
        for side in (-0.42, 0.42):
            plane[((x - side) / 0.34) ** 2 + (y / 0.55) ** 2 + (height / 0.9) ** 2 < 1] = -860
    scan = Scan(hu, (0.7, 0.7, 1.0), (0, 0, 0), np.eye(3), "large")
    peak["full profile, 512 x 512 x 700: the scan, peak GiB"] = peak_gib()
    mask = lung_mask(scan)
    peak["  after the lung mask"] = peak_gib()
    grid, inside = lung_grid(scan, mask, settings.spacing)
    volume = unit_volume(grid)
    peak[f"  after the grid, {' x '.join(map(str, volume.shape))} at {settings.spacing} mm"] = peak_gib()
    heat = torch.rand(volume.shape)
    find_peaks(heat.numpy(), inside, settings.per_source, radius=whole_voxels(5.0, settings.spacing))
    peak["  after the peaks of a heatmap"] = peak_gib()
    width, anchors = settings.width, len(settings.anchors)
    for name, network in (("a ResUNet", ResUNet(width)), ("the RPN", RPN(width, anchors))):
        network = network.to(memory_format=torch.channels_last_3d).eval()
        started = time.perf_counter()
        next(sliding_window(network, volume))
        count = len(tiles(volume.shape))
        peak[f"  after a tile of {name}, of {count} (seconds a tile: {time.perf_counter() - started:.0f})"] = peak_gib()
    print(json.dumps(peak))


if __name__ == "__main__":
    large() if sys.argv[1:] == ["large"] else typer.run(main)
