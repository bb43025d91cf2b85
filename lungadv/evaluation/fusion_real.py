"""Whether fusion keeps real nodules: in cubes of LUNA16 nodules, each is cut out, painted over, and fused some millimetres beside.

A cube is too small to hold a patch of lung without its nodule. In its own lung a nodule has the same vessels and noise around it, and
what changes is its rim. The cubes are those of FOLDER in the folder of real CT: nodules.csv, and in nodule_patches <series>_dcm_<k>.mha
with its mask, <series>_seg_<k>.mha.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lungadv.data.cube_patches import cube_lung
from lungadv.data.cutouts import cut_out
from lungadv.data.masks import surroundings
from lungadv.data.nodule_cubes import load_cube, measure_mask
from lungadv.data.patches import extract_patches
from lungadv.data.scan import to_unit
from lungadv.data.tables import SMALLEST_MM, UNSPECIFIED
from lungadv.data.walls import INWARD, WALL, on_wall, wall_context
from lungadv.training.augment import crop

__all__ = ["FOLDER", "MOVE", "move_sites", "read_cubes", "without_nodules"]

FOLDER = "luna16_nodules"
MOVE = 3  # voxels by which a nodule is moved along an axis at most

Cubes = tuple[pd.DataFrame, torch.Tensor, torch.Tensor, torch.Tensor]


def read_cubes(folder: Path, count: int, rng: np.random.Generator, size: int, spacing: float, edge: float) -> Cubes:
    """Up to `count` real nodules of SMALLEST_MM and more: their table, patches, nodules and masks, each (N, 1, size, size, size) in [0, 1].

    The table has seriesuid (the patient's id), type, diameter_mm (of the mask) and WALL. `spacing` and `edge` are mm, as in `cut_out`.
    They are drawn at random; cubes cut off at a scan's edge are left out.
    """
    listed = pd.read_csv(folder / FOLDER / "nodules.csv").fillna({"type": UNSPECIFIED})
    listed = listed[(listed["size"] == "50x50x50") & (listed["mask_mm"] >= SMALLEST_MM)]
    rows, cubes = [], []
    for row in listed.iloc[rng.permutation(len(listed))[:count]].itertuples():
        path = folder / FOLDER / "nodule_patches" / row.file
        scan, inside = load_cube({"path": path, "mask": path.with_name(row.file.replace("_dcm_", "_seg_"))})
        center = measure_mask(scan, inside)[0][None]
        lung = cube_lung(scan, inside)
        context = wall_context(lung, scan, center)[0]
        patch = to_unit(extract_patches(scan, center, size, spacing))
        cubes.append(torch.cat([patch, *cut_out(scan, inside.astype(np.uint8), center, size, spacing, edge, lung)]))
        rows.append((row.patient, row.type, row.mask_mm, *context))
    return pd.DataFrame(rows, columns=["seriesuid", "type", "diameter_mm", *WALL]), *torch.stack(cubes).unbind(1)


def without_nodules(patches: torch.Tensor, masks: torch.Tensor, spacing: float) -> torch.Tensor:
    """Patches (N, 1, P, P, P) whose voxels under the masks are painted over with what lies around; voxels of `spacing` mm."""
    filled = [surroundings(patch[0].numpy(), mask[0].numpy(), spacing) for patch, mask in zip(patches, masks, strict=True)]
    return torch.where(masks > 0, torch.from_numpy(np.stack(filled).astype(np.float32))[:, None], patches)


def move_sites(nodules: pd.DataFrame, empty: torch.Tensor, copies: int, rng: np.random.Generator) -> tuple[pd.DataFrame, torch.Tensor]:
    """`copies` places beside each nodule's own: the pairs as of `fusion.choose_sites`, and their backgrounds (M, 1, P, P, P).

    nodules: with WALL and diameter_mm; empty: the cubes of `without_nodules`, larger by MOVE than a patch. A place is MOVE voxels off or
    more, within MOVE along each axis. On the wall it keeps its depth, within half a voxel.
    """
    moves = np.array([move for move in product(range(-MOVE, MOVE + 1), repeat=3) if np.linalg.norm(move) >= MOVE])
    pairs, backgrounds = [], []
    for k, nodule in enumerate(nodules.to_dict("records")):
        inward = np.array([nodule[column] for column in INWARD[::-1]])  # z, y, x
        allowed = moves[np.abs(moves @ inward) <= 0.5] if on_wall(nodule["depth_mm"], nodule["diameter_mm"]) else moves
        for move in rng.permutation(allowed)[:copies]:
            pairs.append({"nodule": k, "site": len(pairs), "axes": (0, 1, 2), "flips": (False,) * 3})
            backgrounds.append(crop(empty[k], MOVE + move, empty.shape[-1] - 2 * MOVE))
    return pd.DataFrame(pairs), torch.stack(backgrounds)
