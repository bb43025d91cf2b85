"""The viewer: rings where balls are cut, the right way up, a figure where no notebook is open."""

import numpy as np
import pandas as pd
import pytest

from lungadv import viewer
from lungadv.data.scan import AIR, Scan

NODULES = pd.DataFrame([{"seriesuid": "a", "coordX": 12.0, "coordY": 9.0, "coordZ": 30.0, "diameter_mm": 10.0}])
FINDINGS = NODULES.assign(coordZ=12.0, diameter_mm=np.nan, probability=0.7)


@pytest.fixture
def scan():
    hu = np.full((20, 16, 24), AIR, dtype=np.int16)
    return Scan(hu, (1.0, 1.5, 2.5), (0.0, 0.0, 0.0), np.eye(3), "a")


@pytest.mark.parametrize("plane", viewer.PLANES)
def test_a_ring_is_the_circle_in_which_the_slice_cuts_the_ball(scan, plane):
    axis, step = viewer.PLANES[plane], scan.spacing[2 - viewer.PLANES[plane]]
    centre = NODULES[["coordZ", "coordY", "coordX"]].to_numpy()[0]
    for index in range(scan.hu.shape[axis]):
        distance = abs(index * step - centre[axis])
        rings = viewer.rings(scan, NODULES, plane, index)
        assert len(rings) == (distance < 5)
        if len(rings):
            assert rings.radius.iloc[0] ** 2 + distance**2 == pytest.approx(25)
            assert rings[["row", "column"]].to_numpy()[0] == pytest.approx(np.delete(centre, axis))


def test_coronal_slices_have_the_head_above_and_axial_ones_the_back_below(scan):
    drawn = viewer.draw_figure(scan, NODULES)
    for axis in drawn.axes:
        bottom, top = axis.get_ylim()
        assert (bottom > top) == axis.get_title().startswith("axial")  # rows run down in the axial plane, up in the others


def test_without_a_kernel_and_under_papermill_the_figure_stands_in(scan, monkeypatch):
    from matplotlib.figure import Figure

    assert isinstance(viewer.view(scan, NODULES, FINDINGS), Figure)
    monkeypatch.setenv("LUNGADV_HEADLESS", "1")
    assert isinstance(viewer.view(scan), Figure)


def test_the_widget_goes_to_a_finding_and_its_slider_ends_with_the_scan(scan, monkeypatch):
    drawn = []
    monkeypatch.setattr(viewer, "draw_slice", lambda axis, scan, plane, index, *rest: drawn.append((plane, index)))
    (plane, _, target), slider = (box := viewer.make_widget(scan, NODULES, FINDINGS)).children[0].children, box.children[1]
    assert drawn[-1] == ("axial", 12) and slider.max == 19  # the nodule: 30 mm in slices of 2.5 mm
    target.value = dict(target.options)["finding 1: p 0.70"]
    assert drawn[-1] == ("axial", 5)
    plane.value = "sagittal"
    assert slider.max == 23 and slider.value == 12 and drawn[-1] == ("sagittal", 12)


def test_rows_of_other_scans_are_left_out(scan):
    others = NODULES.assign(seriesuid="b")
    assert len(viewer.view(scan, others).axes[0].patches) == 0 and len(viewer.view(scan, NODULES).axes[0].patches) == 1
