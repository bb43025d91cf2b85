"""Drawing a person: build, body wall, chest wall, diaphragm and fissures as signed distances on the coarse grid.

Sizes follow the field of view, with a spread from person to person. x grows to the patient's left, y to the back, z to the head.
"""

from dataclasses import dataclass

import numpy as np

from lungadv.phantom.bones import draw_ribs
from lungadv.phantom.grid import NODE_SPACING, Grid, signed_distance, smooth_noise, smooth_union
from lungadv.phantom.mediastinum import draw_great_vessels, draw_heart, draw_mediastinum, enclose, heart_bed
from lungadv.phantom.person import TABLE_CURVATURE, Fissure, Person, Pose, apex_shift

__all__ = ["draw_person"]


@dataclass
class Build:
    """The sizes of a person, in mm."""

    height: float  # of the field of view
    wide: float  # half axis of the body, x
    deep: float  # half axis of the body, y
    waist: float  # how much narrower it is than the shoulders, a share
    fat: float  # under the skin
    breast: float
    half_axes: tuple[float, float]  # x, y of the inner chest wall
    centre: float  # y of the body

    @property
    def middle(self) -> float:
        """y of the chest's centre."""
        return self.centre - 3.0

    @property
    def scale(self) -> np.ndarray:
        """z, y, x of this chest against one of 220 mm with a body of 206 x 258 mm: (3,)."""
        return np.array([self.height / 220, self.deep / 103, self.wide / 129])


def draw_build(grid: Grid, rng: np.random.Generator) -> Build:
    """Draw breadth, depth, fat and a shape like one of the two sexes."""
    height, depth, breadth = grid.size / (1, 2, 2)
    female = rng.random() < 0.45
    waist = 0.05 if female else 0.03
    wide = (breadth - 4) * rng.uniform(0.9, 1.0) / (1.02 + waist)
    deep = depth * rng.uniform(0.78, 0.85)
    breast = rng.uniform(10, 24) * deep / 103 if female else rng.uniform(0, 5)
    fat, wall = rng.uniform(9, 17) if female else rng.uniform(6, 14), rng.uniform(11, 14)
    half_axes = wide - fat - wall - rng.uniform(0, 9), deep - 0.8 * fat - wall - 3  # more muscle at the sides
    centre = -depth + 4 + breast + deep  # the table keeps what is left behind the body
    return Build(height, wide, deep, waist, fat, breast, half_axes, centre)


def draw_person(grid: Grid, rng: np.random.Generator) -> Person:
    """Draw a person who fits the field of view."""
    build = draw_build(grid, rng)
    (a, b), middle, scale = build.half_axes, build.middle, build.scale
    pose = Pose(np.deg2rad(np.clip(rng.normal(0, 3), -6, 6)))
    z, y, x = grid.coarse_axes()
    down = y + TABLE_CURVATURE * x**2
    y, x = pose.to_body(y, x)
    axes = z, y - middle, x
    skin, muscle, breast = draw_body_wall(grid, rng, (z, y - build.centre, x), build)
    back = (down - skin)[np.abs(skin) < NODE_SPACING].max()  # where the lowest point of the skin touches the table
    chest_wall = np.maximum(draw_chest_wall(grid, rng, axes, build.half_axes), muscle + 4)
    heart, groove = draw_heart(grid, rng, axes, b, scale)
    spine = (middle + b - 22 * scale[1], rng.normal(0, 1.5))
    mediastinum = draw_mediastinum(grid, rng, axes, b, scale, spine, heart)
    great_vessels, airway, hilum = draw_great_vessels(build.height, b, middle, scale, rng)
    mediastinum = enclose(mediastinum, grid, rng, (z, y, x), great_vessels + airway, hilum, scale)
    diaphragm = smooth_union(draw_diaphragm(grid, rng, axes, build.half_axes), heart_bed(heart, z), 12.0)
    away = (z - 0.03 * build.height) / 1.1, (y - middle + 0.1 * b) / 1.3, x - 0.5 * a
    stomach = np.maximum(np.sqrt(sum(d**2 for d in away)) - 34 * scale[0] * rng.uniform(0.8, 1.1), diaphragm + 5)
    texture = smooth_noise(grid, rng, 9) * 0.8 + smooth_noise(grid, rng, 3) * 0.6
    fissures = draw_fissures(rng, build.height, middle)
    ribs = draw_ribs(rng, build.half_axes, build.height, middle)
    great_vessels, airway = ([(pose.to_scanner(points), radii) for points, radii in lines] for lines in (great_vessels, airway))
    return Person(
        build.half_axes, build.height, middle, pose, spine, back, skin, muscle, breast, chest_wall, mediastinum, diaphragm, heart, groove,
        stomach, texture, great_vessels, airway, pose.to_scanner(hilum), fissures, ribs,
    )  # fmt: skip


def draw_body_wall(
    grid: Grid, rng: np.random.Generator, axes: tuple[np.ndarray, ...], build: Build
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skin, the muscles under the subcutaneous fat, and the glands of the breasts: coarse distances.

    The back is flat, breasts lie in front, the waist is narrower than the shoulders. `axes`: z, y, x about the body's centre.
    """
    z, y, x = axes
    wide, deep = build.wide, build.deep
    t, around = z / grid.size[0], np.arctan2(y, x)
    squeeze = 1 + build.waist * np.sin(2.6 * t + rng.uniform(0, 1)) + 0.02 * np.cos(2 * around)
    power = np.where(y > 0, 2.8, 2.2)
    trunk = signed_distance((np.abs(x / wide) ** power + np.abs(y / deep) ** power) ** (1 / power) / squeeze - 1 + 0 * z)
    bumps = np.exp(-(((np.abs(x) - 0.48 * wide) / (0.33 * wide)) ** 2) - ((t - 0.55) / 0.23) ** 2)
    bumps = bumps * build.breast * np.clip(-y / (0.5 * deep), 0, 1)
    fat = build.fat * (1 + 0.25 * np.cos(2 * around) - 0.3 * np.sin(around)) + 1.5 * smooth_noise(grid, rng, 20)
    muscle = trunk + np.maximum(fat, 2.5)
    skin, thick = trunk - bumps, 9 - bumps
    gland = np.maximum(skin + 5, thick) + 2.5 * smooth_noise(grid, rng, 6)
    gland = np.maximum.reduce([gland, skin + 2, thick - 6, 2 - muscle])  # under the skin, before the muscle, only in a breast
    return skin, muscle, gland if build.breast > 5 else np.full_like(gland, 60)


def draw_chest_wall(grid: Grid, rng: np.random.Generator, axes: tuple[np.ndarray, ...], half_axes: tuple[float, float]) -> np.ndarray:
    """The inner chest wall: one superellipse a side, whose axis moves outwards towards the apex. `axes` are about the chest's centre."""
    z, y, x = axes
    a, b = half_axes
    shift = a * apex_shift(z / grid.size[0])
    lateral = np.where(np.abs(x) > shift, (np.abs(x) - shift) / (a - shift), (shift - np.abs(x)) / (shift + 0.5 * a))
    radial = (lateral**2.2 + np.abs(y / b) ** 2.2) ** (1 / 2.2)
    tau = np.clip((z / grid.size[0] - 0.22) / 0.76, 0, None)
    return signed_distance((radial**2.7 + tau**2.7) ** (1 / 2.7) - 1) + 0.8 * smooth_noise(grid, rng, 15)


def draw_diaphragm(grid: Grid, rng: np.random.Generator, axes: tuple[np.ndarray, ...], half_axes: tuple[float, float]) -> np.ndarray:
    """Two domes, the right one higher, both lower after a deeper breath. Recesses reach deep behind and at the sides."""
    z, y, x = axes
    (a, b), height = half_axes, grid.size[0]
    lift = height * rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 2) * (0.245, 0.19)
    profile = 1 - ((np.abs(x) - 0.46 * a) / (0.62 * a)) ** 2 - ((y + 0.12 * b) / (0.95 * b)) ** 2
    floor = np.maximum(0.055 * height, height * 0.04 + lift[np.where(x < 0, 0, 1)] * 1.1 * profile)
    return (z - floor) * 0.8 + 1.5 * smooth_noise(grid, rng, 14)


def draw_fissures(rng: np.random.Generator, height: float, middle: float) -> list[Fissure]:
    """The oblique fissure of the left lung and of the right one, and the horizontal one that ends at the latter."""
    waves = rng.uniform(-1, 1, (3, 3))
    left, right = Fissure(1, 0.5 * height, 1.15, middle, waves[0]), Fissure(-1, 0.48 * height, 1.1, middle, waves[1])
    return [left, right, Fissure(-1, 0.56 * height, 0.12, middle, waves[2], right)]
