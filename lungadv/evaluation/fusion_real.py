"""Whether fusion keeps real nodules: cubes of LUNA16 nodules, each fused over a smaller nodule of another patient.

A cube is too small to hold lung without its nodule. So the guest must cover the host's own nodule, whose remains are painted over.
The cubes are those of FOLDER in the folder of real CT: nodules.csv, and nodule_patches/<series>_dcm_<k>.mha with its mask, _seg_<k>.mha.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt

from lungadv.banks.sites import align, fitting_sites
from lungadv.data.cutouts import cut_out, surroundings
from lungadv.data.dataset import SMALLEST_MM
from lungadv.data.io.read import read_scan
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, to_unit
from lungadv.data.tables import UNSPECIFIED
from lungadv.data.walls import WALL, wall_context
from lungadv.training.augment import cube_symmetry

__all__ = ["FOLDER", "choose_hosts", "read_cubes", "without_nodules"]

FOLDER = "luna16_nodules"
LUNG_HU, VESSEL_MM = -500, 4.0  # lung is darker; what is thinner than twice the second does not part it
UNCOVERED = 0.1  # share of the host's nodule that may lie outside the guest
TRIES = 12  # hosts looked at for each nodule

Cubes = tuple[pd.DataFrame, torch.Tensor, torch.Tensor, torch.Tensor]


def read_cubes(folder: Path, count: int, rng: np.random.Generator, size: int, spacing: float, edge: float) -> Cubes:
    """Up to `count` real nodules, drawn at random: their table, patches, nodules and masks, each (N, 1, size, size, size) in [0, 1].

    The table has seriesuid (the patient's id), type, diameter_mm (of the mask) and WALL. `spacing` and `edge` are mm, as in `cut_out`.
    Left out are cubes cut off at a scan's edge.
    """
    listed = pd.read_csv(folder / FOLDER / "nodules.csv").fillna({"type": UNSPECIFIED})
    listed = listed[listed["size"] == "50x50x50"]
    rows, cubes = [], []
    for row in listed.iloc[rng.permutation(len(listed))[:count]].itertuples():
        path = folder / FOLDER / "nodule_patches" / row.file
        scan, inside = read_scan(path), read_scan(path.with_name(row.file.replace("_dcm_", "_seg_"))).hu > 0
        center = scan.to_world([np.argwhere(inside).mean(axis=0)])
        context = wall_context(_find_lung(scan, inside), scan, center)[0]
        patch = to_unit(extract_patches(scan, center, size, spacing))
        cubes.append(torch.cat([patch, *cut_out(scan, inside.astype(np.uint8), center, size, spacing, edge)]))
        rows.append((row.patient, row.type, row.mask_mm, *context))
    return pd.DataFrame(rows, columns=["seriesuid", "type", "diameter_mm", *WALL]), *torch.stack(cubes).unbind(1)


def _find_lung(scan: Scan, nodule: np.ndarray) -> np.ndarray:
    """The lung in a cube, bool (z, y, x): what is dark, closed over vessels, and the nodule."""
    lung, voxel = (scan.hu < LUNG_HU) | nodule, scan.spacing[::-1]
    grown = np.pad(distance_transform_edt(~lung, voxel) <= VESSEL_MM, 1, mode="edge")
    return lung | (distance_transform_edt(grown, voxel)[1:-1, 1:-1, 1:-1] > VESSEL_MM)


def without_nodules(patches: torch.Tensor, masks: torch.Tensor, spacing: float) -> torch.Tensor:
    """Patches (N, 1, P, P, P) whose voxels under the masks are painted over with what lies around; voxels of `spacing` mm."""
    filled = [surroundings(patch[0].numpy(), mask[0].numpy(), spacing) for patch, mask in zip(patches, masks, strict=True)]
    return torch.where(masks > 0, torch.from_numpy(np.stack(filled).astype(np.float32))[:, None], patches)


def choose_hosts(nodules: pd.DataFrame, masks: torch.Tensor, copies: int, rng: np.random.Generator) -> pd.DataFrame:
    """Up to `copies` hosts for each nodule of SMALLEST_MM and more: a row a pair, with `nodule`, `site` (positions), `axes` and `flips`.

    nodules: as of `read_cubes`; masks: (N, 1, P, P, P). A host is another patient's, suits the nodule, and its own nodule is smaller.
    Of TRIES hosts, those are taken whose nodule the turned guest covers best. `bare`: the share that it does not.
    """
    rows, inward = [], nodules[WALL[1:]].to_numpy()
    diameter, patient = nodules["diameter_mm"].to_numpy(), nodules["seriesuid"].to_numpy()
    for k in np.flatnonzero(diameter >= SMALLEST_MM):
        hosts = rng.permutation(fitting_sites(nodules, diameter[k], nodules["depth_mm"][k]))
        found = []
        for host in hosts[((diameter < diameter[k]) & (patient != patient[k]))[hosts]][:TRIES]:
            axes, flips, _ = align(inward[k], inward[host])
            bare = (masks[host] * (1 - cube_symmetry(masks[k], axes, flips))).sum() / masks[host].sum()
            found.append({"nodule": k, "site": host, "axes": axes, "flips": flips, "bare": bare.item()})
        rows += [row for row in sorted(found, key=lambda row: row["bare"])[:copies] if row["bare"] <= UNCOVERED]
    return pd.DataFrame(rows, columns=["nodule", "site", "axes", "flips", "bare"])
