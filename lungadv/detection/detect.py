"""From one scan to its findings: candidate generation, then false-positive reduction, with trained weights."""

import itertools
import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from lungadv.data.hounsfield import doubt_hu
from lungadv.data.lungs import lung_mask
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, to_unit
from lungadv.detection.anatomy import in_lungs
from lungadv.detection.candidates import find_candidates
from lungadv.detection.measure import measure_diameters
from lungadv.detection.weights import Detector, default_weights, load_detector
from lungadv.models.dense_unet import predict
from lungadv.utils.errors import InputError

__all__ = ["COLUMNS", "classify", "deduplicate", "detect", "find_lungs"]

COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "uncertainty", "diameter_mm"]
MAX_SAME_MM = 8.0  # farther apart, two findings are never taken for one: what is marked on a wall may seem as large as the wall
STEPS = ("searching candidates", "weighing candidates", "measuring findings")


def find_lungs(scan: Scan) -> np.ndarray:
    """The lungs in a scan, bool (z, y, x) on its voxels. Raises InputError when the scan is empty or shows none."""
    if scan.hu.min() == scan.hu.max():
        raise InputError(f"scan '{scan.uid}' is empty: all its voxels are {scan.hu.min()} HU; export it again")
    mask = lung_mask(scan)
    if not mask.any():
        doubt = doubt_hu(scan)
        why = f", which {doubt}" if doubt else ": give a CT of the chest, in HU"
        raise InputError(f"no lungs were found in scan '{scan.uid}'{why}")
    return mask


def detect(scan: Scan, weights: str | Path | Detector | None = None, mask: np.ndarray | None = None) -> pd.DataFrame:
    """The findings in a scan, most probable first: a DataFrame of COLUMNS, coordinates in LPS mm, probability and uncertainty in [0, 1].

    weights: a folder of weights or of a finished run, or what `load_detector` made of one; without it the shipped ones, else those of the
    latest quick run.
    mask: the lungs, bool (z, y, x), where they are known; see `find_lungs`. The diameter is measured in the scan.
    A finding that `in_lungs` calls impossible is left out, whatever the networks say of it; there may be none left.
    A finding inside the sphere of a more probable one is the same and left out.
    Shows its progress on stderr, unless it is one process of many.
    Raises InputError for a folder without weights, or with broken ones, and for a scan that is empty or shows no lungs.
    """
    detector = weights if isinstance(weights, Detector) else load_detector(default_weights() if weights is None else weights)
    mask = find_lungs(scan) if mask is None else mask
    terms = {"bar_format": "{desc:<22}{bar:20}{n}/{total} {elapsed}", "disable": multiprocessing.parent_process() is not None}
    with tqdm(total=len(STEPS), leave=False, **terms) as bar:

        def step(function, *arguments):
            bar.set_description_str(STEPS[bar.n])
            result = function(*arguments)
            bar.update()
            return result

        found = step(find_candidates, detector.candidate_networks, detector.calibration, scan, mask, detector.candidates)
        if found.empty:
            raise InputError(f"no candidate was found in scan '{scan.uid}': give a CT of the chest, in HU")
        centres = found[["coordX", "coordY", "coordZ"]].to_numpy(float)
        patches = to_unit(extract_patches(scan, centres, detector.patch.size, detector.patch.spacing))
        probability, uncertainty = step(classify, detector.fpr_network, patches)
        findings = found.assign(seriesuid=scan.uid, probability=probability, uncertainty=uncertainty)
        findings["diameter_mm"] = step(measure_diameters, scan, centres)
        findings = findings[in_lungs(scan, mask, centres, findings["diameter_mm"])]
    return deduplicate(findings[COLUMNS].sort_values("probability", ascending=False, ignore_index=True))


def classify(network: nn.Module, patches: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probability and uncertainty, each (N,), of patches (N, 1, P, P, P) in [0, 1]: means over the eight mirror images of each.

    On validation phantoms that finds more than the patch alone does (FPR networks are trained with mirrored patches).
    """
    mirrored = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]
    answers = [predict(network, patches.flip(axes)) for axes in mirrored]
    return tuple(np.mean([np.asarray(answer[k]) for answer in answers], axis=0) for k in (0, 1))


def deduplicate(findings: pd.DataFrame) -> pd.DataFrame:
    """The findings (most probable first) without those inside the sphere of a more probable one, MAX_SAME_MM from it at most."""
    places = findings[["coordX", "coordY", "coordZ"]].to_numpy(float)
    radius = np.minimum(findings["diameter_mm"] / 2, MAX_SAME_MM).to_numpy()
    inside = np.linalg.norm(places[:, None] - places, axis=2) < radius  # row: whose place, column: in whose sphere
    kept = np.ones(len(findings), dtype=bool)
    for k in range(len(findings)):
        kept[k] = not (inside[k, :k] & kept[:k]).any()
    return findings[kept].reset_index(drop=True)
