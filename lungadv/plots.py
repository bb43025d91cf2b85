"""How the figures look, and how they are saved: one style, slices of patches, boxes and arrows of the diagrams, a stress report."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lungadv.utils.files import atomic_write
from lungadv.training.monitor import auc
from lungadv.training.strategies import STRATEGIES

STRATEGY_COLOURS = {  # Okabe-Ito: told apart in print and by colour-blind readers
    "baseline-ce": "#999999",
    "baseline-beta": "#56B4E9",
    "baseline-beta-finetune": "#000000",
    "control-ce": "#999999",  # the colour of what it trains on, dotted
    "control-beta": "#56B4E9",
    "control": "#E69F00",
    "beta+syn-random": "#CC79A7",
    "beta+syn": "#0072B2",
    "beta+perturb": "#D55E00",
    "beta+perturb+syn": "#009E73",
    "beta+online": "#8C564B",  # Okabe-Ito has no more: brown
}


def style() -> None:
    """Set the house style: readable in print, no chart junk."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "image.cmap": "gray",
            "pdf.fonttype": 42,
        }
    )


def save(run, figure, name, numbers=None):
    """Write `figure` as <name>.png and .pdf into the run's figures, with the DataFrame of numbers behind it as CSV."""
    for kind in ("png", "pdf"):
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with atomic_write(run.figures / f"{name}.{kind}") as path:
            figure.savefig(path, format=kind, bbox_inches="tight", metadata=metadata)
    if numbers is not None:
        with atomic_write(run.figures / f"{name}.csv") as path:
            numbers.to_csv(path, index=False, float_format="%.6g")
    return figure


def show_slice(axis, patch, title=None, window=(0.0, 1.0)) -> None:
    """Draw the central axial slice of a patch (..., D, H, W) in the given window of [0, 1]."""
    volume = patch.detach().float().cpu().reshape(patch.shape[-3:])
    axis.imshow(volume[volume.shape[0] // 2], vmin=window[0], vmax=window[1], interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title is not None:
        axis.set_title(title)


def box(axis, x, y, text, width=1.6, height=0.8, colour="#e8eef7") -> None:
    """A labelled box of a diagram, centred at (x, y)."""
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc=colour, ec="#333333", lw=0.8
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=7.5)


def arrow(axis, start, end, text=None) -> None:
    """An arrow of a diagram from `start` to `end`, both (x, y)."""
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, lw=0.9, color="#333333", shrinkA=1, shrinkB=1))
    if text:
        axis.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.08, text, ha="center", va="bottom", fontsize=7)


KIND_COLOURS = {"positives": "#0072B2", "negatives": "#D55E00", "noise": "#999999"}
VERDICT_COLOURS = {"pass": "#009E73", "fail": "#D55E00", "not measured": "#999999"}


def stress_report(report):
    """The figure of a `robustness.Report`: answers under noise, success against eps, loss against effort, and the audit."""
    panels = [["noise", "eps", "loss"], ["audit"] * 3]
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    grid = figure.subplot_mosaic(panels, height_ratios=(1, 1.5))
    attack, settings = report.settings["attack"], report.settings
    noisy = report.stress[report.stress["test"].isin(["clean", "uniform", "poisson", "random"])]
    tests = list(dict.fromkeys(zip(noisy["test"], noisy["level"], strict=True)))
    for shift, (kind, rows) in zip((-0.15, 0, 0.15), noisy.groupby("kind", sort=False), strict=False):
        share = rows["share_wrong"].to_numpy()
        error = np.abs(rows[["share_wrong_low", "share_wrong_high"]].to_numpy().T - share)
        places = shift + np.array([tests.index(test) for test in zip(rows["test"], rows["level"], strict=True)])
        grid["noise"].errorbar(places, share, error, fmt="o", ms=4, lw=1, color=KIND_COLOURS[kind], label=kind)
    grid["noise"].set_xticks(range(len(tests)), [f"{test} {level:g}" if level else test for test, level in tests], rotation=40, ha="right")
    grid["noise"].set(ylabel="share wrong", ylim=(-0.03, 1.03), title="clean and under noise")
    grid["noise"].legend(fontsize=7)

    attacked = report.stress[report.stress["test"].isin(["pgd", "square"]) & (report.stress["level"] > 0)]
    for kind, rows in attacked.groupby("kind", sort=False):
        grid["eps"].plot(rows["level"], rows["share_wrong"], "o-", ms=3, color=KIND_COLOURS[kind])
        interval = rows["share_wrong_low"], rows["share_wrong_high"]
        grid["eps"].fill_between(rows["level"], *interval, color=KIND_COLOURS[kind], alpha=0.12, lw=0)
    grid["eps"].axvline(settings["eps"], color="#bbbbbb", lw=0.8, zorder=0)
    grid["eps"].set(xscale="log", ylim=(-0.03, 1.03), xlabel="linf eps (1 is 1400 HU)", title=f"{attack}: success against eps")
    grid["loss"].plot(report.loss["evaluations"], report.loss["log_odds"], color="black", lw=1)
    grid["loss"].axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
    grid["loss"].set(xlabel="looks at the model", title=f"{attack} at {settings['eps']:g}: mean log-odds, wrong side up")

    grid["audit"].axis("off")
    for number, row in enumerate(report.audit.itertuples()):
        height, look = 1 - (number + 1) / (len(report.audit) + 2), {"fontsize": 7.5, "transform": grid["audit"].transAxes, "va": "center"}
        numbers = "" if row.verdict == "not measured" else f"{row.value:.3g}  against  {row.reference:.3g}"
        grid["audit"].text(0.0, height, row.verdict, color=VERDICT_COLOURS[row.verdict], weight="bold", **look)
        grid["audit"].text(0.10, height, row.check, **look)
        grid["audit"].text(0.62, height, numbers, **look)
        grid["audit"].text(0.77, height, row.failure_means if row.verdict == "fail" else "", color=VERDICT_COLOURS["fail"], **look)
    for number, note in enumerate(report.notes):
        grid["audit"].text(0, -0.04 * (number + 1), note, fontsize=7, transform=grid["audit"].transAxes)
    return figure


def training_curves(strategy: str, training: pd.DataFrame, learning: pd.DataFrame, validation: pd.DataFrame) -> Figure:
    """The loss and Brier score of a training, and histograms of the confidence of validation patches.

    The tables are training.csv, learning.csv and validation.csv of the stage `fpr/<strategy>`.
    """
    scored = validation[validation["label"] >= 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.6), layout="constrained")
    left.plot(training["update"], training["loss"].rolling(20, min_periods=1).mean(), color=STRATEGIES[strategy].colour)
    left.set(xlabel="update", ylabel="training loss (mean of 20)", title=STRATEGIES[strategy].label)
    beside = left.twinx()
    beside.plot(learning["update"], learning["brier"], "o:", ms=3, color="#555555")
    beside.set(ylabel="validation, Brier score (dotted)", ylim=(0, None))
    beside.spines["right"].set_visible(True)
    bins = [i / 25 for i in range(26)]
    for label, colour, name in ((0, "#D55E00", "not a nodule"), (1, "#0072B2", "nodule")):
        right.hist(scored.loc[scored["label"] == label, "confidence"], bins, density=True, histtype="step", color=colour, label=name)
    right.set(xlabel="confidence", ylabel="density", title=f"validation, AUC {auc(scored['confidence'], scored['label'] == 1):.3f}")
    right.legend()
    return figure
