r"""From LIDC-IDRI's readers to nodules: outlines become voxels, the outlines of several readers one nodule.

Of the regions $R_1 \dots R_n$ that the $n$ readers of a scan enclose around one nodule, the mask holds the voxels that at least half of
them share. The diameter is that of a ball of the same volume:

$$ M = \Big\{ v : \sum_{r=1}^{n} [v \in R_r] \ge \tfrac{n}{2} \Big\}, \qquad d = \sqrt[3]{\tfrac{6}{\pi}\, |M|\, s_x s_y s_z}. $$

The coordinates in the XML are the columns and rows of the DICOM slices. So the scan must have the series' own grid.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial.distance import cdist

from lungadv.data.lidc_xml import Contour, Finding, Reading
from lungadv.data.scan import Scan
from lungadv.data.tables import LUNA16, UNSPECIFIED, XYZ, AnnotationError, quoted

__all__ = [
    "FINDINGS", "SPICULATED", "cluster_outlines", "consensus", "equivalent_diameter", "fill_outline", "is_spiculated", "nodule_type",
    "nodule_voxels",
]  # fmt: skip

MIN_READERS = 3  # to be part of the reference standard, as in LUNA16
SPICULATED = 4  # of the ratings 1 (none) to 5 (marked)
MIN_DIAMETER_MM = 3.0  # smaller nodules were marked by a point
FINDINGS = [*LUNA16, "type", "attachment", "spiculated", "label", "readers", "kind"]


def fill_outline(points: np.ndarray) -> np.ndarray:
    """The pixels (M, 2) in x, y strictly inside a closed outline of pixels (N, 2).

    Gaps of the outline are bridged by straight lines. What cannot be reached from outside is inside; the lines are not.
    """
    corner = points.min(axis=0)
    outline = np.zeros(np.ptp(points, axis=0) + 1, dtype=bool)
    for start, stop in zip(points - corner, np.roll(points, -1, axis=0) - corner, strict=True):
        steps = np.abs(stop - start).max() + 1
        outline[tuple(np.floor(np.linspace(start, stop, steps) + 0.5).astype(int).T)] = True
    return np.argwhere(ndimage.binary_fill_holes(outline) & ~outline) + corner


def nodule_voxels(nodule: Finding, scan: Scan) -> np.ndarray:
    """The voxels of a reader's nodule, as sorted flat indices into scan.hu: inside an inclusion, inside no exclusion."""
    inside = {True: [], False: []}
    for contour in nodule.contours:
        x, y = fill_outline(contour.points).T
        z = np.full(len(x), round(_slice_index(contour.z, scan)))
        inside[contour.inclusion].append(np.ravel_multi_index((z, y, x), scan.hu.shape))
    return np.setdiff1d(*(np.concatenate([np.empty(0, int), *inside[part]]) for part in (True, False)))


def _slice_index(z: float, scan: Scan) -> float:
    """On which of an axial scan's slices a position z (mm) lies, in fractions."""
    return (z - scan.origin[2]) / (scan.spacing[2] * scan.direction[2, 2])


def consensus(reading: Reading, scan: Scan) -> tuple[pd.DataFrame, np.ndarray]:
    """The readers' consensus on one scan.

    Args:
        reading: what the readers marked.
        scan: on the series' own grid.

    Returns: a table of FINDINGS, and a mask uint8 (z, y, x) with a nodule's `label` where at least half of the readers see it.

    `kind` "nodule" is what at least MIN_READERS outlined and what is at least MIN_DIAMETER_MM wide, as in LUNA16. Excluded are "disputed"
    (outlined by fewer), "small" (a point, or less wide) and "non-nodule". `readers` says how many marked it; a diameter of -1, that none
    was drawn. Centre and diameter are those of the mask, or means over the readers where half of them share no voxel.

    Raises AnnotationError when the reading is of another series, or its outlines do not lie on the scan's slices.
    """
    if reading.uid != scan.uid:
        raise AnnotationError(f"'{reading.path}' is the reading of series {reading.uid}, not of scan '{scan.uid}': pair them by UID")
    _check_grid(reading, scan)
    outlines, points = _marks(reading, scan)
    centres = np.array([_centre(voxels, scan) for _, _, voxels in outlines]).reshape(-1, 3)
    diameters = np.array([equivalent_diameter(len(voxels), scan) for _, _, voxels in outlines])
    rows, masks = [], []
    for members in cluster_outlines(centres, diameters / 2, [reader for reader, _, _ in outlines]):
        shared = _shared_voxels([outlines[k][2] for k in members], len(reading.sessions))
        if len(shared):
            centre, size = _centre(shared, scan), equivalent_diameter(len(shared), scan)
        else:
            centre, size = centres[members].mean(axis=0), diameters[members].mean()
        kind = "disputed" if len(members) < MIN_READERS else "small" if size < MIN_DIAMETER_MM else "nodule"
        masks += [shared] if kind == "nodule" else []
        label = len(masks) if kind == "nodule" else 0
        seen = [outlines[k][1] for k in members]
        rows.append([scan.uid, *centre, size, nodule_type(seen), "", is_spiculated(seen), label, len(members), kind])
    rows += [[scan.uid, *centre, -1.0, UNSPECIFIED, "", False, 0, 1, kind] for centre, kind in points]
    table = pd.DataFrame(rows, columns=FINDINGS)
    return table.astype(dict.fromkeys([*XYZ, "diameter_mm"], float) | dict.fromkeys(["label", "readers"], int)), _paint(masks, scan)


def _paint(masks: list[np.ndarray], scan: Scan) -> np.ndarray:
    """uint8 (z, y, x): k in the voxels (flat indices) of the k-th mask."""
    labels = np.zeros(scan.hu.shape, dtype=np.uint8)
    for label, voxels in enumerate(masks, start=1):
        labels.flat[voxels] = label
    return labels


def _marks(reading: Reading, scan: Scan) -> tuple[list, list]:
    """The outlines as (reader, nodule, voxels), and the points as (centre mm, kind): of what encloses no voxel, too."""
    outlines, points = [], []
    for reader, session in enumerate(reading.sessions):
        for nodule in session.nodules:
            voxels = nodule_voxels(nodule, scan)
            if len(voxels):
                outlines.append((reader, nodule, voxels))
            else:
                points.append((_mean_point(nodule, scan), "small"))
        points += [(_mean_point(finding, scan), "small") for finding in session.small]
        points += [(_mean_point(finding, scan), "non-nodule") for finding in session.non_nodules]
    return outlines, points


def _mean_point(finding: Finding, scan: Scan) -> np.ndarray:
    """The mean of a finding's pixels in LPS mm: (3,)."""
    pixels = [[round(_slice_index(contour.z, scan)), y, x] for contour in finding.contours for x, y in contour.points]
    return scan.to_world([np.mean(pixels, axis=0)])[0]


def _centre(voxels: np.ndarray, scan: Scan) -> np.ndarray:
    """The mean position of voxels (flat indices) in LPS mm: (3,)."""
    return scan.to_world([np.mean(np.unravel_index(voxels, scan.hu.shape), axis=1)])[0]


def equivalent_diameter(voxels: int, scan: Scan) -> float:
    """The diameter in mm of a ball as large as that many voxels of the scan."""
    return float(np.cbrt(6 / np.pi * voxels * np.prod(scan.spacing)))


def _shared_voxels(regions: list[np.ndarray], readers: int) -> np.ndarray:
    """The voxels in at least half as many regions as there are readers of the scan."""
    voxels, votes = np.unique(np.concatenate(regions), return_counts=True)
    return voxels[2 * votes >= readers]


def cluster_outlines(centres: np.ndarray, radii: np.ndarray, readers: Sequence[int]) -> list[list[int]]:
    """Group outlines (centres (N, 3) and radii (N,) in mm) into nodules: lists of row numbers.

    Two outlines join when their centres are closer than the sum of their radii, the closest first, unless a reader would come twice.
    Source: Setio et al., Medical Image Analysis 42 (2017), section 2.
    """
    distance = cdist(centres, centres)
    first, second = np.nonzero(np.triu(distance < np.add.outer(radii, radii), 1))
    group = [[k] for k in range(len(centres))]
    for i, j in np.stack([first, second], axis=1)[np.argsort(distance[first, second], kind="stable")]:
        one, other = group[i], group[j]
        if one is not other and not {readers[k] for k in one} & {readers[k] for k in other}:
            one += other
            for k in other:
                group[k] = one
    return [sorted(members) for k, members in enumerate(group) if min(members) == k]


def nodule_type(nodules: Sequence[Finding]) -> str:
    """One of tables.TYPES from the median ratings of the readers' nodules, or UNSPECIFIED where nobody rated.

    Calcification of 3 or less (popcorn, laminated, solid) is fully calcified. Else texture of 4 and more is solid, of 2 and less ground
    glass, between them part-solid.
    """
    ratings = {name: _ratings(nodules, name) for name in ("texture", "calcification")}
    if ratings["calcification"] and np.median(ratings["calcification"]) <= 3:
        return "fully_calcified"
    if not ratings["texture"]:
        return UNSPECIFIED
    texture = np.median(ratings["texture"])
    return "solid" if texture >= 4 else "ground_glass" if texture <= 2 else "part_solid"


def is_spiculated(nodules: Sequence[Finding]) -> bool:
    """Whether the median rating of spiculation is SPICULATED or more; False where nobody rated."""
    ratings = _ratings(nodules, "spiculation")
    return bool(ratings) and bool(np.median(ratings) >= SPICULATED)


def _ratings(nodules: Sequence[Finding], name: str) -> list[int]:
    return [nodule.ratings[name] for nodule in nodules if name in nodule.ratings]


MAX_SLICE_OFFSET = 0.1  # how far a contour may lie from a slice, in slices
Z_MISTAKES = {  # what the position z of a slice might be instead of mm
    "in centimetres": lambda z, scan: 10 * z,
    "in metres": lambda z, scan: 1000 * z,
    "negated": lambda z, scan: -z,
    "slice numbers": lambda z, scan: scan.origin[2] + z * scan.spacing[2] * scan.direction[2, 2],
}


def _check_grid(reading: Reading, scan: Scan):
    """AnnotationError unless the scan is axial and every contour lies on a slice, in its rows and columns."""
    if abs(scan.direction[2, 2]) < 1 - 1e-3:
        raise AnnotationError(f"scan '{scan.uid}' is not axial, but '{reading.path}' gives positions along z: use the series as acquired")
    found = _contours(reading)
    on = _on_slice(np.array([_slice_index(contour.z, scan) for _, contour in found]), scan)
    size = np.array(scan.hu.shape[:0:-1])
    for (finding, contour), fits in zip(found, on, strict=True):
        if not fits:
            first, last = _ends(scan)
            grid = f"scan '{scan.uid}' ({first:g} to {last:g} mm every {scan.spacing[2]:g})"
            hint = _name_z_mistake(np.array([contour.z for _, contour in found]), on, scan)
            raise AnnotationError(f"'{reading.path}', {quoted(finding.name)}: z {contour.z:g} mm is on no slice of {grid}: {hint}")
        if (contour.points >= size).any():
            pixel, grid = tuple(contour.points.max(axis=0).tolist()), " x ".join(map(str, size))
            problem = f"pixel {pixel} is outside the slices of {grid}: use the series' own grid"
            raise AnnotationError(f"'{reading.path}', {quoted(finding.name)}: {problem}")


def _contours(reading: Reading) -> list[tuple[Finding, Contour]]:
    """Every contour of a reading, with the finding it belongs to."""
    return [
        (finding, contour)
        for session in reading.sessions
        for finding in (*session.nodules, *session.small, *session.non_nodules)
        for contour in finding.contours
    ]


def _name_z_mistake(z: np.ndarray, on: np.ndarray, scan: Scan) -> str:
    """The remedy for positions z (N,) in mm, of which those where `on` is False lie on no slice."""
    for mistake, change in Z_MISTAKES.items():
        if _on_slice(_slice_index(change(z, scan), scan), scan).all():
            return f"all {len(z)} positions fit if they are {mistake}; convert them"
    lost, index = np.unique(z[~on]), _slice_index(z[~on], scan)
    if (np.abs(index - np.rint(index)) <= MAX_SLICE_OFFSET).all():  # where further slices would lie
        low, high = np.sort(_ends(scan))
        needed = f"{lost[0]:g} mm" if len(lost) == 1 else f"{lost[0]:g} to {lost[-1]:g} mm"
        here = f"{len(scan.hu)} slices are here, from z {low:g} to {high:g} mm"
        return f"slices are missing: {here}; the reading needs z {needed} too; get the whole series"
    return "use the series' own slices, all of them and not resampled"


def _ends(scan: Scan) -> np.ndarray:
    """The positions z in mm of a scan's first and last slice."""
    return scan.to_world([[0, 0, 0], [len(scan.hu) - 1, 0, 0]])[:, 2]


def _on_slice(index: np.ndarray, scan: Scan) -> np.ndarray:
    """Which fractional slice indices lie on a slice of the scan."""
    nearest = np.rint(index)
    return (np.abs(index - nearest) <= MAX_SLICE_OFFSET) & (nearest >= 0) & (nearest < len(scan.hu))
