"""The backgrounds of the banks hold no nodule."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lungadv.data.patches import extract_patches
from lungadv.data.positions import background_positions
from lungadv.data.scan import Scan
from lungadv.data.tables import TYPES
from lungadv.phantom.simulate import simulate


@pytest.fixture
def toy():
    """A scan, its lungs and two nodules (one of them excluded) with their voxels marked."""
    shape, spacing, origin = (60, 70, 80), (2.0, 2.0, 2.5), (-80.0, -60.0, 10.0)
    scan = Scan(np.full(shape, -850, np.int16), spacing, origin, np.eye(3), "1.2.3")
    findings = pd.DataFrame({"coordX": [-20.0, 30.0], "coordY": [0.0, 30.0], "coordZ": [60.0, 100.0], "diameter_mm": [14.0, 5.0]})
    world = scan.to_world(np.indices(shape).reshape(3, -1).T)
    nodules = np.zeros(len(world), bool)
    for row in findings.itertuples():
        nodules |= np.linalg.norm(world - [row.coordX, row.coordY, row.coordZ], axis=1) <= row.diameter_mm / 2
    lungs = np.zeros(shape, bool)
    lungs[5:55, 5:65, 5:75] = True
    return scan, lungs, findings, nodules.reshape(shape)


def test_backgrounds_lie_in_the_lungs_and_hold_no_voxel_of_a_nodule(toy):
    scan, lungs, findings, nodules = toy
    points = background_positions(lungs, scan, findings, 30.0, 40, np.random.default_rng(0))
    assert len(points) == 40 and len(np.unique(points, axis=0)) == 40
    assert lungs[tuple(np.rint(scan.to_voxel(points)).astype(int).T)].all()
    marked = Scan(nodules.astype(np.int16) * 1000, scan.spacing, scan.origin, scan.direction, scan.uid)
    assert extract_patches(marked, points, 30, 1.0).max() <= 0
    assert extract_patches(marked, findings[["coordX", "coordY", "coordZ"]].to_numpy(), 30, 1.0).amax((1, 2, 3, 4)).min() > 500


def test_full_lungs_give_fewer_backgrounds_and_no_lungs_none(toy):
    scan, lungs, findings, _ = toy
    assert len(background_positions(lungs, scan, findings.assign(diameter_mm=400.0), 30.0, 5, np.random.default_rng(0))) == 0
    assert len(background_positions(lungs & False, scan, findings, 30.0, 5, np.random.default_rng(0))) == 0


def test_backgrounds_keep_clear_of_the_outlines_of_the_phantoms_nodules():
    recipe = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5), "nodules": [{"type": kind, "diameter_mm": 14} for kind in TYPES]}
    holding = {True: 0, False: 0}
    for index in range(3):
        person = simulate(recipe | {"small_nodules": 2, "disputed": 1}, 5, index)
        marked = replace(person.scan, hu=(person.labels > 0).astype(np.int16) * 1000)
        for outlined in holding:
            given = person.lungs > 0, person.scan, person.nodules, 20.0, 400, np.random.default_rng(0)
            points = background_positions(*given, person.labels if outlined else None)
            assert len(points) == 400
            holding[outlined] += int((extract_patches(marked, points, 20, 1.0).amax((1, 2, 3, 4)) > 0).sum())
    assert holding[True] == 0 < holding[False]
