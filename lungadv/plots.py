"""How the figures look, and how they are saved: one style, slices of patches, boxes and arrows of the diagrams."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lungadv.runs import replacing

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
}


def style():
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
        with replacing(run.figures / f"{name}.{kind}") as path:
            figure.savefig(path, format=kind, bbox_inches="tight", metadata=metadata)
    if numbers is not None:
        with replacing(run.figures / f"{name}.csv") as path:
            numbers.to_csv(path, index=False, float_format="%.6g")
    return figure


def show_slice(axis, patch, title=None, window=(0.0, 1.0)):
    """Draw the central axial slice of a patch (..., D, H, W) in the given window of [0, 1]."""
    volume = patch.detach().float().cpu().reshape(patch.shape[-3:])
    axis.imshow(volume[volume.shape[0] // 2], vmin=window[0], vmax=window[1], interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title is not None:
        axis.set_title(title)


def box(axis, x, y, text, width=1.6, height=0.8, colour="#e8eef7"):
    """A labelled box of a diagram, centred at (x, y)."""
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc=colour, ec="#333333", lw=0.8
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=7.5)


def arrow(axis, start, end, text=None):
    """An arrow of a diagram from `start` to `end`, both (x, y)."""
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, lw=0.9, color="#333333", shrinkA=1, shrinkB=1))
    if text:
        axis.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.08, text, ha="center", va="bottom", fontsize=7)
