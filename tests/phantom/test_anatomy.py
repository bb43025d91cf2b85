"""People: how they differ, how they lie, and what never touches."""

import numpy as np
from scipy import ndimage

from lungadv.phantom.parenchyma import paint_parenchyma
from lungadv.phantom.person import Pose
from lungadv.phantom.soft_tissue import paint_soft_tissue


def test_people_differ_in_size_shape_rotation_and_breath(people):
    grid, persons = people
    lungs = [np.maximum.reduce([grid.upsample(surface) for surface in person.lung_surfaces()]) < 0 for person in persons]
    litres = np.array([inside.sum() * 2.5**3 / 1e6 for inside in lungs])
    assert 1.5 < litres.min() < 0.85 * litres.max() < 6  # of chests that all fit 275 x 250 x 220 mm
    turned = np.rad2deg([person.pose.rotation for person in persons])
    assert 1 < turned.std() < 6
    domes = [np.argwhere(person.diaphragm[:, 24, 12] > 0)[0, 0] for person in persons]
    assert np.ptp(domes) >= 2  # nodes of 5 mm
    front = [np.argwhere((grid.upsample(person.skin) < 0).any((0, 2)))[0, 0] for person in persons]
    assert np.ptp(front) <= 6  # everyone is centred in the field of view


def test_the_patient_lies_on_a_table_inside_the_field_of_view(people):
    grid, persons = people
    for person in persons:
        hu, _ = paint_soft_tissue(grid, person)
        body = grid.upsample(person.skin) < 0
        assert not body[:, :, [0, -1]].any() and not body[:, 0].any()  # nobody is cut at the sides or in front
        _, y, x = grid.box(-np.full(3, 1e4), np.full(3, 1e4))[1]
        above = person.back - 6e-4 * x**2 - y  # of the table's surface
        assert -2.5 < np.where(body, above, 99).min() < 2.5  # it touches the table, and does not sink into it (voxels of 2.5 mm)
        behind = hu[:, int(grid.to_index(np.array([0, person.back + 3, 0]))[1]) :, 48:68]
        assert (behind > -700).any(1).all() and np.median(behind) < -850  # a shell in every slice and column, foam and air


def test_left_and_right_lung_never_touch(people):
    grid, persons = people
    for person in persons:
        hu, texture = paint_soft_tissue(grid, person)
        labels = paint_parenchyma(hu, grid, person, texture, np.random.default_rng(0))
        left = ndimage.binary_dilation(labels == 3)
        assert not (left & (labels == 4)).any() and (labels == 3).sum() > 1000 < (labels == 4).sum()


def test_the_heart_rests_on_the_diaphragm(people):
    grid, persons = people
    for person in persons:
        heart, lung = person.heart < 0, np.maximum.reduce([person.chest_wall, -person.mediastinum, -person.diaphragm]) < 0
        below = np.argmax(heart, 0)
        z = np.arange(len(heart))[:, None, None]
        gap = (lung & (z < below) & (z >= below - 4)).any(0)
        seated = heart.any(0) & (person.heart.min(0) < -10)  # not where the side of the heart overhangs
        assert gap[seated].mean() < 0.03


def test_a_turned_body_is_the_body_turned():
    pose = Pose(0.3)
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    turned = pose.to_scanner(points)
    y, x = pose.to_body(turned[:, 1], turned[:, 2])
    np.testing.assert_allclose(np.stack([turned[:, 0], y, x], 1), points, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(points, axis=1))
