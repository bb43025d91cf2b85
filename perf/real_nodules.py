"""What weights of `lungadv detect` make of real nodules in cubes: sensitivity by size and type, and sheets of what is missed and false."""

from pathlib import Path

import numpy as np
import torch
import typer

from lungadv.data.nodule_cubes import read_cubes
from lungadv.data.patches import extract_patches
from lungadv.data.scan import to_unit
from lungadv.data.tables import SMALLEST_MM, XYZ
from lungadv.detection.weights import default_weights, load_detector
from lungadv.evaluation.cube_detection import markdown_table, nodule_table, operating_point, score_cubes
from lungadv.training.cube_crops import read_nodule_cubes


def draw_sheet(table, cubes, path, columns=10, rows=6):
    """The middle slices, 40 mm wide, around the rows of a table (path, XYZ, probability, diameter_mm), the first of each first."""
    from matplotlib.figure import Figure

    scans = {cube.name: cube.scan for cube in cubes}
    figure = Figure(figsize=(1.5 * columns, 1.7 * rows))
    axes = figure.subplots(rows, columns).flat
    for axis in axes:
        axis.axis("off")
    for axis, row in zip(figure.axes, table.to_dict("records"), strict=False):
        patch = to_unit(extract_patches(scans[row["path"]], np.array([[float(row[name]) for name in XYZ]]), 80, 0.5))
        axis.imshow(patch[0, 0, 40], cmap="gray", vmin=0, vmax=1)
        size = f", {float(row['diameter_mm']):.0f} mm" if "diameter_mm" in row else ""
        axis.set_title(f"{row['probability']:.2f}{size}", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(manifest: Path, weights: Path = None, dataset: str = "validation", sheets: Path = None, out: Path = None):
    """Print the table as Markdown; `--sheets FOLDER` draws what is missed and what is false, `--out FOLDER` keeps every answer."""
    torch.set_num_threads(1)
    part = read_cubes(manifest).of(dataset)
    cubes = read_nodule_cubes(part)
    nodules, others, litres = score_cubes(load_detector(weights or default_weights()), cubes, part.table)
    threshold = operating_point(others["probability"].to_numpy(), litres)
    print(markdown_table(nodule_table(nodules, threshold)))
    half = (others["probability"] > 0.5).sum()
    print(f"\n{litres:.1f} litres of lung; {half / litres:.2f} false positives a litre above 0.5; one a litre above {threshold:.3f}")
    for folder in (sheets, out):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    if sheets is not None:
        missed = nodules[(nodules["probability"] <= threshold) & (nodules["diameter_mm"].astype(float) >= SMALLEST_MM)]
        draw_sheet(missed.sort_values("probability"), cubes, sheets / "missed.png")
        draw_sheet(others.sort_values("probability", ascending=False), cubes, sheets / "false.png")
    if out is not None:
        nodules.to_csv(out / "nodules.csv", index=False)
        others.to_csv(out / "false_positives.csv", index=False)


if __name__ == "__main__":
    typer.run(main)
