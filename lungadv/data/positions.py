"""Where patches are cut: annotated nodules, labelled candidates, and random lung positions away from any nodule (section IV)."""

import numpy as np
import pandas as pd
from scipy import ndimage

from lungadv.data.dataset import Data
from lungadv.data.hits import hits, radius_mm
from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ
from lungadv.data.walls import WALL, wall_context
from lungadv.utils.lengths import whole_voxels

__all__ = ["background_positions", "label_candidates", "patch_positions", "shift_margin", "wall_columns", "world_positions"]

SHIFT_MM = 2.5  # by which a training patch is shifted at random along each axis, at most


def shift_margin(spacing: float) -> int:
    """Voxels of `spacing` mm by which a stored training patch is larger on every side: SHIFT_MM, and two at least."""
    return whole_voxels(SHIFT_MM, spacing, least=2)


def world_positions(table: pd.DataFrame) -> np.ndarray:
    """World coordinates (N, 3) x, y, z in mm of a table's rows: coordX, coordY, coordZ."""
    return table[XYZ].to_numpy(float).reshape(-1, 3)


def label_candidates(candidates: pd.DataFrame, nodules: pd.DataFrame, excluded: pd.DataFrame) -> np.ndarray:
    """Labels (N,): 1 for a candidate inside a nodule, -1 (ignored) inside an excluded finding, else 0.

    Inside is what `hits.hits` says. A nodule outweighs an excluded finding.
    """
    labels = np.zeros(len(candidates), dtype=int)
    for findings, value in ((excluded, -1), (nodules, 1)):
        inside = hits(world_positions(candidates), world_positions(findings), findings["diameter_mm"])
        labels[inside.any(axis=1)] = value
    return labels


def background_positions(
    lungs: np.ndarray,
    scan: Scan,
    findings: pd.DataFrame,
    width: float,
    count: int,
    rng: np.random.Generator,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Up to `count` random world positions (count, 3) in mm in the lungs whose cube of `width` mm holds no nodule of `findings`.

    lungs: bool (z, y, x); labels: uint8 (z, y, x), 0 outside nodules. A nodule is the box of its diameter and, with `labels`, the
    box around the voxels of each label, too. Fewer positions are returned when 100 * `count` draws find no more.
    """
    inside = np.flatnonzero(lungs)
    chosen = rng.choice(inside, min(100 * count, len(inside)), replace=False)
    voxels = np.stack(np.unravel_index(chosen, lungs.shape), axis=1)
    points = scan.to_world(voxels + rng.uniform(-0.5, 0.5, voxels.shape))  # as nodules lie: half-way between voxels noise is smoothest
    centres, halves = world_positions(findings), np.repeat(radius_mm(findings["diameter_mm"])[:, None], 3, axis=1)
    if labels is not None:
        boxes = _label_boxes(labels, scan)
        centres, halves = np.concatenate([centres, boxes[0]]), np.concatenate([halves, boxes[1]])
    apart = np.abs(points[:, None] - centres) >= width / 2 + halves
    return points[apart.any(axis=2).all(axis=1)][:count]


def _label_boxes(labels, scan):
    """Centres and half sides, each (n, 3) in mm, of the world boxes around the voxels of each label.

    A box reaches one voxel further, since patches are interpolated.
    """
    corners = np.array([[(a.start, a.stop - 1) for a in box] for box in ndimage.find_objects(labels) if box], dtype=float).reshape(-1, 3, 2)
    half = np.diff(corners, axis=2)[:, ::-1, 0] / 2 + 1
    return scan.to_world(corners.mean(axis=2)), half @ np.abs(scan.direction * scan.spacing).T


def patch_positions(
    scan: Scan, data: Data, candidates: pd.DataFrame, *, width: float, backgrounds: int, rng: np.random.Generator
) -> pd.DataFrame:
    """The patch table of a scan: annotated nodules, candidates and up to `backgrounds` random lung positions.

    data: the data set of the scan; candidates: of any scans; width: mm around a random position that hold no nodule.
    Columns: seriesuid, coordX, coordY, coordZ, kind (nodule, candidate or background), label (1, 0 or -1), type, diameter_mm, score,
    and for nodules and backgrounds those of `walls.WALL`.
    """
    uid = scan.uid
    nodules, excluded, found = (table[table["seriesuid"] == uid] for table in (data.annotations, data.excluded, candidates))
    findings = pd.concat([nodules, excluded])
    lungs = data.lungs(uid)
    places = background_positions(lungs, scan, findings, width, backgrounds, rng, data.labels(uid))
    rows = [
        nodules.assign(kind="nodule", label=1, **wall_columns(lungs, scan, world_positions(nodules))),
        found.assign(kind="candidate", label=label_candidates(found, nodules, excluded)),
        pd.DataFrame(places, columns=XYZ).assign(seriesuid=uid, kind="background", label=0, **wall_columns(lungs, scan, places)),
    ]
    columns = ["seriesuid", *XYZ, "kind", "label", "type", "diameter_mm", "score", *WALL]
    return pd.concat(rows, ignore_index=True).reindex(columns=columns)


def wall_columns(lungs: np.ndarray, scan: Scan, points: np.ndarray) -> dict[str, np.ndarray]:
    """The result of `wall_context` as columns of a table."""
    return dict(zip(WALL, wall_context(lungs, scan, points).T, strict=True))
