"""Nodules: sizes, shapes and masks."""

import numpy as np
import pytest

from lungadv.phantom import nodules
from lungadv.phantom.grid import Grid
from lungadv.phantom.nodules import Finding, draw_diameter, draw_radius_field, nodule_coverage, paint_nodule


def test_diameters_follow_the_law():
    rng = np.random.default_rng(0)
    diameters = np.array([draw_diameter(rng) for _ in range(3000)])
    assert diameters.min() >= 6 and 28 < diameters.max() <= 32
    assert 0.55 < (diameters < 12).mean() < 0.9 and (diameters > 20).mean() > 0.02


def test_another_family_of_shapes_has_stronger_lobes():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def spread(shift):
        return np.mean([draw_radius_field(rng, 0.2, 0, shift).radius(directions).std() for _ in range(300)])

    assert spread(True) > 1.05 * spread(False)


def test_spicules_reach_out():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    plain, spiculated = (np.mean([draw_radius_field(rng, 0.1, n, False).radius(directions).max() for _ in range(50)]) for n in (0, 6))
    assert spiculated > 1.2 * plain


def test_a_flattened_nodule_keeps_its_volume():
    normal = np.array([2.0, -1, 2]) / 3
    lobes = draw_radius_field(np.random.default_rng(0), 0.0, 0, False)
    before = lobes.radius(np.stack([normal, -normal]).astype(np.float32))
    lobes.flatten(normal, 0.5)
    after = lobes.radius(np.stack([normal, -normal]).astype(np.float32))
    grid = Grid((64, 80, 96), (2.5, 2.5, 2.5))
    share = nodule_coverage(grid, np.array([80.0, 0, 0]), 20.0, lobes, 2.5)[1]
    assert share.sum() * 2.5**3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)
    assert (after / before < 0.75).all()


def test_spiculated_is_said_of_those_that_have_spicules(placer, monkeypatch):
    grid = placer.grid
    hu, labels, spicules, draw = np.full(grid.shape, -850, np.float32), np.zeros(grid.shape, np.uint8), [], draw_radius_field
    monkeypatch.setattr(nodules, "draw_radius_field", lambda *terms: spicules.append(terms[2]) or draw(*terms))
    drawn = [paint_nodule(hu, labels, 1, placer, Finding("solid", 9.0), np.random.default_rng(k))[1] for k in range(20)]
    assert drawn == [count > 0 for count in spicules] and {True, False} == set(drawn)


def test_the_core_of_a_part_solid_nodule_stays_in_the_lung(people, placer):
    grid, persons = people
    hu, labels = np.full(grid.shape, -850, np.float32), np.zeros(grid.shape, np.uint8)
    for k in range(12):
        paint_nodule(hu, labels, 1, placer, Finding("part_solid", 14.0), np.random.default_rng(k))
    painted = grid.start + grid.step * np.argwhere(hu != -850)
    assert len(painted) > 300 and persons[0].lung_distance(grid, painted).max() < grid.voxel / 2 + 1e-3
