"""A chest against itself and against a real one, and the gates."""

import numpy as np
import pandas as pd
import pytest

from lungadv.data.io.read import read_header, read_scan
from lungadv.data.scan import Scan
from lungadv.phantom.lung_measures import measure_lung
from lungadv.phantom.projection import KERNELS
from lungadv.phantom.realism import COLUMNS, FIELD, REAL, compare_lungs, gates, simulate_like
from lungadv.utils.files import real_folder

LIDC = real_folder() / REAL
real = pytest.mark.skipif(not LIDC.exists(), reason=f"no real chest at {LIDC}: set LUNGADV_REAL_CT")


def test_a_chest_held_against_itself_is_the_same(chest):
    rows = pd.DataFrame(compare_lungs(chest[0], [chest[0], chest[0]]), columns=COLUMNS)
    value = rows.set_index("measure").value
    for measure, same in (("Wasserstein", 0), ("slope", 0), ("simulated / real", 1)):
        found = value[value.index.str.contains(measure)]
        assert len(found) and np.allclose(found, same, atol=1e-9), measure
    assert rows.holds[rows.gate != "reported"].all() and (rows.inside[rows.gate != "reported"] == 1).all()
    assert (value[value.index.str.contains("fifth|under the surface|deeper")] == 1).sum() == 8
    assert rows.holds[rows.gate == "reported"].isna().all()


def test_a_scan_without_lungs_is_refused_and_one_person_has_no_spread():
    water = Scan(np.zeros((40, 40, 40), np.int16), (2, 2, 2), (0, 0, 0), np.eye(3), "water")
    with pytest.raises(ValueError, match="water.*no lungs"):
        measure_lung(water, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="persons"):
        gates(water, persons=1)


def test_the_fast_noise_passes_its_gates():
    table = gates(slices=1)
    assert list(table.columns) == COLUMNS
    assert all(table.measure.str.startswith(kernel).any() for kernel in KERNELS)
    assert len(table) == 20 and table.spread.isna().all() and table.holds.all()


@real
def test_a_chest_is_simulated_with_the_spacing_of_the_real_one():
    scan = read_header(LIDC)
    simulated = simulate_like(scan, 0)
    assert simulated.spacing == scan.spacing
    assert np.allclose(np.array(simulated.hu.shape[::-1]) * simulated.spacing, FIELD, atol=max(scan.spacing))


@real
def test_the_lungs_of_two_people_pass_their_gates_against_the_real_chest():
    rng = np.random.default_rng(0)
    target = measure_lung(read_scan(LIDC), 100, rng)
    rows = compare_lungs(target, [measure_lung(simulate_like(read_header(LIDC), k), 100, rng) for k in (0, 1)])
    table = pd.DataFrame(rows, columns=COLUMNS).set_index("measure")
    gated = table[table.gate != "reported"]
    assert len(gated) == 3 and gated.holds.astype(bool).all()
    assert (table.value.filter(regex="middle fifth|under the surface") > 0.5).all()
    assert (table.value.filter(regex="middle fifth|under the surface") < 2).all()
