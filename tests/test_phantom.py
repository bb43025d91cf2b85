"""The phantom: tables against masks, values against types, streams against order and threads, bad recipes."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage, spatial

from lungadv import phantom
from lungadv.lungs import lung_mask

TINY = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5)}
FULL = {"shape": (120, 184, 184), "spacing": (1.25, 1.25, 1.25)}
NODULES = [{"type": kind, "diameter_mm": 10 + k} for k, kind in enumerate(phantom.TYPES)]
NODULES += [{"type": "solid", "diameter_mm": 14}, {"type": "solid"}]


@pytest.fixture(scope="module")
def person():
    return phantom.simulate(FULL | {"nodules": NODULES, "mimics": 6, "small_nodules": 2, "disputed": 1, "photons": 1.5e5}, seed=3, index=1)


def voxels(scan, table):
    return scan.to_voxel(table[["coordX", "coordY", "coordZ"]].to_numpy())


def test_it_is_a_scan_in_luna16_geometry(person):
    scan = person.scan
    assert scan.hu.dtype == np.int16 and scan.hu.shape == person.lungs.shape == person.labels.shape == FULL["shape"]
    assert np.array_equal(scan.direction, np.eye(3)) and all(scan.origin)
    assert scan.uid.startswith(f"{phantom.UID_ROOT}.3.1.")
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
    assert (table.readers[:-3] >= phantom.NEEDED).all() and table.readers.iloc[-1] < phantom.NEEDED
    assert set(table.attachment) <= set(phantom.ATTACHMENTS)


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
        if row.diameter_mm >= 10 and row.readers >= phantom.NEEDED:
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


def test_low_dose_noise_is_that_of_a_low_dose_scan():
    recipe = phantom.check_recipe({"shape": (54, 220, 264), "spacing": (1.25, 1.25, 5.0)})  # a large chest in few slices
    grid, person, _, hu, lungs = phantom.anatomy(recipe, 0, 0)
    thin = phantom.scanner.noise(hu, (1.25, 1.25, 1.25), 3e4, "soft", np.random.default_rng(0))  # as if the slices were 1.25 mm thick
    assert 16 < thin[ndimage.binary_erosion(lungs > 0, iterations=2)].std() < 25
    assert 26 < thin[grid.fine(person.heart) < -8].std() < 38


def test_mimics_are_listed_and_none_is_a_nodule(person):
    assert list(person.mimics) == ["coordX", "coordY", "coordZ", "diameter_mm", "kind"]
    assert len(person.mimics) == 6 and set(person.mimics.kind) <= set(phantom.MIMICS)
    places = person.mimics[["coordX", "coordY", "coordZ"]].to_numpy(), person.nodules[["coordX", "coordY", "coordZ"]].to_numpy()
    apart = np.linalg.norm(places[0][:, None] - places[1], axis=-1)
    assert (apart > person.nodules.diameter_mm.to_numpy() / 2 + phantom.GAP / 2).all()


def test_each_person_depends_on_seed_and_index_alone():
    first = phantom.simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 5)
    other = phantom.simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 6)
    np.random.seed(99)
    again = phantom.simulate(TINY | {"nodules": NODULES[:2], "mimics": 3}, 0, 5)
    assert np.array_equal(first.scan.hu, again.scan.hu) and first.nodules.equals(again.nodules) and first.mimics.equals(again.mimics)
    assert (first.scan.hu != other.scan.hu).mean() > 0.5
    assert (first.scan.hu != phantom.simulate(TINY, 1, 5).scan.hu).mean() > 0.5


def test_streams_are_disjoint():
    draws = [phantom.stream(s, i, part).random(200) for s, i in ((0, 0), (0, 1), (1, 0), (1, 1)) for part in ("noise", "nodules")]
    assert len(np.unique(np.concatenate(draws))) == 200 * len(draws)


def test_one_thread_or_two_give_the_same_voxels():
    recipe = TINY | {"nodules": NODULES, "mimics": 6, "thickness": 5.0}
    script = f"""if True:
        import hashlib
        from lungadv import phantom
        print(hashlib.sha256(phantom.simulate({recipe!r}, 0, 0).scan.hu.tobytes()).hexdigest())"""
    digests = []
    for threads in ("1", "2"):
        env = os.environ | {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, encoding="utf-8")
        digests.append(done.stdout.strip())
    here = phantom.simulate(recipe, 0, 0).scan.hu
    assert digests == [hashlib.sha256(here.tobytes()).hexdigest()] * 2


def test_kernel_and_thickness_change_the_image_alone():
    def person(**change):
        return phantom.simulate(TINY | {"nodules": NODULES[:2]} | change, 0, 0)

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


def test_another_family_of_shapes_has_stronger_lobes():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def spread(shift):
        return np.mean([phantom.draw_lobes(rng, 0.2, 0, shift).radius(directions).std() for _ in range(300)])

    assert spread(True) > 1.05 * spread(False)


@pytest.fixture(scope="module")
def people():
    """Grid and persons of development seeds."""
    recipe = phantom.check_recipe({"shape": (88, 100, 116), "spacing": (2.5, 2.5, 2.5)})
    grid = phantom.Grid(recipe["shape"], recipe["spacing"])
    return grid, [phantom.chest(grid, phantom.stream(100, k, "chest")) for k in range(12)]


def lungs(grid, person):
    return np.maximum.reduce([grid.fine(person.cage), -grid.fine(person.medial), -grid.fine(person.dome)]) < 0


def test_people_differ_in_size_shape_rotation_and_breath(people):
    grid, persons = people
    litres = np.array([lungs(grid, person).sum() * 2.5**3 / 1e6 for person in persons])
    assert 1.5 < litres.min() < 0.85 * litres.max() < 6  # of chests that all fit 275 x 250 x 220 mm
    turned = np.rad2deg([person.pose.rotation for person in persons])
    assert 1 < turned.std() < 6
    domes = [np.argwhere(person.dome[:, 24, 12] > 0)[0, 0] for person in persons]
    assert np.ptp(domes) >= 2  # nodes of 5 mm
    front = [np.argwhere((grid.fine(person.skin) < 0).any((0, 2)))[0, 0] for person in persons]
    assert np.ptp(front) <= 6  # everyone is centred in the field of view


def test_the_patient_lies_on_a_table_inside_the_field_of_view(people):
    grid, persons = people
    for person in persons:
        hu, _ = phantom.soft_tissue(grid, person)
        body = grid.fine(person.skin) < 0
        assert not body[:, :, [0, -1]].any() and not body[:, 0].any()  # nobody is cut at the sides or in front
        _, y, x = grid.box(-np.full(3, 1e4), np.full(3, 1e4))[1]
        above = person.back - 6e-4 * x**2 - y  # of the table's surface
        assert -2.5 < np.where(body, above, 99).min() < 2.5  # it touches the table, and does not sink into it (voxels of 2.5 mm)
        behind = hu[:, int(grid.index(np.array([0, person.back + 3, 0]))[1]) :, 48:68]
        assert (behind > -700).any(1).all() and np.median(behind) < -850  # a shell in every slice and column, foam and air


def test_left_and_right_lung_never_touch(people):
    grid, persons = people
    for person in persons:
        hu, texture = phantom.soft_tissue(grid, person)
        labels = phantom.parenchyma(hu, grid, person, texture, np.random.default_rng(0))
        left = ndimage.binary_dilation(labels == 3)
        assert not (left & (labels == 4)).any() and (labels == 3).sum() > 1000 < (labels == 4).sum()


class Without:
    """A random generator whose `random` is always `chance`."""

    def __init__(self, seed, chance):
        self.rng, self.chance = np.random.default_rng(seed), chance

    def __getattr__(self, name):
        return getattr(self.rng, name)

    def random(self, *size):
        drawn = self.rng.random(*size)
        return drawn if size else self.chance


def test_emphysema_is_pockets_of_air_in_otherwise_the_same_lung(people):
    grid, persons = people
    for k, person in enumerate(persons[:3]):
        body, texture = phantom.soft_tissue(grid, person)
        sick, well = body.copy(), body.copy()
        inside = phantom.parenchyma(sick, grid, person, texture, Without(k, 0.0)) > 0
        phantom.parenchyma(well, grid, person, texture, Without(k, 1.0))
        change = (sick - well)[inside]
        assert change.max() <= 1e-3 and change.min() < -20 and 0.02 < (change < -1).mean() < 0.3
        assert (well[inside] < -950).mean() < 0.08  # of never-smokers 2 +- 2.7 %


def test_contrast_agent_brightens_blood_alone():
    grid, person, trees, before, lungs = phantom.anatomy(phantom.check_recipe(TINY), 0, 0)
    *_, after, _ = phantom.anatomy(phantom.check_recipe(TINY | {"iodine": 200}), 0, 0)
    added = after - before

    def at(points):
        return added[tuple(np.clip(np.rint(grid.index(np.atleast_2d(points))).astype(int), 0, np.array(grid.shape) - 1).T)]

    *great, gullet = person.great
    assert at(grid.coarse_start + 5 * np.argwhere(person.heart < -20)) == pytest.approx(200, abs=1)
    inside = np.concatenate([points[1:2] for points, _ in great])
    assert np.median(at(inside)) == pytest.approx(200, abs=1)
    assert np.abs(at(gullet[0])).max() < 1 and np.abs(at(np.concatenate([points for points, _ in person.airway]))).max() < 1
    thick = np.concatenate([(tree.start + tree.end)[tree.radius > 2.5] / 2 for tree in trees])
    assert np.median(at(thick)) > 100  # of the lungs' vessels, a voxel wide
    assert added.min() > -1e-3 and after[before < 60].max() < 43 + 200 + 15 and np.median(added[lungs > 0]) < 5  # grain; fine vessels


@pytest.fixture(scope="module")
def organs(people):
    """HU by name of places in a body without vessels, of several people together."""
    grid, persons = people
    found = {}

    def at(name, hu, points):
        z, y, x = np.clip(np.rint(grid.index(np.atleast_2d(points))).astype(int), 0, np.array(grid.shape) - 1).T
        found.setdefault(name, []).append(hu[z, y, x])

    for k, person in enumerate(persons[:4]):
        hu, texture = phantom.soft_tissue(grid, person)
        phantom.bones(hu, grid, person, np.random.default_rng(k))
        inside = phantom.parenchyma(hu, grid, person, texture, np.random.default_rng(k)) > 0
        plain = hu.copy()
        phantom.draw_vessels(hu, grid, person, phantom.vessels(grid, person, np.random.default_rng(k)))
        (a, _), high, turn = person.half, person.height, person.pose.turn
        at("liver", hu, turn([(0.1 * high, person.middle, -x * a) for x in (0.3, 0.45, 0.6)]))
        at("heart", hu, grid.coarse_start + 5 * np.argwhere(person.heart < -15))
        at("great vessels", hu, np.concatenate([points[1:2] for points, _ in person.great]))
        at("trachea and main bronchi", hu, np.concatenate([points[1:2] for points, _ in person.airway]))
        bone = person.pose.turn(person.ribs[0].mean(1))
        at("ribs", hu, bone)
        at("vertebral bodies", hu, turn([(z, *person.spine) for z in np.arange(20.0, 180, 3)]))
        skin = grid.fine(person.skin)
        found.setdefault("fat under the skin", []).append(hu[(skin < -4) & (skin > -6)])
        breast = grid.fine(person.breast) < -1
        found.setdefault("gland", []).append(hu[breast])
        assert (skin[breast] < 0).all() and not (breast & (grid.fine(person.muscle) < -3)).any()
        assert (hu[(skin < 0) & (skin > -4)] < 250).all()  # no bone in the skin, the spinous processes' tips least of all
        deep = ndimage.binary_erosion(inside, iterations=2)
        z, y, _ = np.nonzero(deep)
        middle = np.abs(y - np.median(y)) < 6
        thirds = [plain[deep][middle & (z < np.quantile(z, 0.3))], plain[deep][middle & (z > np.quantile(z, 0.7))]]
        found.setdefault("base less apex", []).append([np.median(thirds[0]) - np.median(thirds[1])])
        rows = grid.start + grid.step * np.argwhere(deep)[::7]
        y, x = person.pose.body(rows[:, 1], rows[:, 2])
        for fissure in person.fissures:
            on = fissure.reaches(y, x) & (np.abs(rows[:, 0] - fissure.level(y, x)) < 0.8)
            up = rows[on] + (6 * np.hypot(1, fissure.slope), 0, 0)
            lit = np.array([plain[tuple(np.rint(grid.index(q)).astype(int))] for q in rows[on]])
            index = np.minimum(np.rint(grid.index(up)).astype(int), np.array(grid.shape) - 1)
            found.setdefault("fissures less lung above", []).append([np.median(lit) - np.median(plain[tuple(index.T)])])
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("liver", 50, 66),
        ("heart", 35, 50),
        ("great vessels", 36, 48),
        ("trachea and main bronchi", -1000, -900),
        ("ribs", 150, 700),
        ("vertebral bodies", 60, 300),
        ("fat under the skin", -115, -80),
        ("gland", -60, 30),
        ("base less apex", 4, 25),
        ("fissures less lung above", 8, 120),
    ],
)
def test_organs_are_where_they_belong(organs, name, low, high):
    assert low < np.median(organs[name]) < high


def test_the_heart_rests_on_the_diaphragm(people):
    grid, persons = people
    for person in persons:
        heart, lung = person.heart < 0, np.maximum.reduce([person.cage, -person.medial, -person.dome]) < 0
        below = np.argmax(heart, 0)
        z = np.arange(len(heart))[:, None, None]
        gap = (lung & (z < below) & (z >= below - 4)).any(0)
        seated = heart.any(0) & (person.heart.min(0) < -10)  # not where the side of the heart overhangs
        assert gap[seated].mean() < 0.03


def test_the_texture_of_the_lung_does_not_repeat():
    shape = phantom.RECIPE["shape"]
    grid = phantom.Grid(shape, (1.25,) * 3)
    person = phantom.chest(grid, phantom.stream(100, 0, "chest"))
    hu = np.zeros(shape, np.float32)
    inside = phantom.parenchyma(hu, grid, person, np.zeros(shape, np.float32), phantom.stream(100, 0, "lungs")) > 0
    for axis in range(3):
        one, other = (np.moveaxis(v, axis, 0) for v in (hu, inside))
        fine = one - ndimage.gaussian_filter(one, 2)
        both = other[64:] & other[:-64]
        assert both.sum() > 10_000 and abs(np.corrcoef(fine[64:][both], fine[:-64][both])[0, 1]) < 0.15  # once it was 0.5


def test_spicules_reach_out():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    plain, spiculated = (np.mean([phantom.draw_lobes(rng, 0.1, n, False).radius(directions).max() for _ in range(50)]) for n in (0, 6))
    assert spiculated > 1.2 * plain


def test_a_flattened_nodule_keeps_its_volume():
    normal = np.array([2.0, -1, 2]) / 3
    lobes = phantom.draw_lobes(np.random.default_rng(0), 0.0, 0, False)
    before = lobes.radius(np.stack([normal, -normal]).astype(np.float32))
    lobes.flatten(normal, 0.5)
    after = lobes.radius(np.stack([normal, -normal]).astype(np.float32))
    grid = phantom.Grid((64, 80, 96), (2.5, 2.5, 2.5))
    share = phantom.nodule_cover(grid, np.array([80.0, 0, 0]), 20.0, lobes, 2.5)[1]
    assert share.sum() * 2.5**3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)
    assert (after / before < 0.75).all()


@pytest.mark.parametrize("spacing", [0.7, 1.25, 2.5])
@pytest.mark.parametrize("radius", [0.3, 0.6, 1.0, 3.0])
def test_tubes_keep_their_volume_at_every_resolution(radius, spacing):
    grid = phantom.Grid((int(100 / spacing), int(60 / spacing), int(60 / spacing)), (spacing,) * 3)
    start, end = np.array([[10.0, -12, 3]]), np.array([[90.0, 9, 14]])
    volume = phantom.capsules(grid, start, end, [radius], [radius]).sum() * spacing**3
    assert volume == pytest.approx(np.pi * radius**2 * np.linalg.norm(end - start) + 4 / 3 * np.pi * radius**3, rel=0.06)


def test_a_turned_body_is_the_body_turned():
    pose = phantom.Pose(0.3)
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    turned = pose.turn(points)
    y, x = pose.body(turned[:, 1], turned[:, 2])
    np.testing.assert_allclose(np.stack([turned[:, 0], y, x], 1), points, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(points, axis=1))


def test_vessels_obey_murrays_law_and_reach_all_of_the_lung(people):
    grid, persons = people
    person = persons[0]
    trees = phantom.vessels(grid, person, np.random.default_rng(0))
    for tree in trees:
        np.testing.assert_allclose((tree.radius / tree.radius.min()) ** 2.9, tree.ends, rtol=1e-6)
        parent = {tuple(end): n for end, n in zip(tree.end, tree.ends, strict=True)}
        carried = {}
        for start, n in zip(tree.start[1:], tree.ends[1:], strict=True):
            carried[tuple(start)] = carried.get(tuple(start), 0) + n
        assert all(parent[place] == n for place, n in carried.items())  # what flows in flows out
        assert 2.5 < tree.radius.max() < 9 and tree.radius.min() < 0.5
    for arteries, veins, side in ((trees[:1], trees[1:3], -1), (trees[3:4], trees[4:], 1)):
        points = phantom.lung_points(grid, person, np.random.default_rng(1), 300, side)
        for kind in (arteries, veins):
            nearest = spatial.cKDTree(np.concatenate([tree.end for tree in kind])).query(points)[0]
            assert np.median(nearest) < 8 and nearest.max() < 25


def test_branches_turn_by_60_degrees_at_most_and_28_on_average(people):
    grid, persons = people
    angles = []
    for tree in phantom.vessels(grid, persons[1], np.random.default_rng(0)):
        way = (tree.end - tree.start) / np.maximum(np.linalg.norm(tree.end - tree.start, axis=1, keepdims=True), 1e-9)
        gap, parent = spatial.cKDTree(tree.end).query(tree.start[1:])
        assert gap.max() < 1e-9
        later = (parent > 3) & (tree.ends[1:] > 1)  # what leaves the trunk or a lobe's stem may turn further
        angles.append(np.rad2deg(np.arccos(np.clip((way[1:] * way[parent]).sum(1)[later], -1, 1))))
    angles = np.concatenate(angles)
    assert angles.max() < 60.1 and 20 < angles.mean() < 36 and angles.std() < 20


def test_vessels_fill_the_lung_evenly_by_height_and_depth(people):
    grid, persons = people
    shares = []
    for k, person in enumerate(persons[:4]):
        inside = lungs(grid, person)
        trees = phantom.vessels(grid, person, phantom.stream(100, k, "vessels"))
        start, end, radius = (np.concatenate([getattr(tree, key) for tree in trees]) for key in ("start", "end", "radius"))
        cover = phantom.capsules(grid, start, end, radius, radius)
        depth = ndimage.distance_transform_edt(inside) * 2.5
        rows = np.flatnonzero(inside.any((1, 2)))
        height = np.broadcast_to((np.arange(len(inside)) - rows[0])[:, None, None] / np.ptp(rows), inside.shape)
        bins = [inside & (depth > 3) & (height > low) & (height <= low + 0.1) for low in np.arange(0.1, 0.9, 0.1)]
        bins += [inside & (depth > 4) & (depth <= 10)]
        shares.append([cover[part].mean() / cover[inside & (depth > 3)].mean() for part in bins])
    *by_height, shallow = np.mean(shares, 0)
    assert min(by_height) > 0.4 and max(by_height) < 1.6 and shallow > 0.45


@pytest.fixture(scope="module")
def placer(people):
    grid, persons = people
    return phantom.Placer(grid, persons[0], phantom.vessels(grid, persons[0], np.random.default_rng(0)))


def test_nodules_prefer_upper_lobes_and_periphery(placer):
    grid, person, rng = placer.grid, placer.person, np.random.default_rng(0)
    drawn = np.array([placer.draw(rng) for _ in range(600)])
    even = np.concatenate([phantom.lung_points(grid, person, rng, 1500, side) for side in (-1, 1)])

    def ratio(points, axis):
        """Of the upper half, or of the 20 mm next to the chest wall, to the rest."""
        chosen = points[:, 0] > np.median(even[:, 0]) if axis == "height" else grid.at(person.cage, points) > -20
        return chosen.mean() / (1 - chosen.mean())

    assert ratio(drawn, "height") > 1.2 * ratio(even, "height") and ratio(drawn, "wall") > 1.3 * ratio(even, "wall")


@pytest.mark.parametrize("attachment", phantom.ATTACHMENTS)
def test_attached_nodules_touch_what_they_are_attached_to_and_isolated_ones_nothing(placer, attachment):
    grid, person, rng = placer.grid, placer.person, np.random.default_rng(1)
    seen = placer.radius > phantom.VISIBLE
    for _ in range(8):
        given, centre = placer.place([attachment], 5.0, "nodules", rng)
        assert given == attachment
        depth = -person.outside(grid, centre[None])[0]
        vessel = segment_distance(centre, placer.start[seen], placer.end[seen]) - placer.radius[seen]
        y, x = person.pose.body(*centre[1:])
        sheets = [abs(sheet.level(y, x) - centre[0]) / np.hypot(1, sheet.slope) for sheet in person.fissures if sheet.reaches(y, x)]
        if attachment == "juxta-pleural":
            assert 0 < depth < 5
        if attachment == "perifissural":
            assert min(sheets) < 5 < depth
        if attachment == "juxta-vascular":
            assert vessel.min() < 5 < depth
        if attachment == "isolated":
            assert vessel.min() > 5 and min(sheets, default=9) > 5 and depth > 7


def segment_distance(point, start, end):
    axis = end - start
    along = np.clip(((point - start) * axis).sum(1) / np.maximum((axis**2).sum(1), 1e-9), 0, 1)
    return np.linalg.norm(start + along[:, None] * axis - point, axis=1)


def test_the_same_person_at_another_resolution():
    """The same field of view in voxels of 2.5 and 1.25 mm: the same nodules of the same people."""
    recipe = {"nodules": NODULES, "mimics": 6, "small_nodules": 2}
    grids = ({"shape": tuple(n * k for n in TINY["shape"]), "spacing": (2.5 / k,) * 3} for k in (1, 2))
    coarse, fine = (phantom.simulate(recipe | grid, 1, 4) for grid in grids)
    columns = ["coordX", "coordY", "coordZ"]
    for a, b in ((coarse.nodules, fine.nodules), (coarse.mimics, fine.mimics)):
        apart = np.linalg.norm(a[columns].to_numpy() - b[columns].to_numpy(), axis=1)
        assert np.median(apart) < 1 and (apart < 3).mean() > 0.7  # a vessel may run elsewhere, and what hangs on it with it
    same = coarse.nodules.drop(columns=columns), fine.nodules.drop(columns=columns)
    assert same[0].drop(columns="attachment").equals(same[1].drop(columns="attachment"))
    assert (same[0].attachment == same[1].attachment).mean() > 0.8
    small = fine.lungs.reshape(*(n for side in TINY["shape"] for n in (side, 2)))[:, 0, :, 0, :, 0] > 0
    assert 2 * (small & (coarse.lungs > 0)).sum() / (small.sum() + (coarse.lungs > 0).sum()) > 0.95


def test_spiculated_is_said_of_those_that_have_spicules(people, placer, monkeypatch):
    grid, persons = people
    hu, labels, spicules, lobes = np.full(grid.shape, -850, np.float32), np.zeros(grid.shape, np.uint8), [], phantom.draw_lobes
    monkeypatch.setattr(phantom, "draw_lobes", lambda *terms: spicules.append(terms[2]) or lobes(*terms))
    drawn = [
        phantom.draw_nodule(hu, labels, 1, grid, persons[0], placer, "solid", 9.0, np.random.default_rng(k), False)[1] for k in range(20)
    ]
    assert drawn == [count > 0 for count in spicules] and {True, False} == set(drawn)


def test_the_core_of_a_part_solid_nodule_stays_in_the_lung(people, placer):
    grid, persons = people
    hu, labels = np.full(grid.shape, -850, np.float32), np.zeros(grid.shape, np.uint8)
    for k in range(12):
        phantom.draw_nodule(hu, labels, 1, grid, persons[0], placer, "part_solid", 14.0, np.random.default_rng(k), False)
    painted = grid.start + grid.step * np.argwhere(hu != -850)
    assert len(painted) > 300 and persons[0].outside(grid, painted).max() < grid.voxel / 2 + 1e-3


def test_fissure_thickening_lies_along_a_fissure(people):
    grid, persons = people
    person = persons[0]
    placer = phantom.Placer(grid, person, phantom.vessels(grid, person, np.random.default_rng(0)))
    for k in range(6):
        hu = np.full(grid.shape, -850, np.float32)
        centre, _ = phantom.draw_mimic(hu, grid, person, placer, "fissure thickening", np.random.default_rng(k))
        points = grid.start + grid.step * np.argwhere(hu > -700)
        normal = np.linalg.svd(points - points.mean(0))[2][-1]  # the thin direction
        gap, sheet = min(person.sheets(centre), key=lambda pair: abs(pair[0]))
        expected = person.pose.turn([1, -sheet.slope, 0]) / np.hypot(1, sheet.slope)
        assert abs(gap) < 0.1 and abs(normal @ expected) > 0.8


@pytest.mark.parametrize("kind", ["bifurcation", "end-on vessel"])
def test_a_vessel_that_passes_for_a_nodule_is_little_wider_than_it_is(placer, kind):
    draw = {"bifurcation": phantom._fork, "end-on vessel": phantom._upright}[kind]
    for k in range(12):
        centre, lines = draw(placer, np.random.default_rng(k))
        gap = segment_distance(centre, placer.start, placer.end)
        own = placer.radius[gap < 1e-6].max()
        assert 1 < max(max(line[2:]) for line in lines) / own <= phantom.BULGE[1] + 1e-6


def test_mucus_lies_in_a_bronchus(placer):
    starts, ends = (np.array([points[i] for points, _ in placer.bronchi]) for i in (0, 1))
    for k in range(8):
        _, lines = phantom._plug(placer, np.random.default_rng(k))
        for start, end, *_ in lines:
            for point in (start, end):
                assert segment_distance(point, starts, ends).min() < 1e-6


def test_diameters_follow_the_law():
    rng = np.random.default_rng(0)
    diameters = np.array([phantom.draw_diameter(rng) for _ in range(3000)])
    assert diameters.min() >= 6 and 28 < diameters.max() <= 32
    assert 0.55 < (diameters < 12).mean() < 0.9 and (diameters > 20).mean() > 0.02


def test_every_kind_of_mimic_can_be_drawn():
    recipe = phantom.check_recipe(TINY)
    grid, person, trees, hu, _ = phantom.anatomy(recipe, 0, 0)
    for k, kind in enumerate(phantom.MIMICS):
        rng = np.random.default_rng(k)
        before = hu.copy()
        centre, diameter = phantom.draw_mimic(hu, grid, person, phantom.Placer(grid, person, trees), kind, rng)
        changed = np.argwhere(np.abs(hu - before) > 20)
        assert len(changed) and 2 < diameter < 40
        assert np.linalg.norm((changed - grid.index(centre)) * 2.5, axis=1).min() < 6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"photons": -1}, "photons"),
        ({"photons": 0}, "photons"),
        ({"photons": float("nan")}, "photons"),
        ({"photons": float("inf")}, "photons"),
        ({"photons": "3e4"}, "photons"),
        ({"iodine": -1}, "iodine"),
        ({"iodine": 501}, "iodine"),
        ({"thickness": 0}, "thickness"),
        ({"thickness": 1e9}, "thickness"),
        ({"shape": (64.5, 88, 100)}, "shape"),
        ({"shape": (48, 48, 48)}, "shape and spacing"),
        ({"nodules": 3}, "nodules"),
        ({"nodules": [{"type": "solid", "diameter": 9}]}, "diameter_mm, and nothing else"),
        ({"thickness": -2.5}, "thickness"),
        ({"kernel": "hard"}, "kernel"),
        ({"spacing": (1.25, 1.25, float("nan"))}, "spacing"),
        ({"spacing": (1.25, 1.25, 0)}, "spacing"),
        ({"shape": (64, 80)}, "shape"),
        ({"shape": (40, 40, 40)}, "shape and spacing"),
        ({"nodules": [{"type": "liquid"}]}, "type 'liquid'"),
        ({"nodules": [{"type": "solid", "diameter_mm": 90}]}, "diameter_mm .* not 90"),
        ({"nodules": [{"type": "solid", "diameter_mm": -3}]}, "diameter_mm .* not -3"),
        ({"nodules": [{"type": "solid", "diameter_mm": 25}] * 120}, "more nodules than fit"),
        ({"mimics": -1}, "mimics"),
        ({"mimics": 255}, "more mimics than fit"),
        ({"mimics": 10**12}, "mimics"),
        ({"small_nodules": 1.5}, "small_nodules"),
        ({"small_nodules": float("nan")}, "small_nodules"),
        ({"disputed": -1}, "disputed"),
        ({"small_nodules": 10**6}, "small_nodules"),
        ({"small_nodules": 250, "nodules": NODULES}, "more nodules than fit"),
        ({"dose": 3}, "'dose'"),
        ({"kernel": ["soft"]}, "kernel"),
        ({"shift": "no"}, "shift"),
        ({"thickness": "thin"}, "thickness"),
        ({"shape": (4000, 4000, 4000), "spacing": (0.1, 0.1, 0.1)}, "shape .* voxels"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(change, name):
    with pytest.raises(ValueError, match=name):
        phantom.simulate(TINY | change, 0, 0)


@pytest.mark.parametrize(("seed", "index", "name"), [(-1, 0, "seed"), (1.5, 0, "seed"), (0, -1, "index"), (0, "1", "index")])
def test_a_person_that_cannot_be_is_named(seed, index, name):
    with pytest.raises(ValueError, match=name):
        phantom.simulate(TINY, seed, index)
