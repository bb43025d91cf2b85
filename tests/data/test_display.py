"""Scans with upright axes."""

from itertools import permutations

import numpy as np
import pytest

from lungadv.data import store
from lungadv.data.display import make_upright
from lungadv.data.scan import AIR, Scan


@pytest.fixture
def scan():
    return Scan(np.full((20, 16, 24), AIR, dtype=np.int16), (1.0, 1.5, 2.5), (0.0, 0.0, 0.0), np.eye(3), "a")


def test_a_flipped_scan_is_drawn_as_the_straight_one(scan):
    rng = np.random.default_rng(0)
    straight = Scan(rng.integers(-900, 300, scan.hu.shape).astype(np.int16), scan.spacing, scan.origin, scan.direction, "a")
    last = straight.to_world([np.array(straight.hu.shape) - 1])[0]
    turned = Scan(straight.hu[::-1, ::-1, ::-1].copy(), straight.spacing, tuple(last), -np.eye(3), "a")
    again = make_upright(turned)
    assert (again.hu == straight.hu).all() and again.origin == pytest.approx(straight.origin)
    assert np.allclose(again.direction, np.eye(3))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_value_stays_where_it_was_in_a_tilted_patient(order):
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    hu = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    scan = Scan(hu, (1.0, 2.0, 3.0), (5.0, 6.0, 7.0), (rotation * [1, -1, -1])[:, order], "a")
    upright = make_upright(scan)
    assert np.allclose(upright.direction, rotation)
    for voxel in np.ndindex(hu.shape):
        assert upright.hu[tuple(upright.to_voxel(scan.to_world([voxel]))[0].round().astype(int))] == hu[voxel]


def test_a_scan_in_a_store_is_drawn_like_any(scan, tmp_path):
    store.write(scan, tmp_path / "a.h5")
    assert (make_upright(store.open_scan(tmp_path / "a.h5")).hu == scan.hu).all()
