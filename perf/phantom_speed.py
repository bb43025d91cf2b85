"""How long a simulated chest takes and how much memory, at three sizes: each size in a process of its own, several scans."""

import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import typer

from lungadv.phantom.simulate import simulate

SIZES = {  # z y x voxels of 1.25 mm; the middle one is what the limits are for
    "small": (176, 176, 220),
    "reference": (240, 220, 280),
    "large": (320, 280, 360),
}
LIMITS = {"seconds": 2.0, "GiB": 1.5}
NODULES = [{"type": kind, "diameter_mm": mm} for kind, mm in (("solid", 9.0), ("part_solid", 14.0), ("ground_glass", 11.0))]


def measure(shape, scans):
    """Seconds of each of `scans` low-dose chests with three nodules, one after the other, and the process's peak memory in GiB."""
    recipe, seconds = {"shape": shape, "spacing": (1.25,) * 3, "photons": 3e4, "nodules": NODULES}, []
    for index in range(scans):
        started = time.perf_counter()
        simulate(recipe, 100, index)
        seconds.append(time.perf_counter() - started)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(scans: int = 6):
    """Print seconds a scan: the first, which also fills caches, the mean of the first three, the median of all but the first; memory."""
    print(f"{'size':<10} {'voxels':>15} {'first s':>8} {'of three':>8} {'median s':>9} {'s / 1e6':>8} {'GiB':>6}")
    for name, shape in SIZES.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            (first, *others), gib = pool.submit(measure, shape, scans).result()
        seconds, voxels = statistics.median(others), shape[0] * shape[1] * shape[2]
        three = statistics.mean([first, *others[:2]])
        size = f"{name:<10} {'x'.join(map(str, shape)):>15}"
        print(f"{size} {first:>8.2f} {three:>8.2f} {seconds:>9.2f} {seconds / voxels * 1e6:>8.3f} {gib:>6.2f}")
        if name == "reference":
            verdict = seconds <= LIMITS["seconds"] and gib <= LIMITS["GiB"]
    print(f"{LIMITS['seconds']:g} s and {LIMITS['GiB']:g} GiB for the reference size, by the median: {'held' if verdict else 'NOT held'}")


if __name__ == "__main__":
    typer.run(main)
