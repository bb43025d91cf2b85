"""The scan: coordinates against SimpleITK, the window, and geometry that makes no sense."""

import numpy as np
import pytest
import torch

from lungadv.data.scan import Scan, ScanError, to_hu, to_unit
from tests.data.made_scans import DIRECTIONS, noise_scan, to_sitk


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_coordinates_agree_with_itk_both_ways(direction):
    scan = noise_scan(direction)
    voxels = np.random.default_rng(1).uniform(-5, 40, (50, 3))
    world = np.array([to_sitk(scan).TransformContinuousIndexToPhysicalPoint(voxel[::-1].tolist()) for voxel in voxels])
    assert np.allclose(scan.to_world(voxels), world, atol=1e-9)
    assert np.allclose(scan.to_voxel(world), voxels, atol=1e-9)


def test_unit_window():
    assert to_unit(np.array([-1000, 400, -32768, 32767], np.int16)).tolist() == [0, 1, 0, 1]
    assert np.isclose(to_unit(np.float32(-972)) - to_unit(np.float32(-1000)), 0.02)  # eps 0.02 is 28 HU
    assert np.allclose(to_hu(to_unit(np.arange(-1000, 401))), np.arange(-1000, 401), atol=1e-3)
    whole = torch.arange(-1000, 401)
    for hu in (whole.numpy().astype(np.int16), whole.double().numpy(), whole, whole.double(), whole.half()):
        unit = to_unit(hu)
        assert str(unit.dtype).removeprefix("torch.") == "float32" and unit[0] == 0 and unit[-1] == 1


def test_inconsistent_scans_are_refused():
    hu = np.zeros((4, 5, 6), np.int16)
    for arguments in (
        (hu.astype(np.float32), (1, 1, 1), (0, 0, 0), np.eye(3)),
        (hu[0], (1, 1, 1), (0, 0, 0), np.eye(3)),
        (hu, (1, 1), (0, 0, 0), np.eye(3)),
        (hu, (1, 1, -1), (0, 0, 0), np.eye(3)),
        (hu, (1, 1, 1), (0, np.inf, 0), np.eye(3)),
        (hu, (1, 1, 1), (0, 0, 0), np.ones((3, 3))),
        (hu, (1, 1, 1), (0, 0, 0), np.eye(2)),
    ):
        with pytest.raises(ScanError, match="'odd'"):
            Scan(*arguments, "odd")
