"""Organs, bones and contrast agent: HU where they belong."""

import numpy as np
import pytest
from scipy import ndimage

from lungadv.phantom.bones import paint_bones
from lungadv.phantom.parenchyma import paint_parenchyma
from lungadv.phantom.recipe import check_recipe
from lungadv.phantom.simulate import simulate_anatomy
from lungadv.phantom.soft_tissue import paint_soft_tissue
from lungadv.phantom.vessels import draw_vessels, paint_vessels

TINY = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5)}


@pytest.fixture(scope="module")
def organs(people):
    """HU by name of places in a body without vessels, of several people together."""
    grid, persons = people
    found = {}

    def at(name, hu, points):
        z, y, x = np.clip(np.rint(grid.to_index(np.atleast_2d(points))).astype(int), 0, np.array(grid.shape) - 1).T
        found.setdefault(name, []).append(hu[z, y, x])

    for k, person in enumerate(persons[:4]):
        hu, texture = paint_soft_tissue(grid, person)
        paint_bones(hu, grid, person, np.random.default_rng(k))
        inside = paint_parenchyma(hu, grid, person, texture, np.random.default_rng(k)) > 0
        plain = hu.copy()
        paint_vessels(hu, grid, person, draw_vessels(grid, person, np.random.default_rng(k)))
        (a, _), high, turn = person.half_axes, person.height, person.pose.to_scanner
        at("liver", hu, turn([(0.1 * high, person.middle, -x * a) for x in (0.3, 0.45, 0.6)]))
        at("heart", hu, grid.coarse_start + 5 * np.argwhere(person.heart < -15))
        at("great vessels", hu, np.concatenate([points[1:2] for points, _ in person.great_vessels]))
        at("trachea and main bronchi", hu, np.concatenate([points[1:2] for points, _ in person.airway]))
        bone = person.pose.to_scanner(person.ribs[0].mean(1))
        at("ribs", hu, bone)
        at("vertebral bodies", hu, turn([(z, *person.spine) for z in np.arange(20.0, 180, 3)]))
        skin = grid.upsample(person.skin)
        found.setdefault("fat under the skin", []).append(hu[(skin < -4) & (skin > -6)])
        breast = grid.upsample(person.breast) < -1
        found.setdefault("gland", []).append(hu[breast])
        assert (skin[breast] < 0).all() and not (breast & (grid.upsample(person.muscle) < -3)).any()
        assert (hu[(skin < 0) & (skin > -4)] < 250).all()  # no bone in the skin, the spinous processes' tips least of all
        deep = ndimage.binary_erosion(inside, iterations=2)
        z, y, _ = np.nonzero(deep)
        middle = np.abs(y - np.median(y)) < 6
        thirds = [plain[deep][middle & (z < np.quantile(z, 0.3))], plain[deep][middle & (z > np.quantile(z, 0.7))]]
        found.setdefault("base less apex", []).append([np.median(thirds[0]) - np.median(thirds[1])])
        rows = grid.start + grid.step * np.argwhere(deep)[::7]
        y, x = person.pose.to_body(rows[:, 1], rows[:, 2])
        for fissure in person.fissures:
            on = fissure.exists(y, x) & (np.abs(rows[:, 0] - fissure.level(y, x)) < 0.8)
            up = rows[on] + (6 * np.hypot(1, fissure.slope), 0, 0)
            lit = np.array([plain[tuple(np.rint(grid.to_index(q)).astype(int))] for q in rows[on]])
            index = np.minimum(np.rint(grid.to_index(up)).astype(int), np.array(grid.shape) - 1)
            found.setdefault("fissures less lung above", []).append([np.median(lit) - np.median(plain[tuple(index.T)])])
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("liver", 50, 66),
        ("heart", 35, 50),
        ("great vessels", 36, 48),
        ("trachea and main bronchi", -1000, -900),
        ("ribs", 150, 700),
        ("vertebral bodies", 60, 300),
        ("fat under the skin", -115, -80),
        ("gland", -60, 30),
        ("base less apex", 4, 25),
        ("fissures less lung above", 8, 120),
    ],
)
def test_organs_are_where_they_belong(organs, name, low, high):
    assert low < np.median(organs[name]) < high


def test_contrast_agent_brightens_blood_alone():
    grid, person, trees, before, lungs = simulate_anatomy(check_recipe(TINY), 0, 0)
    *_, after, _ = simulate_anatomy(check_recipe(TINY | {"iodine": 200}), 0, 0)
    added = after - before

    def at(points):
        return added[tuple(np.clip(np.rint(grid.to_index(np.atleast_2d(points))).astype(int), 0, np.array(grid.shape) - 1).T)]

    *great, gullet = person.great_vessels
    assert at(grid.coarse_start + 5 * np.argwhere(person.heart < -20)) == pytest.approx(200, abs=1)
    inside = np.concatenate([points[1:2] for points, _ in great])
    assert np.median(at(inside)) == pytest.approx(200, abs=1)
    assert np.abs(at(gullet[0])).max() < 1 and np.abs(at(np.concatenate([points for points, _ in person.airway]))).max() < 1
    thick = np.concatenate([(tree.start + tree.end)[tree.radius > 2.5] / 2 for tree in trees])
    assert np.median(at(thick)) > 100  # of the lungs' vessels, a voxel wide
    assert added.min() > -1e-3 and after[before < 60].max() < 43 + 200 + 15 and np.median(added[lungs > 0]) < 5  # grain; fine vessels
