"""Where nodules lie."""

import numpy as np
import pytest

from lungadv.phantom.placement import ATTACHMENTS, VISIBLE
from lungadv.phantom.vessels import lung_points


def test_nodules_prefer_upper_lobes_and_periphery(placer):
    grid, person, rng = placer.grid, placer.person, np.random.default_rng(0)
    drawn = np.array([placer.random_point(rng) for _ in range(600)])
    even = np.concatenate([lung_points(grid, person, rng, 1500, side) for side in (-1, 1)])

    def ratio(points, axis):
        """Of the upper half, or of the 20 mm next to the chest wall, to the rest."""
        chosen = points[:, 0] > np.median(even[:, 0]) if axis == "height" else grid.sample(person.chest_wall, points) > -20
        return chosen.mean() / (1 - chosen.mean())

    assert ratio(drawn, "height") > 1.2 * ratio(even, "height") and ratio(drawn, "wall") > 1.3 * ratio(even, "wall")


@pytest.mark.parametrize("attachment", ATTACHMENTS)
def test_attached_nodules_touch_what_they_are_attached_to_and_isolated_ones_nothing(placer, attachment):
    grid, person, rng = placer.grid, placer.person, np.random.default_rng(1)
    seen = placer.radius > VISIBLE
    for _ in range(8):
        given, centre = placer.place([attachment], 5.0, "nodules", rng)
        assert given == attachment
        depth = -person.lung_distance(grid, centre[None])[0]
        vessel = segment_distance(centre, placer.start[seen], placer.end[seen]) - placer.radius[seen]
        y, x = person.pose.to_body(*centre[1:])
        sheets = [abs(sheet.level(y, x) - centre[0]) / np.hypot(1, sheet.slope) for sheet in person.fissures if sheet.exists(y, x)]
        if attachment == "juxta-pleural":
            assert 0 < depth < 5
        if attachment == "perifissural":
            assert min(sheets) < 5 < depth
        if attachment == "juxta-vascular":
            assert vessel.min() < 5 < depth
        if attachment == "isolated":
            assert vessel.min() > 5 and min(sheets, default=9) > 5 and depth > 7


def segment_distance(point, start, end):
    axis = end - start
    along = np.clip(((point - start) * axis).sum(1) / np.maximum((axis**2).sum(1), 1e-9), 0, 1)
    return np.linalg.norm(start + along[:, None] * axis - point, axis=1)
