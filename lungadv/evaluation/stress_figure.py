"""The figure of an audit's report: answers under noise, success against eps, loss against effort, and the audit."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lungadv.evaluation.audit import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_report"]

KIND_COLOURS = {"positives": "#0072B2", "negatives": "#D55E00", "noise": "#999999"}
VERDICT_COLOURS = {"pass": "#009E73", "fail": "#D55E00", "not measured": "#999999"}


def draw_report(report: Report) -> "Figure":
    """Draw a report in the house style: three panels above, the rows of the audit below."""
    from matplotlib.figure import Figure

    from lungadv import plots

    plots.style()
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    grid = figure.subplot_mosaic([["noise", "eps", "loss"], ["audit"] * 3], height_ratios=(1, 1.5))
    attack, eps = report.settings["attack"], report.settings["eps"]
    _draw_noise(grid["noise"], report.stress)
    _draw_curve(grid["eps"], report.stress, eps)
    grid["eps"].set_title(f"{attack}: success against eps")
    grid["loss"].plot(report.loss["evaluations"], report.loss["log_odds"], color="black", lw=1)
    grid["loss"].axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
    grid["loss"].set(xlabel="looks at the model", title=f"{attack} at {eps:g}: mean log-odds, wrong side up")
    _draw_audit(grid["audit"], report)
    return figure


def _draw_noise(axis: "Axes", stress: pd.DataFrame) -> None:
    """The share of wrong answers to clean and noisy patches, with intervals."""
    noisy = stress[stress["test"].isin(["clean", "uniform", "poisson", "random"])]
    tests = list(dict.fromkeys(zip(noisy["test"], noisy["level"], strict=True)))
    for shift, (kind, rows) in zip((-0.15, 0, 0.15), noisy.groupby("kind", sort=False), strict=False):
        share = rows["share_wrong"].to_numpy()
        error = np.abs(rows[["share_wrong_low", "share_wrong_high"]].to_numpy().T - share)
        places = shift + np.array([tests.index(test) for test in zip(rows["test"], rows["level"], strict=True)])
        axis.errorbar(places, share, error, fmt="o", ms=4, lw=1, color=KIND_COLOURS[kind], label=kind)
    axis.set_xticks(range(len(tests)), [f"{test} {level:g}" if level else test for test, level in tests], rotation=40, ha="right")
    axis.set(ylabel="share wrong", ylim=(-0.03, 1.03), title="clean and under noise")
    axis.legend(fontsize=7)


def _draw_curve(axis: "Axes", stress: pd.DataFrame, eps: float) -> None:
    """The share of wrong answers against the attack's radius, with bands."""
    attacked = stress[stress["test"].isin(["pgd", "square"]) & (stress["level"] > 0)]
    for kind, rows in attacked.groupby("kind", sort=False):
        axis.plot(rows["level"], rows["share_wrong"], "o-", ms=3, color=KIND_COLOURS[kind])
        interval = rows["share_wrong_low"], rows["share_wrong_high"]
        axis.fill_between(rows["level"], *interval, color=KIND_COLOURS[kind], alpha=0.12, lw=0)
    axis.axvline(eps, color="#bbbbbb", lw=0.8, zorder=0)
    axis.set(xscale="log", ylim=(-0.03, 1.03), xlabel="linf eps (1 is 1400 HU)")


def _draw_audit(axis: "Axes", report: Report) -> None:
    """The rows of the audit as text, and the notes below."""
    axis.axis("off")
    for number, row in enumerate(report.audit.itertuples()):
        height, look = 1 - (number + 1) / (len(report.audit) + 2), {"fontsize": 7.5, "transform": axis.transAxes, "va": "center"}
        numbers = "" if row.verdict == "not measured" else f"{row.value:.3g}  against  {row.reference:.3g}"
        axis.text(0.0, height, row.verdict, color=VERDICT_COLOURS[row.verdict], weight="bold", **look)
        axis.text(0.10, height, row.check, **look)
        axis.text(0.62, height, numbers, **look)
        axis.text(0.77, height, row.failure_means if row.verdict == "fail" else "", color=VERDICT_COLOURS["fail"], **look)
    for number, note in enumerate(report.notes):
        axis.text(0, -0.04 * (number + 1), note, fontsize=7, transform=axis.transAxes)
