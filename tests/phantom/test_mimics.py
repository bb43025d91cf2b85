"""Mimics: every kind, and what each lies on."""

import numpy as np
import pytest

from lungadv.phantom.mimics import MIMICS, WIDENING, _draw_bifurcation, _draw_end_on_vessel, _draw_mucus_plug, paint_mimic
from lungadv.phantom.placement import Placer
from lungadv.phantom.recipe import check_recipe
from lungadv.phantom.simulate import simulate_anatomy
from lungadv.phantom.vessels import draw_vessels

TINY = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5)}


def test_every_kind_of_mimic_can_be_drawn():
    recipe = check_recipe(TINY)
    grid, person, trees, hu, _ = simulate_anatomy(recipe, 0, 0)
    for k, kind in enumerate(MIMICS):
        rng = np.random.default_rng(k)
        before = hu.copy()
        centre, diameter = paint_mimic(hu, Placer(grid, person, trees), kind, rng)
        changed = np.argwhere(np.abs(hu - before) > 20)
        assert len(changed) and 2 < diameter < 40
        assert np.linalg.norm((changed - grid.to_index(centre)) * 2.5, axis=1).min() < 6


def test_fissure_thickening_lies_along_a_fissure(people):
    grid, persons = people
    person = persons[0]
    placer = Placer(grid, person, draw_vessels(grid, person, np.random.default_rng(0)))
    for k in range(6):
        hu = np.full(grid.shape, -850, np.float32)
        centre, _ = paint_mimic(hu, placer, "fissure thickening", np.random.default_rng(k))
        points = grid.start + grid.step * np.argwhere(hu > -700)
        normal = np.linalg.svd(points - points.mean(0))[2][-1]  # the thin direction
        gap, sheet = min(person.nearby_fissures(centre), key=lambda pair: abs(pair[0]))
        expected = person.pose.to_scanner([1, -sheet.slope, 0]) / np.hypot(1, sheet.slope)
        assert abs(gap) < 0.1 and abs(normal @ expected) > 0.8


@pytest.mark.parametrize("kind", ["bifurcation", "end-on vessel"])
def test_a_vessel_that_passes_for_a_nodule_is_little_wider_than_it_is(placer, kind):
    draw = {"bifurcation": _draw_bifurcation, "end-on vessel": _draw_end_on_vessel}[kind]
    for k in range(12):
        centre, lines = draw(placer, np.random.default_rng(k))
        gap = segment_distance(centre, placer.start, placer.end)
        own = placer.radius[gap < 1e-6].max()
        assert 1 < max(max(line[2:]) for line in lines) / own <= WIDENING[1] + 1e-6


def test_mucus_lies_in_a_bronchus(placer):
    starts, ends = (np.array([points[i] for points, _ in placer.bronchi]) for i in (0, 1))
    for k in range(8):
        _, lines = _draw_mucus_plug(placer, np.random.default_rng(k))
        for start, end, *_ in lines:
            for point in (start, end):
                assert segment_distance(point, starts, ends).min() < 1e-6


def segment_distance(point, start, end):
    axis = end - start
    along = np.clip(((point - start) * axis).sum(1) / np.maximum((axis**2).sum(1), 1e-9), 0, 1)
    return np.linalg.norm(start + along[:, None] * axis - point, axis=1)
