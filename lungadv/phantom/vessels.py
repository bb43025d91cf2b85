"""Arteries, veins and bronchi of the lungs: trees that split the points of a lung recursively (Tawhai et al. 2000), radii by Murray's law.

From the hilum a stem goes to each lobe, and from that one to each of its segments. Each branch then takes a set of lung points, goes
38 % of the way to their centre, and hands one half of them to each of its two children. No tree crosses a fissure on its way.
"""

from dataclasses import dataclass

import numpy as np

from lungadv.phantom.drawing import capsule_coverage, paint, tube_coverage
from lungadv.phantom.grid import Grid
from lungadv.phantom.person import MIDLINE, Person

__all__ = ["Tree", "draw_vessels", "lung_points", "paint_vessels", "trace_bronchi"]


@dataclass
class Tree:
    """Branches of one vessel tree, parents first."""

    start: np.ndarray  # (N, 3) mm, z y x
    end: np.ndarray  # (N, 3) mm
    radius: np.ndarray  # (N,) mm
    ends: np.ndarray  # (N,) how many of the last branches each feeds


MURRAY = 2.9  # exponent: r^2.9 of a branch is the sum of those of its children
STEEPEST = np.deg2rad(60)  # between a branch and the one that it comes from
FRACTION = 0.38  # of the way to the centre of its points that a branch goes
SHORTEST = 1.5  # mm: a branch shorter than this does not split
STEMS = (0.08, 0.15, 0.3)  # share of that way for the trunk, a lobe's stem, a segment's
SEGMENTS = {  # of the right lung and the left: lobe (2 upper, 1 middle, 0 lower), and z / height, y / half depth, |x| / half breadth
    "artery": {
        -1: ((2, 0.80, 0.05, 0.45), (2, 0.66, 0.45, 0.6), (2, 0.64, -0.45, 0.6), (1, 0.48, -0.35, 0.75), (1, 0.40, -0.65, 0.45),
             (0, 0.50, 0.62, 0.6), (0, 0.26, -0.05, 0.8), (0, 0.20, 0.35, 0.85), (0, 0.18, 0.70, 0.5)),
        1: ((2, 0.80, 0.10, 0.45), (2, 0.66, -0.35, 0.6), (2, 0.46, -0.6, 0.75), (2, 0.36, -0.70, 0.75),
            (0, 0.50, 0.62, 0.6), (0, 0.26, 0.0, 0.8), (0, 0.20, 0.40, 0.85), (0, 0.18, 0.70, 0.5)),
    },
    "vein": {  # between the arteries
        -1: ((2, 0.74, -0.20, 0.55), (2, 0.72, 0.30, 0.5), (1, 0.46, -0.55, 0.6),
             (0, 0.42, 0.45, 0.6), (0, 0.24, 0.15, 0.8), (0, 0.20, 0.55, 0.65)),
        1: ((2, 0.74, -0.15, 0.55), (2, 0.70, 0.25, 0.5), (2, 0.42, -0.6, 0.7),
            (0, 0.42, 0.45, 0.6), (0, 0.24, 0.2, 0.8), (0, 0.20, 0.6, 0.6)),
    },
}  # fmt: skip
HILUM = {"artery": (4, -2, 0), "upper vein": (-8, -10, 0), "lower vein": (-22, 5, 0)}  # mm z y x from the middle of the hilum
AIRWAY_ENDS = 30  # ends that an artery feeds at least which a bronchus runs beside
WALL = 0.17  # of a bronchus, share of its outer diameter; half as much of trachea and main bronchi


def draw_vessels(grid: Grid, person: Person, rng: np.random.Generator) -> list[Tree]:
    """Arteries and veins: six trees, artery, upper vein and lower vein of the right lung, then of the left."""
    litres = grid.size.prod() / 13.3e6
    trees = []
    for side, root in zip((-1, 1), person.hilum, strict=True):
        for kind, ends in (("artery", 4000), ("vein", 2800)):
            points, twig = lung_points(grid, person, rng, int(ends * litres**0.67), side), rng.uniform(0.30, 0.35)
            lobe, segment = _assign_segments(person, points, SEGMENTS[kind][side], side)
            if kind == "artery":
                trees.append(_grow_tree(root + HILUM[kind], points, lobe, segment, twig))
            else:
                for name, part in (("upper vein", lobe > 0), ("lower vein", lobe == 0)):
                    trees.append(_grow_tree(root + HILUM[name], points[part], lobe[part], segment[part], twig))
    return trees


def _grow_tree(root, points, lobe, segment, twig):
    """A tree from `root` (3,) into `points` (N, 3) mm, first to each `lobe` (N,), then to each `segment` (N,) of it.

    `twig` mm is the radius of the last branches.
    """
    named = np.stack([lobe, segment])
    tip, heading, group = root[None].astype(float), np.zeros((1, 3)), np.zeros(len(points), int)
    branches = []
    for generation in range(60):
        n, centre = _group_centres(points, group, len(tip))
        way = centre - tip
        distance = np.linalg.norm(way, axis=1)
        way /= np.maximum(distance, 1e-9)[:, None]
        if generation > len(named):  # stems part at any angle
            way = _limit_angle(heading, way)
        length = distance * np.where(n == 1, 1.0, STEMS[generation] if generation < len(STEMS) else FRACTION)
        new = tip + length[:, None] * way
        branches.append((tip, new, n))
        alive = (n > 1) & ((length > SHORTEST) | (generation < len(STEMS)))
        if not alive.any():
            break
        if generation < len(named):
            arms, part = named.max() + 1, named[generation]
        else:
            arms, part = 2, _halves(points - centre[group], way[group], group, len(tip))
        child, keep = arms * group + part, alive[group]
        points, named, child = points[keep], named[:, keep], child[keep]
        used, group = np.unique(child, return_inverse=True)
        tip, heading = new[used // arms], way[used // arms]
    start, end, ends = (np.concatenate(column) for column in zip(*branches, strict=True))
    return Tree(start, end, twig * ends ** (1 / MURRAY), ends)


def _group_centres(points, group, groups):
    """Number (groups,) and centre (groups, 3) of the points of each group."""
    n = np.bincount(group, minlength=groups)
    return n, np.stack([np.bincount(group, points[:, k], groups) for k in range(3)], 1) / n[:, None]


def _halves(offset, way, group, groups):
    """On which side of a plane through its branch, across the widest spread beside it, each point lies: bool (N,)."""
    offset -= (offset * way).sum(1)[:, None] * way
    spread = np.stack([np.bincount(group, offset[:, i] * offset[:, j], groups) for i in range(3) for j in range(3)], 1)
    return (offset * np.linalg.eigh(spread.reshape(-1, 3, 3))[1][:, :, 2][group]).sum(1) > 0


def _limit_angle(heading, way):
    """Unit vectors `way` (N, 3), brought to within STEEPEST of `heading` (N, 3)."""
    along = (way * heading).sum(1)[:, None]
    aside = way - along * heading
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-9)
    return np.where(along < np.cos(STEEPEST), np.cos(STEEPEST) * heading + np.sin(STEEPEST) * aside, way)


def _assign_segments(person, points, places, side):
    """Lobe (N,) of points (N, 3) and the nearest of `places` (see SEGMENTS) in it (N,)."""
    y, x = person.pose.to_body(points[:, 1], points[:, 2])
    oblique, *horizontal = (points[:, 0] > fissure.level(y, x) for fissure in person.fissures if fissure.side == side)
    lobe = oblique * (1 + (horizontal[0] if horizontal else 1))
    half_breadth, half_depth = person.half_axes
    relative = np.stack([points[:, 0] / person.height, (y - person.middle) / half_depth, np.abs(x) / half_breadth], 1)
    lobes, places = np.split(np.array(places), [1], axis=1)
    gap = (((relative[:, None] - places) * (2.2, 1, 1)) ** 2).sum(-1)  # the chest is as high as it is wide
    return lobe, np.where(lobe[:, None] == lobes[:, 0], gap, np.inf).argmin(1)


def lung_points(grid: Grid, person: Person, rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Random points (count, 3) mm in one lung (side -1 right, 1 left), at least 1 mm under its surface.

    Raises ValueError when the field of view leaves no room for a lung.
    """
    kept = np.empty((0, 3))
    for _ in range(50):
        points = grid.size * (rng.random((8 * count, 3)) - (0, 0.5, 0.5))
        points = points[np.sign(person.pose.to_body(points[:, 1], points[:, 2])[1] - MIDLINE) == side]
        kept = np.concatenate([kept, points[person.lung_distance(grid, points) < -1]])
        if len(kept) >= count:
            return kept[:count]
    raise ValueError("shape and spacing leave no room for a lung: use a larger field of view")


def paint_vessels(hu: np.ndarray, grid: Grid, person: Person, trees: list[Tree], iodine: float = 0) -> None:
    """Paint vessels into `hu` (z, y, x), whose blood has 40 HU and `iodine`, then trachea and bronchi, one beside each larger artery."""
    start, end, radius = (np.concatenate([getattr(tree, key) for tree in trees]) for key in ("start", "end", "radius"))
    paint(hu, capsule_coverage(grid, start, end, radius, radius * 0.93), 40 + iodine)
    bronchi = [line for line in trace_bronchi(person, trees) if grid.sample(person.heart, line[0]).min() > 0]
    walls = [(points, radii / (1 - 2 * WALL)) for points, radii in bronchi]
    walls += [(points, radii / (1 - WALL)) for points, radii in person.airway]
    paint(hu, tube_coverage(grid, walls), 20)
    paint(hu, tube_coverage(grid, bronchi + person.airway), -970)


def trace_bronchi(person: Person, trees: list[Tree]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lines (points (2, 3), radii (2,)), mm, of the bronchi of both lungs beyond the main ones; radii are those of the lumen."""
    return [line for tree, (main, _) in zip(trees[::3], person.airway[1:], strict=True) for line in _beside_arteries(tree, main[-1])]


def _beside_arteries(tree, root):
    """Bronchi that start at `root` and run beside the larger arteries of a tree, their lumen 0.6 of the artery's."""
    big = tree.ends >= AIRWAY_ENDS
    along = (tree.end - tree.start)[big]
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    aside = np.array([0.35, 0.9, 0.25]) - along * (along @ (0.35, 0.9, 0.25))[:, None]  # behind the artery, whichever way it runs
    aside *= (1.9 * tree.radius[big] / np.maximum(np.linalg.norm(aside, axis=1), 1e-6))[:, None]
    reached, lines = {tuple(tree.start[0]): root}, []
    for p, q, shift, r in zip(tree.start[big], tree.end[big], aside, tree.radius[big], strict=True):  # parents come first
        reached[tuple(q)] = q + shift
        lines.append((np.stack([reached[tuple(p)], q + shift]), np.full(2, 0.6 * r)))
    return lines
