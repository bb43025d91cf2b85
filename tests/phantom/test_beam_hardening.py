"""Attenuation and water correction."""

import numpy as np
import pytest

from lungadv.phantom.beam_hardening import DENSITY, REFERENCE, attenuation, correct_water, measure
from lungadv.phantom.projection import MU_WATER


@pytest.mark.parametrize(("material", "hu"), [("titanium", 15_800), ("steel", 45_000)])
def test_attenuation_is_that_of_tables(material, hu):
    independent = {"water": 0.1929, "titanium": 0.5361, "steel": 0.8164}  # cm^2/g at 70 keV, xraylib
    for name in ("water", material):
        assert attenuation(name, 70.0) * 10 / DENSITY[name] == pytest.approx(independent[name], rel=0.03)
    assert attenuation("water", REFERENCE) == pytest.approx(MU_WATER, rel=0.001)
    assert 1000 * (attenuation(material, REFERENCE) / MU_WATER - 1) == pytest.approx(hu, rel=0.02)


def test_water_correction_is_exact_for_water_and_falls_short_behind_metal():
    water, metal = np.linspace(0, 12, 7), np.linspace(0.1, 12, 7)
    assert correct_water(measure(water, 0, "steel")) == pytest.approx(water, abs=1e-4)
    read = correct_water(measure(4.0, metal, "steel")) - 4
    assert (read < metal).all() and (np.diff(read) > 0).all()
    assert (np.diff(read / metal) < 0).all()  # the more metal, the smaller the part of it that is seen
