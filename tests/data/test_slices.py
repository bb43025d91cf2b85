"""Thick slices: means are kept, small things fade, and what varies slowly stays."""

import numpy as np
import pytest
import torch

from lungadv.data.slices import thicken


@pytest.mark.parametrize("thickness", [1.25, 2.5, 3.3, 5.0])
def test_what_does_not_vary_along_the_slices_stays_and_a_slope_nearly(thickness):
    flat = torch.rand(1, 7, 9).repeat(40, 1, 1)
    torch.testing.assert_close(thicken(flat, 1.0, thickness, 0.3), flat)
    slope = torch.arange(40.0)[:, None, None].repeat(1, 2, 2)
    inner = slice(6, -6)
    assert (thicken(slope, 1.0, thickness, 0.3) - slope)[inner].abs().max() < 0.3


def test_a_thin_sheet_keeps_its_sum_and_loses_its_contrast():
    sheet = torch.zeros(40, 3, 3)
    sheet[20] = 1
    thick = thicken(sheet, 1.0, 5.0, 0.0)
    assert thick.max() == pytest.approx(0.2, abs=1e-6)
    assert thick.sum(0).mean() == pytest.approx(1.0, rel=0.05)


def test_slices_begin_where_the_phase_says():
    sheet = torch.zeros(1, 40, 1, 1)
    sheet[0, 20] = 1
    tops = {int(thicken(sheet, 1.0, 4.0, phase)[0, :, 0, 0].argmax()) for phase in np.linspace(0, 1, 5)}
    assert len(tops) > 1


def test_slices_as_thick_as_the_voxels_change_nothing():
    volume = torch.rand(30, 4, 4)
    torch.testing.assert_close(thicken(volume, 1.25, 1.25, 1.0), volume)
