"""How the figures look, and how they are saved: one style, slices of patches, boxes and arrows of the diagrams, learning curves."""

import warnings
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Protocol

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.text import Text

from lungadv.training.strategies import STRATEGIES
from lungadv.utils.files import atomic_write
from lungadv.utils.statistics import auc

COLUMN, PAGE = 3.5, 7.2  # inches: the width of a printed figure in one column, and across the page
SMALLEST = 6.0  # points: the least that print can be read at
MARKERS = "os^vDPX*<>hpd8H"
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, for colour-blind readers


def style() -> None:
    """Set the house style: readable in print, no chart junk."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 160,
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.formatter.min_exponent": 5,  # 0.01, not a power of 10, whose exponent is too small in print
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "image.cmap": "gray",
            "pdf.fonttype": 42,
        }
    )


class FigureFolder(Protocol):
    """Where figures go: a `lungadv.pipeline.runs.Run`, or anything else with a folder of figures."""

    figures: Path


def save(run: FigureFolder, figure: Figure, name: str, numbers: pd.DataFrame | None = None) -> Figure:
    """Write `figure` as <name>.png and .pdf into the run's figures, with the DataFrame of numbers behind it as CSV.

    Warns of words that print would make too small to read.
    """
    for kind in ("png", "pdf"):
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with atomic_write(run.figures / f"{name}.{kind}") as path:
            figure.savefig(path, format=kind, bbox_inches="tight", metadata=metadata)
    if small := small_text(figure):
        warnings.warn(f"{name}: in print under {SMALLEST:g} pt: {', '.join(small)}", stacklevel=2)
    if numbers is not None:
        with atomic_write(run.figures / f"{name}.csv") as path:
            numbers.to_csv(path, index=False, float_format="%.6g")
    return figure


def small_text(figure: Figure) -> list[str]:
    """The words of a drawn figure that are under 6 pt when it is printed: up to 5.25 inches wide in a column, else across the page."""
    width = figure.get_tightbbox().width + 2 * plt.rcParams["savefig.pad_inches"]  # inches, as it is saved
    scale = (COLUMN if width <= 1.5 * COLUMN else PAGE) / width
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return sorted({text.get_text() for text in shown if text.get_fontsize() * scale < SMALLEST})


def show_slice(axis: Axes, patch: torch.Tensor, title: str | None = None, window: tuple[float, float] = (0.0, 1.0)) -> None:
    """Draw the central axial slice of a patch (..., D, H, W) in the given window of [0, 1]."""
    volume = patch.detach().float().cpu().reshape(patch.shape[-3:])
    axis.imshow(volume[volume.shape[0] // 2], vmin=window[0], vmax=window[1], interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title is not None:
        axis.set_title(title)


def box(axis: Axes, x: float, y: float, text: str, width: float = 1.6, height: float = 0.8, colour: str = "#e8eef7") -> None:
    """A labelled box of a diagram, centred at (x, y)."""
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc=colour, ec="#333333", lw=0.8
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=8.6)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    """An arrow of a diagram from `start` to `end`, both (x, y); dashed for weights that a network starts from."""
    line = {"arrowstyle": "-|>", "mutation_scale": 10, "lw": 0.9, "color": "#333333", "ls": "--" if dashed else "-"}
    axis.add_patch(FancyArrowPatch(start, end, shrinkA=1, shrinkB=1, **line))


def line_look(strategy: str) -> dict:
    """How the line of a strategy is drawn: its colour, and a marker of its own, so that prints in grey can be read."""
    marker = dict(zip(STRATEGIES, cycle(MARKERS), strict=False))[strategy]
    return {"color": STRATEGIES[strategy].colour, "ls": ":" if STRATEGIES[strategy].control else "-", "lw": 1.2, "marker": marker, "ms": 4}


def learning_curves(tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """The training loss, validation loss and 1 - AUC of many trainings: a column for each kind of strategy, its legend below.

    tables: for each strategy training.csv and learning.csv of the stage `fpr/<strategy>`, the first smoothed as it shall be drawn.
    """
    figure, axes = plt.subplots(3, 3, figsize=(10, 8.4), sharey="row", layout="constrained")
    for column, group in zip(axes.T, ("baselines", "controls", "augmented"), strict=True):
        for name in (name for name in tables if STRATEGIES[name].group == group):
            (training, learning), look = tables[name], line_look(name)
            column[0].plot(training["update"], training["loss"], label=name, markevery=0.2, **look)
            column[1].plot(learning["update"], learning["nll"], **look)
            column[2].plot(learning["update"], 1 - learning["auc"], **look)
        column[0].set_title(group)
        column[2].set_xlabel("update")
        lines = column[0].get_legend_handles_labels()
        column[2].legend(*lines, fontsize=8.6, loc="upper center", bbox_to_anchor=(0.5, -0.25), borderaxespad=0)
    for axis, text in zip(axes[:, 0], ("training loss", "validation loss", "1 - AUC of validation"), strict=True):
        axis.set_ylabel(text)
    axes[2, 0].set_yscale("log")  # so that networks near 1 can be told apart
    return figure


def training_curves(strategy: str, training: pd.DataFrame, learning: pd.DataFrame, validation: pd.DataFrame) -> Figure:
    """The training and validation loss of a training, and histograms of the confidence of validation patches.

    The tables are training.csv, learning.csv and validation.csv of the stage `fpr/<strategy>`.
    """
    scored = validation[validation["label"] >= 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.6), layout="constrained")
    left.plot(training["update"], training["loss"].rolling(20, min_periods=1).mean(), color=STRATEGIES[strategy].colour)
    left.set(xlabel="update", ylabel="training loss (mean of 20)", title=STRATEGIES[strategy].label)
    beside = left.twinx()
    beside.plot(learning["update"], learning["nll"], "o:", ms=3, color="#555555")
    beside.set(ylabel="validation loss (dotted)", ylim=(0, None))
    beside.spines["right"].set_visible(True)
    bins = [i / 25 for i in range(26)]
    for label, colour, name in ((0, "#D55E00", "not a nodule"), (1, "#0072B2", "nodule")):
        right.hist(scored.loc[scored["label"] == label, "confidence"], bins, density=True, histtype="step", color=colour, label=name)
    right.set(xlabel="confidence", ylabel="density", title=f"validation, AUC {auc(scored['confidence'], scored['label'] == 1):.3f}")
    right.legend()
    return figure
