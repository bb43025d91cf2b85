"""The body on its table: fat, muscles in layers, the organs below the diaphragm, heart and great vessels."""

import numpy as np

from lungadv.phantom.drawing import coverage, paint, tube_coverage
from lungadv.phantom.grid import NODE_SPACING, Grid
from lungadv.phantom.person import TABLE_CURVATURE, Person

__all__ = ["paint_soft_tissue"]

TABLE = ((0, 6, -890), (6, 8, 60), (8, 26, -945), (26, 28, 60))  # mm from and to below the skin, HU: mat, carbon fibre, foam, carbon fibre
HALF_TABLE = 200  # mm: half its width


def paint_soft_tissue(grid: Grid, person: Person, iodine: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """The body without bones, its lungs still full of mediastinal fat: HU and texture, both float32 (z, y, x).

    `iodine` is the HU that contrast agent adds to blood. The heart's muscle and the liver, which hold some, take up a part of it.
    """
    texture = grid.upsample(person.texture)
    hu = np.repeat(_table(grid, person)[None], grid.shape[0], axis=0)
    _paint_body_wall(hu, grid, person, texture)
    _paint_organs(hu, grid, person, texture, iodine)
    _paint_stomach(hu, grid, person)
    *great_vessels, oesophagus = person.great_vessels
    paint(hu, tube_coverage(grid, great_vessels), 41 + iodine)
    paint(hu, tube_coverage(grid, [oesophagus]), 41)
    return hu, texture


def _blend(part, share, value):
    """Cover `part`, in place, by `value` HU, a number or a field."""
    part += share * (value - part)


def _table(grid, person):
    """HU (y, x) of the table under the patient: a thin mat, and carbon fibre around foam, curved upwards at its sides."""
    y, x = grid.plane_axes()
    down, h = y - person.back + TABLE_CURVATURE * x**2, grid.step[1]
    plane = np.full(down.shape, -1000, np.float32)
    for low, high, value in TABLE:
        plane += coverage(low - down, h) * coverage(down - high, h) * (np.abs(x) < HALF_TABLE) * (value + 1000)
    return plane


def _paint_body_wall(hu, grid, person, texture):
    """Skin, fat under it, muscles that lie in layers around the ribs with fat between them, and the fat inside the chest wall."""
    h = grid.voxel
    for where, (skin, muscle, wall) in grid.upsample_slabs((person.skin, person.muscle, person.chest_wall)):
        part, grain = hu[where], texture[where]
        _blend(part, coverage(skin, h), 0)
        _blend(part, coverage(skin + 2, h), -103 + 8 * grain)
        layers = (wall + 3 * grain) / 15
        gap = np.clip(1.2 - np.abs(layers - np.rint(layers)) * (15 / 1.4), 0, 1) * (layers > 0.5)
        _blend(part, coverage(muscle, h) * (1 - 0.8 * gap), 53)
        _blend(part, coverage(wall + 1, h), -95 + 6 * grain)


def _paint_organs(hu, grid, person, texture, iodine):
    """The glands of the breasts, liver, spleen and heart."""

    def organ(surface, value, grain, share=lambda *_: 1, *fields) -> None:
        """Paint what lies inside a coarse distance; `share` says how much of a place it covers."""
        found = grid.box_around(surface, 2 * NODE_SPACING)
        if found:
            for where, (inside, *others) in grid.upsample_slabs([surface, *fields], found[0]):
                covered = coverage(inside, grid.voxel) * share(texture[where], inside, *others)
                _blend(hu[where], covered, value + grain * texture[where])

    def furrow(_, surface, groove):
        """Fat between atria and ventricles."""
        return 1 - 0.8 * np.clip(1 - np.abs(groove) / 3, 0, 1) * np.clip((surface + 14) / 4, 0, 1)

    liver, spleen = _upper_abdomen(grid, person)
    organ(person.breast, 25, 0, lambda grain, _: np.clip(0.6 + 0.5 * grain, 0, 1))
    organ(liver, 58 + 0.2 * iodine, 3)
    organ(spleen, 46, 5)
    organ(person.heart + 3.5, 43 + 0.25 * iodine, 3, furrow, person.groove)
    if iodine:  # else chambers and muscle are one
        organ(person.heart + 12, 43 + iodine, 3)


def _upper_abdomen(grid, person):
    """Coarse distances of liver and spleen."""
    z, y, x = grid.coarse_axes()
    y, x = person.pose.to_body(y, x)
    liver = np.maximum(np.maximum(person.chest_wall + 4, person.diaphragm + 2), x - 25 - 0.2 * person.height + z)
    a, b = person.half_axes
    spleen = np.sqrt(((z - 0.04 * person.height) / 1.5) ** 2 + (y - person.middle - 0.5 * b) ** 2 + ((x - 0.72 * a) / 0.8) ** 2) - 30
    return liver, np.maximum(np.maximum(person.chest_wall + 4, person.diaphragm + 2.5), spleen)


def _paint_stomach(hu, grid, person):
    """A wall, fluid, and above it (the patient lies on the back) gas."""
    found = grid.box_around(person.stomach, 2 * NODE_SPACING)
    if found is None:
        return
    where, (_, y, _) = found
    part, surface, h = hu[where], grid.upsample(person.stomach, where), grid.voxel
    level = y.min() + 0.45 * np.ptp(y)
    _blend(part, coverage(surface, h), 42)
    _blend(part, coverage(surface + 3.5, h), np.where(y < level, -960, 15))
