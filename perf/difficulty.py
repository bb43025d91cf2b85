"""How hard is a run's detection task? A classical detector and the trained strategies on the validation scans.

The classical detector is a multi-scale Laplacian of Gaussian inside the lungs. The simulated chests hold as many traps for it as a
real one when it answers beside the nodules about as often, per litre of lung; its CPM is reported. The task is neither hopeless nor
saturated when baseline-ce lies between 0.6 and 0.9. What baseline-ce misses and what its false positives lie on stand below.

    python perf/difficulty.py --profile quick --seed 0
"""

import numpy as np
import pandas as pd
import typer
from scipy import ndimage
from tqdm import tqdm

from lungadv.cli import Data, Profile, Seed, one_line_errors
from lungadv.data.lungs import lung_mask
from lungadv.data.patches import resample
from lungadv.data.scan import HU_MIN
from lungadv.data.tables import XYZ
from lungadv.evaluation.misses import FP_PER_SCAN, detection_outcomes, false_positive_table, miss_table
from lungadv.phantom.lung_measures import BLOOD_HU, SPACING
from lungadv.phantom.realism import real_chest
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages.benchmarks import score_strategies, validation_marks
from lungadv.pipeline.stages.datasets import load
from lungadv.training.strategies import STRATEGIES
from lungadv.utils.files import real_folder

DIAMETERS = np.geomspace(6, 20, 5)  # mm, of the balls that the scales match
THRESHOLDS = (-750, -600, -450, -300)  # HU of a peak, from ground glass to solid; the best one is reported
MARGIN_MM = 2.0  # around the lungs, for nodules that the mask leaves out at the pleura
CEILING_HU = BLOOD_HU  # calcium above it, and blood with contrast agent, would outshine soft tissue
TOP = 100  # marks a scan
BLOB_HU = 550.0  # of response: what a solid nodule has
APART_MM = 4.0  # from a nodule's surface, where its vessels and tails end
GATE = (0.6, 0.9)  # CPM of baseline-ce
FACTOR = 1.5  # within which simulated blobs must lie of real ones


def near_lungs(mask, spacing):
    """The voxels at most MARGIN_MM from the lungs, a bool mask (z, y, x): bool (z, y, x); spacing in mm as (x, y, z)."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing[::-1]) <= MARGIN_MM


def blobness(hu, spacing, diameter):
    """- sigma^2 times the Laplacian of the Gaussian-smoothed HU, sigma = diameter / (2 sqrt 3): largest at a ball of that diameter.

    hu (z, y, x), spacing in mm as (x, y, z). In HU, equal for equal contrast at every scale.
    """
    sigma = diameter / (2 * np.sqrt(3)) / np.array(spacing[::-1])  # voxels
    return -sum(s**2 * ndimage.gaussian_filter(hu, sigma, order=order) for s, order in zip(sigma, 2 * np.eye(3, dtype=int), strict=True))


def peaks(scan, mask):
    """The local maxima of the largest blobness over all scales near the lungs, a bool mask (z, y, x).

    A table of coordX, coordY, coordZ, probability (HU of response), hu, diameter_mm.
    """
    search = near_lungs(mask, scan.spacing)
    box = ndimage.find_objects(search.astype(np.uint8))[0]
    search, inside, hu = search[box], mask[box], np.clip(scan.hu[box].astype(np.float32), HU_MIN, CEILING_HU)
    hu[~search] = np.median(hu[inside])  # the chest wall is no blob's surrounding
    scales = np.stack([blobness(hu, scan.spacing, diameter) for diameter in DIAMETERS])
    best = scales.max(axis=0)
    index = np.argwhere(search & (best > 0) & (best == ndimage.maximum_filter(best, 3)))
    at = tuple(index.T)
    smooth = ndimage.gaussian_filter(hu, 1 / np.array(scan.spacing[::-1]))  # by 1 mm: a noisy voxel passes no threshold
    places = pd.DataFrame(scan.to_world(index + [axis.start for axis in box]), columns=XYZ)
    return places.assign(probability=best[at], hu=smooth[at], diameter_mm=DIAMETERS[scales.argmax(axis=0)[at]])


def suppress(found):
    """The TOP strongest peaks of which none lies in the ball of a stronger one."""
    rest, kept = found.sort_values("probability", ascending=False), []
    while len(rest) and len(kept) < TOP:
        kept.append(rest.iloc[0])
        distance = np.linalg.norm(rest[XYZ] - kept[-1][XYZ].to_numpy(float), axis=1)
        rest = rest[distance > kept[-1]["diameter_mm"] / 2]
    return pd.DataFrame(kept, columns=found.columns).astype(float)


def blobs_a_litre(marks, nodules, scan, mask):
    """How many marks of more than BLOB_HU, apart from all nodules, a litre of lung has."""
    marks = marks[marks["probability"] > BLOB_HU]
    gaps = np.linalg.norm(marks[XYZ].to_numpy()[:, None] - nodules[XYZ].to_numpy(), axis=2)
    apart = (gaps > nodules["diameter_mm"].to_numpy() / 2 + APART_MM).all(axis=1)
    return apart.sum() / (mask.sum() * np.prod(scan.spacing) / 1e6)


def log_marks(data):
    """The classical detector on all scans: its marks for each threshold, {name: DataFrame of seriesuid, coordX, ..., probability},
    and the blobs a litre of each scan."""
    marks, blobs = {f"LoG {threshold} HU": [] for threshold in THRESHOLDS}, []
    nodules = pd.concat([data.annotations, data.excluded])
    for uid in tqdm(data.uids, desc="Laplacian of Gaussian", disable=None):
        scan, mask = data.scan(uid), data.lungs(uid)
        found = peaks(scan, mask)
        for name, threshold in zip(marks, THRESHOLDS, strict=True):
            marks[name].append(suppress(found[found["hu"] > threshold]).assign(seriesuid=uid))
        blobs.append(blobs_a_litre(marks[next(iter(marks))][-1], nodules[nodules["seriesuid"] == uid], scan, mask))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in marks.items()}, np.array(blobs)


def real_blobs():
    """The blobs a litre of the real chest of `realism`, at the quick profile's voxels; None where it is not at hand."""
    scan = real_chest()
    if scan is None:
        return None
    nodules = pd.read_csv(real_folder() / "luna16_tables" / "annotations.csv")
    scan = resample(scan, SPACING)
    mask = lung_mask(scan)
    return blobs_a_litre(suppress(peaks(scan, mask)), nodules[nodules["seriesuid"] == scan.uid], scan, mask)


def strategy_marks(run):
    """The marks of every strategy that the run has trained, as written beside its weights."""
    trained = [name for name in STRATEGIES if run.path("fpr", name, "provenance.json").exists()]
    return {name: validation_marks(run, name) for name in trained}


def difficulty(run):
    """A row for each detector: cpm, lower, upper, found (share of nodules with any mark) and the CPM of each nodule type; the
    validation data; the blobs a litre of its scans."""
    data = load(run).of("validation")
    marks, blobs = log_marks(data)
    marks |= strategy_marks(run)
    scores = score_strategies(marks, data.annotations, data.excluded, data.uids, run.settings.froc.bootstraps, run.seed)
    rows = {}
    for name, score in scores["all", "dropped"].items():
        lower, upper = score.cpm_interval
        rows[name] = {"cpm": score.cpm, "lower": lower, "upper": upper, "found": score.counts["nodules_found"] / score.counts["nodules"]}
        rows[name] |= {kind: scores[kind, "dropped"][name].cpm for kind in sorted(data.annotations["type"].unique())}
    return pd.DataFrame.from_dict(rows, orient="index"), data, blobs


def verdict(name, value, low, high):
    """Whether a gate holds, in words."""
    if value is None:
        return f"not measured: {name} is not at hand"
    holds = "holds" if low <= value <= high else "does NOT hold"
    return f"{holds}: {name} {value:.3f}, wanted between {low:.3g} and {high:.3g}"


@one_line_errors
def main(profile: Profile = "quick", seed: Seed = 0, data: Data = "phantom"):
    """Measure how hard a run's validation scans are for a classical detector and for its trained networks, and what is hard in them."""
    run = open_run(profile, seed, data)
    table, part, blobs = difficulty(run)
    counts = ", ".join(f"{count} {kind}" for kind, count in part.annotations["type"].value_counts().items())
    typer.echo(f"{len(part.uids)} validation scans, {len(part.annotations)} nodules: {counts}")
    typer.echo("CPM with its 95 % interval over scans, share of nodules found by any mark, CPM of each type alone")
    typer.echo(table.to_string(float_format="{:.3f}".format))
    classical, real = table["cpm"][[name.startswith("LoG") for name in table.index]].max(), real_blobs()
    typer.echo(f"the classical detector at its best threshold: CPM {classical:.3f}")
    beside = "none at hand" if real is None else f"{real:.1f}"
    typer.echo(f"blobs apart from nodules, a litre of lung: {blobs.mean():.1f} (over scans {blobs.std():.1f}); in the real chest {beside}")
    ratio = None if real is None else blobs.mean() / real
    typer.echo("gate " + verdict("simulated / real blobs", ratio, 1 / FACTOR, FACTOR))
    typer.echo("gate " + verdict("the CPM of baseline-ce", table["cpm"].get("baseline-ce"), *GATE))
    if "baseline-ce" in table.index:
        result = detection_outcomes({"baseline-ce": validation_marks(run, "baseline-ce")}, part)["baseline-ce"]
        typer.echo(f"\nbaseline-ce at {FP_PER_SCAN:g} false positive per scan (above {result.threshold:.3f}): nodules missed")
        typer.echo(miss_table(result).to_string(index=False, float_format="{:.3f}".format))
        typer.echo("\nwhat its false positives lie on")
        typer.echo(false_positive_table(result).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    typer.run(main)
