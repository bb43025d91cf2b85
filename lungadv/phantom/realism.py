"""Simulated chests against a real one, and the fast noise against the exact one: a table of measures, each beside its gate.

A gate is a limit that was fixed before the measurement. One real chest is one person: a gate that holds says that the simulation is
near that person.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lungadv.data.io.read import read_scan
from lungadv.data.scan import Scan
from lungadv.phantom.exact_noise import exact_noise, peak_frequency
from lungadv.phantom.lung_measures import (
    BLOOD_HU,
    QUIET_HU,
    SPACING,
    Lung,
    feature_aucs,
    grain,
    histogram_distance,
    measure_lung,
    patches_auc,
    spectral_slope,
    vesselness,
)  # fmt: skip
from lungadv.phantom.projection import KERNELS
from lungadv.phantom.recipe import DOSES, RECIPE, check_recipe
from lungadv.phantom.scanner import acquire, noise
from lungadv.phantom.simulate import random_stream, simulate_anatomy
from lungadv.utils.files import real_folder

__all__ = ["COLUMNS", "REAL", "compare_lungs", "gates", "real_chest", "simulate_like"]

REAL = "lidc_idri_0001/1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192.mhd"  # LIDC-IDRI-0001
SEED = 100  # of the simulated people
FIELD = np.array(RECIPE["shape"])[::-1] * RECIPE["spacing"]  # mm x y z: field of view, that of the quick data sets
PHOTONS, KERNEL = 1.5e5, "standard"  # dose and kernel of the simulated scans
GATED_DOSES = ("low", "standard")  # of DOSES
COLUMNS = ["measure", "value", "spread", "error", "inside", "gate", "holds"]

Row = tuple[Any, ...]  # of COLUMNS


def real_chest() -> Scan | None:
    """The real chest: REAL in `real_folder`; None without it."""
    path = real_folder() / REAL
    return read_scan(path) if path.exists() else None


def simulate_like(real: Scan, index: int) -> Scan:
    """Person `index`, without nodules, scanned with the spacing of `real`."""
    shape = tuple(int(side / step) for side, step in zip(FIELD, real.spacing, strict=True))[::-1]
    recipe = check_recipe({"shape": shape, "spacing": real.spacing})
    hu = simulate_anatomy(recipe, SEED, index)[3]
    image = acquire(hu, real.spacing, PHOTONS, KERNEL, random_stream(SEED, index, "noise"))
    return Scan(image, real.spacing, (0, 0, 0), np.eye(3), f"simulated {index}")


def gates(real: Scan | None = None, persons: int = 6, patches: int = 1000, slices: int = 3) -> pd.DataFrame:
    """All measures as a table of COLUMNS.

    `spread` is the standard deviation over people (nan for what is one number), `error` the standard error of their mean, `inside` the
    share of people inside the gate. `holds`: whether the value is inside; <NA> without a gate. `real` is a scan of a chest, against which
    `persons` simulated ones are held by `patches` cubes of lung each; without it only the noise is measured, in `slices` slices.
    Raises ValueError when `real` shows no lungs or there are fewer than two people.
    """
    if persons < 2:
        raise ValueError(f"persons must be at least 2, to have a spread, not {persons}")
    rows = compare_noise(slices)
    if real is not None:
        rng = np.random.default_rng(0)
        target = measure_lung(real, patches, rng)
        rows += compare_lungs(target, [measure_lung(simulate_like(real, index), patches, rng) for index in range(persons)])
    return pd.DataFrame(rows, columns=COLUMNS).astype({"holds": "boolean"})


def compare_lungs(real: Lung, simulated: list[Lung]) -> list[Row]:
    """Rows of COLUMNS for the real lung and two or more simulated ones; scans are cut at BLOOD_HU, for the real one has contrast agent."""
    cut = [np.minimum(lung.patches, BLOOD_HU) for lung in (real, *simulated)]
    fifths = [f"in the {name} fifth" for name in ("lowest", "second", "middle", "fourth", "highest")]
    shells = ["4 to 10 mm under the surface", "10 to 20 mm under the surface", "deeper"]
    return [
        _row("lung HU histogram, Wasserstein-1, HU", [histogram_distance(s.histogram, real.histogram) for s in simulated],
             "< 25", lambda v: v < 25),
        *_slope_rows(cut, [lung.patches for lung in (real, *simulated)]),
        _row("share of vessels, simulated / real", [s.vessels / real.vessels for s in simulated],
             "within a factor 1.5", lambda v: 1 / 1.5 < v < 1.5),
        *_share_rows(real, simulated, "by_height", fifths),
        *_share_rows(real, simulated, "by_depth", shells),
        *_texture_rows(cut),
        *_classifier_rows(real, simulated),
    ]  # fmt: skip


def _row(measure: str, values: Sequence[float], gate: str = "reported", holds: Callable[[float], bool] | None = None) -> Row:
    """A row of COLUMNS that is a mean over people."""
    mean, spread = np.mean(values), np.std(values)
    error = spread / np.sqrt(len(values) - 1) if len(values) > 1 else np.nan
    inside, held = (np.nan, None) if holds is None else (np.mean([holds(value) for value in values]), bool(holds(mean)))
    return measure, mean, spread, error, inside, gate, held


def _single(measure: str, value: float, gate: str = "reported", holds: bool | None = None) -> Row:
    """A row of COLUMNS that is one number."""
    return measure, value, np.nan, np.nan, np.nan, gate, holds


def _slope_rows(cut, uncut):
    """The slope of the spectrum of patches, of the real lung first."""
    slopes, whole = (np.array([spectral_slope(patches) for patches in each]) for each in (cut, uncut))
    return [
        _row("slope of the spectrum, simulated - real", slopes[1:] - slopes[0], "within 0.3", lambda v: abs(v) < 0.3),
        _row("  the same without the cut at 50 HU", whole[1:] - whole[0]),
    ]


def _share_rows(real, simulated, name, parts):
    """The share of vessels in each of the `parts` of a lung."""
    ratios = np.array([getattr(s, name) / getattr(real, name) for s in simulated]).T
    return [_row(f"  the same {part}", values) for part, values in zip(parts, ratios, strict=True)]


def _texture_rows(cut):
    """Vesselness and grain of patches, of the real lung first."""
    tubes, grains = [vesselness(patches) for patches in cut], np.array([grain(patches) for patches in cut])
    between = [stats.wasserstein_distance(a, b) for a, b in zip(tubes[1:], tubes[2:], strict=False)]
    return [
        _row("vesselness histogram, Wasserstein-1, HU", [stats.wasserstein_distance(tube, tubes[0]) for tube in tubes[1:]]),
        _row("  the same, simulated against simulated", between),
        _row("grain between vessels, simulated / real", grains[1:] / grains[0]),
    ]


def _classifier_rows(real, simulated):
    """How well a forest tells real from simulated, and one simulated person from the others; the three features that give most away."""
    rest = [simulated[:k] + simulated[k + 1 :] for k in range(len(simulated))]
    alone = feature_aucs(real, simulated)[:3]
    return [
        _single("AUC of a forest, real against simulated", patches_auc(real, simulated)),
        _row("  the same, one simulated against the others", [patches_auc(s, others) for s, others in zip(simulated, rest, strict=True)]),
        *[_single(f"  {name} alone", auc) for name, auc in alone.items()],
    ]


def compare_noise(slices: int) -> list[Row]:
    """Rows of COLUMNS for the scanner's noise in `slices` axial slices of a simulated chest, for every kernel and dose."""
    hu = simulate_anatomy(check_recipe({"spacing": (SPACING,) * 3}), SEED, 0)[3]
    chosen = hu[(np.linspace(0.3, 0.8, slices) * len(hu)).astype(int)]
    middle = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, n) for n in chosen.shape[1:]], indexing="ij")) < 0.9
    tissues = {"lung": (chosen < QUIET_HU) & middle, "soft tissue": (chosen > 0) & (chosen < 100) & middle}
    rows = []
    for kernel in KERNELS:
        shares = (1, 0.25) if kernel == "soft" else (1,)  # how noise grows with less dose is the same for all
        photons = [DOSES[name] * share for share in shares for name in GATED_DOSES]
        exact = exact_noise(chosen, photons, kernel, np.random.default_rng(2))
        fast = np.stack([noise(chosen, (SPACING,) * 3, n, kernel, np.random.default_rng(1)) for n in photons])
        for k, dose in enumerate(GATED_DOSES):
            name = f"{kernel} kernel, {dose} dose"
            rows += [_sigma_row(name, tissue, fast[k][inside], exact[k][inside]) for tissue, inside in tissues.items()]
            if kernel != "sharp":  # its power grows up to the finest frequency that the grid shows
                shift = peak_frequency(fast[k]) - peak_frequency(exact[k])
                measure = f"{name}: peak of the noise power, fast - exact, 1/mm"
                rows.append(_single(measure, shift, "within 0.03", bool(abs(shift) < 0.03)))
            for way, images in (("fast", fast), ("exact", exact)) if len(shares) > 1 else ():
                rows.append(_dose_row(name, way, images[len(GATED_DOSES) + k][tissues["lung"]], images[k][tissues["lung"]]))
    return rows


def _sigma_row(name, tissue, fast, exact):
    """The fast noise against the exact one."""
    sigma = exact.std()
    ratio = fast.std() / sigma
    return _single(f"{name}: sigma in {tissue} ({sigma:.1f} HU), fast / exact", ratio, "within 10 %", bool(abs(ratio - 1) < 0.1))


def _dose_row(name, way, quarter, whole):
    """Noise at a quarter of the dose against that at the whole one."""
    ratio = quarter.std() / whole.std()
    measure = f"{name}: sigma in lung, 25 % / 100 % dose, {way}"
    return _single(measure, ratio, "2.1 within 10 %", bool(abs(ratio / 2.1 - 1) < 0.1))
