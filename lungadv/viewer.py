r"""Looking at a scan: slices in three planes, window presets, annotated nodules and a detector's findings drawn where they lie.

A ball of radius $r$ around $c$ cuts a slice at distance $d$ from $c$ in a circle of radius $\sqrt{r^2 - d^2}$. That is the ring that is
drawn. So a ring that fits its nodule in every slice shows that position, diameter and geometry agree.
"""

import os
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lungadv.data.display import WINDOWS, make_upright
from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLANES", "draw_figure", "draw_slice", "make_upright", "make_widget", "rings", "slice_index", "targets", "view"]

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # the array axis across each plane
RING_DIAMETER_MM = 8.0  # the ring of a finding without a diameter
NODULE_COLOUR, FINDING_COLOUR = "#56B4E9", "#E69F00"


def rings(scan: Scan, table: pd.DataFrame, plane: str, index: int) -> pd.DataFrame:
    """Where the balls of a table's rows cut slice `index` of an upright scan.

    Returns the rows that do, with the ring's `row` and `column` (mm from the first voxel of the slice) and `radius` (mm). A row without a
    diameter counts as a ball of RING_DIAMETER_MM.
    """
    axis = PLANES[plane]
    place = scan.to_voxel(table[XYZ].to_numpy(float).reshape(-1, 3)) * scan.spacing[::-1]
    diameter = table["diameter_mm"].to_numpy(float)
    radius = np.where(diameter > 0, diameter, RING_DIAMETER_MM) / 2
    square = radius**2 - (place[:, axis] - index * scan.spacing[2 - axis]) ** 2
    row, column = np.delete(place, axis, axis=1).T
    return table.assign(row=row, column=column, radius=np.sqrt(square.clip(min=0)))[square > 0]


def draw_slice(
    axis: "Axes",
    scan: Scan,
    plane: str = "axial",
    index: int = 0,
    window: str = "lung",
    nodules: pd.DataFrame | None = None,
    findings: pd.DataFrame | None = None,
) -> None:
    """Draw slice `index` of an upright scan on a matplotlib axis, in a window of WINDOWS; scales in mm.

    nodules, findings: tables of coordX, coordY, coordZ (LPS mm) and diameter_mm, findings with probability. They become solid and dashed
    rings, a finding of more than 0.5 with its probability.
    """
    across = PLANES[plane]
    level, width = WINDOWS[window]
    image = scan.hu.take(index, across)
    row_mm, column_mm = np.delete(scan.spacing[::-1], across)
    bottom, right = (np.array(image.shape) - 0.5) * (row_mm, column_mm)
    axis.imshow(image, cmap="gray", vmin=level - width / 2, vmax=level + width / 2, extent=(-0.5 * column_mm, right, bottom, -0.5 * row_mm))
    if plane != "axial":
        axis.invert_yaxis()  # the head above
    for table, colour, style in ((nodules, NODULE_COLOUR, "-"), (findings, FINDING_COLOUR, "--")):
        if table is not None:
            _draw_rings(axis, rings(scan, table, plane, index), colour, style)
    position = scan.to_world([np.where(np.arange(3) == across, index, 0)])[0][2 - across]
    axis.set_title(f"{plane}, {'zyx'[across]} = {position:.1f} mm\n{window} window", fontsize=9)
    axis.set_xlabel("mm")
    axis.set_ylabel("mm")


def _draw_rings(axis: "Axes", table: pd.DataFrame, colour: str, style: str):
    """Draw the rows of `rings` on a matplotlib axis."""
    from matplotlib.patches import Circle

    for ring in table.itertuples():
        axis.add_patch(Circle((ring.column, ring.row), ring.radius + 1, fill=False, color=colour, linestyle=style, linewidth=1.2))
        if "probability" in table and ring.probability > 0.5:  # the numbers of all would cover the picture
            axis.annotate(f"{ring.probability:.2f}", (ring.column + ring.radius + 2, ring.row), color=colour, fontsize=7, va="center")


def targets(nodules: pd.DataFrame | None, findings: pd.DataFrame | None) -> dict[str, tuple[float, float, float]]:
    """What one would want to go to: {text: position in LPS mm}, the nodules, then the findings, most probable first."""
    found = {}
    if nodules is not None:
        for k, row in enumerate(nodules.itertuples(), 1):
            found[f"nodule {k}: {row.diameter_mm:.0f} mm"] = (row.coordX, row.coordY, row.coordZ)
    if findings is not None:
        for k, row in enumerate(findings.sort_values("probability", ascending=False).itertuples(), 1):
            found[f"finding {k}: p {row.probability:.2f}"] = (row.coordX, row.coordY, row.coordZ)
    return found


def slice_index(scan: Scan, plane: str, position: tuple[float, float, float]) -> int:
    """The number of the slice of an upright scan that a position (x, y, z mm) lies in, or the nearest."""
    axis = PLANES[plane]
    return int(np.clip(scan.to_voxel([position])[0, axis].round(), 0, scan.hu.shape[axis] - 1))


def draw_figure(
    scan: Scan,
    nodules: pd.DataFrame | None = None,
    findings: pd.DataFrame | None = None,
    position: tuple[float, float, float] | None = None,
) -> "Figure":
    """Three planes through `position` (x, y, z mm), in the lung and the mediastinal window, as a matplotlib Figure.

    Without a position: through the first of `targets`, or the middle of the scan.
    """
    from matplotlib.figure import Figure

    scan = make_upright(scan)
    if position is None:
        middle = tuple(scan.to_world([(np.array(scan.hu.shape) - 1) / 2])[0])
        position = next(iter(targets(nodules, findings).values()), middle)
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, window in zip(figure.subplots(2, 3), ("lung", "mediastinum"), strict=True):
        for axis, plane in zip(axes, PLANES, strict=True):
            draw_slice(axis, scan, plane, slice_index(scan, plane, position), window, nodules, findings)
    figure.suptitle(f"{scan.uid}    solid: annotated nodules, dashed: findings. Not for clinical use.", fontsize=8, parse_math=False)
    return figure


def make_widget(scan: Scan, nodules: pd.DataFrame | None = None, findings: pd.DataFrame | None = None) -> "VBox":
    """The viewer as an ipywidgets box: plane, window, a slider over slices, and a list of nodules and findings to go to."""
    import ipywidgets
    from IPython.display import display
    from matplotlib.figure import Figure

    scan = make_upright(scan)
    found = targets(nodules, findings)
    plane = ipywidgets.Dropdown(options=list(PLANES), description="plane")
    window = ipywidgets.Dropdown(options=list(WINDOWS), description="window")
    index = ipywidgets.IntSlider(description="slice", continuous_update=False, layout={"width": "60%"})
    target = ipywidgets.Dropdown(options=[("", None), *found.items()], description="go to")

    def move(_=None) -> None:
        index.max = scan.hu.shape[PLANES[plane.value]] - 1
        index.value = slice_index(scan, plane.value, target.value) if target.value else index.max // 2

    def show(plane, window, index) -> None:
        figure = Figure(figsize=(7, 6), layout="constrained")
        draw_slice(figure.subplots(), scan, plane, min(index, scan.hu.shape[PLANES[plane]] - 1), window, nodules, findings)
        display(figure)

    for control in (plane, target):
        control.observe(move, "value")
    target.value = next(iter(found.values()), None)
    move()
    picture = ipywidgets.interactive_output(show, {"plane": plane, "window": window, "index": index})
    return ipywidgets.VBox([ipywidgets.HBox([plane, window, target]), index, picture])


def view(scan: Scan, nodules: pd.DataFrame | None = None, findings: pd.DataFrame | None = None) -> "VBox | Figure":
    """Look at a scan: the viewer in a notebook that somebody has open, else (papermill, nbdev-test, a script) the figure.

    nodules, findings: tables in LUNA16's columns, the rows of other scans are left out; findings with probability.
    """
    from IPython import get_ipython

    nodules, findings = (_rows_of(table, scan.uid) for table in (nodules, findings))
    headless = os.environ.get("LUNGADV_HEADLESS") or getattr(get_ipython(), "kernel", None) is None
    return (draw_figure if headless else make_widget)(scan, nodules, findings)


def _rows_of(table: pd.DataFrame | None, uid: str) -> pd.DataFrame | None:
    """The rows of one scan; all of a table without ids."""
    return table if table is None or "seriesuid" not in table else table[table["seriesuid"] == uid].reset_index(drop=True)
