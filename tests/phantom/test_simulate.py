"""Simulated scans: tables against masks, values against types, streams against order and threads."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from lungadv.data.lungs import lung_mask
from lungadv.data.tables import TYPES
from lungadv.phantom.mimics import MIMICS
from lungadv.phantom.placement import ATTACHMENTS, GAP
from lungadv.phantom.simulate import CONSENSUS, UID_ROOT, random_stream, simulate

TINY = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5)}


FULL = {"shape": (120, 184, 184), "spacing": (1.25, 1.25, 1.25)}


NODULES = [{"type": kind, "diameter_mm": 10 + k} for k, kind in enumerate(TYPES)]
NODULES += [{"type": "solid", "diameter_mm": 14}, {"type": "solid"}]


@pytest.fixture(scope="module")
def person():
    return simulate(FULL | {"nodules": NODULES, "mimics": 6, "small_nodules": 2, "disputed": 1, "photons": 1.5e5}, seed=3, index=1)


def voxels(scan, table):
    return scan.to_voxel(table[["coordX", "coordY", "coordZ"]].to_numpy())


def test_it_is_a_scan_in_luna16_geometry(person):
    scan = person.scan
    assert scan.hu.dtype == np.int16 and scan.hu.shape == person.lungs.shape == person.labels.shape == FULL["shape"]
    assert np.array_equal(scan.direction, np.eye(3)) and all(scan.origin)
    assert scan.uid.startswith(f"{UID_ROOT}.3.1.")
    assert person.lungs.dtype == person.labels.dtype == np.uint8
    left, right = ((person.lungs == k).nonzero() for k in (3, 4))
    world = [scan.to_world(np.array(side).T)[:, 0].mean() for side in (left, right)]
    assert world[0] > world[1]  # x grows towards the patient's left
    assert min(len(left[0]), len(right[0])) > 0.6 * max(len(left[0]), len(right[0]))


def test_masks_agree_with_the_table(person):
    table, scan = person.nodules, person.scan
    assert list(table) == ["coordX", "coordY", "coordZ", "diameter_mm", "type", "attachment", "spiculated", "readers"]
    assert set(np.unique(person.labels)) == set(range(len(table) + 1))
    for k, (centre, diameter) in enumerate(zip(voxels(scan, table), table.diameter_mm, strict=True), start=1):
        mask = person.labels == k
        assert np.abs(np.argwhere(mask).mean(0) - centre).max() < 1
        equivalent = np.cbrt(mask.sum() * np.prod(scan.spacing) * 6 / np.pi)
        assert equivalent == pytest.approx(diameter, rel=0.15 if diameter >= 8 else 0.3)
    wanted = [n.get("diameter_mm") for n in NODULES[:-1]]
    assert table.diameter_mm.tolist()[: len(wanted)] == wanted
    assert table.type.tolist()[: len(NODULES)] == [n["type"] for n in NODULES]
    assert table.diameter_mm.iloc[-3:-1].between(3, 6).all() and table.diameter_mm.iloc[-1] >= 6
    assert (table.readers[:-3] >= CONSENSUS).all() and table.readers.iloc[-1] < CONSENSUS
    assert set(table.attachment) <= set(ATTACHMENTS)


def test_nodules_lie_in_the_lungs_and_apart(person):
    centres = voxels(person.scan, person.nodules)
    assert (person.lungs[tuple(np.rint(centres).astype(int).T)] > 0).all()
    assert (person.lungs[person.labels > 0] > 0).mean() > 0.97
    for k in range(1, len(centres) + 1):
        others = (person.labels > 0) & (person.labels != k)
        assert not (ndimage.binary_dilation(person.labels == k, iterations=1) & others).any()


def test_values_by_type(person):
    hu = person.scan.hu
    ranges = {"solid": (-80, 100), "fully_calcified": (250, 1050), "ground_glass": (-800, -400), "part_solid": (-720, -150)}
    for k, row in person.nodules.iterrows():
        mask = person.labels == k + 1
        if row.diameter_mm >= 10 and row.readers >= CONSENSUS:
            inner = ndimage.binary_erosion(mask)
            low, high = ranges[row.type]
            assert low < hu[inner].mean() < high, row.type
    lungs = ndimage.binary_erosion((person.lungs > 0) & (person.labels == 0), iterations=2)
    assert -910 < np.median(hu[lungs]) < -800
    z, y, x = np.nonzero(lungs)
    front, back = (np.median(hu[z[part], y[part], x[part]]) for part in (y < np.quantile(y, 0.2), y > np.quantile(y, 0.8)))
    assert front + 20 < back  # denser where the patient lies


def test_a_classical_lung_mask_finds_these_lungs(person):
    found, truth = lung_mask(person.scan), person.lungs > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95


def test_mimics_are_listed_and_none_is_a_nodule(person):
    assert list(person.mimics) == ["coordX", "coordY", "coordZ", "diameter_mm", "kind"]
    assert len(person.mimics) == 6 and set(person.mimics.kind) <= set(MIMICS)
    places = person.mimics[["coordX", "coordY", "coordZ"]].to_numpy(), person.nodules[["coordX", "coordY", "coordZ"]].to_numpy()
    apart = np.linalg.norm(places[0][:, None] - places[1], axis=-1)
    assert (apart > person.nodules.diameter_mm.to_numpy() / 2 + GAP / 2).all()


def test_each_person_depends_on_seed_and_index_alone():
    first = simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 5)
    other = simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 6)
    np.random.seed(99)
    again = simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 5)
    assert np.array_equal(first.scan.hu, again.scan.hu) and first.nodules.equals(again.nodules) and first.mimics.equals(again.mimics)
    assert (first.scan.hu != other.scan.hu).mean() > 0.5
    assert (first.scan.hu != simulate(TINY, 1, 5).scan.hu).mean() > 0.5


def test_streams_are_disjoint():
    draws = [random_stream(s, i, part).random(200) for s, i in ((0, 0), (0, 1), (1, 0), (1, 1)) for part in ("noise", "nodules")]
    assert len(np.unique(np.concatenate(draws))) == 200 * len(draws)


def test_one_thread_or_two_give_the_same_voxels():
    recipe = TINY | {"nodules": NODULES, "mimics": 6, "thickness": 5.0}
    script = f"""if True:
        import hashlib
        from lungadv.phantom.simulate import simulate
        print(hashlib.sha256(simulate({recipe!r}, 0, 0).scan.hu.tobytes()).hexdigest())"""
    digests = []
    for threads in ("1", "2"):
        env = os.environ | {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, encoding="utf-8")
        digests.append(done.stdout.strip())
    here = simulate(recipe, 0, 0).scan.hu
    assert digests == [hashlib.sha256(here.tobytes()).hexdigest()] * 2


def test_kernel_and_thickness_change_the_image_alone():
    def person(**change):
        return simulate(TINY | {"nodules": NODULES[:2]} | change, 0, 0)

    def roughness(one, axis):
        """Standard deviation of the steps between neighbours inside the lungs."""
        inner = ndimage.binary_erosion(one.lungs > 0, iterations=2)
        return np.diff(one.scan.hu.astype(float), axis=axis, append=0)[inner].std()

    plain, sharp, thick = person(), person(kernel="sharp"), person(thickness=7.5)
    assert roughness(sharp, 2) > roughness(plain, 2)
    assert roughness(thick, 0) < 0.7 * roughness(plain, 0)
    for other in (sharp, thick):
        assert np.array_equal(plain.labels, other.labels) and np.array_equal(plain.lungs, other.lungs)
        assert plain.nodules.equals(other.nodules)


def test_the_same_person_at_another_resolution():
    """The same field of view in voxels of 2.5 and 1.25 mm: the same nodules of the same people."""
    recipe = {"nodules": NODULES, "mimics": 6, "small_nodules": 2}
    grids = ({"shape": tuple(n * k for n in TINY["shape"]), "spacing": (2.5 / k,) * 3} for k in (1, 2))
    coarse, fine = (simulate(recipe | grid, 1, 4) for grid in grids)
    columns = ["coordX", "coordY", "coordZ"]
    for a, b in ((coarse.nodules, fine.nodules), (coarse.mimics, fine.mimics)):
        apart = np.linalg.norm(a[columns].to_numpy() - b[columns].to_numpy(), axis=1)
        assert np.median(apart) < 1 and (apart < 3).mean() > 0.7  # a vessel may run elsewhere, and what hangs on it with it
    same = coarse.nodules.drop(columns=columns), fine.nodules.drop(columns=columns)
    assert same[0].drop(columns="attachment").equals(same[1].drop(columns="attachment"))
    assert (same[0].attachment == same[1].attachment).mean() > 0.8
    small = fine.lungs.reshape(*(n for side in TINY["shape"] for n in (side, 2)))[:, 0, :, 0, :, 0] > 0
    assert 2 * (small & (coarse.lungs > 0)).sum() / (small.sum() + (coarse.lungs > 0).sum()) > 0.95
