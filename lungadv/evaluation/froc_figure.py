"""The figure of a FROC curve: the curve, its band, the operating points and the CPM."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lungadv import plots
from lungadv.evaluation.froc import OPERATING_POINTS, Froc
from lungadv.utils.files import atomic_write

__all__ = ["check_figure_path", "draw_froc", "write_froc_figure"]


def check_figure_path(path: str | Path) -> None:
    """ValueError when a path ends in neither .png nor .pdf."""
    if Path(path).suffix.lower() not in (".png", ".pdf"):
        raise ValueError(f"figure '{path}' ends in neither .png nor .pdf: name it so")


def draw_froc(result: Froc) -> Figure:
    """Draw a Froc: curve, 95 % band, operating points with intervals, CPM; false positives per scan on a logarithmic axis.

    Raises ValueError for a Froc without nodules, which has no curve.
    """
    if np.isnan(result.cpm):
        raise ValueError("no nodule is annotated in the listed scans: there is no curve to draw")
    plots.style()
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    dense = 2.0 ** np.linspace(-3, 3, 769)
    (low, high), points = result.cpm_interval, np.array(OPERATING_POINTS)
    axis.fill_between(result.band["fp_per_scan"], result.band["lower"], result.band["upper"], color="#56B4E9", alpha=0.35, lw=0)
    axis.plot(dense, np.interp(dense, result.curve["fp_per_scan"], result.curve["sensitivity"]), color="#0072B2", lw=1.2)
    values, bounds = np.array(list(result.sensitivity.values())), np.array(list(result.sensitivity_interval.values()))
    axis.vlines(points, *bounds.T, color="#0072B2", lw=0.8)
    axis.plot(points, values, "o", color="#0072B2", ms=4)
    axis.axhline(result.cpm, color="#D55E00", lw=0.8, ls="--")
    axis.annotate(f"CPM {result.cpm:.3f}", (8, result.cpm), (0, -3), textcoords="offset points", ha="right", va="top", color="#D55E00")
    axis.set_xscale("log", base=2)
    axis.set_xticks(points, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axis.set(xlim=(0.115, 8.7), ylim=(0, 1.02), xlabel="false positives per scan", ylabel="sensitivity")
    counts = f"{result.counts['nodules']} nodules in {result.counts['scans']} scans"
    axis.set_title(f"CPM {result.cpm:.3f} (95 %: {low:.3f} to {high:.3f}), {counts}")
    return figure


def write_froc_figure(result: Froc, path: str | Path) -> None:
    """Write the figure of `draw_froc` into a PNG or PDF, by the path's ending; the same score always gives the same bytes.

    Raises ValueError for another ending, and for a Froc without nodules.
    """
    check_figure_path(path)
    figure, kind = draw_froc(result), Path(path).suffix[1:].lower()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {"Software": None})
