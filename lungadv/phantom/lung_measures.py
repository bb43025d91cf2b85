"""What is measured of the lungs of a scan: histogram, spectrum, vessels, grain, and how well a classifier tells two scans apart."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import fft, ndimage, stats
from sklearn.metrics import roc_auc_score

from lungadv.data.lungs import lung_mask
from lungadv.data.patches import resample
from lungadv.data.scan import LOWEST_HU, Scan
from lungadv.utils.statistics import forest_auc

__all__ = [
    "BLOOD_HU", "QUIET_HU", "SIZE", "SPACING", "Lung", "feature_aucs", "grain", "histogram", "histogram_distance",
    "measure_lung", "patches_auc", "radial_mean", "spectral_slope", "vesselness",
]  # fmt: skip

SPACING, SIZE = 1.25, 24  # mm and voxels of a lung patch
BLOOD_HU = 50.0  # blood without contrast agent is not brighter
VESSEL_HU = -600.0
QUIET_HU = -700.0  # lung without a visible vessel is darker
FIFTHS = (0.2, 0.4, 0.6, 0.8)  # of the lung's volume, from below
DEPTHS = (10.0, 20.0)  # mm under the lung's surface
BAND = (0.05, 0.3)  # 1/mm, where the slope of the spectrum is fitted
SCALES = (1.0, 2.0)  # voxels: widths at which vessels are looked for
WINDOW = 8  # voxels: side of the windows in which grain is measured
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # %
PATCHES = 300  # of each kind that a classifier is given


@dataclass
class Lung:
    """What is kept of a scan."""

    histogram: np.ndarray  # share of the lung at each HU from -1024 to BLOOD_HU
    vessels: float  # share of the lung above VESSEL_HU
    patches: np.ndarray  # float32 (N, SIZE, SIZE, SIZE), HU of cubes of lung every SPACING mm
    by_height: np.ndarray  # (5,) share above VESSEL_HU in FIFTHS of the lung, from below
    by_depth: np.ndarray  # (3,) and in shells of DEPTHS under its surface


def measure_lung(scan: Scan, count: int, rng: np.random.Generator) -> Lung:
    """Resample a scan, find its lungs and keep `count` random patches of them. Raises ValueError when there is no room for a patch."""
    scan = resample(scan, SPACING)
    mask = lung_mask(scan)
    share = ndimage.uniform_filter(mask.astype(np.float32), SIZE, mode="constant")
    centres = np.argwhere(share > 0.95)
    if not len(centres):
        raise ValueError(f"scan '{scan.uid}' has no lungs that hold cubes of {SIZE * SPACING:.0f} mm: give a scan of a whole chest")
    corners = centres[rng.choice(len(centres), count)] - SIZE // 2
    patches = np.stack([scan.hu[z : z + SIZE, y : y + SIZE, x : x + SIZE] for z, y, x in corners]).astype(np.float32)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    z, *_ = inner = np.nonzero(ndimage.binary_erosion(mask[box], iterations=3))
    vessel = scan.hu[box][inner] > VESSEL_HU
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1][inner] * SPACING
    fifth, shell = np.searchsorted(np.quantile(z, FIFTHS), z), np.digitize(depth, DEPTHS)
    by_height, by_depth = _part_means(vessel, fifth, len(FIFTHS) + 1), _part_means(vessel, shell, len(DEPTHS) + 1)
    return Lung(histogram(scan.hu[mask]), float(vessel.mean()), patches, by_height, by_depth)


def _part_means(values, part, count):
    """Mean of `values` (N,) in each of `count` parts (N,)."""
    return np.bincount(part, values, count) / np.maximum(np.bincount(part, minlength=count), 1)


def histogram(hu: np.ndarray) -> np.ndarray:
    """Shares of the whole HU from -1024 to BLOOD_HU; what lies beyond counts at the ends."""
    edges = np.arange(LOWEST_HU, BLOOD_HU + 2) - 0.5
    counts = np.histogram(np.clip(hu, LOWEST_HU, BLOOD_HU), edges)[0]
    return counts / counts.sum()


def histogram_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 in HU of two histograms with steps of 1 HU: the area between their cumulative distributions."""
    return float(np.abs(np.cumsum(a - b)).sum())


def radial_mean(power: np.ndarray, f: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of `power` (..., y, x) in rings of the radial frequency `f` (y, x) between `edges` (K + 1,): (..., K)."""
    ring = np.digitize(f, edges)
    return np.stack([power[..., ring == k].mean(-1) for k in range(1, len(edges))], axis=-1)


def radial_spectrum(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of the axial slices of each patch by radial frequency: frequencies (K,) in 1/mm, power (N, K)."""
    window = np.hanning(SIZE)  # a patch's borders would add a slope of their own
    window = window[:, None] * window
    power = (np.abs(fft.fft2((patches - patches.mean((2, 3), keepdims=True)) * window)) ** 2).mean(1)
    f = np.hypot(*np.meshgrid(*[fft.fftfreq(SIZE, SPACING)] * 2, indexing="ij"))
    edges = np.linspace(*BAND, 9)
    return (edges[:-1] + edges[1:]) / 2, radial_mean(power, f, edges)


def spectral_slope(patches: np.ndarray) -> float:
    """The exponent of the mean radial power spectrum of patches (N, SIZE, SIZE, SIZE) within BAND."""
    f, power = radial_spectrum(patches)
    return float(np.polyfit(np.log(f), np.log(power.mean(0)), 1)[0])


def vesselness(patches: np.ndarray) -> np.ndarray:
    """max_sigma sigma^2 sqrt(l2 l3) where l2 < 0, in HU, (N * 6^3,), at every second voxel of the middle of each patch.

    l1 >= l2 >= l3 are the eigenvalues of the Hessian of the image smoothed by sigma. After Sato et al. (1998), Frangi et al. (1998).
    """
    inside = (slice(None), *[slice(SIZE // 4, -SIZE // 4, 2)] * 3)
    best = 0
    for sigma in SCALES:
        hessian = np.empty((*patches[inside].shape, 3, 3), np.float32)
        for i in range(3):
            for j in range(i, 3):
                order = np.bincount([i + 1, j + 1], minlength=4)
                part = ndimage.gaussian_filter(patches, (0, sigma, sigma, sigma), order)[inside]
                hessian[..., i, j] = hessian[..., j, i] = sigma**2 * part
        low, middle, _ = np.moveaxis(np.linalg.eigvalsh(hessian), -1, 0)
        best = np.maximum(best, np.where(middle < 0, np.sqrt(np.maximum(low * middle, 0)), 0))
    return best.ravel()


def grain(patches: np.ndarray) -> float:
    """Median standard deviation in HU of in-plane windows of WINDOW voxels that are darker than QUIET_HU; nan when there are none."""
    n = SIZE // WINDOW
    tiles = patches.reshape(-1, n, WINDOW, n, WINDOW).transpose(0, 1, 3, 2, 4).reshape(-1, WINDOW**2)
    quiet = tiles[tiles.max(1) < QUIET_HU]
    return float(np.median(quiet.std(1))) if len(quiet) else np.nan


def features(patches: np.ndarray) -> pd.DataFrame:
    """A row for each patch: quantiles of HU, vessels, gradient, and power by frequency."""
    flat = patches.reshape(len(patches), -1)
    table = {f"{q} % quantile": row for q, row in zip(QUANTILES, np.percentile(flat, QUANTILES, axis=1), strict=True)}
    gradient = np.sqrt(sum(g**2 for g in np.gradient(patches, axis=(1, 2, 3))))
    table |= {"standard deviation": flat.std(1), "skewness": stats.skew(flat, axis=1), "share of vessels": (flat > VESSEL_HU).mean(1)}
    table |= {"gradient": gradient.mean((1, 2, 3))}
    f, power = radial_spectrum(patches)
    return pd.DataFrame(table | {f"power at {k:.2f}/mm": np.log(row) for k, row in zip(f, power.T, strict=True)})


def _two_samples(one, others):
    """Features and labels (1: of `one`) of as many patches, up to PATCHES, of `one` as of the `others` together, cut at BLOOD_HU."""
    share = min(len(one.patches), PATCHES) // len(others)
    patches = np.concatenate([one.patches[: share * len(others)], *[other.patches[:share] for other in others]])
    return features(np.minimum(patches, BLOOD_HU)), np.repeat([1, 0], share * len(others))


def patches_auc(one: Lung, others: list[Lung]) -> float:
    """Cross-validated AUC of a random forest that tells the patches of `one` from those of `others`; 0.5 if it cannot."""
    return forest_auc(*_two_samples(one, others), trees=100)


def feature_aucs(one: Lung, others: list[Lung]) -> pd.Series:
    """AUC of each feature alone, the farthest from 0.5 first; over 0.5 it is larger in `one`."""
    table, labels = _two_samples(one, others)
    return table.apply(lambda column: roc_auc_score(labels, column)).sort_values(key=lambda auc: -abs(auc - 0.5))
