"""Noise of CT the exact way: line integrals, Poisson counts and electronic noise, logarithm, filter, back-projection.

It shares with `scanner.noise` only the kernel and the constants of the machine; the projections are those of scikit-image.
"""

import numpy as np
from scipy import fft, ndimage
from skimage.transform import radon

from lungadv.phantom.lung_measures import SPACING, radial_mean
from lungadv.phantom.projection import MU_WATER, apodisation
from lungadv.phantom.scanner import CELL, ELECTRONIC, VIEWS

__all__ = ["VIEW_ANGLES", "exact_noise", "filtered_backprojection", "peak_frequency"]

VIEW_ANGLES = np.arange(VIEWS) * np.pi / VIEWS  # radians
FINER = 8  # points a cell that filtered lines are interpolated to: done linearly that is a blur, and costs a quarter of the noise
CROP = 128  # voxels: side of the middle of a slice whose noise power is measured


def filtered_backprojection(lines: np.ndarray, shape: tuple[int, int], kernel: str) -> np.ndarray:
    """Line integrals (cells, views) of SPACING mm, as scikit-image's `radon` gives them, to HU above air (y, x).

    Frequencies above the Nyquist frequency of the voxels are left out. The filtered lines are interpolated by sinc to FINER times as
    many points, then linearly.
    """
    padded = 2 * fft.next_fast_len(len(lines))
    f = fft.rfftfreq(padded, SPACING)[:, None]
    spectrum = fft.rfft(lines, padded, axis=0) * f * apodisation(kernel, f)
    filtered = FINER * fft.irfft(spectrum, FINER * padded, axis=0)
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x, points = y - shape[0] // 2, x - shape[1] // 2, np.arange(FINER * padded) / FINER
    image = np.zeros(shape)
    for theta, line in zip(VIEW_ANGLES, filtered.T, strict=True):
        image += np.interp(x * np.cos(theta) - y * np.sin(theta) + len(lines) // 2, points, line)
    return image * np.pi / VIEWS * 1000 / MU_WATER


def exact_noise(slices: np.ndarray, photons: list[float], kernel: str, rng: np.random.Generator) -> np.ndarray:
    """Noise in HU, (doses, N, y, x), of slices (N, y, x) in HU with voxels of SPACING mm, one image for each dose in `photons`."""
    noise = np.empty((len(photons), *slices.shape))
    for k, hu in enumerate(slices):
        mu = MU_WATER * np.maximum(1 + hu.astype(float) / 1000, 0)
        lines = radon(mu, np.rad2deg(VIEW_ANGLES), circle=False) * SPACING
        for image, dose in zip(noise[:, k], photons, strict=True):
            flux = dose * (SPACING / CELL) ** 2
            counts = rng.poisson(flux * np.exp(-lines)) + rng.normal(0, ELECTRONIC, lines.shape)
            image[:] = filtered_backprojection(-np.log(np.maximum(counts, 1) / flux) - lines, hu.shape, kernel)
    return noise


def peak_frequency(noise: np.ndarray) -> float:
    """The frequency (1/mm) at which the radially averaged power of the middle of noise images (N, y, x) of SPACING mm is greatest.

    The peak is broad: it is that of a parabola fitted to the logarithm of the power where it is above 0.8 of its maximum, and beside that.
    """
    size = min(CROP, *noise.shape[1:])
    y, x = ((n - size) // 2 for n in noise.shape[1:])
    part = noise[:, y : y + size, x : x + size]
    power = (np.abs(fft.fft2(part - part.mean((1, 2), keepdims=True))) ** 2).mean(0)
    f = np.hypot(*np.meshgrid(*[fft.fftfreq(size, SPACING)] * 2))
    edges = np.arange(0.02, 0.4, 0.02)
    radial = radial_mean(power, f, edges)
    top = ndimage.binary_dilation(radial > 0.8 * radial.max())
    curvature, tilt, _ = np.polyfit((edges[:-1] + edges[1:])[top] / 2, np.log(radial[top]), 2)
    return float(-tilt / (2 * curvature))
