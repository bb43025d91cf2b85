"""Patches from one scan: `extract_patches` against SimpleITK, in shuffled pairs of one process; their largest difference in HU."""

import random
import statistics
import time

import numpy as np
import SimpleITK as sitk
import torch
import typer

from lungadv.data.patches import extract_patches
from lungadv.data.scan import AIR, Scan

SHAPE, SPACING = (300, 512, 512), (0.7, 0.7, 1.0)
TARGET = 1.5  # times SimpleITK's speed, along the axes


def noise_scan(direction):
    """A scan of noise: no two ways of sampling agree on it by chance."""
    hu = np.random.default_rng(0).integers(-1000, 400, SHAPE, dtype=np.int16)
    return Scan(hu, SPACING, (-180, -180, -150), direction, "noise")


def itk_patches(image, centres, size, spacing):
    """The same patches by SimpleITK, from an image of float32 that is at hand: (N, size, size, size)."""
    patches = np.empty((len(centres), size, size, size), dtype=np.float32)
    for patch, centre in zip(patches, centres, strict=True):
        origin = (centre - (size - 1) / 2 * spacing).tolist()
        grid = ((size,) * 3, sitk.Transform(), sitk.sitkLinear, origin, (spacing,) * 3, np.eye(3).ravel().tolist())
        sampled = sitk.Resample(image, *grid, AIR, sitk.sitkFloat32)
        patch[:] = sitk.GetArrayViewFromImage(sampled)
    return patches


def measure(direction, patches, size, spacing, rounds):
    """Median seconds of both, on the clock and of the processor, and their largest difference in HU."""
    scan = noise_scan(direction)
    image = sitk.GetImageFromArray(scan.hu.astype(np.float32))
    image.SetSpacing(scan.spacing)
    image.SetOrigin(scan.origin)
    image.SetDirection(scan.direction.ravel().tolist())
    centres = scan.to_world(np.random.default_rng(1).uniform(0.25, 0.75, (patches, 3)) * SHAPE)
    ways = {
        "lungadv": lambda: extract_patches(scan, centres, size, spacing)[:, 0].numpy(),
        "SimpleITK": lambda: itk_patches(image, centres, size, spacing),
    }
    difference = np.abs(ways["lungadv"]() - ways["SimpleITK"]()).max()
    seconds = {way: [] for way in ways}
    for _ in range(rounds):
        for way in random.sample(list(ways), len(ways)):
            started = time.perf_counter(), time.process_time()
            ways[way]()
            seconds[way].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {way: [statistics.median(times) for times in zip(*pairs, strict=True)] for way, pairs in seconds.items()}, difference


def main(patches: int = 64, size: int = 64, spacing: float = 0.625, rounds: int = 7, threads: int = 2):
    """Print seconds, their ratio and the largest difference for a scan along the patient's axes and for a turned one."""
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    turned = np.array([[np.cos(np.pi / 9), -np.sin(np.pi / 9), 0], [np.sin(np.pi / 9), np.cos(np.pi / 9), 0], [0, 0, 1]])
    print(f"{patches} patches of {size}^3 at {spacing} mm, {threads} threads, medians of {rounds}")
    print(f"{'scan':<22} {'lungadv s':>10} {'SimpleITK s':>12} {'ratio':>6} {'of CPU':>7} {'HU':>7}")
    for name, direction in (("along the axes", np.eye(3)), ("turned by 20 degrees", turned)):
        seconds, difference = measure(direction, patches, size, spacing, rounds)
        ours, theirs = seconds["lungadv"], seconds["SimpleITK"]
        ratio = theirs[0] / ours[0]
        print(f"{name:<22} {ours[0]:>10.3f} {theirs[0]:>12.3f} {ratio:>6.2f} {theirs[1] / ours[1]:>7.2f} {difference:>7.3f}")
        if name == "along the axes":
            print(f"  at least {TARGET:g} times SimpleITK's speed: {'held' if ratio >= TARGET else 'NOT held'}")


if __name__ == "__main__":
    typer.run(main)
