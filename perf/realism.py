"""Simulated chests against a real one, and the fast noise against the exact one: numbers, each beside its gate."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from scipy import fft, ndimage, stats
from skimage.transform import iradon, radon
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler

from lungadv import ct, phantom, scanner

SPACING, SIZE = 1.25, 24  # mm; voxels of a lung patch
REAL = "lidc_idri_0001/1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192.mhd"
SEED, PERSONS = 100, 6  # of development
VESSEL_HU = -600.0
BAND = (0.05, 0.3)  # 1/mm, where the slope of the spectrum is fitted


# Lungs.


def lungs_of(scan):
    """HU (z, y, x) on a grid of SPACING mm and the classical lung mask on it, bool: both found alike in real and simulated scans."""
    scan = ct.resample(scan, SPACING)
    return scan.hu.astype(np.float32), ct.lung_mask(scan)


def lung_patches(hu, mask, count, rng):
    """`count` random cubes (count, SIZE, SIZE, SIZE) of HU of which at least 95 % is lung."""
    share = ndimage.uniform_filter(mask.astype(np.float32), SIZE, mode="constant")
    centres = np.argwhere(share > 0.95)
    corners = centres[rng.choice(len(centres), count)] - SIZE // 2
    return np.stack([hu[z : z + SIZE, y : y + SIZE, x : x + SIZE] for z, y, x in corners])


def radial_spectrum(patches):
    """Mean power of axial slices by radial frequency (1/mm): (frequencies, power), windowed against the patches' borders.

    In the plane alone: along z the slice thickness decides, which two scans need not share.
    """
    window = np.hanning(SIZE)
    window = window[:, None] * window
    power = (np.abs(fft.fft2((patches - patches.mean((2, 3), keepdims=True)) * window)) ** 2).mean((0, 1))
    f = np.hypot(*np.meshgrid(*[fft.fftfreq(SIZE, SPACING)] * 2, indexing="ij"))
    edges = np.linspace(*BAND, 9)
    ring = np.digitize(f, edges)
    return (edges[:-1] + edges[1:]) / 2, np.array([power[ring == k].mean() for k in range(1, len(edges))])


def slope(patches):
    """The exponent of the patches' radial power spectrum within BAND."""
    f, power = radial_spectrum(patches)
    return np.polyfit(np.log(f), np.log(power), 1)[0]


def features(patches):
    """Some twenty numbers of each patch: quantiles of HU, vessels, gradients, and power by frequency."""
    flat = patches.reshape(len(patches), -1)
    quantiles = np.quantile(flat, (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99), axis=1).T
    gradient = np.sqrt(sum(g**2 for g in np.gradient(patches, axis=(1, 2, 3)))).reshape(len(patches), -1)
    power = np.log([radial_spectrum(patch[None])[1] for patch in patches])
    return np.column_stack([quantiles, flat.std(1), stats.skew(flat, axis=1), (flat > VESSEL_HU).mean(1), gradient.mean(1), power])


def against_a_real_lung(real, simulated, count):
    """A row a gate: name, value, gate, holds. `real` and each of `simulated` as from `lungs_of`."""
    rng = np.random.default_rng(0)
    patches = lung_patches(*real, count, rng)
    ours = [lung_patches(*person, count // len(simulated), rng) for person in simulated]
    distance = np.mean([stats.wasserstein_distance(real[0][real[1]], hu[mask]) for hu, mask in simulated])
    tilt = slope(np.concatenate(ours)) - slope(patches)

    def vessels(hu, mask):
        return (hu[ndimage.binary_erosion(mask, iterations=3)] > VESSEL_HU).mean()

    ratio = np.mean([vessels(*person) for person in simulated]) / vessels(*real)
    both = StandardScaler().fit_transform(features(np.concatenate([patches, *ours])))
    labels = np.repeat([1, 0], [len(patches), len(both) - len(patches)])
    guess = cross_val_predict(RandomForestClassifier(200, random_state=0), both, labels, cv=5, method="predict_proba")[:, 1]
    return [
        ("lung HU histogram, Wasserstein-1, HU", distance, "< 25", distance < 25),
        ("slope of the radial spectrum, simulated - real", tilt, "within 0.3", abs(tilt) < 0.3),
        ("vessel share of the lung, simulated / real", ratio, "within a factor 1.5", 1 / 1.5 < ratio < 1.5),
        ("AUC of a forest that tells them apart", roc_auc_score(labels, guess), "reported", True),
    ]


# Noise.


def exact_noise(slices, photons, kernel, rng, finer=2):
    """Noise in HU of slices (N, y, x) of SPACING mm by the whole way: projections, photons, logarithm, filter, back-projection.

    The detector's cells are `finer` times as narrow as the voxels, because back-projection interpolates between them, which is a blur.
    """
    theta, spacing = np.arange(scanner.VIEWS) * 180 / scanner.VIEWS, SPACING / finer
    flux = photons * SPACING * spacing / scanner.CELL**2
    images = []
    for hu in np.kron(slices, np.ones((1, finer, finer))):
        side = max(hu.shape)
        square = np.full((side, side), -1000.0)
        top, left = (side - hu.shape[0]) // 2, (side - hu.shape[1]) // 2
        square[top : top + hu.shape[0], left : left + hu.shape[1]] = hu
        line = radon(scanner.MU_WATER * np.maximum(1 + square / 1000, 0), theta, circle=False) * spacing
        counts = rng.poisson(flux * np.exp(-line)) + rng.normal(0, scanner.ELECTRONIC, line.shape)
        error = -np.log(np.maximum(counts, 1) / flux) - line
        padded = fft.next_fast_len(2 * len(error), real=True)
        f = fft.rfftfreq(padded)[:, None]  # cycles a cell
        filtered = fft.irfft(fft.rfft(error, padded, axis=0) * 2 * f * scanner.apodisation(kernel, f / spacing), padded, axis=0)
        back = iradon(filtered[: len(error)], theta, filter_name=None, circle=False, output_size=side) / spacing
        images.append(back[top : top + hu.shape[0] : finer, left : left + hu.shape[1] : finer] * 1000 / scanner.MU_WATER)
    return np.stack(images)


def peak_frequency(noise, size=64):
    """The frequency (1/mm) at which the radially averaged noise power of the centres of (N, y, x) is greatest."""
    y, x = (side // 2 - size // 2 for side in noise.shape[1:])
    part = noise[:, y : y + size, x : x + size]
    power = (np.abs(fft.fft2(part - part.mean((1, 2), keepdims=True))) ** 2).mean(0)
    f = np.hypot(*np.meshgrid(fft.fftfreq(size, SPACING), fft.fftfreq(size, SPACING)))
    edges = np.arange(0.02, 0.4, 0.02)
    ring = np.digitize(f, edges)
    radial = ndimage.gaussian_filter1d([power[ring == k].mean() for k in range(1, len(edges))], 1)
    return (edges[:-1] + edges[1:])[np.argmax(radial)] / 2


def against_exact_noise(photons, slices):
    """A row a gate, for the soft kernel: the fast noise of some slices of a chest beside the exact one, quarter beside full dose."""
    recipe = phantom.check_recipe({"spacing": (SPACING,) * 3})
    hu = phantom.anatomy(recipe, SEED, 0)[3]
    chosen = hu[(np.linspace(0.3, 0.8, slices) * len(hu)).astype(int)]
    spacing = (SPACING,) * 3
    fast = scanner.noise(chosen, spacing, photons, "soft", np.random.default_rng(1))
    exact = exact_noise(chosen, photons, "soft", np.random.default_rng(2))
    quarter = scanner.noise(chosen, spacing, photons / 4, "soft", np.random.default_rng(1))
    rows = []
    for name, inside in (("lung", chosen < -700), ("soft tissue", (chosen > 0) & (chosen < 100))):
        inside &= np.hypot(*np.meshgrid(*[np.linspace(-1, 1, side) for side in chosen.shape[1:]], indexing="ij")) < 0.9
        ratio = fast[inside].std() / exact[inside].std()
        rows.append((f"sigma in {name}, fast / exact ({exact[inside].std():.1f} HU)", ratio, "within 10 %", abs(ratio - 1) < 0.1))
    difference = peak_frequency(fast) - peak_frequency(exact)
    rows.append(("peak of the noise power, fast - exact, 1/mm", difference, "within 0.03", abs(difference) <= 0.03))
    lung = chosen < -700
    dose = quarter[lung].std() / fast[lung].std()
    rows.append(("sigma in lung, 25 % / 100 % dose", dose, "2.1 within 10 %", abs(dose / 2.1 - 1) < 0.1))
    return rows


def main(photons: float = 1.5e5, patches: int = 300, slices: int = 6):
    """Print the gates. The real chest is that of LUNGADV_REAL_CT (default ../shared/real_ct); without it, the noise alone is measured."""
    rows = against_exact_noise(photons, slices)
    real = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).resolve().parents[2] / "shared" / "real_ct") / REAL
    if real.exists():
        recipe = {"shape": (216, 216, 264), "spacing": (SPACING,) * 3, "photons": photons}
        simulated = [lungs_of(phantom.simulate(recipe, SEED, index).scan) for index in range(PERSONS)]
        rows += against_a_real_lung(lungs_of(ct.read_scan(real)), simulated, patches)
    else:
        print(f"no real chest at {real}: LUNGADV_REAL_CT names the folder that holds it")
    table = pd.DataFrame(rows, columns=["measure", "value", "gate", "holds"])
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    typer.run(main)
