"""What the scanner does to the anatomy: point spread, slice thickness, and noise that streaks where the body is thick.

Noise is drawn in the sinogram with the variance exp(p) / I0 + (sigma_e exp(p) / I0)^2 of the line integral p, filtered by the
reconstruction kernel and back-projected. The anatomy itself only gets the point spread. There is no bowtie filter.
"""

import numpy as np
from scipy import fft, ndimage, sparse

from lungadv.phantom.projection import KERNELS, detector, fourier_backproject, line_integrals, to_cells

__all__ = ["CELL", "ELECTRONIC", "VIEWS", "acquire", "blur", "check_acquisition", "check_kernel", "check_spacing", "noise"]

ELECTRONIC = 3.4  # standard deviation of the electronic noise, in photons
CELL = 1.25  # mm: side of the detector cell that `photons` refers to
VIEWS = 1000  # views of a rotation; each of the ANGLES drawn stands for VIEWS / ANGLES of them
ANGLES = 180

Spacing = tuple[float, float, float]


def check_spacing(spacing: Spacing) -> None:
    """Raises ValueError unless `spacing` is three positive numbers."""
    if len(spacing) != 3 or not all(0 < s < np.inf for s in spacing):
        raise ValueError(f"spacing must be three positive numbers of mm (x, y, z), not {spacing}")


def check_kernel(kernel: str) -> None:
    """Raises ValueError unless `kernel` is one of KERNELS."""
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel '{kernel}' is unknown: choose from {', '.join(KERNELS)}")


def check_acquisition(spacing: Spacing, photons: float, kernel: str, thickness: float | None = None) -> None:
    """Raises ValueError that names the parameter of a scan, as `noise` takes them, that cannot be."""
    check_spacing(spacing)
    check_kernel(kernel)
    _relative_thickness(thickness, spacing)
    if not 0 < photons < np.inf:
        raise ValueError(f"photons must be positive, not {photons}")


def _relative_thickness(thickness, spacing):
    """Slice thickness in slice spacings; 1 for None."""
    if thickness is None:
        return 1.0
    if not spacing[2] <= thickness <= 10 * spacing[2]:
        raise ValueError(f"thickness must be one to ten times the slice spacing of {spacing[2]} mm, not {thickness}: change one of them")
    return thickness / spacing[2]


def noise(
    hu: np.ndarray, spacing: Spacing, photons: float, kernel: str, rng: np.random.Generator, thickness: float | None = None
) -> np.ndarray:
    """Noise in HU, float32 (z, y, x), of a scan of `hu` (z, y, x).

    `spacing` mm x, y, z; `photons` a view and unattenuated detector cell of 1.25 mm x 1.25 mm; `kernel` one of KERNELS;
    `thickness` mm of a slice, None for the spacing. Raises ValueError that names what cannot be.
    """
    check_acquisition(spacing, photons, kernel, thickness)
    slices = _relative_thickness(thickness, spacing)
    nz, ny, nx = hu.shape
    cells, cell = detector((ny, nx), spacing)
    flux = photons * cell * (spacing[2] * slices) / CELL**2
    level = _noise_level(hu, spacing, flux, cells, cell)
    few = len(level)
    sharing = _slice_mixing(nz, slices) if slices > 1 else None
    spectrum = np.empty((ANGLES, cells // 2 + 1, nz), np.complex64)
    for k in range(ANGLES):
        here = k * few / ANGLES
        low, t = int(here), np.float32(here % 1)
        sigma = level[low] * (1 - t) + level[(low + 1) % few] * t
        white = rng.standard_normal((cells, nz), np.float32)
        spectrum[k] = fft.rfft(sigma * (white if sharing is None else (sharing @ white.T).T), axis=0)
    return fourier_backproject(spectrum, (ny, nx), spacing, cells, cell, kernel)


def _noise_level(hu, spacing, flux, cells, cell):
    """Standard deviation of the line integrals at a few angles: (angles, cells, z), the central ray first, so that its phase is zero."""
    p, coarse_cell = line_integrals(hu, spacing)
    p = np.minimum(p, float(np.log(flux)))  # less than one photon is read as one: behind metal
    level = np.sqrt((np.exp(p) / flux + (ELECTRONIC * np.exp(p) / flux) ** 2) * ANGLES / VIEWS)
    return fft.ifftshift(to_cells(level, coarse_cell, cells, cell), axes=1)


def _slice_mixing(nz, slices):
    """Sparse (nz, nz), float32, that turns independent slices into those of `slices` spacings thickness, variance unchanged.

    Slices thicker than their spacing overlap and share photons. Sparse, because the order in which a dense product adds up
    depends on the number of threads.
    """
    weights = _smooth(np.eye(nz), np.sqrt(slices**2 - 1) / 2.355, 0)
    return sparse.csr_array((weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32))


def _smooth(volume, sigma, axis):
    """`volume` convolved with a Gaussian of `sigma` voxels: three-point kernels of exactly the wanted variance, borders repeated."""
    passes = int(np.ceil(2 * sigma**2))
    w = sigma**2 / (2 * passes) if passes else 0
    for _ in range(passes):
        volume = ndimage.correlate1d(volume, [w, 1 - 2 * w, w], axis=axis, mode="nearest")
    return volume


def blur(hu: np.ndarray, spacing: Spacing, kernel: str, thickness: float | None = None) -> np.ndarray:
    """`hu` (z, y, x) with the point spread: Gaussian in the plane by kernel, along z by slice thickness / 2.355.

    It comes on top of the voxel's own width. `spacing` mm x, y, z; `thickness` mm of a slice, None for the spacing.
    Raises ValueError that names what cannot be.
    """
    check_spacing(spacing)
    check_kernel(kernel)
    dx, dy, _ = spacing
    sigma = KERNELS[kernel][3]
    hu = np.asarray(hu, np.result_type(hu, np.float32))
    for axis, s in ((0, _relative_thickness(thickness, spacing) / 2.355), (1, sigma / dy), (2, sigma / dx)):
        hu = _smooth(hu, s, axis)
    return hu


def acquire(
    hu: np.ndarray, spacing: Spacing, photons: float, kernel: str, rng: np.random.Generator, thickness: float | None = None
) -> np.ndarray:
    """Scan a noise-free volume: int16 HU (z, y, x) in [-1024, 3071].

    `spacing` mm x, y, z; `photons` as in `noise`; `kernel` one of KERNELS; `thickness` mm of a slice, one to ten times the slice
    spacing, None for the spacing. Raises ValueError for a bad spacing, dose, kernel or thickness.
    """
    image = noise(hu, spacing, photons, kernel, rng, thickness)
    image += blur(hu, spacing, kernel, thickness)
    return np.rint(np.clip(image, -1024, 3071, out=image), out=image).astype(np.int16)
