"""Candidate generation against oracles: closed-form blobs, known boxes, bright balls at known places, counts by hand."""

import copy
from dataclasses import replace
from itertools import islice, repeat
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from lungadv import candidates, ct, runs

SETTINGS = SimpleNamespace(
    cg_spacing=2.5, cg_anchors=(5.0, 10.0), cg_keep=30, cg_merge=6.0, cg_per_scan=5, cg_sigma=3.0, attack_eps=0.02, attack_steps=5
)  # fmt: skip
PLACES = ["coordX", "coordY", "coordZ"]
STRAIGHT = np.eye(3)
TURNED = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # the array's y runs along the body, its x to the right


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def exact(monkeypatch):
    """float32 throughout, to compare whole volumes with slabs."""
    monkeypatch.setattr(runs, "fast_type", lambda device: torch.float32)


def chest(balls=(), spacing=(1.25, 1.5, 2.0), direction=STRAIGHT, shape=(40, 50, 60)):
    """A scan of air-filled lungs with soft balls at world positions (sigma 3.5 mm), and its lungs."""
    scan = ct.Scan(np.zeros(shape, np.int16), spacing, (-31.0, 17.0, 250.0), direction, "1.2.3")
    world = scan.to_world(np.indices(shape).reshape(3, -1).T)
    hu = np.full(len(world), -850.0)
    for ball in balls:
        hu += 850 * np.exp(-np.sum((world - ball) ** 2, axis=1) / (2 * 3.5**2))
    lungs = np.zeros(shape, bool)
    lungs[11:-5, 17:-6, 18:-8] = True  # far enough in that the grid is cut
    return ct.Scan(hu.reshape(shape).astype(np.int16), spacing, scan.origin, direction, "1.2.3"), lungs


class Bright(nn.Module):
    """Heatmap logits that grow with the voxel's own value."""

    def forward(self, x):
        return 20 * (x - 0.3), x


class Boxes(nn.Module):
    """Objectness from the value at each anchor's centre; every box is its anchor, the smaller of which scores better."""

    def __init__(self, anchors=2):
        super().__init__()
        self.anchors = anchors

    def forward(self, x):
        value = 20 * (x[:, 0, 1::2, 1::2, 1::2] - 0.3)
        objectness = torch.stack([value - k for k in range(self.anchors)], dim=-1).reshape(len(x), -1)
        return objectness, torch.zeros(*objectness.shape, 6)


class Fixed(nn.Module):
    """The same answer to anything."""

    def __init__(self, *answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


def fakes(**calibration):
    networks = {"blob": Bright(), "blob-ggo": Bright(), "rpn": Boxes()}
    empty = {"blob": np.empty(0), "rpn": np.empty(0), "scans": 1}
    return networks | {"calibration": empty | calibration}


def marks(rows, uid="1", source="blob"):
    """Marks from (x, score) or (x, score, diameter), along a line."""
    rows = [(*row, np.nan)[:3] for row in rows]
    table = pd.DataFrame(rows, columns=["coordX", "score", "diameter_mm"], dtype=float)
    return table.assign(seriesuid=uid, source=source, coordY=0.0, coordZ=0.0)


# The grid ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [STRAIGHT, np.diag([1.0, -1.0, -1.0]), TURNED])
@pytest.mark.parametrize("spacing", [(1.25, 1.5, 2.0), (0.7, 0.7, 2.6)])
def test_a_ball_is_on_the_grid_where_it_is_in_the_world(direction, spacing):
    scan, _ = chest(spacing=spacing, direction=direction)
    ball = scan.to_world([[18.3, 26.4, 33.8]])[0]
    grid, mask = candidates.lung_grid(*chest([ball], spacing, direction), 2.5)
    weight = grid.hu + 850.0
    weight[weight < 60] = 0
    centre = (np.argwhere(weight) * weight[weight > 0][:, None]).sum(0) / weight.sum()
    assert np.abs(grid.to_world([centre])[0] - ball).max() < 1.25
    brightest = grid.to_world([np.unravel_index(grid.hu.argmax(), grid.hu.shape)])[0]
    assert np.abs(brightest - ball).max() <= 1.25 + max(spacing) / 2
    assert mask[tuple(grid.to_voxel([ball]).round().astype(int)[0])]


@pytest.mark.parametrize("before, after", [((3, 1, 7), (2, 11, 5)), ((0, 40, 1), (1, 0, 0))])
def test_padding_of_a_scan_leaves_the_grid_as_it_is(before, after):
    scan, lungs = chest(spacing=(0.8, 0.9, 1.7))
    origin = tuple(scan.to_world([-np.array(before)])[0])
    pads = list(zip(before, after, strict=True))
    padded = replace(scan, hu=np.pad(scan.hu, pads, constant_values=ct.AIR), origin=origin)
    (grid, mask), (other, same) = (candidates.lung_grid(*pair, 2.5) for pair in ((scan, lungs), (padded, np.pad(lungs, pads))))
    assert np.array_equal(grid.hu, other.hu) and np.array_equal(mask, same) and np.allclose(grid.origin, other.origin)


def test_the_grid_covers_lungs_and_margin_in_multiples_of_four():
    scan, lungs = chest()
    grid, mask = candidates.lung_grid(scan, lungs, 2.5)
    assert grid.hu.shape == mask.shape and all(side % 4 == 0 for side in mask.shape) and grid.spacing == (2.5,) * 3
    voxels = grid.to_voxel(scan.to_world(np.argwhere(lungs)))
    assert mask[tuple(voxels.round().astype(int).T)].all()
    marked = scan.to_voxel(grid.to_world(np.argwhere(mask)))
    outside = np.maximum(marked - (np.argwhere(lungs).max(0)), np.argwhere(lungs).min(0) - marked) * np.array(scan.spacing[::-1])
    assert outside.max() <= 5 + 2.5  # grown by about 5 mm, no more


def test_no_lungs_is_an_input_error():
    scan, lungs = chest()
    with pytest.raises(runs.InputError, match="scan '1.2.3': no lungs"):
        candidates.lung_grid(scan, lungs & False, 2.5)
    with pytest.raises(runs.InputError, match="no lungs"):
        candidates.detect(fakes(), scan, lungs & False, SETTINGS)


# Training ---------------------------------------------------------------------------------------------------------------------


def test_blobs_are_gaussians_around_the_centres_and_peak_at_the_nearest_voxels():
    centres, sigma = np.array([[2.4, 3.0, 4.6], [6.8, 6.1, 1.2]]), 1.2
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(8), np.arange(7), indexing="ij"))
    expected = np.exp(-((grid[None] - centres[:, :, None, None, None]) ** 2).sum(1) / (2 * sigma**2)).max(0)
    expected[2, 3, 5] = expected[7, 6, 1] = 1
    np.testing.assert_allclose(candidates.blobs((9, 8, 7), centres, sigma), expected, atol=1e-6)
    assert candidates.blobs((9, 8, 7), np.empty((0, 3)), sigma).max() == 0


def test_blob_loss_is_the_focal_loss_written_out():
    logits = torch.randn(3, 1, 6, 6, 6, generator=generator()) * 3
    target = torch.stack([candidates.blobs((6, 6, 6), c, 1.2) for c in ([[1, 1, 1], [4, 4, 4]], [[2, 3, 4]], [])])[:, None]
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), target.double().numpy()
    terms = np.where(y == 1, (1 - p) ** 2 * np.log(p), (1 - y) ** 4 * p**2 * np.log(1 - p))
    expected = -terms.reshape(3, -1).sum(1) / [2, 1, 1]
    np.testing.assert_allclose(candidates.blob_loss(logits, target), expected, rtol=1e-5)


def grids():
    """Two volumes, one voxel lit in each nodule; the nodule of the second is of a rare type."""
    out = []
    for places, kind in (([(9, 12, 20), (22, 5, 11)], "solid"), ([(14, 14, 14)], "ground_glass")):
        volume = torch.zeros(28, 30, 32)
        for place in places:
            volume[place] = 1.0
        table = pd.DataFrame(places, columns=["z", "y", "x"]).astype(float).assign(radius=1.0, type=kind)
        added = 0.9 * volume * (kind == "solid")  # what the nodule adds to lung of 0.1
        out.append((torch.stack([volume, added]).half(), np.argwhere(np.ones((28, 30, 32))), table))
    return out


@pytest.fixture
def quiet(monkeypatch):
    """Crops without noise."""
    monkeypatch.setattr(candidates, "NOISE", 0)


def test_crops_are_scaled_and_turned_with_their_nodules(monkeypatch):
    monkeypatch.setattr(candidates, "NOISE", 0)
    wide = np.array([1.5, 2.0, 2.5])  # voxels, the deviation of a Gaussian along z, y, x
    z, y, x = np.indices((40, 40, 40)) - np.array([21, 18, 20]).reshape(3, 1, 1, 1)
    ball = torch.from_numpy(np.exp(-((z / wide[0]) ** 2 + (y / wide[1]) ** 2 + (x / wide[2]) ** 2) / 2)).half()
    table = pd.DataFrame({"z": [21.0], "y": [18.0], "x": [20.0], "radius": [2.0], "type": ["solid"]})
    grid = torch.stack([ball, 0 * ball]), np.array([[21, 18, 20]]), table
    batches = candidates.crops([grid], 24, 4, np.random.default_rng(0), scale=1.5, faded=0)
    scales, orders = [], set()
    for volumes, contents in islice(batches, 20):
        for volume, inside in zip(volumes[::2, 0].double(), contents[::2], strict=True):
            weight = volume / volume.sum()
            index = torch.stack(torch.meshgrid(*[torch.arange(24.0, dtype=torch.double)] * 3, indexing="ij"))
            centre = (index * weight).sum((1, 2, 3))
            assert np.allclose(centre, inside[0, :3], atol=0.6)  # some of the ball may lie outside
            spread = ((index - centre.reshape(3, 1, 1, 1)) ** 2 * weight).sum((1, 2, 3)).sqrt().numpy()
            scales.append(inside[0, 3] / 2)
            assert np.sort(spread) == pytest.approx(wide * scales[-1], rel=0.25)
            orders.add(tuple(np.argsort(spread)))
    assert min(scales) < 0.75 and max(scales) > 1.35 and len(orders) == 6


def test_crops_hold_their_nodules_where_their_rows_say(quiet):
    batches = candidates.crops(grids(), 16, 6, np.random.default_rng(0))
    seen, corners, values = 0, set(), []
    for _ in range(40):
        volumes, contents = next(batches)
        assert volumes.shape == (6, 1, 16, 16, 16) and all(len(inside) for inside in contents[::2])
        for volume, inside in zip(volumes[:, 0], contents, strict=True):
            places = inside[:, :3].astype(int)
            lit = volume.nonzero().numpy()
            assert sorted(map(tuple, lit)) == sorted(map(tuple, places))
            values += volume[volume > 0].tolist()
            seen, corners = seen + len(lit), corners | {tuple(place > 8) for place in places}
    assert seen > 120 and len(corners) == 8
    assert 0.8 * 0.19 <= min(values) and max(values) <= 1  # faded to a tenth above lung at most, then dimmed by a fifth


def test_noise_leaves_crops_between_0_and_1_and_differs_from_crop_to_crop():
    volumes, _ = next(candidates.crops(grids(), 16, 8, np.random.default_rng(0), faded=0))
    assert volumes.min() == 0 and volumes.max() <= 1
    spread = volumes.flatten(1).quantile(0.9, dim=1)
    assert spread.max() <= 1.5 * candidates.NOISE and len(spread.unique()) == 8


@pytest.mark.parametrize("faded", [0.0, 0.5, 1.0])
def test_a_share_of_the_crops_fades_what_their_nodules_add_to_the_lung(quiet, faded):
    (volume, lungs, table), _ = grids()
    batches = candidates.crops([(volume, lungs, table.iloc[:1])], 16, 8, np.random.default_rng(0), faded=faded)
    values = torch.cat([next(batches)[0][::2] for _ in range(50)]).flatten(1).amax(1)
    low, high = 0.1 + 0.9 * np.array(candidates.FADED)
    assert (values < 1.1 * high).float().mean() == pytest.approx(faded, abs=0.12) and values.min() > 0.8 * low
    volume[1] = 0
    batches = candidates.crops([(volume, lungs, table.iloc[:1])], 16, 8, np.random.default_rng(0), faded=faded)
    assert min(next(batches)[0][::2].flatten(1).amax(1).min() for _ in range(20)) > 0.79


def test_contrast_is_what_a_nodule_adds_whatever_stands_beside_it():
    share, lung = np.zeros((2, 20, 20, 20), np.float32), candidates.LUNG
    share[0, 5:8, 5:8, 5:8], share[0, 4, 5:8, 5:8] = 1, 0.3
    share[1, 13:16, 13:16, 13:16] = 1
    wall = np.zeros((20, 20, 20), np.float32)
    wall[:, :, 8:11] = 0.6  # touches the first
    volume = lung + 0.65 * share[0] + 0.9 * share[1] + wall
    added = candidates.contrast(volume, share.sum(0), np.array([[6.0, 6.2, 6.0], [14.0, 14.0, 14.0]]))
    np.testing.assert_allclose(added, 0.65 * share[0] + 0.9 * share[1], atol=1e-5)
    assert not candidates.contrast(volume, 0 * wall, np.empty((0, 3))).any()


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_the_share_of_an_outline_lies_where_the_ball_is(direction):
    scan, lungs = chest(direction=direction)
    balls = scan.to_world([[18.0, 26.0, 33.0]])
    scan, _ = chest(balls, direction=direction)
    grid, _ = candidates.lung_grid(scan, lungs, 2.5)
    outlines = ct.Scan(np.where(scan.hu > -500, 1000, 0).astype(np.int16), scan.spacing, scan.origin, scan.direction, scan.uid)
    share = candidates._share(candidates._around(outlines, lungs), grid)
    assert share.shape == grid.hu.shape and 0 <= share.min() and share.max() <= 1
    volume = share.sum() * 2.5**3
    assert volume == pytest.approx((scan.hu > -500).sum() * np.prod(scan.spacing), rel=0.1)
    centre = (np.argwhere(share > 0) * share[share > 0][:, None]).sum(0) / share.sum()
    assert np.abs(grid.to_world([centre])[0] - balls[0]).max() < 1


def test_crops_around_rare_types_count_the_others_as_well(quiet):
    (volume, lungs, table), _ = grids()
    mixed = table.assign(type=["solid", "ground_glass"], radius=[1.0, 2.0])
    batches = candidates.crops([(volume, lungs, mixed)], 24, 4, np.random.default_rng(0), rare=1.0)
    radii = [inside[:, 3].tolist() for _ in range(20) for inside in next(batches)[1]]
    assert all(2.0 in seen for seen in radii[::2]) and any(1.0 in seen for seen in radii[::2]) and [1.0] in radii[1::2]


def test_without_a_rare_type_crops_are_around_the_others():
    batches = candidates.crops(grids()[:1], 16, 4, np.random.default_rng(0), rare=1.0)
    assert all(len(inside) for _ in range(10) for inside in next(batches)[1][::2])


def test_crops_without_any_nodule_come_from_the_lungs():
    volume, lungs, table = grids()[0]
    volumes, contents = next(candidates.crops([(volume, lungs, table.iloc[:0])], 16, 4, np.random.default_rng(0)))
    assert volumes.shape == (4, 1, 16, 16, 16) and all(inside.shape == (0, 4) for inside in contents)


def test_training_lowers_the_loss_of_a_batch(exact):
    torch.manual_seed(0)
    network = candidates.ResUNet(4)
    batch = next(candidates.crops(grids(), 16, 4, np.random.default_rng(0)))
    losses = candidates.train(network, candidates.heatmap_loss(1.2), repeat(batch), 60, 0.02, "test")
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5]) and len(losses) == 60 and not network.training


def sampled_losses(seed, global_seed):
    torch.manual_seed(0)
    network = candidates.RPN(2, 2).eval()
    nn.init.normal_(network.objectness.weight)  # untrained, it finds every place alike
    volumes, contents = next(candidates.crops(grids(), 16, 4, np.random.default_rng(0)))
    torch.manual_seed(global_seed)
    before = torch.get_rng_state()
    loss = candidates.rpn_loss([2, 4], generator(seed))
    values = [loss(network, volumes, contents).item() for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    return values


def test_rpn_loss_follows_its_generator_alone():
    first = sampled_losses(1, 5)
    assert first == sampled_losses(1, 6) and first != sampled_losses(2, 5) and np.isfinite(first).all()


def test_rpn_loss_is_least_for_the_right_boxes():
    contents = [np.array([[8.0, 7.0, 6.5, 2.2]]), np.empty((0, 4))]
    volumes = torch.zeros(2, 1, 16, 16, 16)
    anchors = candidates.anchors_of(volumes, [2, 4])
    truth = torch.tensor([[5.8, 4.8, 4.3, 10.2, 9.2, 8.7]])
    codes = candidates.box_coder().encode_single(truth.expand(len(anchors), -1), anchors).expand(2, -1, -1)
    silent = torch.full((2, len(anchors)), -4.0)

    def value(codes):
        return candidates.rpn_loss([2, 4], generator())(lambda x: (silent, codes), volumes, contents).item()

    assert value(codes) < value(codes + 0.3) < value(codes + 3)


# Search -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16, 16), (152, 8, 4), (100, 64, 40)])
@pytest.mark.parametrize("most", [10, 70**3, candidates.TILE])
def test_cores_fill_a_volume_without_overlap_and_no_tile_is_larger_than_allowed(shape, most):
    times = np.zeros(shape, int)
    for core, seen in candidates.tiles(shape, most):
        times[core] += 1
        assert all(part.start % 4 == 0 and (part.stop - part.start) % 4 == 0 for part in (*core, *seen))
        assert np.prod([part.stop - part.start for part in seen]) <= max(most, 64**3)
        for inner, outer, side in zip(core, seen, shape, strict=True):
            assert outer == slice(max(inner.start - candidates.HALO, 0), min(inner.stop + candidates.HALO, side))
    assert (times == 1).all()


@pytest.mark.parametrize("sides", [(172, 232, 288), (360, 360, 360), (704, 360, 440)])
def test_a_tile_stays_bounded_whatever_the_volume(sides):
    boxes = candidates.tiles(sides)
    sizes = [np.prod([part.stop - part.start for part in seen]) for _, seen in boxes]
    assert max(sizes) <= candidates.TILE and sum(sizes) < 3 * np.prod(sides)


def test_a_volume_that_is_no_larger_than_a_tile_is_one():
    assert candidates.tiles((144, 124, 164)) == [((slice(0, 144), slice(0, 124), slice(0, 164)),) * 2]


@pytest.mark.parametrize("most", [10, 68**3, 10**9])
def test_tiles_leave_no_seam(exact, most):
    torch.manual_seed(0)
    network, boxes = candidates.ResUNet(4).eval(), candidates.RPN(4, 2).eval()
    for head in (network.heat, boxes.objectness, boxes.boxes):
        nn.init.normal_(head.weight, std=3.0)
    volume = torch.rand(72, 56, 48, generator=generator())
    with torch.no_grad():
        whole = network(volume[None, None])[0].sigmoid()[0, 0]
        objectness, codes = boxes(volume[None, None])
    assert whole.std() > 0.01
    torch.testing.assert_close(candidates.heatmap(network, volume, most), whole, atol=1e-5, rtol=0)
    scores, best = objectness[0].sigmoid().topk(50)
    expected = candidates.box_coder().decode_single(codes[0, best], candidates.anchors_of(volume[None, None], [2, 4])[best])
    found, found_scores = candidates.best_boxes(boxes, volume, [2, 4], 50, most)
    torch.testing.assert_close(found_scores, scores, atol=1e-5, rtol=0)
    same = (found_scores[1:] - found_scores[:-1]).abs() > 1e-4  # where the order is certain
    same = torch.cat([same, torch.ones(1, dtype=bool)]) & torch.cat([torch.ones(1, dtype=bool), same])
    assert same.sum() > 10
    torch.testing.assert_close(found[same], expected[same], atol=1e-3, rtol=0)


@pytest.mark.parametrize("make", [candidates.ResUNet, lambda width: candidates.RPN(width, 2)])
def test_an_untrained_network_finds_nothing_whatever_its_weights(make):
    for seed in range(5):
        torch.manual_seed(seed)
        logits = make(4)(torch.rand(2, 1, 16, 16, 16, generator=generator()))[0]
        assert (logits == -4).all()


def test_peaks_are_the_highest_local_maxima_inside():
    heat, inside = np.zeros((12, 12, 12), np.float32), np.ones((12, 12, 12), bool)
    for place, value in {(2, 2, 2): 0.5, (2, 2, 4): 0.4, (2, 2, 9): 0.7, (9, 9, 9): 0.9, (6, 6, 6): 0.3, (9, 2, 9): 5e-5}.items():
        heat[place] = value
    inside[9, 9, 9] = False
    voxels, scores = candidates.peaks(heat, inside, 10, radius=2)
    assert voxels.tolist() == [[2, 2, 9], [2, 2, 2], [6, 6, 6]] and np.allclose(scores, [0.7, 0.5, 0.3])
    voxels, scores = candidates.peaks(heat, inside, 1, radius=2)
    assert voxels.tolist() == [[2, 2, 9]]
    assert len(candidates.peaks(0 * heat, inside, 10, radius=2)[0]) == 0


def test_proposals_decode_known_codes_and_drop_overlaps():
    volume, sizes = torch.zeros(16, 20, 24), [4, 8]
    truth = torch.tensor([[2.0, 3, 4, 7, 8, 9], [8, 9, 10, 15, 16, 17], [1, 12, 14, 4, 15, 17]])
    anchors = candidates.anchors_of(volume[None, None], sizes)
    centres = (anchors[:, :3] + anchors[:, 3:]) / 2
    objectness, codes = torch.full((1, len(anchors)), -9.0), torch.zeros(1, len(anchors), 6)
    for box, score in zip(truth, (3.0, 2.0, 1.0), strict=True):
        near = (centres - (box[:3] + box[3:]) / 2).norm(dim=1).topk(2, largest=False).indices
        objectness[0, near] = torch.tensor([score, score - 0.1])  # twice the same box
        codes[0, near] = candidates.box_coder().encode_single(box.expand(2, -1), anchors[near])
    places, diameters, scores = candidates.proposals(Fixed(objectness, codes), volume, sizes, 3)
    np.testing.assert_allclose(places, (truth[:, :3] + truth[:, 3:]) / 2, atol=1e-4)
    np.testing.assert_allclose(diameters, [5, 7, 3], atol=1e-4)
    np.testing.assert_allclose(scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid(), atol=1e-6)


@pytest.mark.parametrize("threshold", [0, 0.1, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize("kind", ["lattice", "scattered", "stacked"])
def test_nms_is_monais(kind, threshold):
    """Also with equal scores, equal boxes, overlaps of exactly the threshold, and sides from 1 to 100."""
    from monai.data.box_utils import non_max_suppression

    draw = np.random.default_rng(0)
    if kind == "lattice":  # overlaps such as 1/4, 1/2: on the threshold
        low, side = draw.integers(0, 6, (600, 3)), draw.choice([1, 2, 4], (600, 3))
    elif kind == "scattered":
        low, side = draw.uniform(-300, 300, (1500, 3)), np.exp(draw.uniform(0, np.log(100), (1500, 3)))
    else:
        low, side = np.repeat(draw.uniform(0, 50, (5, 3)), 100, axis=0), np.repeat(draw.uniform(0, 20, (5, 3)), 100, axis=0)
    boxes = np.hstack([low, low + side]).astype(np.float32)
    scores = draw.random(len(boxes)).round(2).astype(np.float32)
    expected = non_max_suppression(torch.tensor(boxes), torch.tensor(scores), threshold).tolist()
    assert candidates.nms(boxes, scores, threshold).tolist() == expected
    assert candidates.nms(boxes, scores, threshold, block=64).tolist() == expected


@pytest.mark.parametrize("threshold", [0, 0.01, 0.1, 0.3, 0.6, 0.8])
def test_overlapping_finds_every_pair_of_box_iou(threshold):
    """Among flat, long and cubic boxes, one inside another, shifted along one axis and along all."""
    from monai.data.box_utils import box_iou

    draw = np.random.default_rng(1)
    side = np.exp(draw.uniform(0, np.log(8), (1200, 3)))
    centre = draw.choice([0, 1, 3], (1200, 1)) * draw.normal(size=(1200, 3)) * draw.choice([0.05, 1], (1200, 3))
    boxes = np.hstack([centre - side / 2, centre + side / 2]).astype(np.float32)
    expected = (box_iou(torch.tensor(boxes[:500]), torch.tensor(boxes[500:])) > threshold).nonzero().tolist()
    assert len(expected) and sorted(candidates.overlapping(boxes[:500], boxes[500:], threshold).T.tolist()) == expected


def test_nms_of_no_box_and_of_bad_boxes():
    assert len(candidates.nms(np.empty((0, 6)), np.empty(0), 0.1)) == 0
    box = np.array([[0, 0, 0, 1, 1, 1.0]])
    assert candidates.nms(box, np.array([0.5]), 0.1).tolist() == [0]
    with pytest.raises(ValueError, match="1 boxes and 2 scores"):
        candidates.nms(box, np.zeros(2), 0.1)
    for bad, score in ((box * np.nan, 0), (box, np.nan), (-box, 0)):
        with pytest.raises(ValueError, match="boxes: "):
            candidates.nms(bad, np.array([score], float), 0.1)


def test_a_head_lists_its_outputs_in_the_order_of_the_anchors():
    class Given(nn.Module):
        def forward(self, x):
            return None, x

    network = candidates.RPN(2, 2)
    network.backbone, network.shared, network.objectness, network.boxes = Given(), nn.Identity(), nn.Identity(), nn.Conv3d(2, 12, 1)
    maps = torch.arange(2 * 3 * 4 * 5.0).reshape(1, 2, 3, 4, 5)
    objectness, _ = network(maps)
    anchors = candidates.anchors_of(torch.zeros(1, 1, 6, 8, 10), [2, 4])
    z, y, x = ((anchors[:, :3] + anchors[:, 3:]) / 4).long().T  # the cell that holds the anchor's centre
    assert torch.equal(objectness[0], maps[0, (anchors[:, 3] - anchors[:, 0] > 3).long(), z, y, x])


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_detect_finds_balls_at_their_world_positions(direction):
    scan, _ = chest(direction=direction)
    balls = scan.to_world([[12.0, 20.0, 20.0], [27.0, 33.0, 41.0]])
    found = candidates.detect(fakes(), *chest(balls, direction=direction), SETTINGS)
    assert found.columns.tolist() == ["seriesuid", *PLACES, "score", "source", "diameter_mm"]
    assert (found["seriesuid"] == "1.2.3").all() and found["score"].is_monotonic_decreasing
    distance = np.linalg.norm(found[PLACES].to_numpy()[:, None] - balls, axis=2)
    assert (distance.min(0) < 3.5).all() and set(distance[:2].argmin(1)) == {0, 1}


def test_raw_candidates_keep_both_sources_apart_and_a_box_its_size():
    scan, _ = chest()
    ball = scan.to_world([[20.0, 25.0, 30.0]])
    raw = candidates.raw_candidates(fakes(), *chest(ball), SETTINGS)
    best = raw.sort_values("score", ascending=False).groupby("source").first()
    assert best.index.tolist() == ["blob", "blob-all", "blob-ggo", "rpn"]
    assert (np.linalg.norm(best[PLACES].to_numpy() - ball, axis=1) < 4).all()
    assert raw[raw["source"] == "blob"]["diameter_mm"].isna().all()
    assert best.loc["rpn", "diameter_mm"] == 2 * 2.5  # its anchor: two voxels


def test_nothing_found_is_an_empty_table():
    class Silent(nn.Module):
        def forward(self, x):
            return torch.full_like(x, -50.0), x

    class Elsewhere(nn.Module):
        def forward(self, x):
            objectness, codes = Boxes()(x)
            return objectness, torch.tensor([-1e3, -1e3, -1e3, 0, 0, 0]).expand_as(codes)  # every box far away, outside the lungs

    networks = fakes() | {"blob": Silent(), "blob-ggo": Silent(), "rpn": Elsewhere()}
    scan, lungs = chest()
    lungs[:, :, :30] = False
    found = candidates.detect(networks, scan, lungs, SETTINGS)
    assert len(found) == 0 and found.columns.tolist() == ["seriesuid", *PLACES, "score", "source", "diameter_mm"]


def test_subvoxel_finds_the_tops_of_gaussians_and_stays_within_half_a_voxel():
    rng = np.random.default_rng(0)
    centres = np.array([[5.0, 5.0, 5.0], [5.0, 15.0, 6.0], [16.0, 5.0, 12.0], [19.0, 19.0, 0.0]]) + rng.uniform(-0.49, 0.49, (4, 3))
    centres[3] = [19.0, 19.0, 0.0]  # a corner
    voxels = np.round(centres).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"))
    heat = 0.8 * np.exp(-((grid[None] - centres[:, :, None, None, None]) ** 2).sum(1) / (2 * 1.2**2)).max(0)
    np.testing.assert_allclose(candidates.subvoxel(heat, voxels), centres, atol=1e-3)
    rough = rng.random((20, 20, 20))
    assert np.abs(candidates.subvoxel(rough, voxels) - voxels).max() <= 0.5
    assert np.array_equal(candidates.subvoxel(np.full((20, 20, 20), 0.3), voxels), voxels)
    assert candidates.subvoxel(heat, np.empty((0, 3), int)).shape == (0, 3)


# The union of both sources ----------------------------------------------------------------------------------------------------


def test_rarity_counts_what_is_at_least_as_high():
    reference = np.sort(np.random.default_rng(0).random(200))
    scores = np.linspace(-0.1, 1.1, 50)
    expected = [1 / (1 + (reference >= score).sum() / 4) for score in scores]
    np.testing.assert_allclose(candidates.rarity(scores, reference, 4), expected)
    assert (np.diff(candidates.rarity(scores, reference, 4)) >= 0).all() and candidates.rarity(np.array([2.0]), reference, 4) == 1


def test_union_keeps_the_better_score_of_two_the_place_of_the_blob_and_the_size_of_the_box():
    reference = {"blob": np.linspace(0, 1, 101), "rpn": np.linspace(0, 1, 101) / 2, "scans": 2}
    raw = pd.concat([marks([(0, 0.95), (51, 0.2), (104, 0.5)]), marks([(4, 0.1, 8.0), (53, 0.45, 11.0), (90, 0.3, 5.0)], source="rpn")])
    found = candidates.union(raw, reference, SETTINGS)
    assert found["coordX"].tolist() == [0, 51, 90, 104] and found["source"].tolist() == ["blob", "rpn", "rpn", "blob"]
    assert found["diameter_mm"].tolist()[:3] == [8.0, 11.0, 5.0] and np.isnan(found["diameter_mm"][3])
    np.testing.assert_allclose(found["score"], [1 / (1 + above / 2) for above in (6, 11, 41, 51)])


@pytest.mark.parametrize("away, place", [(2.9, 2.9), (5.9, 0.0)])
def test_union_moves_a_box_to_a_blob_only_where_they_all_but_coincide(away, place):
    reference = {"blob": np.linspace(0, 1, 11), "rpn": np.linspace(0, 1, 11), "scans": 1}
    found = candidates.union(pd.concat([marks([(0, 0.9, 6.0)], source="rpn"), marks([(away, 0.5)])]), reference, SETTINGS)
    assert found["coordX"].tolist() == [place] and found["diameter_mm"].tolist() == [6.0]


def test_union_of_a_chain_keeps_both_ends():
    reference = {"blob": np.linspace(0, 1, 11), "rpn": np.empty(0), "scans": 1}
    raw = marks([(0, 0.9), (5, 0.5), (10, 0.1)])
    assert candidates.union(raw, reference, SETTINGS)["coordX"].tolist() == [0, 10]


def test_union_of_nothing_is_nothing():
    reference = {"blob": np.linspace(0, 1, 11), "rpn": np.empty(0), "scans": 1}
    assert candidates.union(marks([]), reference, SETTINGS).empty


def random_raw(scans, count, seed=0):
    rng = np.random.default_rng(seed)
    tables = []
    for uid in range(scans):
        for source in ("blob", "rpn"):
            table = pd.DataFrame(rng.uniform(0, 60, (count, 3)), columns=PLACES)
            tables.append(table.assign(seriesuid=str(uid), score=rng.random(count), source=source, diameter_mm=rng.uniform(4, 9, count)))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("seed", range(5))
def test_a_scan_keeps_the_best_of_its_candidates_none_nearer_than_allowed(seed):
    raw = random_raw(4, 40, seed)
    calibration = candidates.calibrate(raw, 4)
    for _, table in raw.groupby("seriesuid"):
        found, everything = (each(table, calibration, SETTINGS) for each in (candidates.union, candidates.merged))
        assert len(found) == SETTINGS.cg_per_scan < len(everything)
        pd.testing.assert_frame_equal(found, everything.head(SETTINGS.cg_per_scan))
        apart = np.linalg.norm(everything[PLACES].to_numpy()[:, None] - everything[PLACES].to_numpy(), axis=2)
        assert everything["score"].is_monotonic_decreasing and apart[~np.eye(len(apart), dtype=bool)].min() > SETTINGS.cg_merge


def test_one_threshold_of_validation_is_held_against_each_benchmark():
    raw = {name: random_raw(4, count, count) for name, count in (("validation", 40), ("in-house", 80), ("nlst", 20))}
    calibration = candidates.calibrate(raw["validation"], 4)
    found = {name: candidates._merged_scans(tables, calibration, SETTINGS) for name, tables in raw.items()}
    places = np.random.default_rng(0).uniform(0, 60, (30, 3))
    nodules = pd.DataFrame(places, columns=PLACES).assign(seriesuid="0", diameter_mm=10.0, type="solid")
    data = SimpleNamespace(of=lambda name: SimpleNamespace(annotations=nodules, uids=list("0123")))
    table = candidates.threshold_table(data, found, 20).set_index("dataset")
    assert 19 <= table["candidates_per_scan"]["validation"] <= 20 and table["threshold"].nunique() == 1  # ties go together
    assert table["candidates_per_scan"]["in-house"] > 25 and table["candidates_per_scan"]["nlst"] < 15
    for name, row in table.iterrows():
        kept = found[name][found[name]["score"] >= row["threshold"]]
        assert row["candidates_per_scan"] == len(kept) / 4 and row["most"] == kept["seriesuid"].value_counts().max()
        assert row["sensitivity"] == (candidates.hit_scores(nodules, kept) > -np.inf).mean()


def test_calibration_is_the_sorted_scores_of_each_source():
    raw = pd.concat([marks([(0, 0.9), (9, 0.1)]), marks([(0, 0.3)], source="rpn"), marks([(0, 0.2)], source="blob-all")])
    calibration = candidates.calibrate(raw, 2)
    assert calibration["blob"].tolist() == [0.1, 0.9] and calibration["rpn"].tolist() == [0.3] and calibration["scans"] == 2
    with pytest.raises(runs.InputError, match="nothing in the validation scans"):
        candidates.calibrate(raw.iloc[:0], 2)


# Storage ----------------------------------------------------------------------------------------------------------------------


def test_stored_networks_answer_as_before(tmp_path):
    torch.manual_seed(0)
    networks = {"blob": candidates.ResUNet(2), "blob-ggo": candidates.ResUNet(2), "rpn": candidates.RPN(2, 2)}
    for network in networks.values():
        network.to(memory_format=torch.channels_last_3d).eval()
    networks["calibration"] = candidates.calibrate(random_raw(3, 10), 3)
    candidates.save_networks(networks, tmp_path)
    again = candidates.load_networks(tmp_path)
    volume = torch.rand(16, 12, 12, generator=generator())
    for name in ("blob", "blob-ggo"):
        assert torch.equal(candidates.heatmap(again[name], volume), candidates.heatmap(networks[name], volume))
    with torch.no_grad():
        for new, old in zip(again["rpn"](volume[None, None]), networks["rpn"](volume[None, None]), strict=True):
            assert torch.equal(new, old)
    assert not any(parameter.requires_grad for name in candidates.NETWORKS for parameter in again[name].parameters())
    assert again["calibration"]["scans"] == 3
    assert all(np.array_equal(again["calibration"][source], networks["calibration"][source]) for source in ("blob", "rpn"))
    raw = random_raw(1, 10, seed=1)
    pd.testing.assert_frame_equal(*(candidates.union(raw, x["calibration"], SETTINGS) for x in (again, networks)))


def test_a_folder_without_networks_is_an_input_error(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(runs.InputError, match="no candidate networks in"):
            candidates.load_networks(folder)


# Numbers ----------------------------------------------------------------------------------------------------------------------


def nodules(*rows):
    table = pd.DataFrame(rows, columns=["seriesuid", "coordX", "diameter_mm"])
    return table.assign(coordY=0.0, coordZ=0.0)


def test_a_hit_is_closer_than_the_radius_and_in_the_same_scan():
    found = nodules(("1", 0.0, 10.0), ("1", 100.0, 10.0), ("2", 0.0, 10.0))
    found.index = [7, 3, 5]
    table = pd.concat([marks([(4.999, 0.3), (5.0, 0.9), (-2, 0.1), (95.0, 0.8)]), marks([(4, 0.6)], uid="3")])
    assert candidates.hit_scores(found, table).tolist() == [0.3, -np.inf, -np.inf]
    assert candidates.hit_scores(found, marks([])).tolist() == [-np.inf] * 3


@pytest.mark.parametrize("per_scan, scans, left", [(1, 2, 2), (4, 3, 12), (0.5, 4, 2), (7, 3, 20)])
def test_score_at_leaves_that_many(per_scan, scans, left):
    table = marks([(0, score) for score in np.random.default_rng(0).permutation(20) / 20])
    assert (table["score"] >= candidates.score_at(table, per_scan, scans)).sum() == left


def test_score_at_takes_equal_scores_all_or_none():
    table = marks([(0, 0.9), (9, 0.7), (18, 0.7), (27, 0.7), (36, 0.1)])
    left = [int((table["score"] >= candidates.score_at(table, per_scan, 1)).sum()) for per_scan in range(7)]
    assert left == [0, 1, 1, 1, 4, 5, 5]


def test_score_at_leaves_none_where_none_is_allowed():
    table = marks([(0, 0.5), (9, 0.7)])
    assert (table["score"] >= candidates.score_at(table, 0.5, 1)).sum() == 0


def test_sensitivity_numbers_have_the_rows_the_claims_read():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0), ("2", 0.0, 8.0), ("2", 50.0, 20.0))
    far = [(1000 + 10 * k, 0.5 - k / 100) for k in range(20)]
    raw = pd.concat([
        marks([(0, 0.9), (51, 0.8), *far]), marks([(0, 0.3), *far], uid="2"),
        marks([(0, 0.1), *far], source="rpn"), marks([(52, 0.9), *far], uid="2", source="rpn"),
    ])  # fmt: skip
    found = pd.concat([marks([(0, 0.9), (51, 0.8)]), marks([(500, 0.7)], uid="2")])
    rows = candidates.sensitivity_numbers(truth, raw, found, 2)
    assert set(rows.columns) == {"claim", "measure", "network", "condition", "item", "value"} and rows["value"].notna().all()
    first = rows[rows["claim"] == "M1"]
    assert len(first) == 2 * 2 * 4 and set(first["measure"]) == {"detected-4", "detected-8"} and set(first["network"]) == {"blob", "rpn"}
    items = ["1:0", "1:1", "2:0", "2:1"]
    for _, part in first.groupby(["network", "measure"]):
        assert part["item"].tolist() == items and part["condition"].tolist() == ["small", "large", "small", "large"]
    at = {key: part["value"].tolist() for key, part in first.groupby(["network", "measure"])}
    assert at["blob", "detected-8"] == [1, 1, 0, 0] and at["rpn", "detected-4"] == [0, 0, 0, 1]
    detected = rows[rows["measure"] == "detected"]
    assert detected["item"].tolist() == items and detected["value"].tolist() == [1, 1, 0, 0] and set(detected["network"]) == {"union"}
    count = rows[rows["measure"] == "candidates_per_scan"]
    assert count["value"].tolist() == [1.5] and count["item"].tolist() == [""]
    assert not rows.duplicated(["claim", "measure", "network", "item"]).any()


def test_a_nodule_that_no_mark_hits_is_missed_however_few_marks_there_are():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0))
    raw = pd.concat([marks([(0, 0.9)]), marks([(51, 0.9)], source="rpn")])
    rows = candidates.sensitivity_numbers(truth, raw, marks([(0, 0.9)]), 1)
    at = {key: part["value"].tolist() for key, part in rows[rows["claim"] == "M1"].groupby(["network", "measure"])}
    assert at["blob", "detected-4"] == at["blob", "detected-8"] == [1, 0] and at["rpn", "detected-8"] == [0, 1]


def test_the_sensitivity_curve_rises_to_the_share_that_is_hit():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0), ("2", 0.0, 8.0), ("2", 50.0, 20.0))
    table = pd.concat([marks([(0, 0.9), (51, 0.1), (500, 0.5)]), marks([(52, 0.2), (400, 0.6)], uid="2")])
    curve = candidates.sensitivity_curve(truth, table, 2)
    assert curve["per_scan"].iloc[0] == 0.5 and curve["per_scan"].iloc[-1] == pytest.approx(100)
    assert curve["sensitivity"].is_monotonic_increasing
    assert curve["sensitivity"].iloc[0] == 0.25 and curve["sensitivity"].iloc[-1] == 0.75


def test_sensitivities_have_intervals_over_scans_and_wilsons_where_all_or_none_are_found():
    truth = nodules(*[(str(k), 0.0, 10.0) for k in range(40)], *[(str(k), 50.0, 10.0) for k in range(40)])
    table = pd.concat([marks([(0, 0.9), (50, 0.9), (500, 0.8)] if k < 30 else [(500, 0.5)], uid=str(k)) for k in range(40)])
    none, most, found = candidates.sensitivities(truth, table, 40, [0.01, 1.5, 100]).itertuples()
    assert (none.sensitivity, none.lower) == (0, 0)
    assert none.upper == pytest.approx(stats.binomtest(0, 40).proportion_ci(method="wilson").high)
    assert most.sensitivity == found.sensitivity == 0.75 and most.nodules == 80
    # both nodules of a scan are found or neither: 40 draws, not 80
    assert (found.lower, found.upper) == pytest.approx(stats.binom.ppf([0.025, 0.975], 40, 0.75) / 40, abs=0.03)
    everything = candidates.sensitivities(truth[truth["seriesuid"].astype(int) < 30], table, 40, [100]).iloc[0]
    assert (everything["sensitivity"], everything["upper"]) == (1, 1) and 0.85 < everything["lower"] < 0.95


def test_the_sensitivity_table_splits_by_type_and_diameter():
    truth = nodules(("1", 0.0, 6.0), ("1", 50.0, 12.0), ("2", 0.0, 8.0), ("2", 50.0, 20.0))
    truth["type"] = ["solid", "solid", "ground_glass", ""]
    table = candidates.sensitivity_table(truth, pd.concat([marks([(0, 0.9), (51, 0.8)]), marks([(3.9, 0.7)], uid="2")]), 2)
    assert table["group"].unique().tolist() == ["all", "ground_glass", "solid", *candidates.DIAMETERS]
    counts = {"all": 4, "ground_glass": 1, "solid": 2} | dict.fromkeys(candidates.DIAMETERS, 1)
    assert table.groupby("group")["nodules"].first().to_dict() == counts
    at = table[table["per_scan"] == 100].set_index("group")["sensitivity"]
    assert at.to_dict() == {"all": 0.75, "ground_glass": 1, "solid": 1, "6-8 mm": 1, "8-12 mm": 1, "12-20 mm": 1, "20+ mm": 0}
    assert table[(table["group"] == "solid") & (table["per_scan"] == 1)]["sensitivity"].tolist() == [1]


class Sharp(nn.Module):
    """Heatmap logits that grow with the voxel's own value, steeply; `gain` 0 answers nothing."""

    def __init__(self, gain=100.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        return self.gain * (x - 0.5), x


def test_both_networks_are_fused_by_their_maximum():
    volumes = torch.rand(2, 1, 4, 4, 4, generator=generator())
    expected = np.where(volumes.numpy() > 0.5, 100 * (volumes.numpy() - 0.5), 0)
    logits = candidates.fused({"blob": Sharp(), "blob-ggo": Sharp(0.0)})
    np.testing.assert_allclose(logits(volumes).detach(), expected, rtol=1e-6)


def test_an_attack_on_crops_hides_what_noise_of_its_size_does_not():
    volumes = torch.zeros(6, 1, 16, 16, 16)
    volumes[..., 7:10, 7:10, 7:10] = 0.6
    nodules = [np.array([[8.0, 8.0, 8.0, 1.0]])] * 6
    volumes[:, :, 8, 8, 8] = 0.64
    # before: logit 14 at the centre; under attack 12; its neighbours reach 12 at most
    level = torch.tensor(12.01).sigmoid().double().item()
    logits = candidates.fused({"blob": Sharp(), "blob-ggo": Sharp()})
    made = candidates.attacked(logits, volumes, nodules, SETTINGS, generator())
    assert list(made) == ["pgd", "random"]
    for batch in made.values():
        assert 0 <= batch.min() and batch.max() <= 1 and (batch - volumes).abs().max() <= SETTINGS.attack_eps + 1e-6
    found = {name: candidates.shown(logits, batch, nodules, level) for name, batch in ({"clean": volumes} | made).items()}
    assert found["clean"].all() and not found["pgd"].any() and found["random"].any()


def test_a_nodule_is_looked_for_in_its_sphere_wherever_it_lies():
    place = (11, 6, 9)
    around = {tuple(np.add(place, step)) for step in [(0, 0, 0), *np.eye(3, dtype=int), *-np.eye(3, dtype=int)]}
    seen = set()
    for voxel in np.ndindex(16, 16, 16):
        if max(abs(np.subtract(voxel, place))) <= 2:
            volume = torch.zeros(1, 1, 16, 16, 16)
            volume[0, 0][voxel] = 0.9
            seen |= {voxel} if candidates.shown(lambda x: Sharp()(x)[0], volume, [np.array([[*place, 1.2]])], 0.9)[0] else set()
    assert seen == around


def test_scans_without_nodules_do_not_use_up_those_that_are_attacked(monkeypatch):
    grid = ct.Scan(np.zeros((16, 16, 16), np.int16), (2.5, 2.5, 2.5), (0, 0, 0), np.eye(3), "1.2")
    monkeypatch.setattr(candidates, "lung_grid", lambda scan, lungs, spacing: (replace(grid, uid=scan), None))
    table = nodules(*[(uid, 20.0, 8.0) for uid in ("b", "d", "d", "e")]).assign(coordY=20.0, coordZ=20.0)
    data = SimpleNamespace(uids=list("abcde"), annotations=table, scan=lambda uid: uid, lungs=lambda uid: None)
    settings = SimpleNamespace(cg_attack_scans=2, cg_spacing=2.5, cg_crop=8)
    found = list(candidates.nodule_crops(SimpleNamespace(settings=settings), data))
    assert [(uid, len(crops)) for uid, crops, _ in found] == [("b", 1), ("d", 2)]


HARDEN = SimpleNamespace(**vars(SETTINGS), cg_crop=16, cg_scale=1.0, cg_batch=4, cg_rate=0.02, cg_harden_updates=3, cg_harden_steps=2)


def test_the_first_half_of_a_batch_is_attacked_within_eps_and_the_network_left_as_it_was():
    network, seen = Sharp(10.0), []

    def watched(x):
        seen.append((x.detach().clone(), torch.is_grad_enabled()))
        return Sharp.forward(network, x)

    network.forward = watched
    network.train()
    volumes = torch.rand(4, 1, 8, 8, 8, generator=generator())
    loss = candidates.perturbed_loss(HARDEN, generator())(network, volumes, [np.array([[4.0, 4, 4, 1]])] * 4)
    given, _ = seen[-1]
    assert torch.equal(given[2:], volumes[2:])
    change = (given[:2] - volumes[:2]).abs()
    assert 0.9 * SETTINGS.attack_eps < change.max() <= SETTINGS.attack_eps + 1e-6 and network.training and network.gain.requires_grad
    target = candidates.heatmaps((8, 8, 8), [np.array([[4.0, 4, 4, 1]])] * 4, SETTINGS.cg_sigma / SETTINGS.cg_spacing)
    clean, attacked = (candidates.blob_loss(Sharp.forward(network, x)[0], target) for x in (volumes, given))
    assert (attacked[:2] > clean[:2]).all() and loss.item() == pytest.approx(attacked.mean().item(), rel=1e-4)
    loss.backward()
    assert network.gain.grad is not None


def test_hardening_trains_copies_and_leaves_the_plain_networks(exact, tmp_path):
    run = runs.Run("tiny", 100, "phantom", HARDEN, tmp_path)
    networks = {name: candidates.ResUNet(2).eval().requires_grad_(False) for name in ("blob", "blob-ggo")}
    before = {name: copy.deepcopy(network.state_dict()) for name, network in networks.items()}
    hardened, losses = candidates.harden(run, networks, grids())
    assert list(hardened) == ["blob", "blob-ggo"] and losses.groupby("network").size().tolist() == [3, 3]
    for name, network in hardened.items():
        assert all(torch.equal(value, before[name][key]) for key, value in networks[name].state_dict().items())
        assert any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
        assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    again, _ = candidates.harden(run, networks, grids())
    for name, network in hardened.items():
        assert all(torch.equal(value, again[name].state_dict()[key]) for key, value in network.state_dict().items())


def test_hardening_numbers_count_shown_nodules_and_clean_sensitivity():
    conditions = np.repeat(candidates.CONDITIONS, 2)
    table = pd.DataFrame({"seriesuid": "1", "item": ["1:0", "1:1"] * 4, "network": "plain", "condition": conditions})
    table = pd.concat([table.assign(value=[1, 1, 1, 1, 0, 0, 0, 1]), table.assign(network="hardened", value=1)])
    truth = nodules(("1", 0.0, 6.0), ("2", 0.0, 8.0))
    both = {"plain": pd.concat([marks([(0, 0.9)]), marks([(0, 0.8)], uid="2")]), "hardened": marks([(0, 0.9)])}
    rows = candidates.hardening_numbers(table, both, truth, 2, 100)
    attacked = rows[rows["dataset"] == "benchmarks"].set_index(["network", "condition"])
    assert attacked.loc["plain", "sensitivity"].to_dict() == {"clean": 1, "random": 1, "transfer": 0, "pgd": 0.5}
    assert (attacked["nodules"] == 2).all() and (attacked.loc["hardened", "sensitivity"] == 1).all()
    expected = stats.binomtest(1, 2).proportion_ci(method="wilson")
    assert attacked.loc[("plain", "pgd"), ["lower", "upper"]].tolist() == pytest.approx([expected.low, expected.high])
    clean = rows[rows["dataset"] == "validation"].set_index(["network", "per_scan"])["sensitivity"]
    assert clean["plain", 100] == 1 and clean["hardened", 100] == 0.5
    numbers = candidates.attack_numbers(table)
    assert set(numbers["condition"]) == {"clean", "pgd", "random"} and numbers["value"].tolist() == [1, 1, 1, 1, 0, 1]


def test_a_data_set_without_a_candidate_is_an_input_error(monkeypatch):
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "score", "source", "diameter_mm"]
    monkeypatch.setattr(candidates, "raw_candidates", lambda *given: pd.DataFrame(columns=columns))
    data = SimpleNamespace(uids=["1", "2"], scan=lambda uid: None, lungs=lambda uid: None)
    with pytest.raises(runs.InputError, match="nothing in the scans of 'nlst'"):
        candidates._search({}, data, SETTINGS, "nlst")


# the parts of the whole


def test_the_fused_heatmap_has_the_peaks_of_both_networks(monkeypatch):
    maps = {"blob": torch.zeros(8, 8, 8), "blob-ggo": torch.zeros(8, 8, 8)}
    maps["blob"][2, 2, 2], maps["blob-ggo"][5, 5, 5] = 0.9, 0.4
    monkeypatch.setattr(candidates, "heatmap", lambda network, volume: maps[network])
    grid = ct.Scan(np.zeros((8, 8, 8), np.int16), (1, 1, 1), (0, 0, 0), np.eye(3), "1.2")
    found = candidates.blob_candidates({name: name for name in maps}, grid, np.ones((8, 8, 8), bool), SimpleNamespace(cg_keep=9))
    scores = {source: rows["score"].round(6).tolist() for source, rows in found.groupby("source")}
    assert scores == {"blob": pytest.approx([0.9, 0.4]), "blob-all": pytest.approx([0.9]), "blob-ggo": pytest.approx([0.4])}


def test_of_two_boxes_that_share_a_third_the_better_is_proposed(monkeypatch):
    boxes = torch.tensor([[0.0, 0, 0, 8, 8, 8], [0, 0, 4, 8, 8, 12], [20, 20, 20, 28, 28, 28]])  # 4 / 12 of the first two is shared
    monkeypatch.setattr(candidates, "best_boxes", lambda *_: (boxes, torch.tensor([0.9, 0.8, 0.7])))
    centres, diameters, scores = candidates.proposals(None, None, (4,), 9)
    assert scores.tolist() == pytest.approx([0.9, 0.7]) and diameters.tolist() == [8, 8] and centres[0].tolist() == [4, 4, 4]


def test_each_network_has_its_crops_and_starts_where_it_should(monkeypatch):
    settings = SimpleNamespace(cg_crop=16, cg_batch=2, cg_scale=1.1, cg_width=2, cg_sigma=3.0, cg_spacing=2.5, cg_updates=1, cg_rate=0.01)
    settings.cg_finetune_updates, settings.cg_anchors = 1, (5.0, 10.0)
    started, told = [], []

    def train(network, loss, batches, updates, rate, desc):
        started.append({name: value.clone() for name, value in network.state_dict().items()})
        with torch.no_grad():
            network.heat.weight.add_(1) if hasattr(network, "heat") else None
        return [0.0]

    monkeypatch.setattr(candidates, "train", train)
    monkeypatch.setattr(candidates, "crops", lambda grids, size, count, rng, scale, **terms: told.append((scale, terms)))
    run = SimpleNamespace(settings=settings, generator=lambda *_: torch.Generator().manual_seed(1), rng=lambda *_: None)
    networks, _ = candidates.train_networks(run, grids())
    assert told == [(1.1, {}), (1.1, {"faded": 0.75, "rare": 0.5}), (1.1, {})]
    blob = networks["blob"].state_dict()
    assert all(torch.equal(started[1][name], value) for name, value in blob.items())  # ground glass is fine-tuned from all nodules
    assert all(torch.equal(started[2][f"backbone.{name}"], value) for name, value in blob.items())
    assert not torch.equal(started[0]["heat.weight"], blob["heat.weight"])
