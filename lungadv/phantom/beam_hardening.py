"""What a polychromatic beam measures of water and metal, and the correction that makes water alone exact."""

import numpy as np

__all__ = ["ENERGY", "REFERENCE", "attenuation", "correct_water", "measure", "tube_spectrum"]

ENERGY = np.arange(20.0, 120.0, 5.0)  # keV
REFERENCE = 60.0  # keV, where water attenuates MU_WATER
MASS_ATTENUATION = {  # cm^2/g: NIST X-ray mass attenuation coefficients (Hubbell and Seltzer, NISTIR 5632), steel is iron
    "keV": (20, 30, 40, 50, 60, 80, 100, 150),
    "water": (0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505),
    "titanium": (15.85, 4.972, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649),
    "steel": (25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964),
}
DENSITY = {"water": 1.0, "titanium": 4.51, "steel": 7.87}  # g/cm^3


def attenuation(material: str, energy: np.ndarray | float) -> np.ndarray | float:
    """Linear attenuation in 1/mm of water, titanium or steel at `energy` keV, between the table's energies by a power law."""
    table = np.log(MASS_ATTENUATION["keV"]), np.log(MASS_ATTENUATION[material])
    return np.exp(np.interp(np.log(energy), *table)) * DENSITY[material] / 10


def tube_spectrum() -> np.ndarray:
    """The weight of each ENERGY in the detector's signal, of sum 1: Kramers' law at 120 kV behind 1 mm of titanium, energy summed."""
    weight = (120 - ENERGY) * np.exp(-attenuation("titanium", ENERGY))
    return weight / weight.sum()


def measure(water: np.ndarray, metal: np.ndarray | float, material: str) -> np.ndarray:
    """What is measured of line integrals `water` and `metal` (at 60 keV, no unit) through many energies:

    -ln sum_E w(E) exp(-mu_w(E) / mu_w(60) water - mu_m(E) / mu_m(60) metal), with w the `tube_spectrum`.
    """
    ratios = (attenuation(name, ENERGY) / attenuation(name, REFERENCE) for name in ("water", material))
    return -np.log(sum(w * np.exp(-rw * water - rm * metal) for w, rw, rm in zip(tube_spectrum(), *ratios, strict=True)))


def correct_water(p: np.ndarray) -> np.ndarray:
    """The water correction: the line integral of the water at 60 keV that would be measured as `p`."""
    water = np.linspace(0, 200, 20001)
    return np.interp(p, measure(water, 0, "titanium"), water)
