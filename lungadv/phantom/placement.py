"""Where nodules and mimics lie: isolated in the lung, on a vessel, on the pleura or at a fissure, and clear of one another."""

from collections.abc import Sequence

import numpy as np
from scipy import spatial

from lungadv.phantom.grid import Grid
from lungadv.phantom.person import Person
from lungadv.phantom.vessels import Tree, trace_bronchi

__all__ = ["ATTACHMENTS", "VISIBLE", "Placer"]

ATTACHMENTS = {"isolated": 0.28, "juxta-vascular": 0.28, "juxta-pleural": 0.36, "perifissural": 0.08}  # and how often
DEPTH = (0.15, 0.5)  # of the centre of a juxta-pleural nodule under the pleura, as a share of its radius: broad-based
BESIDE_RIB = 0.5  # share of the juxta-pleural ones that lie next to a rib
GAP = 4.0  # mm kept free between two placed objects
VISIBLE = 0.7  # mm: radius of vessels that count as vessels
TWIG = 2.2  # mm: radius under which a vessel may end in a nodule
TRIES = 200  # of each attachment


class Placer:
    """Hands out centres (3,) in mm, z, y, x, in the lungs of a person that keep clear of one another.

    `start`, `end` (N, 3) and `radius` (N,) are the vessels' branches in mm, `bronchi` lines as of `trace_bronchi`.
    """

    def __init__(self, grid: Grid, person: Person, trees: list[Tree]) -> None:
        self.grid, self.person = grid, person
        self.start, self.end, self.radius = (np.concatenate([getattr(tree, key) for tree in trees]) for key in ("start", "end", "radius"))
        self.bronchi = trace_bronchi(person, trees)
        seen = self.radius > VISIBLE
        share = np.linspace(0, 1, 6)[:, None, None]
        self._axes = spatial.cKDTree((self.start[seen] + share * (self.end - self.start)[seen]).reshape(-1, 3))
        self._axes_radius = np.tile(self.radius[seen], len(share))
        self._twigs = np.flatnonzero(seen & (self.radius < TWIG))
        self._twig_ends = spatial.cKDTree(self.end[self._twigs])
        self._ribs = person.pose.to_scanner(np.concatenate(person.ribs).mean(1))
        self._taken = np.zeros((0, 4))  # centre and radius of balls, mm

    def place(self, attachments: Sequence[str], radius: float, parameter: str, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """(attachment, centre) of an object of `radius` mm: the first of `attachments` for which there is a free place.

        An attachment is one of ATTACHMENTS, and for mimics "inside" the lung or "on a fissure". Each gets TRIES tries.
        Raises ValueError that names the recipe's `parameter` when there is no place.
        """
        for attachment in attachments:
            for _ in range(TRIES):
                centre = self._propose(attachment, radius, rng)
                if centre is not None and self.claim(centre, radius):
                    return attachment, centre
        raise self.no_room(parameter)

    def claim(self, centre: np.ndarray, radius: float) -> bool:
        """Take a ball of `radius` mm if it is free: whether it was."""
        gaps = np.linalg.norm(self._taken[:, :3] - centre, axis=1) - self._taken[:, 3] - radius
        if (gaps <= GAP).any():
            return False
        self._taken = np.vstack([self._taken, [*centre, radius]])
        return True

    def no_room(self, parameter: str) -> ValueError:
        """The error that says that what the recipe's `parameter` asks for does not fit."""
        what = "mimics" if parameter == "mimics" else "nodules"
        return ValueError(f"{parameter}: more {what} than fit, {len(self._taken)} objects placed; ask for fewer or smaller ones")

    def random_point(self, rng: np.random.Generator) -> np.ndarray:
        """A point (3,) mm in the lungs, 10 mm from the border of the field of view; upper lobes and periphery are preferred.

        Raises ValueError when the field of view leaves no room for a lung.
        """
        low, high = -self.grid.size * (0, 0.5, 0.5) + 10, self.grid.size * (1, 0.5, 0.5) - 10
        for _ in range(200):
            draws = rng.random((64, 4))
            points = low + draws[:, :3] * (high - low)
            deep = np.maximum(-self.grid.sample(self.person.chest_wall, points), 0)
            weight = (0.5 + points[:, 0] / self.person.height) / 1.5 * (0.3 + np.exp(-deep / 20)) / 1.3
            good = np.flatnonzero((self.person.lung_distance(self.grid, points) < -1) & (draws[:, 3] < weight))
            if len(good):
                return points[good[0]]
        raise ValueError("shape and spacing leave no room for a lung: use a larger field of view")

    def normal(self, point: np.ndarray) -> np.ndarray:
        """The outward normal of the lungs' surface near a point (3,) mm: a unit vector (3,)."""
        offsets = 2.5 * np.eye(3)
        slope = self.person.lung_distance(self.grid, point + offsets) - self.person.lung_distance(self.grid, point - offsets)
        return slope / max(np.linalg.norm(slope), 1e-6)

    def _propose(self, attachment, radius, rng):
        """A centre (3,) for an object of `radius` mm; None where there is nothing to attach it to, or no lung around it."""
        centre = self.random_point(rng)
        if attachment == "juxta-pleural":
            if rng.random() < BESIDE_RIB:
                centre = self._ribs[np.argmin(((self._ribs - centre) ** 2).sum(1))]
            return self._move_to_wall(centre, -rng.uniform(*DEPTH) * radius)
        if attachment == "juxta-vascular":
            centre = self._beside_twig(centre, radius, rng)
        if attachment in ("perifissural", "on a fissure"):
            fissures = self.person.nearby_fissures(centre)
            if not fissures:
                return None
            gap, fissure = min(fissures, key=lambda pair: abs(pair[0]))
            beside = 0.7 * radius * rng.choice((-1, 1)) if attachment == "perifissural" else 0
            centre = centre + (beside - gap) * np.hypot(1, fissure.slope) * np.array([1.0, 0, 0])
        if attachment == "isolated" and self._touches(centre, radius + 1):
            return None
        depth = -self.person.lung_distance(self.grid, centre[None])[0]
        return centre if depth > radius + (2 if attachment in ("isolated", "inside") else 0) else None

    def _beside_twig(self, point, radius, rng):
        """A centre for a ball of `radius` mm that touches the end of the thin vessel next to a point."""
        k = self._twigs[self._twig_ends.query(point)[1]]
        aside = rng.standard_normal(3)
        return self.end[k] + aside / np.linalg.norm(aside) * (0.8 * radius + self.radius[k])

    def _touches(self, centre, radius):
        """Whether a ball reaches a visible vessel or a fissure."""
        distance, k = self._axes.query(centre, 8)
        return (distance - self._axes_radius[k] < radius).any() or any(abs(gap) < radius for gap, _ in self.person.nearby_fissures(centre))

    def _move_to_wall(self, point, depth):
        """The point moved to signed distance `depth` mm of the chest wall (not the mediastinum); None if that fails."""
        for _ in range(6):
            point = point + (depth - self.person.lung_distance(self.grid, point[None])[0]) * 0.8 * self.normal(point)
        wall = self.grid.sample(self.person.chest_wall, point[None])[0]
        if abs(self.person.lung_distance(self.grid, point[None])[0] - depth) > 1 or wall < depth - 3:
            return None
        low, high = -self.grid.size * (0, 0.5, 0.5) + 8, self.grid.size * (1, 0.5, 0.5) - 8
        return point if ((point > low) & (point < high)).all() else None
