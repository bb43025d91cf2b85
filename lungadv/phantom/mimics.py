"""Mimics: what fools a detector has a nodule's value and calibre in a slice, and another shape in three dimensions.

It is long, branched, flat, or part of the wall.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lungadv.phantom.drawing import capsule_coverage, coverage, paint_brighter, smooth_grain, sphere_diameter
from lungadv.phantom.grid import Grid
from lungadv.phantom.placement import VISIBLE, Placer

__all__ = ["MIMICS", "paint_mimic"]

MIMICS = {  # and how often
    "bifurcation": 0.28, "end-on vessel": 0.28, "scar": 0.165, "fissure thickening": 0.08, "mucus plug": 0.16, "consolidation": 0.02,
    "pleural plaque": 0.01, "osteophyte": 0.005,
}  # fmt: skip
THICK = (1.6, 3.4)  # mm: radius of the vessels that pass for a nodule where they fork or run through the slices; thinner when none is free
WIDENING = (1.2, 1.5)  # how much wider they are there
PLUGGED, DILATION = (0.8, 1.8), (1.6, 2.4)  # mm: lumen (radius) of the airways that mucus fills; how much it widens them

Line = tuple[np.ndarray, np.ndarray, float, float]  # start and end (3,) mm, radius at each in mm


@dataclass
class Ellipsoid:
    """A body with half axes `half` (3,) mm along the rows of `frame` (3, 3) about `centre` (3,) mm.

    Where `width` (mm, of the edge) or `value` (HU) is None, those of other mimics are taken.
    """

    centre: np.ndarray
    half: np.ndarray
    frame: np.ndarray
    width: float | None = None
    value: float | None = None


def paint_mimic(hu: np.ndarray, placer: Placer, kind: str, rng: np.random.Generator, iodine: float = 0) -> tuple[np.ndarray, float]:
    """Place one of MIMICS and paint it into `hu` (z, y, x).

    Returns its centre (3,) in mm, z, y, x, and the diameter in mm of the sphere of its volume. `iodine` is the HU that contrast
    agent adds to blood. Raises ValueError that names the recipe's parameter when there is no place.
    """
    value = rng.uniform(-20, 70) + iodine * (kind in ("bifurcation", "end-on vessel"))
    width = max(placer.grid.voxel, rng.uniform(0, 2.0))
    if kind in LINEAR:
        centre, lines = LINEAR[kind](placer, rng)
        return centre, _paint_lines(hu, placer.grid, lines, value)
    body = ELLIPSOIDAL[kind](placer, rng)
    width, value = (width if body.width is None else body.width), (value if body.value is None else body.value)
    return body.centre, _paint_ellipsoid(hu, placer.grid, body, width, value, rng)


def _draw_bifurcation(placer, rng):
    """The fork of a thick vessel, a little wider than the vessel, and round."""
    forks = np.flatnonzero((placer.radius > VISIBLE) & (placer.radius < THICK[1]))
    k = forks[_nearest_free(placer, placer.end[forks], placer.radius[forks], THICK[0], rng)]
    centre, own = placer.end[k], placer.radius[k]
    radius = own * rng.uniform(*WIDENING)
    arms = np.flatnonzero((placer.start == centre).all(1))
    ways = np.vstack([placer.start[k] - centre, placer.end[arms] - centre])
    ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-6)
    ends = [centre + way * radius * 1.6 for way in ways]
    return centre, [(centre, end, radius, r) for end, r in zip(ends, [own, *placer.radius[arms]], strict=True)]


def _draw_end_on_vessel(placer, rng):
    """A thick vessel that runs through the slices, a little wider in the middle, where it may bend."""
    along = placer.end - placer.start
    length = np.maximum(np.linalg.norm(along, axis=1), 1e-6)
    upright = np.flatnonzero((np.abs(along[:, 0]) > 0.7 * length) & (placer.radius > VISIBLE) & (placer.radius < THICK[1]))
    middles = (placer.start + placer.end)[upright] / 2
    k = _nearest_free(placer, middles, placer.radius[upright], THICK[0], rng)
    centre, own = middles[k], placer.radius[upright[k]]
    axis = along[upright[k]] / length[upright[k]] * own * rng.uniform(1.5, 2.5)
    return centre, [(centre, end, own * rng.uniform(*WIDENING), own) for end in (centre - axis, centre + axis)]


def _draw_scar(placer, rng):
    """A crooked band of four to six pieces."""
    radius = rng.uniform(1.6, 3.2)
    centre = placer.place(["inside"], 3 * radius, "mimics", rng)[1]
    heading = _draw_direction(rng)
    points = [centre - heading * radius * 3]
    for _ in range(int(rng.integers(4, 7))):
        heading = heading + rng.normal(0, 0.35, 3)
        heading /= np.linalg.norm(heading)
        points.append(points[-1] + heading * radius * 1.4)
    radii = radius * rng.uniform(0.5, 1.1, len(points))
    return centre, list(zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True))


def _draw_mucus_plug(placer, rng):
    """A filled and widened airway at a fork: a piece of the stem and of each branch."""
    starts, ends = (np.array([points[i] for points, _ in placer.bronchi]) for i in (0, 1))
    lumen = np.array([radii[0] for _, radii in placer.bronchi])
    small = np.flatnonzero(lumen < PLUGGED[1])
    k = small[_nearest_free(placer, ends[small], lumen[small], PLUGGED[0], rng)]
    centre, radius = ends[k], lumen[k] * rng.uniform(*DILATION)
    branches = np.flatnonzero((starts == centre).all(1))
    arms = [(starts[k] - centre, 1.0, 3.0)] + [(ends[b] - centre, 0.75, rng.uniform(2, 3.5)) for b in branches]
    arms = [(arm, thick, min(1.0, length * radius / max(np.linalg.norm(arm), 1e-6))) for arm, thick, length in arms]
    return centre, [(centre, centre + share * arm, radius * thick, radius * thick * 0.8) for arm, thick, share in arms]


def _draw_fissure_thickening(placer, rng):
    """A disc that lies in a fissure."""
    half = np.array([rng.uniform(1.0, 2.2), rng.uniform(4, 8), rng.uniform(4, 9)])
    centre = placer.place(["on a fissure"], half[1], "mimics", rng)[1]
    _, fissure = min(placer.person.nearby_fissures(centre), key=lambda pair: abs(pair[0]))
    return Ellipsoid(centre, half, _frame(placer.person.pose.to_scanner([1, -fissure.slope, 0])))


def _draw_consolidation(placer, rng):
    """A large faint body with a wide edge."""
    half = rng.uniform(7, 14, 3)
    centre = placer.place(rng.permutation(["juxta-pleural", "inside"]), half.min(), "mimics", rng)[1]
    return Ellipsoid(centre, half, _frame(_draw_direction(rng)), rng.uniform(6, 10), rng.uniform(-650, -150))


def _draw_pleural_plaque(placer, rng):
    """A disc on the pleura, which may hold some calcium."""
    half = np.array([rng.uniform(1.0, 2.0), rng.uniform(6, 13), rng.uniform(6, 13)])
    centre = placer.place(["juxta-pleural"], half[0] + 1, "mimics", rng)[1]
    return Ellipsoid(centre, half, _frame(placer.normal(centre)), value=rng.uniform(30, 160))


def _draw_osteophyte(placer, rng):
    """A spur of the vertebral body that reaches towards the right lung."""
    person = placer.person
    half = np.array([rng.uniform(2, 3.5), rng.uniform(3, 5), rng.uniform(3, 4.5)])
    for _ in range(100):
        spur = rng.uniform(0.25, 0.85) * person.height, person.spine[0] - rng.uniform(2, 9), person.spine[1] - rng.uniform(16.5, 18.5)
        centre = person.pose.to_scanner(spur)
        if placer.claim(centre, half.max()):
            return Ellipsoid(centre, half, np.eye(3), value=rng.uniform(250, 600))
    raise placer.no_room("mimics")


LINEAR: dict[str, Callable[[Placer, np.random.Generator], tuple[np.ndarray, list[Line]]]] = {
    "bifurcation": _draw_bifurcation,
    "end-on vessel": _draw_end_on_vessel,
    "scar": _draw_scar,
    "mucus plug": _draw_mucus_plug,
}
ELLIPSOIDAL: dict[str, Callable[[Placer, np.random.Generator], Ellipsoid]] = {
    "fissure thickening": _draw_fissure_thickening,
    "consolidation": _draw_consolidation,
    "pleural plaque": _draw_pleural_plaque,
    "osteophyte": _draw_osteophyte,
}


def _nearest_free(placer, places, radii, thick, rng):
    """Which of `places` (N, 3) is free: of those with a radius (N,) over `thick` mm the nearest to a random point, or else the thickest."""
    gap = ((places - placer.random_point(rng)) ** 2).sum(1)
    for k in np.lexsort((np.where(radii > thick, gap, -radii), radii <= thick)):
        radius = WIDENING[1] * radii[k]
        if placer.person.lung_distance(placer.grid, places[k : k + 1])[0] < -radius and placer.claim(places[k], radius):
            return k
    raise placer.no_room("mimics")


def _draw_direction(rng):
    """A random direction (3,), of length 1.04."""
    base = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return base[0] + 0.3 * base[2]


def _frame(normal):
    """Orthonormal rows of which the first is along `normal`."""
    return np.linalg.qr(np.column_stack([normal, np.eye(3)[np.argsort(np.abs(normal))[:2]].T]))[0].T


def _paint_lines(hu, grid, lines, value):
    """Paint tapered tubes; returns the diameter in mm of the sphere of their volume."""
    start, end, r_start, r_end = (np.array(column) for column in zip(*lines, strict=True))
    reach = max(r_start) + 2 * grid.voxel
    ends = np.concatenate([start, end])
    where, _ = grid.box(ends.min(0) - reach, ends.max(0) + reach)
    local = Grid(tuple(s.stop - s.start for s in where), grid.spacing)
    local.start = grid.start + grid.step * [s.start for s in where]
    share = capsule_coverage(local, start, end, r_start, r_end)
    paint_brighter(hu[where], share, value)
    return sphere_diameter(share, grid)


def _paint_ellipsoid(hu, grid, body, width, value, rng):
    """Paint an ellipsoid roughened by a grain; returns the diameter in mm of the sphere of its volume."""
    reach = body.half.max() + width
    where, axes = grid.box(body.centre - reach, body.centre + reach)
    d = [a - c for a, c in zip(axes, body.centre, strict=True)]
    gauge = np.sqrt(sum((sum(row[k] * d[k] for k in range(3)) / size) ** 2 for row, size in zip(body.frame, body.half, strict=True)))
    rough = smooth_grain(grid, gauge.shape, rng) * 0.1
    share = coverage(((gauge - 1 + rough) * body.half.min()).astype(np.float32), width)
    paint_brighter(hu[where], share, value)
    return sphere_diameter(share, grid)
