"""Parallel-beam projection and filtered back-projection, slice by slice, and the noise power of reconstruction kernels.

By the Fourier slice theorem the transform of a view along the detector is a line through the two-dimensional transform of the image.
So a sinogram is transformed along the detector, filtered, spread onto the Fourier plane, and transformed back.
"""

from functools import lru_cache

import numpy as np
from scipy import fft, sparse

__all__ = [
    "KERNELS", "MU_WATER", "apodisation", "detector", "fourier_backproject", "line_integrals", "noise_power", "ray_matrix", "to_cells",
]  # fmt: skip

MU_WATER = 0.0206  # 1/mm, at 60 keV
PIXEL = 5.0  # mm: about that of the images that the line integrals are computed from
KERNELS = {  # a, b, f0 of the noise power (f/f0)^a exp(-(f/f0)^b), f in 1/mm; in-plane point spread (sigma, mm)
    "soft": (1.0, 2.4, 0.325, 0.5),
    "standard": (0.5, 3.2, 0.50, 0.4),
    "sharp": (1.75, 5.6, 0.65, 0.3),
}


def noise_power(kernel: str, f: np.ndarray | float) -> np.ndarray | float:
    """Shape of the noise power spectrum of a kernel at radial frequency f (1/mm), in arbitrary units."""
    a, b, f0, _ = KERNELS[kernel]
    return (f / f0) ** a * np.exp(-((f / f0) ** b))


def apodisation(kernel: str, f: np.ndarray) -> np.ndarray:
    """Filter A(f) beside the ramp, f in 1/mm; 1 at f = 0.1/mm: structures of 10 mm go through unchanged.

    White noise through |f| A(f) has the image noise power |f| A^2, hence A = sqrt(noise power / f).
    """
    f = np.maximum(f, 1e-6)
    return np.sqrt(noise_power(kernel, f) / f / (noise_power(kernel, 0.1) / 0.1))


def detector(shape: tuple[int, int], spacing: tuple[float, float, float]) -> tuple[int, float]:
    """Cells that see all of an image of `shape` (y, x) and `spacing` mm (x, y, z), and the width of one in mm, that of a voxel."""
    dx, dy, _ = spacing
    cell = min(dx, dy)
    return fft.next_fast_len(int(np.ceil(np.hypot(shape[1] * dx, shape[0] * dy) / cell)) + 2, real=True), cell


def ray_matrix(y: np.ndarray, x: np.ndarray, area: float, angles: int, cells: int, cell: float, centre: float) -> sparse.csr_array:
    """Sparse float32 (angles * cells, points): line integrals (mm) of points y, x (N,) mm that stand for `area` mm^2 each.

    Cells are `cell` mm wide; cell `centre` sees x = y = 0.
    """
    theta = np.arange(angles) * np.pi / angles - np.pi / 2
    position = (np.cos(theta)[:, None] * x + np.sin(theta)[:, None] * y) / cell + centre
    base = np.floor(position).astype(int)
    t = position - base
    row = np.arange(angles)[:, None] * cells
    rows = np.concatenate([np.clip(base, 0, cells - 1) + row, np.clip(base + 1, 0, cells - 1) + row]).ravel()
    columns = np.tile(np.arange(x.size), 2 * angles)
    values = (np.concatenate([1 - t, t]) * area / cell).ravel()
    return sparse.csr_array((values.astype(np.float32), (rows, columns)), shape=(angles * cells, x.size))


@lru_cache(4)
def _image_rays(shape, pixel, angles, cells, cell):
    """`ray_matrix` of all pixels of an image of `pixel` mm (y, x)."""
    y, x = (np.arange(n) * p - (n - 1) * p / 2 for n, p in zip(shape, pixel, strict=True))
    y, x = (c.ravel() for c in np.meshgrid(y, x, indexing="ij"))
    return ray_matrix(y, x, pixel[0] * pixel[1], angles, cells, cell, (cells - 1) / 2)


def line_integrals(hu: np.ndarray, spacing: tuple[float, float, float], angles: int = 36) -> tuple[np.ndarray, float]:
    """Attenuation line integrals of each slice of `hu` (z, y, x), averaged to pixels of about PIXEL mm.

    Returns float32 (angles, cells, z), and the width of a cell in mm.
    """
    dx, dy, _ = spacing
    factor = (max(1, round(PIXEL / dy)), max(1, round(PIXEL / dx)))
    ny, nx = (n // f * f for n, f in zip(hu.shape[1:], factor, strict=True))
    coarse = hu[:, :ny, :nx].reshape(len(hu), ny // factor[0], factor[0], nx // factor[1], factor[1]).mean((2, 4))
    mu = MU_WATER * np.maximum(1 + coarse / 1000, 0)
    pixel = (factor[0] * dy, factor[1] * dx)
    shape = mu.shape[1:]
    cell = max(pixel)
    cells = int(np.ceil(np.hypot(shape[0] * pixel[0], shape[1] * pixel[1]) / cell)) + 2
    p = _image_rays(shape, pixel, angles, cells, cell) @ np.ascontiguousarray(mu.reshape(len(hu), -1).T)
    return p.reshape(angles, cells, len(hu)), cell


def to_cells(sinogram: np.ndarray, coarse_cell: float, cells: int, cell: float) -> np.ndarray:
    """A sinogram (angles, coarse cells, z) interpolated linearly to `cells` of `cell` mm about the same central ray."""
    coarse_cells = sinogram.shape[1]
    step = cell / coarse_cell
    position = np.clip((coarse_cells - 1) / 2 - (cells - 1) / 2 * step + step * np.arange(cells), 0, coarse_cells - 1)
    base = np.minimum(position.astype(int), coarse_cells - 2)
    t = (position - base).astype(np.float32)
    rows = np.tile(np.arange(cells), 2)
    stretch = sparse.csr_array((np.concatenate([1 - t, t]), (rows, np.concatenate([base, base + 1]))), shape=(cells, coarse_cells))
    return np.stack([stretch @ row for row in sinogram])


def fourier_backproject(
    spectrum: np.ndarray,
    shape: tuple[int, int],
    spacing: tuple[float, float, float],
    cells: int,
    cell: float,
    kernel: str | None = None,
) -> np.ndarray:
    """The image in HU, float32 (z, y, x), of line integrals given as `fft.rfft(sinogram, axis=1)`, complex64 (angles, frequencies, z).

    The image has `shape` (y, x) and `spacing` mm x, y, z; the sinogram `cells` of `cell` mm. The detector of view k lies along the
    direction (cos, sin)(k * pi / angles - pi / 2) of x, y. Its central ray is cell 0 (as after `fft.ifftshift`) and goes through voxel
    ((y + 1) // 2, (x + 1) // 2). An attenuation of MU_WATER becomes 1000 HU, none 0. The filter is the ramp and the
    mean over a voxel; for noise, with a kernel named, the ramp and the kernel's `apodisation`.
    """
    dx, dy, _ = spacing
    ny, nx = shape
    angles, _, nz = spectrum.shape
    margin = 1.2 if kernel else 2.0  # what comes round from the other side does no harm in noise
    size = tuple(2 * fft.next_fast_len(int(margin / 2 * n), real=True) for n in (ny, nx))
    spreader = _spreader(size, (dy, dx), angles, cells, cell, kernel)
    dim_y, dim_x = (np.sinc((np.arange(m) - m // 2) / m) ** 2 for m in size)  # spreading on neighbours dims the image towards its border
    oy, ox = (size[0] - ny) // 2, (size[1] - nx) // 2
    dim = (dim_y[oy : oy + ny, None, None] * dim_x[None, ox : ox + nx, None]).astype(np.float32)
    image = np.empty((nz, ny, nx), np.float32)
    for first in range(0, nz, 16):  # some slices at a time: in the processor's cache
        part = np.ascontiguousarray(spectrum[:, :, first : first + 16]).reshape(angles * (cells // 2 + 1), -1)
        plane = (spreader @ part.view(np.float32)).view(np.complex64).reshape(size[0], size[1] // 2 + 1, -1)
        part = fft.irfft2(plane, s=size, axes=(0, 1), norm="forward")[oy : oy + ny, ox : ox + nx] / dim
        image[first : first + 16] = part.transpose(2, 0, 1)
    return image


@lru_cache(4)
def _spreader(size, pixel, angles, cells, cell, kernel):
    """Sparse (size_y * (size_x // 2 + 1), angles * frequencies): filtered polar samples onto the half Fourier plane, in HU."""
    ny, nx = size
    f = fft.rfftfreq(cells, cell)
    theta = np.arange(angles) * np.pi / angles - np.pi / 2
    if kernel:
        ramp = f * apodisation(kernel, f)
    else:  # zero frequency stands for a disc of half a step about it, and a voxel is a mean over its width
        ramp = np.append(f[1] / 8, f[1:]) * np.sinc(f * cell)
    # d theta * d f for the integral over the plane, the cell for the transform along the detector
    weight = ramp * (np.pi / angles) / (cells * cell) * cell * (1000 / MU_WATER)
    kx, ky = np.cos(theta)[:, None] * f * nx * pixel[1], np.sin(theta)[:, None] * f * ny * pixel[0]
    weight = np.where((kx < nx // 2) & (np.abs(ky) < ny // 2), weight, 0) + 0 * kx
    columns = np.arange(angles)[:, None] * f.size + np.arange(f.size) + np.zeros_like(kx, int)
    bx, by = np.floor(kx).astype(int), np.floor(ky).astype(int)
    tx, ty = kx - bx, ky - by
    parts = []
    for ox in (0, 1):
        for oy in (0, 1):
            w = weight * np.where(ox, tx, 1 - tx) * np.where(oy, ty, 1 - ty)
            w = np.where(bx + ox == 0, 2 * w, w)  # this column also stands for its mirror image
            sign = np.where((bx + ox + by + oy) % 2, -1, 1)  # centre of the image in its middle
            row = ((by + oy) % ny) * (nx // 2 + 1) + np.minimum(bx + ox, nx // 2)
            parts.append((w * sign, row))
    values = np.concatenate([w.ravel() for w, _ in parts]).astype(np.float32)
    rows = np.concatenate([r.ravel() for _, r in parts])
    matrix = sparse.csr_array((values, (rows, np.tile(columns.ravel(), 4))), shape=(ny * (nx // 2 + 1), angles * f.size))
    matrix.eliminate_zeros()
    return matrix
