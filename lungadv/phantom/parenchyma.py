"""The lungs without their vessels: air that is denser at the back and at the base, a texture of lobules, emphysema, fissures."""

import numpy as np
from scipy import ndimage

from lungadv.phantom.drawing import coverage
from lungadv.phantom.grid import NODE_SPACING, Grid, smooth_noise
from lungadv.phantom.person import MIDLINE, Person

__all__ = ["paint_parenchyma"]

LEFT, RIGHT = 3, 4  # labels of the lungs, as in LUNA16
LOBULES = ((0.7, 40.0), (2.0, 11.0))  # mm: how fine; HU: standard deviation, of the lung's texture below the coarse grid
TILE = 64  # voxels after which a texture of lobules comes again


def paint_parenchyma(hu: np.ndarray, grid: Grid, person: Person, texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint the lungs into `hu` (z, y, x); returns their labels, uint8 (z, y, x): LEFT, RIGHT, 0 elsewhere."""
    surfaces = person.lung_surfaces()
    where, (z, y, x) = grid.box_around(np.maximum.reduce(surfaces), 2 * NODE_SPACING)
    inside, labels = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
    gradient = _density_gradient(person, z, y, rng)
    severity = rng.uniform(20, 70) * (rng.random() < 0.35)  # of emphysema: pockets of almost pure air
    bubbles, turn = smooth_noise(grid, rng, 6), 2.5 * smooth_noise(grid, rng, 15)
    fields = np.cos(turn), np.sin(turn), *surfaces, *[bubbles][: severity > 0]
    one, other = (_lobules([s.stop - s.start for s in where], grid.step, rng) for _ in range(2))
    side = np.where(person.pose.to_body(y, x)[1] > MIDLINE, LEFT, RIGHT).astype(np.uint8)
    for here, (cosine, sine, *surface) in grid.upsample_slabs(fields, where):
        k = np.arange(here[0].start, here[0].stop) - where[0].start
        part, share = hu[here], coverage(np.maximum.reduce(surface[:3]), grid.voxel)
        air = cosine * one[k % len(one)] + sine * other[k % len(other)]  # two textures that come again, mixed as they never do
        air += 18 * texture[here]
        air += gradient[k]
        for bubble in surface[3:]:
            air -= severity * np.clip(bubble - 1.2, 0, 1)
        part += share * (np.maximum(air, -990) - part)
        inside[here], labels[here] = share, (share >= 0.5) * side
    _paint_fissures(hu, grid, person, inside)
    return labels


def _density_gradient(person, z, y, rng):
    """HU, float32 (z, y, 1): with the finest vessels, which are drawn apart, -890 in front to -820 behind."""
    back = np.clip((y - person.middle + person.half_axes[1]) / (2 * person.half_axes[1]), 0, 1)[0]
    level = -906 + rng.normal(0, 12)
    return (level + 65 * back - 20 * (z / person.height)).astype(np.float32)


def _lobules(shape, step, rng):
    """Fine texture of the lung in HU, float32 (at most TILE, y, x), in voxels of `step` mm (z, y, x) and their `shape`.

    It comes again after TILE voxels along each axis. The mean of a voxel has less texture than a point.
    """
    size = tuple(min(TILE, n) for n in shape)
    tile = np.zeros(size, np.float32)
    for length, deviation in LOBULES:
        part = ndimage.gaussian_filter(rng.standard_normal(size, np.float32), length / step, mode="wrap")
        kept = np.sqrt((length / np.sqrt(length**2 + step**2 / 12)).prod())
        tile += part * (deviation * kept / part.std())
    _, rows, columns = (-(-n // m) for n, m in zip(shape, size, strict=True))
    return np.tile(tile, (1, rows, columns))[:, : shape[1], : shape[2]]


def _paint_fissures(hu, grid, person, inside):
    """The oblique fissure of each lung and the horizontal one of the right, drawn column by column."""
    y, x = person.pose.to_body(*grid.plane_axes())
    for fissure in person.fissures:
        row = (fissure.level(y, x) - grid.start[0]) / grid.step[0]
        steep = np.hypot(1, fissure.slope)
        reach = steep * 0.75  # half thickness of the sheet along z in voxels after partial volume
        for k in range(-2, 3):
            near = np.rint(row).astype(int) + k
            iy, ix = np.nonzero(fissure.exists(y, x) & (near >= 0) & (near < grid.shape[0]))
            iz = near[iy, ix]
            share = np.clip(1 - np.abs(iz - row[iy, ix]) / reach, 0, 1) * min(1.0, 0.6 / steep / grid.voxel) * inside[iz, iy, ix]
            hu[iz, iy, ix] += share * (10 - hu[iz, iy, ix]) * 0.3
