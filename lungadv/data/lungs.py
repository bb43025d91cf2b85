r"""Where the lungs are in a chest CT, by threshold, shape and distance.

The lungs are looked for on blocks of about 2 mm. There the noise of a low dose averages out, and a scan of 512 x 512 slices takes seconds.
The array is first turned upright (z to the head, y to the back, x to the left). So flips, turns and sagittal slices make no difference.
Then

$$ \text{dark} = \{\mathrm{HU} < -400\}, \qquad \text{gas} = \{\mathrm{HU} < -930\} $$

and what is dark is one of five things: the room, an airway, bowel gas, foam and clothes outside the body, or lung. The first four are
recognised and taken away. What is left is closed by a disc $D_r$ in each slice,

$$ L \bullet D_r = (L \oplus D_r) \ominus D_r , $$

so that vessels and nodules on the pleura belong to the lung. At last the border is drawn anew on the scan's own voxels.

Arrays here are z, y, x; `pixel` is the spacing of the blocks in mm, z, y, x.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from lungadv.data.patches import upright_axes
from lungadv.data.scan import AIR, Scan

__all__ = ["extent_mm", "lung_mask", "slab_remark"]

BLOCK_MM = 2.0  # about the size of the blocks in which the lungs are looked for
DARK = -400  # HU: lung is darker, tissue brighter
GAS = -930  # HU: gas without tissue is darker, as in the room, in airways and bowel
IN_SLICE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], dtype=bool)  # neighbours within a slice


def _block_mean(hu: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Means over blocks of (z, y, x) voxels, float32; the last block of an axis may be smaller."""
    for axis, count in enumerate(block):
        starts = np.arange(0, hu.shape[axis], count)
        sizes = np.diff(starts, append=hu.shape[axis]).astype(np.float32)
        hu = np.add.reduceat(hu, starts, axis=axis, dtype=np.float32) / sizes.reshape(-1, *[1] * (2 - axis))
    return hu


def _repeat(mask: np.ndarray, block: np.ndarray, shape: tuple) -> np.ndarray:
    """A mask of blocks on the voxels of `shape`."""
    for axis, count in enumerate(block):
        mask = mask.repeat(count, axis=axis)
    return mask[tuple(slice(count) for count in shape)]


def _outside_gas(smooth: np.ndarray) -> np.ndarray:
    """The room: gas that reaches a side of its slice, in three dimensions. A lung that the scan's side cuts is no gas and stays."""
    pieces, count = ndimage.label(smooth < GAS)
    outside = np.zeros(count + 1, dtype=bool)
    for side in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        outside[side] = True
    outside[0] = False
    return outside[pieces]


def _open(mask: np.ndarray, radius: float, sampling: Sequence[float]) -> np.ndarray:
    """A mask opened by a ball of `radius` mm. Distances are taken in the box around the mask alone, where they are the same."""
    opened = np.zeros(mask.shape, dtype=bool)
    if mask.any():
        box = _box_around(mask)
        inner = ndimage.distance_transform_edt(mask[box], sampling) > radius
        if inner.any():
            opened[box] = ndimage.distance_transform_edt(~inner, sampling) <= radius
    return opened


def _box_around(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around a mask and a voxel around it: what is outside the mask lies in it as near as in the whole."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    return tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)


def _in_slice_sampling(pixel: np.ndarray) -> tuple:
    """A sampling in which slices are so far apart that distances stay within one."""
    return 1e6, *pixel[1:]


def _body(tissue: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """The largest piece of tissue that is thicker than 8 mm (or two blocks) within the slice: the shell of a table is thinner."""
    pieces, _ = ndimage.label(_open(tissue, max(4.0, 1.1 * pixel[1:].max()), _in_slice_sampling(pixel)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (pieces == sizes.argmax()) & (pieces > 0)


def _first_along(values: np.ndarray, axis: int, way: int) -> np.ndarray:
    """For every voxel the value of the nearest one that is not 0, looking along an axis; way -1 or 1; 0 when there is none."""
    view = (slice(None),) * axis + (slice(None, None, -way),)
    values = values[view]
    steps = np.arange(values.shape[axis]).reshape(-1, *[1] * (2 - axis))
    nearest = np.maximum.accumulate(np.where(values != 0, steps, 0), axis=axis)
    return np.take_along_axis(values, nearest, axis=axis)[view]


def _rays_into_body(body: np.ndarray, room: np.ndarray) -> np.ndarray:
    """How many of four rays within the slice meet the body before the room; a ray that meets neither counts a half.

    Within the body the sum is 4. The foam in a table sees the body above it alone; a blanket between arm and chest, on two sides.
    """
    met = np.where(body, 2, np.where(room, 1, 0)).astype(np.uint8)
    worth = np.array([0.5, 0, 1], dtype=np.float32)
    return sum(worth[_first_along(met, axis, way)] for axis in (1, 2) for way in (-1, 1))


AIRWAY_LEVELS = (-850, -880, -910, -930, -950, -970)  # HU
AIRWAY_ISLAND = (30, 800)  # mm2 in a slice
AIRWAY_LARGEST = 120_000  # mm3: trachea and main bronchi are smaller


def _airways(hu: np.ndarray, smooth: np.ndarray, room: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Trachea and main bronchi, grown from islands of gas in the middle of the body.

    They grow through everything darker than a level. The highest level counts at which they stay below AIRWAY_LARGEST: above it they have
    leaked into the lung. Where every level leaks, the islands alone are taken. Branches thinner than 6 mm stay with the lung.
    """
    airways = _islands(hu, smooth, pixel) & ~room
    seeds = airways
    for level in AIRWAY_LEVELS:
        if not seeds.any():
            break
        pieces, _ = ndimage.label(hu < level)
        grown = np.zeros(pieces.max() + 1, dtype=bool)
        grown[pieces[seeds]] = True
        grown &= np.bincount(pieces.ravel()) * pixel.prod() < AIRWAY_LARGEST
        grown[0] = False
        airways = airways | grown[pieces]
        seeds = seeds & ~grown[pieces]
    return _open(airways, 3.0, pixel) & airways


def _islands(hu: np.ndarray, smooth: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Gas in pieces of AIRWAY_ISLAND, at most an eighth of the body's width from its middle."""
    sides = np.nonzero((hu > DARK).any(axis=(0, 1)))[0]
    if not len(sides):
        return np.zeros(hu.shape, dtype=bool)
    pieces, count = ndimage.label(hu < -700, IN_SLICE)
    size = np.bincount(pieces.ravel())
    x = np.bincount(pieces.ravel(), np.broadcast_to(np.arange(hu.shape[2]), hu.shape).ravel()) / np.maximum(size, 1)
    area = size * pixel[1] * pixel[2]
    island = (area > AIRWAY_ISLAND[0]) & (area < AIRWAY_ISLAND[1]) & (np.abs(x - sides[[0, -1]].mean()) < np.ptp(sides) / 8)
    island[0] = False
    return island[pieces] & (smooth < GAS)


LUNG_SECTION = (500, 5000)  # mm2 in the widest slice: a smaller piece is no lung; above the second, it may be darker
LUNG_CORE = (-975, -940, -600)  # HU: the least of a wide piece and of a narrow one, the greatest
MIN_RAYS = 2.6  # into the body, on average over a piece of lung
CORE_MM = 6.0  # so far from its border lies a piece's core, or half as far as it is deep


def _lung_pieces(pieces: np.ndarray, hu: np.ndarray, rays: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """The pieces of a mask that are lung.

    Such a piece lies in the body, is wide enough in some slice, and larger than a two-hundredth of the largest. Deep inside it is brighter
    than gas and darker than -600 HU. Bowel gas has -950 to -1000 HU at its core; large lungs with severe emphysema come near that.
    """
    labels, count = ndimage.label(pieces)
    size = np.bincount(labels.ravel(), minlength=count + 1)
    section = np.max([np.bincount(plane.ravel(), minlength=count + 1) for plane in labels], axis=0) * pixel[1] * pixel[2]
    enclosed = np.bincount(labels.ravel(), rays.ravel(), minlength=count + 1) / np.maximum(size, 1)
    lung = (section > LUNG_SECTION[0]) & (enclosed > MIN_RAYS)
    lung[0] = False
    darkest = np.where(section > LUNG_SECTION[1], LUNG_CORE[0], LUNG_CORE[1])
    depth = ndimage.distance_transform_edt(pieces, pixel)
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        if lung[k]:
            deep = np.where(labels[box] == k, depth[box], 0)
            lung[k] = darkest[k] < np.median(hu[box][deep >= min(deep.max() / 2, CORE_MM)]) < LUNG_CORE[2]
    lung &= size > size[lung].max(initial=0) / 200
    return lung[labels]


def _split_sides(lungs: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """The pieces of a mask, numbered from 1, the largest one parted into right and left where two lungs touch.

    It is eroded step by step. When it falls into two that lie side by side, a watershed gives each of its voxels to one of them.
    """
    labels, count = ndimage.label(lungs)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = labels == sizes.argmax()
    box = _box_around(largest)
    inside = largest[box]
    depth = ndimage.distance_transform_edt(inside, pixel)
    for radius in range(2, 13, 2):  # mm
        parts, _ = ndimage.label(depth > radius)
        sizes = np.bincount(parts.ravel(), minlength=3)
        sizes[0] = 0
        first, second = np.argsort(sizes)[::-1][:2]
        if sizes[second] > 0.15 * sizes[first] and _are_side_by_side(parts == first, parts == second, pixel):
            markers = np.where(parts == first, 1, np.where(parts == second, 2, 0))
            labels[box] = np.where(inside, count + watershed(-depth, markers, mask=inside), labels[box])
            return labels
    return labels


def _are_side_by_side(first: np.ndarray, second: np.ndarray, pixel: np.ndarray) -> bool:
    """Whether the centres of two masks are more than 5 cm apart, and farther along x than along z and y."""
    apart = np.abs(np.subtract(ndimage.center_of_mass(first), ndimage.center_of_mass(second)) * pixel)
    return apart[2] > 50 and apart[2] == apart.max()


CLOSING_MM, WALL_MM = 10, 20  # radii of the discs
LARGEST_HOLE = 1000  # mm2 in a slice
NODULE_HOLLOW = 12  # mm2 in a slice: a larger hollow in the wall gets a margin
MARGIN_MM = 4  # so deep a disc of WALL_MM enters a mouth of 25 mm


def _close_lungs(sides: np.ndarray, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lungs closed, and the part of them that is hollow, whatever its HU: both bool (z, y, x).

    Each lung is closed by itself, so that nothing between them is swallowed. A disc of CLOSING_MM closes what vessels and small nodules cut
    out. A nodule of 2 to 4 cm on the chest wall needs one of WALL_MM, which would also fill the hilum. So its hollows are taken unless they
    lie between one lung and another, in the mediastinum. Holes up to LARGEST_HOLE are filled: not the dome of the diaphragm.
    """
    lungs = [sides == k for k in np.unique(sides[sides > 0])]
    closed, wide = (np.logical_or.reduce([_close_slices(lung, radius, pixel) for lung in lungs]) for radius in (CLOSING_MM, WALL_MM))
    hollows, _ = ndimage.label(wide & (sides == 0), IN_SLICE)
    right, left = (_first_along(_add_cut_side(sides, len(lungs)), 2, way) for way in (-1, 1))
    between = (right > 0) & (left > 0) & (right != left)
    wall = np.bincount(hollows.ravel(), between.ravel()) <= 0.5 * np.bincount(hollows.ravel())
    wall[0] = False
    wide_open = wall & (np.bincount(hollows.ravel()) * pixel[1] * pixel[2] > NODULE_HOLLOW)
    hollow = ndimage.binary_dilation(wide_open[hollows], IN_SLICE, iterations=max(1, round(MARGIN_MM / pixel[1])))
    closed = closed | wall[hollows] | hollow
    holes, _ = ndimage.label(np.stack([ndimage.binary_fill_holes(plane) for plane in closed]) & ~closed, IN_SLICE)
    small = np.bincount(holes.ravel()) * pixel[1] * pixel[2] <= LARGEST_HOLE
    small[0] = False
    return closed | small[holes], hollow


def _add_cut_side(sides: np.ndarray, count: int) -> np.ndarray:
    """The pieces, and where one lung alone is cut by the scan's side, at the mediastinum, that side as another one."""
    touched = max((0, -1), key=lambda edge: np.count_nonzero(sides[:, :, edge]))
    if count != 1 or not sides[:, :, touched].any():
        return sides
    both = sides.copy()
    both[:, :, touched][sides[:, :, touched] == 0] = sides.max() + 1
    return both


def _close_slices(mask: np.ndarray, radius: float, pixel: np.ndarray) -> np.ndarray:
    """A mask closed within each slice by a disc of `radius` mm."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    margin = [(0, 0)] + [(int(np.ceil(radius / step)) + 1,) * 2 for step in pixel[1:]]
    near = ndimage.distance_transform_edt(~np.pad(mask[box], margin), _in_slice_sampling(pixel)) <= radius
    inner = ndimage.distance_transform_edt(near, _in_slice_sampling(pixel)) > radius
    closed = mask.copy()
    closed[box] |= inner[tuple(slice(low, -high or None) for low, high in margin)]
    return closed


def lung_mask(scan: Scan) -> np.ndarray:
    """Where the lungs are: bool (z, y, x) on the scan's grid, both lungs with what lies in them, without trachea and main bronchi.

    All False when no lung is found: an abdomen, a head, air. A slab, a crop or one lung alone is enough.
    Tissue that fills a large part of a lung (an effusion, a tumour of 5 cm) is not in it.
    """
    order, flips = upright_axes(scan.direction)
    mask = np.zeros(scan.hu.shape, dtype=bool)
    mask.transpose(order)[flips] = _find_lungs(scan.hu.transpose(order)[flips], np.array(scan.spacing[::-1])[list(order)])
    return mask


def _find_lungs(voxels: np.ndarray, spacing: np.ndarray) -> np.ndarray | bool:
    """The mask of upright voxels: HU int16 (z, y, x), spacing in mm z, y, x. False where there is no lung."""
    block = np.maximum(np.round(BLOCK_MM / spacing), 1).astype(int)
    pixel, hu = block * spacing, _block_mean(voxels, block)
    smooth = ndimage.gaussian_filter(hu, 0.7)
    room = _outside_gas(smooth)
    walled = ndimage.binary_dilation(_airways(hu, smooth, room, pixel))  # airways with their walls
    dark = hu < DARK
    inner = dark & ~ndimage.binary_dilation(room) & ~walled
    padding = (hu == AIR).all(axis=0)  # the room has noise
    rays = _rays_into_body(_body(~dark, pixel), room & ~padding)
    lungs = _lung_pieces(ndimage.binary_opening(inner, IN_SLICE), hu, rays, pixel)
    if not lungs.any():
        return False
    lungs = ndimage.binary_dilation(lungs, iterations=2, mask=inner)  # thin edges that the opening took
    closed, hollow = _close_lungs(_split_sides(lungs, pixel), pixel)
    return _refine_border(voxels, block, closed, hollow | ~dark, walled | room)


def _refine_border(voxels: np.ndarray, block: np.ndarray, closed: np.ndarray, solid: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The closed lungs (of blocks) on the scan's voxels: the border lies where HU cross DARK, or around what is solid."""
    core = ndimage.binary_erosion(closed, border_value=1) | (closed & solid)
    rim = ndimage.binary_dilation(closed) & ~outside
    return _repeat(core & ~outside, block, voxels.shape) | (_repeat(rim, block, voxels.shape) & (voxels < DARK))


SLAB_MM = 100.0  # no adult chest is shorter from top to bottom


def extent_mm(scan: Scan) -> float:
    """How much of the body a scan shows from foot to head, in mm, the thickness of its slices included; slices of air alone are padding."""
    shown = scan.hu > AIR
    axes = [np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis}))) for axis in (2, 1, 0)]
    sides = np.array([1 + positions[-1] - positions[0] if len(positions) else 0 for positions in axes]) * scan.spacing
    return float(np.abs(scan.direction[2]) @ sides)


def slab_remark(scan: Scan) -> str:
    """That a scan is less high than any chest, in words, or ""."""
    extent = extent_mm(scan)
    return f"covers only {extent:.0f} mm: a slab, not a chest" if extent < SLAB_MM else ""
