"""Vessel trees: Murray's law, angles, and where they reach."""

import numpy as np
from scipy import ndimage, spatial

from lungadv.phantom.drawing import capsule_coverage
from lungadv.phantom.simulate import random_stream
from lungadv.phantom.vessels import draw_vessels, lung_points


def test_vessels_obey_murrays_law_and_reach_all_of_the_lung(people):
    grid, persons = people
    person = persons[0]
    trees = draw_vessels(grid, person, np.random.default_rng(0))
    for tree in trees:
        np.testing.assert_allclose((tree.radius / tree.radius.min()) ** 2.9, tree.ends, rtol=1e-6)
        parent = {tuple(end): n for end, n in zip(tree.end, tree.ends, strict=True)}
        carried = {}
        for start, n in zip(tree.start[1:], tree.ends[1:], strict=True):
            carried[tuple(start)] = carried.get(tuple(start), 0) + n
        assert all(parent[place] == n for place, n in carried.items())  # what flows in flows out
        assert 2.5 < tree.radius.max() < 9 and tree.radius.min() < 0.5
    for arteries, veins, side in ((trees[:1], trees[1:3], -1), (trees[3:4], trees[4:], 1)):
        points = lung_points(grid, person, np.random.default_rng(1), 300, side)
        for kind in (arteries, veins):
            nearest = spatial.cKDTree(np.concatenate([tree.end for tree in kind])).query(points)[0]
            assert np.median(nearest) < 8 and nearest.max() < 25


def test_branches_turn_by_60_degrees_at_most_and_28_on_average(people):
    grid, persons = people
    angles = []
    for tree in draw_vessels(grid, persons[1], np.random.default_rng(0)):
        way = (tree.end - tree.start) / np.maximum(np.linalg.norm(tree.end - tree.start, axis=1, keepdims=True), 1e-9)
        gap, parent = spatial.cKDTree(tree.end).query(tree.start[1:])
        assert gap.max() < 1e-9
        later = (parent > 3) & (tree.ends[1:] > 1)  # what leaves the trunk or a lobe's stem may turn further
        angles.append(np.rad2deg(np.arccos(np.clip((way[1:] * way[parent]).sum(1)[later], -1, 1))))
    angles = np.concatenate(angles)
    assert angles.max() < 60.1 and 20 < angles.mean() < 36 and angles.std() < 20


def test_vessels_fill_the_lung_evenly_by_height_and_depth(people):
    grid, persons = people
    shares = []
    for k, person in enumerate(persons[:4]):
        inside = np.maximum.reduce([grid.upsample(surface) for surface in person.lung_surfaces()]) < 0
        trees = draw_vessels(grid, person, random_stream(100, k, "vessels"))
        start, end, radius = (np.concatenate([getattr(tree, key) for tree in trees]) for key in ("start", "end", "radius"))
        cover = capsule_coverage(grid, start, end, radius, radius)
        depth = ndimage.distance_transform_edt(inside) * 2.5
        rows = np.flatnonzero(inside.any((1, 2)))
        height = np.broadcast_to((np.arange(len(inside)) - rows[0])[:, None, None] / np.ptp(rows), inside.shape)
        bins = [inside & (depth > 3) & (height > low) & (height <= low + 0.1) for low in np.arange(0.1, 0.9, 0.1)]
        bins += [inside & (depth > 4) & (depth <= 10)]
        shares.append([cover[part].mean() / cover[inside & (depth > 3)].mean() for part in bins])
    *by_height, shallow = np.mean(shares, 0)
    assert min(by_height) > 0.4 and max(by_height) < 1.6 and shallow > 0.45
