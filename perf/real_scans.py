"""What `lungadv detect` finds in each real scan at hand: one line a scan, and contact sheets to look at."""

import time
from pathlib import Path

import numpy as np
import torch
import typer

from lungadv.data.hits import hits
from lungadv.data.io.read import read_scan
from lungadv.data.lungs import lung_mask
from lungadv.data.scan import ScanError
from lungadv.data.tables import XYZ
from lungadv.detection.detect import detect
from lungadv.detection.report import contact_sheet, scan_warnings
from lungadv.detection.weights import default_weights
from lungadv.phantom.realism import REAL
from lungadv.utils.errors import InputError
from lungadv.utils.files import real_folder

NODULES = {  # LPS mm and diameter
    "LIDC-IDRI-0001": ((56.208, 86.343, -115.868), 23.35),  # from LUNA16's annotations
    "LIDC-IDRI-0001, nine slices": ((56.208, 86.343, -115.868), 23.35),
    "QIN LUNG CT 0088": ((-70.5, -96.0, 344.8), 15.6),  # the middle and size of nine segmentations
}
SCANS = {
    "LIDC-IDRI-0001": REAL,
    "LIDC-IDRI-0001, nine slices": "lidc_idri_0001/dicom",
    "QIN LUNG CT 0088": "qin_lung_ct/QIN-LSC-0088.mha",
    "CIP ct-64": "cip_ct64/ct-64.nrrd",
    "CIP ct-64, turned": "cip_ct64/ct-64-transformed.nrrd",
    "TotalSegmentator, thorax": "totalsegmentator/thorax_ct_cropped.nii.gz",
    "TotalSegmentator, abdomen": "totalsegmentator/abdomen_example_ct_sm.nii.gz",
    "elastix, chest": "elastix/3DCT_lung_baseline_small.mha",
    "Lung-PET-CT-Dx A0002, three slices": "lung_pet_ct_dx_A0002/dicom",
}


def place_of_nodule(name, findings):
    """Which finding is the first inside the known nodule of a scan, and its probability, in words."""
    centre, diameter = NODULES[name]
    inside = hits(findings[XYZ], [centre], [diameter])[:, 0]
    if not inside.any():
        return "no finding lies in the nodule"
    return f"the nodule is finding {inside.argmax() + 1} ({findings['probability'][inside.argmax()]:.2f})"


def main(weights: Path = None, sheets: Path = None):
    """Print the table as Markdown; `--sheets FOLDER` also draws a contact sheet of each scan into a folder, made where it is missing."""
    torch.set_num_threads(2)
    weights, folder = weights or default_weights(), real_folder()
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
    print("| scan | voxels | lungs, l | findings | above 0.5 | s | said |\n| --- | --- | --- | --- | --- | --- | --- |")
    for name, place in SCANS.items():
        if not (folder / place).exists():
            print(f"| {name} | not at hand | | | | | |")
            continue
        started = time.perf_counter()
        try:
            scan = read_scan(folder / place)
            findings, said = detect(scan, weights), scan_warnings(scan, weights)
        except (InputError, ScanError) as error:
            print(f"| {name} | | | | | | refused: {error} |")
            continue
        seconds, litres = time.perf_counter() - started, lung_mask(scan).sum() * np.prod(scan.spacing) / 1e6
        said = [place_of_nodule(name, findings), *said] if name in NODULES else said
        size = " x ".join(map(str, scan.hu.shape[::-1]))
        above = (findings["probability"] > 0.5).sum()
        print(f"| {name} | {size} | {litres:.1f} | {len(findings)} | {above} | {seconds:.0f} | {'; '.join(said)} |", flush=True)
        if sheets is not None:
            contact_sheet(scan, findings, sheets / (name.lower().replace(", ", "-").replace(" ", "-") + ".png"))


if __name__ == "__main__":
    typer.run(main)
