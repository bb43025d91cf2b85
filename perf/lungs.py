"""The lung mask against the phantom's own lungs and against real labels, and how long it takes: numbers beside their limits."""

import time

import numpy as np
import torch
import typer

from lungadv.data.io.read import read_scan
from lungadv.data.lungs import lung_mask
from lungadv.data.tables import TYPES
from lungadv.phantom.realism import REAL
from lungadv.phantom.simulate import simulate
from lungadv.utils.files import real_folder

LIMITS = {"phantom": 0.95, "cip_ct64": 0.90, "nodule": 1.0, "seconds": 10.0}
SEED = 100
LABELS = {"cip_ct64": "", "cip_ct64, turned": "-transformed"}


def dice(a, b):
    """Dice coefficient of two masks."""
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def row(name, value, limit=None, least=True):
    """A line of the table."""
    verdict = "" if limit is None else ("held" if (value >= limit if least else value <= limit) else "NOT held")
    wanted = "" if limit is None else f"{'>=' if least else '<='} {limit:g}"
    print(f"{name:<52} {value:>9.4f} {wanted:>8} {verdict}")


def labels_of(path):
    """The values of a label file (z, y, x)."""
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def main(persons: int = 6):
    """Print the table. Real scans are those of LUNGADV_REAL_CT (default ../shared/real_ct); without them, the phantom's alone."""
    torch.set_num_threads(2)
    print(f"{'measure':<52} {'value':>9} {'wanted':>8}")
    for index in range(persons):
        photons = (1.5e5, 3e4, 1e4)[index % 3]
        nodules = [{"type": name} for name in TYPES]
        recipe = {"shape": (240, 220, 280), "spacing": (1.25,) * 3, "photons": photons, "nodules": nodules, "mimics": 12}
        person = simulate(recipe, SEED + index, index)
        mask = lung_mask(person.scan)
        row(f"Dice, phantom {SEED + index} at {photons:g} photons", dice(mask, person.lungs > 0), LIMITS["phantom"])
        row("  share of its nodules' voxels inside", mask[person.labels > 0].mean())
    folder = real_folder()
    if not folder.is_dir():
        print(f"no real scans at {folder}: LUNGADV_REAL_CT names the folder that holds them")
        return
    for name, kind in LABELS.items():
        labels = labels_of(folder / "cip_ct64" / f"lm-64{kind}.nrrd") > 0
        row(f"Dice, {name}", dice(lung_mask(read_scan(folder / "cip_ct64" / f"ct-64{kind}.nrrd")), labels), LIMITS["cip_ct64"])
    scan, seconds = read_scan(folder / REAL), []
    for _ in range(3):
        started = time.perf_counter()
        mask = lung_mask(scan)
        seconds.append(time.perf_counter() - started)
    votes = labels_of(str(folder / REAL).replace(".mhd", "_nodule_votes.nii.gz"))
    row("LIDC-IDRI-0001: nodule inside, 2 or more readers", mask[votes >= 2].mean(), LIMITS["nodule"])
    row("LIDC-IDRI-0001: nodule inside, 1 or more readers", mask[votes >= 1].mean())
    row(f"seconds for {' x '.join(map(str, scan.hu.shape[::-1]))}, median of 3", np.median(seconds), LIMITS["seconds"], least=False)


if __name__ == "__main__":
    typer.run(main)
