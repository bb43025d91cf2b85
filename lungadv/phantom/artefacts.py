"""Artefacts of CT: beam hardening by metal, motion, and rings of detector columns.

Each takes a volume in HU and gives it back with the artefact. They are meant for the noise-free volume, before `scanner.acquire`; for a
scan already made, `kernel` says with which point spread the artefact is to be seen. Rays are parallel, slice by slice.
An artefact is an error of the line integrals: the error alone is back-projected, and added to the image.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, ndimage

from lungadv.phantom.beam_hardening import REFERENCE, attenuation, correct_water, measure
from lungadv.phantom.projection import MU_WATER, detector, fourier_backproject, line_integrals, ray_matrix, to_cells
from lungadv.phantom.scanner import CELL, VIEWS, blur, check_kernel, check_spacing

__all__ = ["metal", "motion", "rings"]

FINER = 2  # detector cells a voxel behind metal: the error has sharper edges than the image can show, and would alias

Spacing = tuple[float, float, float]


def metal(hu: ArrayLike, spacing: Spacing, mask: ArrayLike, material: str = "titanium", kernel: str | None = None) -> np.ndarray:
    """`hu` with metal in `mask`, and the beam hardening that it causes in its slices: float32 HU (z, y, x).

    `hu` (z, y, x), any dtype; `spacing` mm x, y, z; `mask` (z, y, x) the metal's share of each voxel, bool or in [0, 1]; `material`
    "titanium" or "steel". The metal gets its own HU, far above 3071, where `acquire` clips. Photon starvation is noise: given to `acquire`
    or `noise` afterwards, the volume has the metal's attenuation, and its shadow is noisy. For a scan already made, name its `kernel`,
    whose point spread the artefact then has, and clip. Raises ValueError that names what cannot be.
    """
    hu = _check_volume(hu, spacing, kernel)
    if material not in ("titanium", "steel"):
        raise ValueError(f"material '{material}' is unknown: choose from titanium, steel")
    share = _check_share("mask", mask, hu.shape)
    change = share * (np.float32(1000 * attenuation(material, REFERENCE) / MU_WATER - 1000) - hu)
    tissue = (1 - share) * (hu + 1000) - 1000
    affected = np.flatnonzero(share.any((1, 2)))
    for part in np.split(affected, range(8, len(affected), 8)):  # a few slices at a time: sinograms are large
        if len(part):
            change[part] += _metal_error(tissue[part], share[part], spacing, material)
    return hu + (change if kernel is None else blur(change, spacing, kernel))


def motion(
    hu: ArrayLike,
    spacing: Spacing,
    speed_mm_s: tuple[float, float, float] = (11.0, 0.0, 0.0),
    where: ArrayLike | None = None,
    rotation_s: float = 0.5,
    states: int = 6,
) -> np.ndarray:
    """`hu` scanned while it moves at `speed_mm_s` (z, y, x): float32 HU (z, y, x).

    `hu` (z, y, x), any dtype; `spacing` mm x, y, z. The default is breathing; a heart wall moves at about 50 mm/s. `where` (z, y, x) in
    [0, 1] confines the movement to a part (None for all): between 0 and 1 the moved and the resting voxel are mixed. `rotation_s` is
    the time of a rotation, of which half is used; the middle of it shows the body where `hu` has it. The path is followed in `states`
    steps, so steps should be no longer than a voxel or two. Rigid, straight, and alike in all slices. Raises ValueError that names
    what cannot be.
    """
    hu = _check_volume(hu, spacing)
    path = _check_path(speed_mm_s, rotation_s, states, spacing, hu.shape)
    weight = 1 if where is None else _check_share("where", where, hu.shape)
    ny, nx = hu.shape[1:]
    size = tuple(fft.next_fast_len(n + n // 2, real=True) for n in (ny, nx))  # streaks must not come round from the other side
    change = np.zeros((len(hu), size[0], size[1] // 2 + 1), np.complex64)
    for k, wedge in enumerate(_view_wedges(size, spacing[1::-1], states)):
        moved = _shift(hu, path * ((k + 0.5) / states - 0.5))
        change += wedge * fft.rfft2(weight * (moved - hu), s=size, axes=(1, 2))
    return hu + fft.irfft2(change, s=size, axes=(1, 2))[:, :ny, :nx]


def rings(hu: ArrayLike, spacing: Spacing, radius_mm: ArrayLike, offset: ArrayLike, kernel: str | None = None) -> np.ndarray:
    """`hu` with the rings of detector columns that are wrong in all views: float32 HU (z, y, x).

    `hu` (z, y, x), any dtype; `spacing` mm x, y, z. `radius_mm` (N,) are the distances of the columns, each CELL mm wide, from the
    rotation centre at voxel ((y + 1) // 2, (x + 1) // 2). `offset` (N,), or one for all, is what each adds to its line integrals:
    -ln(1 + g) for a column that reads too much by a share g; badly calibrated ones have 0.005 to 0.01. `kernel` as in `metal`.
    Raises ValueError that names what cannot be.
    """
    hu = _check_volume(hu, spacing, kernel)
    ny, nx = hu.shape[1:]
    cells, cell = detector((ny, nx), spacing)
    radius_mm, offset = np.atleast_1d(radius_mm).astype(float), np.atleast_1d(offset).astype(float)
    reach = np.hypot(ny * spacing[1], nx * spacing[0]) / 2
    if not ((radius_mm >= 0) & (radius_mm < reach)).all():
        raise ValueError(f"radius_mm must be from 0 to the half diagonal of a slice, {reach:.0f} mm, not {radius_mm.tolist()}")
    if offset.shape not in ((1,), radius_mm.shape) or not np.isfinite(offset).all():
        raise ValueError(f"offset must be one finite number or one for each of {radius_mm.size} columns, not {offset.tolist()}")
    column = np.concatenate([radius_mm, -radius_mm]) / cell + cells // 2  # the opposite view sees it on the other side
    value = np.tile(np.broadcast_to(offset, radius_mm.shape), 2) / 2 * CELL / cell
    base = np.floor(column).astype(int)
    view = np.zeros(cells, np.float32)
    np.add.at(view, base, value * (base + 1 - column))
    np.add.at(view, base + 1, value * (column - base))
    change = _reconstruct(np.tile(view, (VIEWS, 1))[..., None], (ny, nx), spacing, 1)
    return hu + (change if kernel is None else blur(change, spacing, kernel))


def _check_volume(hu, spacing, kernel=None):
    """`hu` as float32 (z, y, x), checked with the rest of what all artefacts take."""
    check_spacing(spacing)
    if kernel is not None:
        check_kernel(kernel)
    hu = np.asarray(hu, np.float32)
    if hu.ndim != 3 or not np.isfinite(hu).all():
        raise ValueError(f"hu must be a volume (z, y, x) of finite numbers, not of shape {hu.shape} or with NaN")
    return hu


def _check_share(name, share, shape):
    """`share` as float32, checked: a volume of `shape` in [0, 1]."""
    share = np.asarray(share, np.float32)
    if share.shape != shape or not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"{name} must have the shape of hu, {shape}, and values in [0, 1]; it has {share.shape}")
    return share


def _check_path(speed_mm_s, rotation_s, states, spacing, shape):
    """The path in half a rotation, (3,) voxels, checked with the rest of what `motion` takes."""
    if len(speed_mm_s) != 3 or not np.isfinite(speed_mm_s).all():
        raise ValueError(f"speed_mm_s must be three finite numbers of mm/s (z, y, x), not {speed_mm_s}")
    if not 0 < rotation_s < np.inf:
        raise ValueError(f"rotation_s must be a positive number of seconds, not {rotation_s}")
    if not (states >= 2 and states == int(states)):
        raise ValueError(f"states must be a whole number of at least 2, not {states}")
    path = np.array(speed_mm_s) * rotation_s / 2 / spacing[::-1]
    if (np.abs(path) >= shape).any():
        raise ValueError(f"speed_mm_s {speed_mm_s} moves the body out of the volume within half a rotation of {rotation_s} s")
    return path


def _reconstruct(sinogram, shape, spacing, finer):
    """The image of views (angles, cells, z) with the central ray in cell (cells // 2), cells `finer` times as narrow as voxels.

    Frequencies that the image cannot show are cut off. The detector is made four times as wide: the ramp reaches far, and would come
    round from the other side.
    """
    cells, cell = detector(shape, spacing)
    wide = fft.next_fast_len(4 * cells, real=True)
    f = np.arange(wide // 2 + 1)
    spectrum = fft.rfft(sinogram, finer * wide, axis=1)[:, f]
    spectrum *= (np.exp(2j * np.pi * f * (sinogram.shape[1] // 2) / (finer * wide)) / finer)[:, None]
    return fourier_backproject(spectrum, shape, spacing, wide, cell)


def _metal_error(tissue, share, spacing, material):
    """What water correction leaves behind metal, in HU: `tissue` is HU without the metal, `share` the metal's part of each voxel."""
    dx, dy, _ = spacing
    nz, ny, nx = tissue.shape
    cells, cell = detector((ny, nx), spacing)
    fine = (VIEWS, FINER * cells, cell / FINER)
    y, x = np.nonzero(share.any(0))
    inside = (np.arange(FINER) - (FINER - 1) / 2) / FINER  # the middles of the parts of a voxel
    rays = (
        ray_matrix((y + oy - (ny + 1) // 2) * dy, (x + ox - (nx + 1) // 2) * dx, dx * dy / FINER**2, *fine, FINER * cells // 2)
        for oy in inside
        for ox in inside
    )
    depth = share[:, y, x].T * np.float32(attenuation(material, REFERENCE))
    p_metal = sum(ray @ depth for ray in rays).reshape(*fine[:2], nz)
    p_water = to_cells(*line_integrals(tissue, spacing, VIEWS), *fine[1:])
    behind = p_metal > 0
    error = np.zeros_like(p_water)
    error[behind] = correct_water(measure(p_water[behind], p_metal[behind], material)) - (p_water + p_metal)[behind]
    return _reconstruct(error, (ny, nx), spacing, FINER)


def _shift(hu, voxels):
    """`hu` displaced by `voxels` (z, y, x): cubic splines, borders repeated."""
    for axis, s in enumerate(voxels):
        if s:
            reach = int(np.ceil(abs(s))) + 1
            u = np.abs(np.arange(-reach, reach + 1) + s)
            weights = np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.maximum(2 - u, 0) ** 3 / 6)
            coefficients = ndimage.spline_filter1d(hu, 3, axis, np.float32, mode="nearest")
            hu = ndimage.correlate1d(coefficients, weights, axis, mode="nearest")
    return hu


def _view_wedges(size, pixel, states):
    """Weights (states, y, x) of each state's views in the half Fourier plane of an image of `size` and `pixel` mm (y, x).

    By the Fourier slice theorem the views of one moment fill a wedge. Zero frequency is shared, so that the mean is kept.
    """
    fy, fx = fft.fftfreq(size[0], pixel[0])[:, None], fft.rfftfreq(size[1], pixel[1])
    view = np.arctan2(fy, fx) / np.pi + 0.5  # 0 at the first view, 1 at the last
    wedges = np.minimum((view * states).astype(int), states - 1) == np.arange(states)[:, None, None]
    wedges = wedges.astype(np.float32)
    wedges[:, 0, 0] = 1 / states
    return wedges
