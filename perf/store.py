"""A random patch from a store against reading the .zraw and cutting it, sizes, blocks of other sides, and four processes at once."""

import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import typer

from lungadv.data import store
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan
from lungadv.data.patches import extract_patches
from lungadv.phantom.realism import REAL
from lungadv.phantom.simulate import simulate
from lungadv.utils.files import real_folder

LIDC = real_folder() / REAL
CHEST = {"shape": (240, 220, 280), "spacing": (1.25,) * 3, "photons": 3e4, "nodules": [{"type": "solid", "diameter_mm": 9.0}]}
SIZE, SPACING = 64, 0.625  # of a patch: 40 mm
SIDES = (8, 12, 16, 20, 25, 32, 40)  # mm
LIMITS = {"speed": 20, "size": 1.1}


def lung_points(scan, count, rng):
    """Random world points (count, 3) in air of lung density in the inner half of a scan."""
    quarter = np.array(scan.hu.shape) // 4
    inner = np.asarray(scan.hu)[tuple(slice(k, -k) for k in quarter)]
    voxels = np.argwhere((inner > -950) & (inner < -600))
    return scan.to_world(voxels[rng.integers(len(voxels), size=count)] + quarter)


def box(scan, point):
    """The voxels that a patch around a point needs, as slices."""
    half = SIZE * SPACING / 2 / np.array(scan.spacing[::-1])
    centre = scan.to_voxel([point])[0]
    first = np.clip(np.floor(centre - half), 0, np.array(scan.hu.shape) - 1).astype(int)
    return tuple(slice(low, high) for low, high in zip(first, np.ceil(centre + half).astype(int) + 1, strict=True))


def patch(scan, point):
    return extract_patches(scan, [point], SIZE, SPACING)


def crop(scan, point):
    return scan.hu[box(scan, point)]


def timed(function, *arguments, clock=time.process_time):
    """Seconds of this process's own computing, which other programs do not stretch."""
    started = clock()
    function(*arguments)
    return clock() - started


def compare(mhd, h5, points, rng):
    """Seconds of each way to one patch and to its voxels alone, a list a way; the ways in random order at each point."""
    ways = {(name, cut): [] for name in ("zraw", "store") for cut in (patch, crop)}
    for point in points:
        for name, cut in rng.permutation(np.array(list(ways), dtype=object)):
            read, path = (read_scan, mhd) if name == "zraw" else (store.open_scan, h5)
            ways[name, cut].append(timed(lambda: cut(read(path), point)))  # noqa: B023
    return ways


def compare_sides(scan, folder, points, rng):
    """The store's bytes and the median milliseconds for the voxels of a patch, by the side of its blocks."""
    opened, seconds, default = {}, {side: [] for side in SIDES}, store.CHUNK_MM
    for side in SIDES:
        store.CHUNK_MM = side
        store.write(scan, folder / f"{side}.h5")
        opened[side] = store.open_scan(folder / f"{side}.h5")
    store.CHUNK_MM = default
    for point in points:
        for side in rng.permutation(SIDES):
            seconds[side].append(timed(crop, opened[side], point))
    return {side: ((folder / f"{side}.h5").stat().st_size, statistics.median(seconds[side]) * 1e3) for side in SIDES}


def work(scan, points, cut):
    """Cut at each of the points: a worker's job."""
    for point in points:
        cut(scan, point)


def rate(scan, points, processes, cut):
    """Patches a second, of that many processes together."""
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(work, [scan] * processes, [points[:2]] * processes, [cut] * processes))  # started, files in memory
        jobs = [pool.submit(work, scan, points[k :: 4 * processes], cut) for k in range(4 * processes)]
        return len(points) / timed(lambda: [job.result() for job in jobs], clock=time.perf_counter)


def measure(name, mhd, folder, pairs):
    """Print the measurements of one scan."""
    rng = np.random.default_rng(0)
    scan, h5, zraw = read_scan(mhd), folder / "scan.h5", mhd.with_suffix(".zraw").stat().st_size
    seconds = timed(store.write, scan, h5)
    shape, share = "x".join(map(str, scan.hu.shape)), h5.stat().st_size / zraw
    print(f"\n{name}: {shape} at {scan.spacing} mm, .zraw {zraw / 1e6:.1f} MB")
    megabytes, held = h5.stat().st_size / 1e6, verdict(share <= LIMITS["size"])
    print(f"store: {megabytes:.1f} MB, {share:.2f} of the .zraw ({held}), written in {seconds:.2f} s")
    ways = compare(mhd, h5, lung_points(scan, pairs, rng), rng)
    for cut, text in ((crop, "its voxels cut out"), (patch, "and interpolated")):
        whole, part = (statistics.median(ways[way, cut]) * 1e3 for way in ("zraw", "store"))
        ratio = statistics.median(np.divide(ways["zraw", cut], ways["store", cut]))
        held = verdict(ratio >= LIMITS["speed"])
        print(f"a patch, {text}: {whole:.0f} ms from the .zraw, {part:.2f} ms from the store: {ratio:.0f} x ({held})")
    opened, points = store.open_scan(h5), lung_points(scan, 400, rng)
    for cut, text in ((crop, "cut out"), (patch, "interpolated")):
        print(f"patches a second, {text}: {', '.join(f'{rate(opened, points, n, cut):.0f} by {n}' for n in (1, 4))} processes")
    print("side of a block, mm   of the .zraw   voxels of a patch, ms")
    for side, (size, ms) in compare_sides(scan, folder, points[:100], rng).items():
        print(f"{side:>19}   {size / zraw:>12.2f}   {ms:>21.2f}")


def verdict(held):
    return "held" if held else "NOT held"


def main(pairs: int = 20):
    """Print the measurements of a simulated chest and, where it is at hand, of LIDC-IDRI-0001."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_scan(simulate(CHEST, 100, 0).scan, folder / "chest.mhd")
        measure("simulated chest", folder / "chest.mhd", folder, pairs)
        if LIDC.exists():
            measure("LIDC-IDRI-0001", LIDC, folder, pairs)
        else:
            print(f"\nno real scan at {LIDC}: set LUNGADV_REAL_CT")


if __name__ == "__main__":
    typer.run(main)
