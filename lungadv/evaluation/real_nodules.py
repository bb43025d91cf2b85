"""Networks of false-positive reduction judged on cubes of real nodules: sensitivity against false positives a litre of lung.

A network is shown every place of a cube's lung where its patch fits, and its surest places are marks. No candidate network takes part.
Cubes have a nodule in the middle, and overlap: this is not LUNA16's FROC, and no number of it may stand beside one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lungadv.data.cube_patches import cube_lung, findings_in, fitting_places
from lungadv.data.nodule_cubes import Cubes, load_cube
from lungadv.data.patches import extract_patches
from lungadv.data.scan import to_unit
from lungadv.data.tables import SMALLEST_MM, XYZ
from lungadv.detection.candidates import find_peaks
from lungadv.evaluation.cube_detection import operating_point
from lungadv.evaluation.froc import match_events
from lungadv.models.dense_unet import predict
from lungadv.utils.statistics import forest_auc, percentile_interval, resample_weights

__all__ = ["RATES", "Searched", "apply_thresholds", "border_auc", "compare_networks", "search_cubes", "sensitivity_per_litre"]

RATES = (1, 2, 4, 8, 16)  # false positives a litre
STEP_MM = 3.0  # between places; a ball of 6 mm holds one wherever it lies
PEAK_STEPS = 2  # a mark is the surest of the places so many steps around it
TREES = 200


@dataclass(frozen=True, eq=False)
class Searched:
    """What was searched and what lies there; `scan` is the number of a cube, coordinates are LPS mm.

    cubes: path, patient, litres of lung searched. nodules: of SMALLEST_MM and more, with type. excluded: neither hits nor false.
    marks: by network, scan, XYZ, probability.
    """

    cubes: pd.DataFrame
    nodules: pd.DataFrame
    excluded: pd.DataFrame
    marks: dict[str, pd.DataFrame]


def border_auc(table: pd.DataFrame, patches: torch.Tensor) -> float:
    """Cross-validated AUC of a forest that sees the outermost voxels of patches alone; 0.5 if these tell nothing of the label.

    table: as of `cut_cube_patches`, a row a patch; patches: (N, 1, P, P, P) in [0, 1]. Of each cube with both labels the first of each
    counts: further patches of one nodule would be known again. Raises ValueError where fewer than five cubes have both.
    """
    first = table[table["has_both"]].reset_index(drop=False).groupby(["path", "label"], sort=False).head(1)
    if len(first) < 10:
        raise ValueError(f"{len(first) // 2} cubes have patches of both labels, at least 5 are needed: give more cubes")
    cubes = patches[torch.tensor(first["index"].to_numpy()), 0].numpy()
    rim = np.ones(cubes.shape[1:], dtype=bool)
    rim[1:-1, 1:-1, 1:-1] = False
    faces = np.stack([face.mean(axis=(1, 2)) for axis in (1, 2, 3) for face in (cubes.take(0, axis), cubes.take(-1, axis))], axis=1)
    voxels = cubes[:, rim]
    levels = np.quantile(voxels, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1).T
    features = np.column_stack([voxels.mean(axis=1), voxels.std(axis=1), levels, np.sort(faces, axis=1)])
    return forest_auc(features, first["label"].to_numpy(), TREES, min_samples_leaf=3)


def search_cubes(networks: Mapping[str, torch.nn.Module], cubes: Cubes, size: int, spacing: float) -> Searched:
    """Show networks every place of lung, STEP_MM apart, at which a patch of `size` voxels of `spacing` mm lies inside its cube.

    cubes: of one data set; those with a nodule of SMALLEST_MM and more are searched. A nodule under it, another one of the series and an
    excluded finding count neither way. The lung includes the nodule (`cube_lung`), so that none is lost to a threshold.
    """
    chosen = cubes.table[cubes.table["diameter_mm"] >= SMALLEST_MM].reset_index(drop=True)
    litres, excluded, marks = [], [], {name: [] for name in networks}
    for number, cube in enumerate(tqdm(chosen.to_dict("records"), desc="searching cubes", mininterval=2)):
        scan, inside = load_cube(cube)
        lung = cube_lung(scan, inside) & fitting_places(scan, size * spacing)
        litres.append(lung.sum() * np.prod(scan.spacing) / 1e6)
        excluded.append(findings_in(cubes, cube, scan).assign(scan=number))
        every = np.maximum(np.rint(STEP_MM / np.array(scan.spacing[::-1])).astype(int), 1)
        lattice = lung[:: every[0], :: every[1], :: every[2]]
        places = np.argwhere(lattice) * every
        patches = to_unit(extract_patches(scan, scan.to_world(places), size, spacing))
        for name, network in networks.items():
            heat = np.zeros(lattice.shape, dtype=np.float32)
            heat[lattice] = predict(network, patches)[0].numpy()
            voxels, scores = find_peaks(heat, lattice, len(places), PEAK_STEPS)
            found = pd.DataFrame(scan.to_world(voxels * every), columns=XYZ)
            marks[name].append(found.assign(scan=number, probability=scores))
    nodules = chosen[[*XYZ, "diameter_mm", "type"]].assign(scan=chosen.index)
    searched = chosen[["path", "patient"]].assign(litres=litres)
    columns = ["scan", *XYZ, "diameter_mm"]
    joined = {name: pd.concat(found, ignore_index=True) for name, found in marks.items()}
    return Searched(searched, nodules, pd.concat(excluded, ignore_index=True)[columns], joined)


def sensitivity_per_litre(
    searched: Searched, groups: Mapping[str, np.ndarray], rates: Sequence[float] = RATES, bootstraps: int = 1000
) -> pd.DataFrame:
    """Sensitivity at `rates` false positives a litre of lung, a row a network, group of nodules and rate.

    groups: {name: bool (N,)}, which nodules are of it, as of `marks.size_masks`; marks on those of other groups count neither way.
    Columns: network, group, nodules, patients, per_litre, sensitivity, lower, upper: a 95 % interval over resampled patients.
    """
    rows, (patient, weights) = [], _resampled(searched, bootstraps)
    for name in searched.marks:
        for group, chosen in groups.items():
            value, spread = _sensitivity(_events(searched, name, chosen), searched, rates, weights)
            patients = len(set(patient[searched.nodules["scan"][chosen]]))
            known = {"network": name, "group": group, "nodules": int(chosen.sum()), "patients": patients}
            for rate, share, samples in zip(rates, value, spread.T, strict=True):
                lower, upper = percentile_interval(samples)
                rows.append(known | {"per_litre": rate, "sensitivity": share, "lower": lower, "upper": upper})
    return pd.DataFrame(rows)


def compare_networks(
    searched: Searched, pairs: Sequence[tuple[str, str]], rates: Sequence[float] = RATES, bootstraps: int = 1000
) -> pd.DataFrame:
    """How much more one network finds than another: the difference of the mean sensitivity at `rates`, a row a pair.

    Columns: network, other, difference, lower, upper: a 95 % interval over patients, resampled for both networks alike.
    """
    everything, weights = np.ones(len(searched.nodules), bool), _resampled(searched, bootstraps)[1]
    found = {name: _sensitivity(_events(searched, name, everything), searched, rates, weights) for name in dict.fromkeys(sum(pairs, ()))}
    rows = []
    for name, other in pairs:
        value, spread = (found[name][k].mean(axis=-1) - found[other][k].mean(axis=-1) for k in (0, 1))
        lower, upper = percentile_interval(spread)
        rows.append({"network": name, "other": other, "difference": value, "lower": lower, "upper": upper})
    return pd.DataFrame(rows)


def apply_thresholds(chosen_on: Searched, searched: Searched, rates: Sequence[float] = RATES, bootstraps: int = 1000) -> pd.DataFrame:
    """What thresholds do on other patients: a row a network and rate.

    chosen_on: where a threshold leaves `per_litre` false positives a litre. Columns: network, per_litre, threshold, and of `searched`
    false_per_litre, sensitivity, lower, upper, as of `sensitivity_per_litre`.
    """
    patient, weights = _resampled(searched, bootstraps)
    rows = []
    for name in searched.marks:
        known, events = (_events(part, name, np.ones(len(part.nodules), bool)) for part in (chosen_on, searched))
        for rate in rates:
            threshold = operating_point(known.probability[~known.true], chosen_on.cubes["litres"].sum(), rate)
            above = events.probability > threshold
            hit = np.bincount(events.scan[above & events.true], minlength=len(patient))
            with np.errstate(invalid="ignore"):
                lower, upper = percentile_interval((weights @ hit) / (weights @ events.nodules))
            false = (above & ~events.true).sum() / searched.cubes["litres"].sum()
            found = {"false_per_litre": false, "sensitivity": hit.sum() / len(searched.nodules), "lower": lower, "upper": upper}
            rows.append({"network": name, "per_litre": rate, "threshold": threshold} | found)
    return pd.DataFrame(rows)


def _resampled(searched, bootstraps):
    """The patient of each cube, int (N,), and how often each cube counts in each resample of patients, (bootstraps, N)."""
    patient, people = pd.factorize(searched.cubes["patient"])
    return patient, resample_weights(len(people), bootstraps, 0)[:, patient]


def _events(searched, name, chosen):
    """The events of a network; marks on nodules that are not `chosen`, bool (N,), count neither way."""
    others = pd.concat([searched.excluded, searched.nodules[~chosen]], ignore_index=True)
    return match_events(searched.marks[name], searched.nodules[chosen].reset_index(drop=True), others, len(searched.cubes))[0]


def _sensitivity(events, searched, rates, weights):
    """Sensitivity at `rates` false positives a litre: of all cubes (K,), and of each resample (B, K)."""
    points = np.asarray(rates, float) * searched.cubes["litres"].sum() / len(searched.cubes)  # false positives a cube
    return events.sensitivity(np.ones((1, len(searched.cubes)), np.int32), points)[0], events.sensitivity(weights, points)
