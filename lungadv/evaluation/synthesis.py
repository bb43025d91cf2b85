"""How good synthetic nodules are: measures of nodules, distances between two sets of them, and the gates that a synthesizer must pass."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp, wasserstein_distance

from lungadv.data.masks import diameter_mm
from lungadv.data.scan import to_hu
from lungadv.data.tables import SMALLEST_MM, TYPES
from lungadv.utils.statistics import forest_auc

__all__ = [
    "active_numbers", "compare", "dice", "hu_types", "measure", "nodule_features", "precision_recall", "quality_gates", "solid_share",
    "two_sample_auc", "volume_spectrum",
]  # fmt: skip

SOLID_HU = -300  # a voxel above this is solid tissue
RESAMPLES = 200  # of the held-out nodules, for the sampling noise of a gate
CALCIFIED_HU = 150  # a nodule of a higher mean is calcified


def measure(nodules: torch.Tensor, masks: torch.Tensor, spacing: float) -> pd.DataFrame:
    """diameter_mm and mean_hu of pairs (N, 1, P, P, P) where the mask exceeds 1/2, one row each; voxels of `spacing` mm.

    An empty mask has diameter 0 and no HU (NaN).
    """
    core = (masks > 0.5).flatten(1)
    brightness = (nodules / masks.clamp_min(0.5)).flatten(1)
    mean = (brightness * core).sum(1) / core.sum(1)
    return pd.DataFrame({"diameter_mm": diameter_mm(masks, spacing), "mean_hu": to_hu(mean)})


def solid_share(nodules: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
    """The share (N,) of solid voxels where the mask exceeds 1/2, of pairs (N, 1, P, P, P) in [0, 1]; 0 of an empty mask."""
    core = (masks > 0.5).flatten(1)
    solid = (to_hu(nodules / masks.clamp(min=0.5)).flatten(1) > SOLID_HU) & core
    return (solid.sum(1) / core.sum(1).clamp(min=1)).numpy()


def hu_types(mean_hu: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """One of TYPES for each nodule (N,), by a rule on its mean HU and its share of solid voxels, see `solid_share`."""
    rules = [np.asarray(mean_hu) > CALCIFIED_HU, np.asarray(solid) <= 0.05, np.asarray(solid) <= 0.5]
    return np.select(rules, ["fully_calcified", "ground_glass", "part_solid"], "solid")


def dice(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Dice (N,) of where the masks (N, 1, P, P, P) and `others` exceed 1/2."""
    a, b = ((cubes > 0.5).flatten(1) for cubes in (masks, others))
    return 2 * (a & b).sum(1) / (a.sum(1) + b.sum(1)).clamp_min(1)


def active_numbers(mean: torch.Tensor, log_variance: torch.Tensor, least: float = 0.1) -> int:
    """How many numbers of a code say anything of N nodules, whose codes have mean and log-variance (N, L).

    Of an active one the KL divergence from the standard normal is above `least` nats on average, or the means' variance is above it.
    """
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(0)
    return int(((divergence > least) | (mean.var(0, correction=0) > least)).sum())


def volume_spectrum(cubes: torch.Tensor) -> torch.Tensor:
    """Mean power of cubes (N, 1, P, P, P) at 1, 2, ... P / 2 waves a side: (N, P / 2), from the three-dimensional transform."""
    size = cubes.shape[-1]
    power = torch.fft.fftn(cubes[:, 0], dim=(1, 2, 3), norm="forward").abs() ** 2
    waves = torch.fft.fftfreq(size, 1 / size)
    shell = (waves[:, None, None] ** 2 + waves[:, None] ** 2 + waves**2).sqrt().round().long().flatten()
    total = torch.zeros(len(cubes), int(shell.max()) + 1).index_add_(1, shell, power.flatten(1))
    return (total / shell.bincount())[:, 1 : size // 2 + 1]


def nodule_features(nodules: torch.Tensor, masks: torch.Tensor, spacing: float) -> pd.DataFrame:
    """Ten numbers that describe pairs (N, 1, P, P, P) in [0, 1] with voxels of `spacing` mm, one row each.

    The core is where the mask exceeds 1/2; an empty mask is air of diameter 0.
    diameter_mm; of the core mean_hu, sd_hu and step_hu, the mean step between neighbours.
    area and edge: the core's surface and the soft rim, for its size. length, breadth: longest axis to shortest and to middle axis.
    offset_mm: how far off the centre it lies. fine: log10 of the share of power in the upper half of the spectrum.
    """
    core, brightness = masks > 0.5, nodules / masks.clamp_min(0.5)
    inside, count = core.flatten(1).float(), core.flatten(1).sum(1).clamp_min(1)
    mean = (brightness.flatten(1) * inside).sum(1) / count
    deviation = ((brightness.flatten(1) - mean[:, None]) ** 2 * inside).sum(1).div(count).sqrt()
    area, step = _neighbour_differences(core, brightness)
    edge = ((masks > 0.05) & (masks < 0.95)).flatten(1).sum(1)
    axes, offset = _principal_axes(inside, count, masks.shape[-1], spacing)
    power = volume_spectrum(nodules)
    fine = power[:, power.shape[1] // 2 :].mean(1) / power.mean(1).clamp_min(1e-12)
    hu = to_hu(1.0) - to_hu(0.0)
    return pd.DataFrame(
        {
            "diameter_mm": diameter_mm(masks, spacing),
            "mean_hu": to_hu(mean),
            "sd_hu": deviation * hu,
            "step_hu": step * hu,
            "area": area / count ** (2 / 3),
            "edge": edge / count ** (2 / 3),
            "length": axes[:, 2] / axes[:, 0],
            "breadth": axes[:, 2] / axes[:, 1],
            "offset_mm": offset,
            "fine": (fine + 1e-9).log10(),
        }
    )


def _neighbour_differences(core, brightness):
    """Faces between core and surroundings (N,), and the mean absolute step in brightness between neighbours in the core (N,)."""
    ends = [[cubes.narrow(axis, k, cubes.shape[axis] - 1) for k in (0, 1)] for axis in (2, 3, 4) for cubes in (core, brightness)]
    area = sum((a ^ b).flatten(1).sum(1) for a, b in ends[::2])
    pairs = sum((a & b).flatten(1).sum(1) for a, b in ends[::2])
    steps = sum(((d - c).abs() * (a & b)).flatten(1).sum(1) for (a, b), (c, d) in zip(ends[::2], ends[1::2], strict=True))
    return area, steps / pairs.clamp_min(1)


def _principal_axes(inside, count, size, spacing):
    """Standard deviations (N, 3) in mm of the core along its principal axes, the shortest first, and its distance from the centre (N,)."""
    places = (torch.cartesian_prod(*[torch.arange(size)] * 3) - (size - 1) / 2) * spacing
    centre = inside @ places / count[:, None]
    spread = torch.einsum("nv,vi,vj->nij", inside, places, places) / count[:, None, None] - centre[:, :, None] * centre[:, None]
    axes = torch.linalg.eigvalsh(spread + spacing**2 / 12 * torch.eye(3)).sqrt()  # a voxel is not a point
    return axes, centre.norm(dim=1)


def two_sample_auc(real: np.ndarray, other: np.ndarray) -> float:
    """AUC, cross-validated, of a random forest that tells rows of features `other` (M, F) from `real` (N, F); 0.5 if it cannot."""
    rows, labels = np.concatenate([real, other]), np.repeat([0, 1], [len(real), len(other)])
    folds = min(5, len(real), len(other))
    return forest_auc(rows, labels, trees=200, folds=folds, min_samples_leaf=3, class_weight="balanced")


def precision_recall(real: np.ndarray, other: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """The share of rows `other` (M, F) among `real` (N, F), and of `real` among `other`.

    Each feature is taken in units of its deviation in `real`. A point is among others when it lies within the distance of one of them
    to its own `neighbours`-th neighbour (Kynkäänniemi et al. 2019, Eq. 1).
    """
    scale = np.std(real, axis=0)
    real, other = (np.asarray(points) / np.where(scale > 0, scale, 1) for points in (real, other))

    def share(points, among):
        radii = np.sort(cdist(among, among), axis=1)[:, min(neighbours, len(among) - 1)]  # column 0 is the point itself
        return (cdist(points, among) <= radii).any(axis=1).mean()

    return share(other, real), share(real, other)


def compare(
    groups: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    spacing: float,
    levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> pd.DataFrame:
    """Each named group of pairs (nodules, masks), (N, 1, P, P, P) with voxels of `spacing` mm, against the first: a row each.

    under_6mm: the share of nodules that do not count. diameter_mm_<level>, mean_hu_<level>: quantiles.
    diameter_w1 (mm) and hu_w1: Wasserstein-1 distance from the first group; diameter_ks and hu_ks: Kolmogorov-Smirnov.
    auc: `two_sample_auc`; precision, recall: `precision_recall`, both of `nodule_features`.
    """
    tables = {name: nodule_features(*pair, spacing) for name, pair in groups.items()}
    first, rows = next(iter(tables.values())), []
    for name, table in tables.items():
        quantiles = {f"{column}_{level:.2f}": table[column].quantile(level) for column in ("diameter_mm", "mean_hu") for level in levels}
        row = {"group": name, "nodules": len(table), "under_6mm": (table["diameter_mm"] < SMALLEST_MM).mean(), **quantiles}
        if table is not first:
            for short, column in (("diameter", "diameter_mm"), ("hu", "mean_hu")):
                row[f"{short}_w1"] = wasserstein_distance(first[column], table[column])
                row[f"{short}_ks"] = ks_2samp(first[column], table[column]).statistic
            row["auc"] = two_sample_auc(first, table)
            row["precision"], row["recall"] = precision_recall(first, table)
        rows.append(row)
    return pd.DataFrame(rows)


def quality_gates(
    groups: Mapping[str, tuple[torch.Tensor, torch.Tensor]], active: int, requested: pd.DataFrame, spacing: float
) -> pd.DataFrame:
    """What a synthesizer must reach: a row a gate: gate, measured, training, noise, bound (such as ">= 0.85") and passed.

    groups: pairs (N, 1, P, P, P) with voxels of `spacing` mm: "held-out" nodules, the same "rebuilt", "sampled" and "training" ones.
    training: what the training nodules measure in place of sampled ones; it is the ceiling. noise: what as many nodules drawn again from
    the held-out ones stay within in 95 % of RESAMPLES; a bound below it asks for more than the sample can show, and still decides.
    active: `active_numbers`. requested: diameter_mm and type of nodules to order, measured_mm and mean_hu of what was drawn, and
    training_hu, the median of the training nodules' of that type.
    """
    rows = [
        ("Dice of rebuilt nodules", dice(groups["held-out"][1], groups["rebuilt"][1]).mean().item(), ">=", 0.85),
        *_sample_gates(groups["held-out"], groups["sampled"], spacing),
        ("active code numbers", active, ">=", 8),
        *_request_gates(requested),
    ]
    ceiling = {name: measured for name, measured, _, _ in _sample_gates(groups["held-out"], groups["training"], spacing)}
    noise = _sampling_noise(groups["held-out"], spacing)
    passed = [measured >= bound if sign == ">=" else measured <= bound for _, measured, sign, bound in rows]
    columns = [(name, measured, ceiling.get(name), noise.get(name), f"{sign} {bound:g}") for name, measured, sign, bound in rows]
    return pd.DataFrame(columns, columns=["gate", "measured", "training", "noise", "bound"]).assign(passed=passed)


def _sample_gates(held_out, sampled, spacing):
    """The gates that compare pairs with held-out pairs."""
    pairs = held_out, sampled
    real, drawn = (nodule_features(*pair, spacing) for pair in pairs)
    precision, recall = precision_recall(real, drawn)
    return [
        *_quantile_gates(real, drawn),
        *_type_gates(*(hu_types(table["mean_hu"], solid_share(*pair)) for table, pair in zip((real, drawn), pairs, strict=True))),
        ("AUC of the forest", two_sample_auc(real, drawn), "<=", 0.85),
        ("precision", precision, ">=", 0.6),
        ("recall", recall, ">=", 0.5),
    ]


def _sampling_noise(pair, spacing):
    """What nodules drawn again from a pair measure against the pair in 95 % of draws, by gate: of quantiles and types."""
    table, rng = nodule_features(*pair, spacing), np.random.default_rng(0)
    kinds, measured = hu_types(table["mean_hu"], solid_share(*pair)), []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(table), size=len(table))
        gates = *_quantile_gates(table, table.iloc[rows]), *_type_gates(kinds, kinds[rows])
        measured.append({name: value for name, value, _, _ in gates})
    return pd.DataFrame(measured).quantile(0.95, interpolation="higher").to_dict()


def _quantile_gates(real, drawn):
    """How far quantiles of the drawn nodules' features are from those of the real ones."""
    for column, name, most in (("mean_hu", "mean HU", 60), ("diameter_mm", "diameter (mm)", 1)):
        for level in (0.05, 0.5, 0.95):
            error = abs(drawn[column].quantile(level) - real[column].quantile(level))
            yield f"{name}: error of the {100 * level:g} % quantile", error, "<=", most


def _type_gates(real, drawn):
    """By which factor the share of each type is wrong."""
    for kind in TYPES:
        shares = np.mean(real == kind), np.mean(drawn == kind)
        factor = max(shares) / min(shares) if min(shares) > 0 else 1.0 if max(shares) == 0 else np.inf
        yield f"share of {kind}: wrong by the factor", factor, "<=", 1.5


def _request_gates(requested):
    """Whether nodules to order have the size and, of each type, the density."""
    close = (requested["measured_mm"] / requested["diameter_mm"] - 1).abs() <= 0.15
    yield "requested diameters within 15 %", close.mean(), ">=", 0.9
    for kind, rows in requested[~requested["spiculated"]].groupby("type", sort=False):
        yield f"requested {kind}: error of the median of mean HU", abs(rows["mean_hu"].median() - rows["training_hu"].median()), "<=", 50
