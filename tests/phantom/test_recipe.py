"""Recipes that cannot be are named."""

import pytest

from lungadv.data.tables import TYPES
from lungadv.phantom.simulate import simulate

TINY = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5)}


NODULES = [{"type": kind, "diameter_mm": 10 + k} for k, kind in enumerate(TYPES)]
NODULES += [{"type": "solid", "diameter_mm": 14}, {"type": "solid"}]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"photons": -1}, "photons"),
        ({"photons": 0}, "photons"),
        ({"photons": float("nan")}, "photons"),
        ({"photons": float("inf")}, "photons"),
        ({"photons": "3e4"}, "photons"),
        ({"iodine": -1}, "iodine"),
        ({"iodine": 501}, "iodine"),
        ({"thickness": 0}, "thickness"),
        ({"thickness": 1e9}, "thickness"),
        ({"shape": (64.5, 88, 100)}, "shape"),
        ({"shape": (48, 48, 48)}, "shape and spacing"),
        ({"nodules": 3}, "nodules"),
        ({"nodules": [{"type": "solid", "diameter": 9}]}, "diameter_mm, and nothing else"),
        ({"thickness": -2.5}, "thickness"),
        ({"kernel": "hard"}, "kernel"),
        ({"spacing": (1.25, 1.25, float("nan"))}, "spacing"),
        ({"spacing": (1.25, 1.25, 0)}, "spacing"),
        ({"shape": (64, 80)}, "shape"),
        ({"shape": (40, 40, 40)}, "shape and spacing"),
        ({"nodules": [{"type": "liquid"}]}, "type 'liquid'"),
        ({"nodules": [{"type": "solid", "diameter_mm": 90}]}, "diameter_mm .* not 90"),
        ({"nodules": [{"type": "solid", "diameter_mm": -3}]}, "diameter_mm .* not -3"),
        ({"nodules": [{"type": "solid", "diameter_mm": 25}] * 120}, "more nodules than fit"),
        ({"mimics": -1}, "mimics"),
        ({"mimics": 255}, "more mimics than fit"),
        ({"mimics": 10**12}, "mimics"),
        ({"small_nodules": 1.5}, "small_nodules"),
        ({"small_nodules": float("nan")}, "small_nodules"),
        ({"disputed": -1}, "disputed"),
        ({"small_nodules": 10**6}, "small_nodules"),
        ({"small_nodules": 250, "nodules": NODULES}, "more nodules than fit"),
        ({"dose": 3}, "'dose'"),
        ({"kernel": ["soft"]}, "kernel"),
        ({"shift": "no"}, "shift"),
        ({"thickness": "thin"}, "thickness"),
        ({"shape": (4000, 4000, 4000), "spacing": (0.1, 0.1, 0.1)}, "shape .* voxels"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(change, name):
    with pytest.raises(ValueError, match=name):
        simulate(TINY | change, 0, 0)


@pytest.mark.parametrize(("seed", "index", "name"), [(-1, 0, "seed"), (1.5, 0, "seed"), (0, -1, "index"), (0, "1", "index")])
def test_a_person_that_cannot_be_is_named(seed, index, name):
    with pytest.raises(ValueError, match=name):
        simulate(TINY, seed, index)
