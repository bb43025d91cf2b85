"""Nodules: how large they are, their shape as a radius over directions, and painting them and their masks.

A nodule is an ellipsoid whose radius is raised or dented by bumps w exp(k (cos theta - 1)) around random directions: broad ones for
lobulation, narrow ones for spicules. It is scaled to the volume of a sphere of the wanted diameter.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from lungadv.phantom.drawing import coverage, paint_brighter, smooth_grain
from lungadv.phantom.grid import Grid
from lungadv.phantom.placement import ATTACHMENTS, Placer

__all__ = ["Finding", "draw_diameter", "draw_radius_field", "nodule_coverage", "paint_nodule"]

TAIL = 14.0  # mm: larger nodules thin out like d^-2
FLATNESS = (0.4, 0.8)  # of a juxta-pleural nodule: half axis across the pleura to those along it


def draw_diameter(rng: np.random.Generator, low: float = 6.0, high: float = 32.0) -> float:
    """A diameter in mm, cut to [low, high]: 3 + exp(N(1.33, 0.83)), and beyond TAIL Pareto's law with exponent 2."""
    bend = _share_below(TAIL)

    def share(d):
        return _share_below(d) if d < TAIL else 1 - (1 - bend) * (TAIL / d) ** 2

    u = rng.uniform(share(low), share(high))
    return float(3 + np.exp(1.33 + 0.83 * ndtri(u)) if u < bend else TAIL * np.sqrt((1 - bend) / (1 - u)))


def _share_below(d):
    """Share of nodules under d mm by the lognormal law."""
    return ndtr((np.log(max(d - 3, 1e-3)) - 1.33) / 0.83)


def _fibonacci_sphere():
    """400 unit vectors spread evenly: float32 (400, 3)."""
    k = np.arange(400) + 0.5
    cosine, turn = 1 - k / 200, np.pi * (1 + 5**0.5) * k
    sine = np.sqrt(1 - cosine**2)
    return np.stack([cosine, sine * np.sin(turn), sine * np.cos(turn)], 1).astype(np.float32)


_SPHERE = _fibonacci_sphere()


@dataclass
class RadiusField:
    """A radius over directions: an ellipsoid times 1 + bumps, of the volume of the unit sphere."""

    stretch: np.ndarray  # (3, 3): directions times this have length 1 / radius of the ellipsoid
    axes: np.ndarray  # (M, 3) unit directions of the bumps
    weights: np.ndarray  # (M,)
    powers: np.ndarray  # (M,): how narrow a bump is
    scale: float = 1.0

    def radius(self, directions: np.ndarray) -> np.ndarray:
        """Unit vectors (..., 3), z, y, x -> radii (...)."""
        field = 0
        for axis, weight, power in zip(self.axes, self.weights, self.powers, strict=True):
            field += weight * np.exp(power * (np.einsum("...k,k", directions, axis) - 1))
        return self.scale * np.maximum(1 + field, 0.35) / np.linalg.norm(np.einsum("...k,kj", directions, self.stretch), axis=-1)

    def largest(self) -> float:
        """The largest radius."""
        return float(self.radius(_SPHERE).max())

    def normalize(self) -> None:
        """Scale to the volume of the unit sphere."""
        self.scale *= float(np.mean(self.radius(_SPHERE) ** 3) ** (-1 / 3))

    def flatten(self, normal: np.ndarray, flatness: float) -> None:
        """Make the half axis along a unit `normal` (3,) smaller by the factor `flatness`; the volume stays."""
        self.stretch = (self.stretch + np.outer(normal, normal @ self.stretch) * (1 / flatness - 1)).astype(np.float32)
        self.normalize()


def draw_radius_field(rng: np.random.Generator, irregular: float, spicules: int, shift: bool) -> RadiusField:
    """Draw a shape: `irregular` is the standard deviation of its bumps, `spicules` the number of narrow ones.

    The family of shapes of `shift` has fewer, stronger and sharper bumps.
    """
    count = 3 if shift else 7
    axes = rng.standard_normal((count + spicules, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    weights = rng.normal(0, 1.6 * irregular if shift else irregular, count)
    powers = np.concatenate([rng.uniform(3, 7, count) if shift else rng.uniform(1.5, 6, count), rng.uniform(25, 60, spicules)])
    half = np.exp(rng.normal(0, 0.2 if shift else 0.12, 3))
    shape = RadiusField(
        (np.linalg.qr(rng.standard_normal((3, 3)))[0] / half).astype(np.float32),
        axes.astype(np.float32),
        np.concatenate([weights, rng.uniform(0.4, 0.9, spicules)]).astype(np.float32),
        powers.astype(np.float32),
    )
    shape.normalize()
    return shape


def nodule_coverage(
    grid: Grid, centre: np.ndarray, radius: float, shape: RadiusField, width: float
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
    """A nodule of `radius` mm at `centre` (3,) mm with an edge of `width` mm: its box, and there coverage and distance in mm (z, y, x)."""
    reach = radius * 1.05 * shape.largest() + width
    where, (z, y, x) = grid.box(centre - reach, centre + reach)
    d = np.stack(np.broadcast_arrays(z - centre[0], y - centre[1], x - centre[2]), -1).astype(np.float32)
    gap = np.sqrt((d**2).sum(-1))
    surface = gap - radius * shape.radius(d / np.maximum(gap, 1e-3)[..., None])
    return where, coverage(surface, width), surface


@dataclass(frozen=True)
class Finding:
    """What a recipe asks for: a nodule of `kind` (one of annotations.TYPES) and `diameter` mm.

    `parameter` is the key of the recipe that asks for it. A "disputed" one is fainter, fuzzy and irregular.
    """

    kind: str
    diameter: float
    parameter: str = "nodules"


def paint_nodule(
    hu: np.ndarray, labels: np.ndarray, label: int, placer: Placer, finding: Finding, rng: np.random.Generator, shift: bool = False
) -> tuple[str, bool, np.ndarray]:
    """Place a nodule, paint it into `hu` and its mask into `labels`, both (z, y, x).

    Returns its attachment, whether it has spicules, and the centroid (3,) of its mask in voxels.
    Raises ValueError that names the recipe's parameter when there is no place.
    """
    grid, disputed, radius = placer.grid, finding.parameter == "disputed", finding.diameter / 2
    order = rng.choice(list(ATTACHMENTS), len(ATTACHMENTS), replace=False, p=list(ATTACHMENTS.values()))
    solid = finding.kind in ("solid", "part_solid")
    spicules = int(rng.integers(4, 10)) if solid and finding.diameter > 8 and rng.random() < 0.12 else 0
    shape = draw_radius_field(rng, 0.4 if disputed else rng.uniform(0.05, 0.28), spicules, shift)
    fuzzy = disputed or finding.kind in ("ground_glass", "part_solid") or rng.random() < 0.11
    width = max(grid.voxel, rng.uniform(2.0, 4.0) if fuzzy else 0)
    flatness = rng.uniform(*FLATNESS)
    attachment, centre = placer.place(order, radius, finding.parameter, rng)
    if attachment == "juxta-pleural":
        shape.flatten(placer.normal(centre), flatness)
    body, core = (rng.uniform(-790, -650), None) if disputed else _draw_hu(finding.kind, finding.diameter, rng)
    where, share, surface, lung, drawn = _fit_in_lung(placer, centre, radius, shape, width, regrow=attachment == "juxta-pleural")
    share, part = share * lung, hu[where]
    paint_brighter(part, share, body + smooth_grain(grid, share.shape, rng) * (40 if body < -300 else 12))
    if core is not None:
        paint_brighter(part, coverage(surface + drawn * rng.uniform(0.35, 0.6), grid.voxel) * lung, core)
    mask = share > min(0.5, 0.99 * share.max())  # at least one voxel of a small nodule
    labels[where][mask] = label
    voxels = np.argwhere(mask) + [s.start for s in where]
    return str(attachment), spicules > 0, voxels.mean(0)


def _draw_hu(kind, diameter, rng):
    """HU of the body and of the core (None where there is none) of a nodule of `diameter` mm."""
    if kind == "solid":
        return rng.uniform(0, 60), None
    if kind == "fully_calcified":
        return rng.uniform(300, 1000), None
    if kind == "part_solid":
        return rng.uniform(-700, -500), rng.uniform(-20, 50)
    return rng.uniform(-750, -600 if diameter < 10 and rng.random() < 0.8 else -450), None


def _fit_in_lung(placer, centre, radius, shape, width, regrow):
    """`nodule_coverage`, the coverage of the lungs in its box, and the radius drawn.

    To `regrow` a nodule that the wall cuts is to make it larger until what is left in the lung has the volume of `radius`.
    """
    drawn = radius
    where, share, surface = nodule_coverage(placer.grid, centre, drawn, shape, width)
    lung = _lung_coverage(placer, where, share.shape)
    for _ in range(3 * regrow):
        left = np.cbrt(max((share * lung).sum(), 1) * placer.grid.step.prod() * 6 / np.pi) / 2
        drawn *= min(radius / left, 1.3)
        where, share, surface = nodule_coverage(placer.grid, centre, drawn, shape, width)
        lung = _lung_coverage(placer, where, share.shape)
    return where, share, surface, lung, drawn


def _lung_coverage(placer, where, shape):
    """The coverage of the lungs in a box of `shape`."""
    grid = placer.grid
    axes = [grid.start[k] + grid.step[k] * np.arange(s.start, s.stop) for k, s in enumerate(where)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return coverage(placer.person.lung_distance(grid, points).reshape(shape).astype(np.float32), grid.voxel)
