"""From one scan to its findings: candidate generation, then false positive reduction, with trained weights.

A folder of weights holds `candidates/` and `fpr/<strategy>/` as a finished run does, so a run's folder is one.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from lungadv import ct, lungs, runs

COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "uncertainty", "diameter_mm"]
STRATEGY = "baseline-beta-finetune"  # in the committed runs no augmented network was better on validation
SLAB_MM = 100.0  # no adult chest is shorter from top to bottom


def default_weights():
    """The shipped weights, else those of the latest finished quick run. Raises InputError when there are none."""
    shipped = Path(__file__).parent / "weights"
    if is_weights(shipped):
        return shipped
    try:
        found = [folder for folder in runs.runs_folder().glob("phantom-quick-*") if is_weights(folder)]
    except runs.InputError:  # not in a clone
        found = []
    if not found:
        raise runs.InputError("no trained weights here: run `make reproduce` in a clone first, or give a folder of weights with --weights")
    return max(found, key=lambda folder: _weights_file(folder).stat().st_mtime)


def _weights_file(folder):
    return Path(folder) / "fpr" / STRATEGY / "weights.safetensors"


def is_weights(folder):
    """Whether a folder holds the networks of both stages."""
    return _weights_file(folder).exists() and (Path(folder) / "candidates" / "networks.json").exists()


def load_settings(folder):
    """The settings that the weights in a folder were trained with, from the provenance beside them."""
    return SimpleNamespace(**json.loads((_weights_file(folder).parent / "provenance.json").read_text(encoding="utf-8"))["settings"])


def load_networks(folder):
    """The networks of candidate generation, that of false positive reduction, and their settings.

    Raises InputError when the folder holds none, or broken ones, or those of another architecture.
    """
    from safetensors import SafetensorError

    from lungadv import candidates, fpr

    folder = Path(folder)
    if not is_weights(folder):
        raise runs.InputError(f"{folder} holds no weights: give a finished run's folder, or one with its candidates/ and fpr/{STRATEGY}/")
    try:
        networks = candidates.load_networks(folder / "candidates")
        return networks, fpr.load_weights(_weights_file(folder).parent), load_settings(folder)
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise runs.InputError(f"the weights in {folder} cannot be loaded ({reason}): give those of a finished run") from None


def detect(scan, weights):
    """The findings in a scan, most probable first: a DataFrame of COLUMNS, coordinates in LPS mm, probability and uncertainty in [0, 1].

    The diameter is that of the candidate's box, NaN where candidate generation gave a point alone.
    `weights` is a folder of weights. Raises InputError when it holds none, or broken ones, or when the scan shows no lungs
    or nothing to look at.
    """
    from lungadv import candidates, fpr

    networks, network, settings = load_networks(weights)
    mask = lungs.lung_mask(scan)
    if not mask.any():
        raise runs.InputError(f"no lungs were found in scan '{scan.uid}': give a CT of the chest, in HU")
    found = candidates.detect(networks, scan, mask, settings)
    if found.empty:
        raise runs.InputError(f"no candidate was found in scan '{scan.uid}': give a CT of the chest, in HU")
    centres = found[["coordX", "coordY", "coordZ"]].to_numpy(float)
    patches = ct.to_unit(ct.extract_patches(scan, centres, settings.patch_size, settings.patch_spacing))
    probability, uncertainty = fpr.predict(network, patches)
    findings = found.assign(seriesuid=scan.uid, probability=np.asarray(probability), uncertainty=np.asarray(uncertainty))
    return findings[COLUMNS].sort_values("probability", ascending=False, ignore_index=True)


def extent_mm(scan):
    """How much of the body a scan covers from foot to head, in mm, the thickness of its slices included."""
    sides = np.array(scan.hu.shape[::-1]) * scan.spacing
    return float(np.abs(scan.direction[2]) @ sides)


def coverage_warning(scan):
    """What to tell the reader of findings from a scan that is no whole chest; None when it may be one."""
    extent = extent_mm(scan)
    if extent >= SLAB_MM:
        return None
    return (
        f"this scan covers only {extent:.0f} mm: a slab, not a chest; "
        "nodules outside it were not seen, and findings near its first and last slices have less context than in training"
    )


def contact_sheet(scan, findings, path, count=12):
    """Draw the most probable findings as a PNG: axial slices around each, ringed at its diameter, with the numbers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lungadv import plots

    plots.style()
    size, spacing = 64, 1.0
    shown = findings.head(count)
    patches = ct.to_unit(ct.extract_patches(scan, shown[["coordX", "coordY", "coordZ"]].to_numpy(float), size, spacing))
    rows = -(-max(len(shown), 1) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(8, 2.6 * rows + 0.4), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, patch, axis in zip(shown.itertuples(), patches, axes.flat, strict=False):
        axis.imshow(np.asarray(patch)[0, size // 2], cmap="gray", vmin=0, vmax=1)
        centre = (size - 1) / 2
        measured = np.isfinite(row.diameter_mm)
        radius = (row.diameter_mm if measured else 8.0) / spacing / 2 + 3
        axis.add_patch(plt.Circle((centre, centre), radius, fill=False, color="#E69F00", lw=1.2))
        axis.set_title(
            f"{row.Index + 1}: p {row.probability:.2f}, u {row.uncertainty:.2f}{f', {row.diameter_mm:.0f} mm' if measured else ''}\n"
            f"({row.coordX:.0f}, {row.coordY:.0f}, {row.coordZ:.0f}) mm",
            fontsize=7,
        )
    figure.suptitle(f"{scan.uid}\n{len(findings)} findings, the first {len(shown)} of them. Not for clinical use.", fontsize=7)
    figure.tight_layout()
    with runs.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)


def write_markups(findings, path):
    """Write findings as the point list of a 3D Slicer markups file (.mrk.json), whole or not at all, most probable first.

    Positions are LPS mm, as in the findings, and the file says so: Slicer itself turns them to its own RAS.
    Source: the markups schema 1.0.3 of 3D Slicer.
    """
    points = [
        {
            "id": str(k),
            "label": f"{k}: p {row.probability:.2f}",
            "description": f"uncertainty {row.uncertainty:.2f}" + (f", {row.diameter_mm:.1f} mm" if np.isfinite(row.diameter_mm) else ""),
            "position": [row.coordX, row.coordY, row.coordZ],
            "positionStatus": "defined",
            "visibility": True,
        }
        for k, row in enumerate(findings.itertuples(), 1)
    ]
    schema = "https://raw.githubusercontent.com/Slicer/Slicer/main/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
    markups = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    with runs.replacing(path) as temporary:
        temporary.write_text(json.dumps({"@schema": schema, "markups": [markups]}, indent=1) + "\n", encoding="utf-8")


def write_findings(findings, path):
    """Write findings as CSV, whole or not at all."""
    with runs.replacing(path) as temporary:
        pd.DataFrame(findings, columns=COLUMNS).to_csv(temporary, index=False, float_format="%.6g")
