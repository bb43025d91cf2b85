"""The lungs without their vessels: emphysema and texture."""

import numpy as np
from scipy import ndimage

from lungadv.phantom.anatomy import draw_person
from lungadv.phantom.grid import Grid
from lungadv.phantom.parenchyma import paint_parenchyma
from lungadv.phantom.recipe import RECIPE
from lungadv.phantom.simulate import random_stream
from lungadv.phantom.soft_tissue import paint_soft_tissue


class Without:
    """A random generator whose `random` is always `chance`."""

    def __init__(self, seed, chance):
        self.rng, self.chance = np.random.default_rng(seed), chance

    def __getattr__(self, name):
        return getattr(self.rng, name)

    def random(self, *size):
        drawn = self.rng.random(*size)
        return drawn if size else self.chance


def test_emphysema_is_pockets_of_air_in_otherwise_the_same_lung(people):
    grid, persons = people
    for k, person in enumerate(persons[:3]):
        body, texture = paint_soft_tissue(grid, person)
        sick, well = body.copy(), body.copy()
        inside = paint_parenchyma(sick, grid, person, texture, Without(k, 0.0)) > 0
        paint_parenchyma(well, grid, person, texture, Without(k, 1.0))
        change = (sick - well)[inside]
        assert change.max() <= 1e-3 and change.min() < -20 and 0.02 < (change < -1).mean() < 0.3
        assert (well[inside] < -950).mean() < 0.08  # of never-smokers 2 +- 2.7 %


def test_the_texture_of_the_lung_does_not_repeat():
    shape = RECIPE["shape"]
    grid = Grid(shape, (1.25,) * 3)
    person = draw_person(grid, random_stream(100, 0, "chest"))
    hu = np.zeros(shape, np.float32)
    inside = paint_parenchyma(hu, grid, person, np.zeros(shape, np.float32), random_stream(100, 0, "lungs")) > 0
    for axis in range(3):
        one, other = (np.moveaxis(v, axis, 0) for v in (hu, inside))
        fine = one - ndimage.gaussian_filter(one, 2)
        both = other[64:] & other[:-64]
        assert both.sum() > 10_000 and abs(np.corrcoef(fine[64:][both], fine[:-64][both])[0, 1]) < 0.15  # once it was 0.5
