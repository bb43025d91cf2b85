"""Shared by the tests of the phantom: people, a placer, and the lungs of a small chest."""

import numpy as np
import pytest

from lungadv.phantom.anatomy import draw_person
from lungadv.phantom.grid import Grid
from lungadv.phantom.lung_measures import measure_lung
from lungadv.phantom.placement import Placer
from lungadv.phantom.recipe import check_recipe
from lungadv.phantom.simulate import random_stream, simulate
from lungadv.phantom.vessels import draw_vessels


@pytest.fixture(scope="module")
def people():
    """Grid and persons of development seeds."""
    recipe = check_recipe({"shape": (88, 100, 116), "spacing": (2.5, 2.5, 2.5)})
    grid = Grid(recipe["shape"], recipe["spacing"])
    return grid, [draw_person(grid, random_stream(100, k, "chest")) for k in range(12)]


@pytest.fixture(scope="module")
def placer(people):
    grid, persons = people
    return Placer(grid, persons[0], draw_vessels(grid, persons[0], np.random.default_rng(0)))


@pytest.fixture(scope="module")
def chest():
    """A small simulated chest and patches of its lungs, drawn twice."""
    recipe = {"shape": (88, 100, 120), "spacing": (2.0, 2.0, 2.5)}
    scan = simulate(recipe, 3, 0).scan
    return [measure_lung(scan, 150, np.random.default_rng(seed)) for seed in (0, 1)]
