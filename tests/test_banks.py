import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv import banks, ct, fpr, pgd, phantom, recipes, runs, synthesizer

SIZE = 16
SETTINGS = SimpleNamespace(
    patch_size=SIZE, patch_spacing=2.5, attack_eps=0.02, attack_steps=5, latent_eps=1.5, latent_steps=8,
    bank_backgrounds=3, bank_samples=2, bank_noise=10,
)  # fmt: skip


class Detector(nn.Module):
    """Evidence (or logits) that grows with the contrast of the centre to its surroundings."""

    def __init__(self, output="evidence"):
        super().__init__()
        self.output, self.scale = output, nn.Parameter(torch.tensor(12.0))

    def forward(self, patches):
        centre = patches[:, 0, 6:10, 6:10, 6:10].mean((1, 2, 3))
        logit = self.scale * (centre - patches.mean((1, 2, 3, 4)) - 0.15)
        if self.output == "logits":
            return torch.stack([-logit / 2, logit / 2], dim=1)
        return nn.functional.softplus(torch.stack([logit, -logit], dim=1))


class Ball(nn.Module):
    """A ball whose size and brightness are the two numbers of the code."""

    latent_size = 2

    def forward(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(SIZE) - (SIZE - 1) / 2] * 3, indexing="ij"))
        radius = (2 + z[:, :1]).reshape(-1, 1, 1, 1, 1)
        mask = torch.sigmoid(4 * (radius - grid.norm(dim=0)))
        return mask * z[:, 1].sigmoid().reshape(-1, 1, 1, 1, 1), mask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(count=7, seed=0):
    return torch.rand(count, 1, SIZE, SIZE, SIZE, generator=generator(seed))


@pytest.mark.parametrize("output", ["evidence", "logits"])
@pytest.mark.parametrize("label", [0, 1])
def test_perturb_raises_the_loss_within_eps_and_range(output, label):
    start = patches()
    attack = banks.perturb(Detector(output), start, label, SETTINGS, generator())
    assert (attack.loss_best > attack.loss_start).all()
    assert (attack.best - start).abs().max() <= SETTINGS.attack_eps + 1e-6
    assert attack.best.min() >= 0 and attack.best.max() <= 1
    before, after = (Detector("logits")(x)[:, 1] for x in (start, attack.best))
    assert (after < before).all() if label else (after > before).all()


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_search_latent_raises_the_loss_within_its_ball_and_touches_no_parameter(output):
    network, behind = Detector(output), 0.2 * patches()
    z = synthesizer.draw_latents(Ball(), 7, SETTINGS.patch_spacing, generator())
    attack = banks.search_latent(network, Ball(), behind, z, SETTINGS, generator())
    assert (attack.loss_best >= attack.loss_start).all() and attack.success.float().mean() > 0.7  # the smallest cannot shrink
    assert (attack.best - z).norm(dim=1).max() <= SETTINGS.latent_eps + 1e-5
    scores = [banks.attack_loss(network, 1)(synthesizer.fuse(behind, *Ball()(code))) for code in (z, attack.best)]
    assert torch.allclose(scores[0], attack.loss_start) and torch.allclose(scores[1], attack.loss_best)
    assert network.scale.grad is None


def test_search_latent_keeps_nodules_large_enough_and_makes_small_ones_larger():
    def diameters(codes):
        return synthesizer.diameter_mm(Ball()(codes)[1], SETTINGS.patch_spacing)

    z = torch.tensor([[0.2, 2.0], [-0.3, 2.0], [-1.2, 2.0]])  # 11, 8.5 and 4 mm
    assert (diameters(z)[:2] >= 6).all() and diameters(z)[2] < 6
    free = pgd.pgd(lambda codes: -Ball()(codes)[1].flatten(1).sum(1), z, eps=1.5, steps=8, norm="l2", generator=generator()).best
    assert (diameters(free) < 6).all()  # the ball around each code reaches smaller ones
    found = banks.search_latent(Detector(), Ball(), 0.2 * patches(3), z, SETTINGS, generator()).best
    assert (diameters(found) >= 6).all()


def test_attack_loss_of_logits_is_cross_entropy():
    network, x = Detector("logits"), patches()
    probability = network(x).softmax(1)[:, 1]
    assert torch.allclose(banks.attack_loss(network, 1)(x), -probability.log(), atol=1e-6)
    assert torch.allclose(banks.attack_loss(network, 0)(x), -(1 - probability).log(), atol=1e-6)


def toy_scan(seed=0):
    """A scan, its lungs and two nodules (one of them excluded) with their voxels marked."""
    shape, spacing, origin = (60, 70, 80), (2.0, 2.0, 2.5), (-80.0, -60.0, 10.0)
    scan = ct.Scan(np.full(shape, -850, np.int16), spacing, origin, np.eye(3), "1.2.3")
    findings = pd.DataFrame({"coordX": [-20.0, 30.0], "coordY": [0.0, 30.0], "coordZ": [60.0, 100.0], "diameter_mm": [14.0, 5.0]})
    world = scan.to_world(np.indices(shape).reshape(3, -1).T)
    nodules = np.zeros(len(world), bool)
    for row in findings.itertuples():
        nodules |= np.linalg.norm(world - [row.coordX, row.coordY, row.coordZ], axis=1) <= row.diameter_mm / 2
    lungs = np.zeros(shape, bool)
    lungs[5:55, 5:65, 5:75] = True
    return scan, lungs, findings, nodules.reshape(shape)


def test_backgrounds_lie_in_the_lungs_and_hold_no_voxel_of_a_nodule():
    scan, lungs, findings, nodules = toy_scan()
    points = fpr.clear_positions(lungs, scan, findings, 30.0, 40, np.random.default_rng(0))
    assert len(points) == 40 and len(np.unique(points, axis=0)) == 40
    assert lungs[tuple(np.rint(scan.to_voxel(points)).astype(int).T)].all()
    marked = ct.Scan(nodules.astype(np.int16) * 1000, scan.spacing, scan.origin, scan.direction, scan.uid)
    assert ct.extract_patches(marked, points, 30, 1.0).max() <= 0
    assert ct.extract_patches(marked, findings[["coordX", "coordY", "coordZ"]].to_numpy(), 30, 1.0).amax((1, 2, 3, 4)).min() > 500


def test_full_lungs_give_fewer_backgrounds_and_no_lungs_none():
    scan, lungs, findings, _ = toy_scan()
    assert len(fpr.clear_positions(lungs, scan, findings.assign(diameter_mm=400.0), 30.0, 5, np.random.default_rng(0))) == 0
    assert len(fpr.clear_positions(lungs & False, scan, findings, 30.0, 5, np.random.default_rng(0))) == 0


def work(run, network=None, synthesizer=None, items=12):
    """What banks are made from, with a detector and a synthesizer of a few lines and patches of dark noise with a margin of two voxels."""
    side = SIZE + 2 * fpr.MARGIN
    hu = ct.to_hu(0.2 * torch.rand(5, 1, side, side, side, generator=generator())).round().to(torch.int16)
    place = np.arange(items) % 5
    rows = pd.DataFrame({"item": range(items), "place": place, "seriesuid": "1.2", "coordX": 0.0, "coordY": 0.0, "coordZ": 0.0})
    tables = {"synthetic": rows, "perturbed": rows.assign(type="solid", diameter_mm=8.0), "noise": rows[["item"]]}
    return banks.Work(run, network or Detector(), synthesizer or Ball(), hu, tables)


class ToyRun(SimpleNamespace):
    """The settings and draws of a run."""

    def generator(self, *items, device="cpu"):
        return torch.Generator(device).manual_seed(sum(map(ord, "".join(map(str, items)))))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(runs, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(banks, "SHARD", 8)
    monkeypatch.setattr(banks, "BATCH", 5)
    return work(ToyRun(settings=SETTINGS))


def test_synthetic_banks_are_pairs_of_nodules_that_count(toy):
    table = banks.make_shard(toy, "synthetic", 0).to_pandas()
    random, searched = (table[table["bank"] == name].reset_index(drop=True) for name in fpr.BANKS[:2])
    assert random["item"].tolist() == searched["item"].tolist() == list(range(8)) and (table["diameter_mm"] >= 6).all()
    assert (random["delta_norm"] == 0).all() and (searched["delta_norm"] <= SETTINGS.latent_eps + 1e-5).all()
    assert np.array_equal(np.stack(random["code"]), np.stack(searched["code"])) and (random["seriesuid"] == searched["seriesuid"]).all()
    assert (searched["loss_after"] >= random["loss_before"]).all() and (searched["loss_after"] > random["loss_before"]).mean() > 0.7
    assert np.allclose(table["confidence_after"], table["confidence_searched"], atol=1e-5)


def test_small_nodules_are_left_out_of_the_banks(toy, monkeypatch):
    small = torch.tensor([[0.5, 0.0], [-1.9, 0.0]])
    monkeypatch.setattr(banks, "BATCH", 8)
    monkeypatch.setattr(synthesizer, "draw_latents", lambda net, count, *given: small.repeat(5, 1)[:count])
    monkeypatch.setattr(banks, "search_latent", lambda *given: pgd.Attack(given[3], *torch.zeros(3, len(given[3])), 1))
    shard = banks.make_shard(toy, "synthetic", 0)
    table = shard.to_pandas()
    for name in fpr.BANKS[:2]:
        assert table["item"][table["bank"] == name].tolist() == [0, 2, 4, 6]
        assert banks.left_out(shard.schema)[name] == {"redrawn": 0, "under_6mm": 4, "changed": 0}
    assert (table["diameter_mm"] >= 6).all()


def test_a_synthesizer_of_specks_is_an_input_error(toy):
    class Speck(Ball):
        def forward(self, z):
            nodule, mask = super().forward(z)
            return nodule * 0, mask * 0

    with pytest.raises(runs.InputError, match="no synthetic nodule reaches 6 mm"):
        banks.make_shard(work(toy.run, synthesizer=Speck()), "synthetic", 0)


def written(toy, folder, kinds=("synthetic", "perturbed", "noise")):
    """All shards of these kinds in `folder`."""
    for kind in kinds:
        for k in range(2):
            banks.pq.write_table(banks.make_shard(toy, kind, k), folder / f"{kind}-{k}.parquet")


def test_what_a_file_holds_rebuilds_the_patches_that_the_network_was_shown(toy, tmp_path):
    written(toy, tmp_path)
    for name in fpr.BANKS:
        kind = name.split("-")[0]
        bank = toy.rebuilt(kind, recipes.read(tmp_path, kind, recipes.COLUMNS[kind], name))
        shown = pd.concat([banks.pq.read_table(path).to_pandas() for path in recipes.shard_files(tmp_path, kind)])
        shown = shown[shown["bank"] == name]
        assert len(bank) == len(shown) == 12
        patches = recipes.centre(bank[torch.arange(12)], SIZE)
        assert patches.min() >= 0 and patches.max() <= 1
        confidence = banks.answers(toy.network, patches)
        assert np.allclose(confidence, shown["confidence_after"], atol=1e-6)
        assert ((confidence > 0.5) == (shown["confidence_searched"] > 0.5)).all()
        some = torch.tensor([7, 2])
        assert torch.allclose(recipes.centre(bank[some], SIZE), patches[some], atol=1e-6)
        if kind != "synthetic":
            assert (patches - bank.start(torch.arange(12))).abs().max() <= SETTINGS.attack_eps + 1e-6
            assert ((confidence < shown["confidence_before"]) == (kind == "perturbed")).all()


def test_packed_changes_stay_in_the_ball_and_are_off_by_a_third_at_most():
    delta = SETTINGS.attack_eps * (2 * patches() - 1)
    again = recipes.unpack(recipes.pack(delta, SETTINGS.attack_eps), SETTINGS.attack_eps, SIZE)
    assert again.abs().max() <= SETTINGS.attack_eps and (again - delta).abs().max() <= SETTINGS.attack_eps / 3 + 1e-7
    levels = torch.tensor([-1, -1 / 3, 1 / 3, 1]) * SETTINGS.attack_eps
    nearest = levels[(delta[..., None] - levels).abs().argmin(-1)]
    assert torch.allclose(again, nearest, atol=1e-8)


def test_noise_is_uniform_and_a_seed_says_which():
    from scipy import stats

    one = recipes.noise(torch.tensor([3, 4, 3 + 2**32, 2**62 + 1]), 24)
    assert torch.equal(recipes.noise(torch.tensor([2**62 + 1]), 24)[0], one[3]) and 0 <= one.min() and one.max() < 1
    assert all(stats.kstest(row, "uniform").pvalue > 1e-3 for row in one.flatten(1).numpy())
    assert np.abs(np.corrcoef(one.flatten(1)) - np.eye(4)).max() < 0.03


def mixed(x):
    """The finaliser of MurmurHash3 in numpy's unsigned numbers, which wrap by themselves."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return x ^ x >> np.uint32(16)


def test_noise_is_the_hash_of_voxel_and_seed():
    seed = 0x7234567890ABCDEF
    bits = mixed(mixed(np.arange(8**3, dtype=np.uint32) + np.uint32(seed & 0xFFFFFFFF)) ^ np.uint32(seed >> 32)) >> np.uint32(8)
    assert np.array_equal(recipes.noise(torch.tensor([seed]), 8).flatten().numpy(), bits.astype(np.float32) / 2**24)


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_banks
from lungadv import banks, runs
test_banks.child(Path({folder!r}), {die})
"""


def child(folder, die):
    """Fill `folder` with the shards of a toy run; with `die`, be killed halfway through writing the third."""
    torch.set_num_threads(1)
    runs.device = lambda: torch.device("cpu")
    banks.SHARD, banks.BATCH = 8, 5
    toy = work(ToyRun(settings=SETTINGS))
    banks.prepare, banks.shard_folder = lambda run: toy, lambda run: folder
    write, count = banks.pq.write_table, []

    def interrupted(table, path, **options):
        count.append(path)
        write(table, path, **options)
        if len(count) == 3:
            path.write_bytes(path.read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)

    if die:
        banks.pq.write_table = interrupted
    banks.fill(toy.run)


def start(folder, die=False):
    code = CHILD.format(here=str(Path(__file__).parent), folder=str(folder), die=die)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, encoding="utf-8")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[a-z]*.parquet")}


def test_a_killed_bank_goes_on_to_the_same_bytes_whoever_makes_them(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    first = start(killed, die=True)
    assert first.communicate() and first.returncode == -signal.SIGKILL
    before = contents(killed)
    assert len(before) == 2 and list(killed.glob(".*.parquet"))  # the third is half-written, under another name
    made = {name: (killed / name).stat().st_mtime_ns for name in before}
    jobs = [start(killed), start(killed), start(whole)]  # two share the rest
    for job in jobs:
        assert job.communicate()[1] is not None and job.returncode == 0
    assert len(contents(whole)) == 6 and contents(killed) == contents(whole)
    assert made == {name: (killed / name).stat().st_mtime_ns for name in before}
    assert not list(killed.glob(".*.parquet"))


def test_the_bank_of_the_paper_fits_in_ten_gigabytes(toy):
    full = runs.load_settings("full")
    voxels = full.patch_size**3
    stored = {kind: banks.make_shard(toy, kind, 0) for kind in toy.items}
    images, synthetic = 22_169 + 100_000, 2 * 389_280
    assert recipes.pack(torch.zeros(1, 1, *(full.patch_size,) * 3), 0.02).nbytes * 8 == 2 * voxels
    rest = {kind: table.drop_columns(["delta"]).nbytes / len(table) for kind, table in stored.items()}  # bytes a row beside the change
    tables = 400  # bytes of a row of bank_<name>.csv, at most
    total = images * (voxels / 4 + max(rest["perturbed"], rest["noise"]) + tables)
    total += synthetic * (rest["synthetic"] + (2 * full.syn_latent) * 4 + tables)
    assert 8.0e9 < total < 10e9


def test_backgrounds_of_the_banks_hold_no_voxel_of_a_nodule_however_they_are_shifted():
    scan, lungs, findings, nodules = toy_scan()
    findings = findings.assign(seriesuid=scan.uid)
    data = SimpleNamespace(
        annotations=findings[:1], excluded=findings[1:], opened=lambda uid: scan, lungs=lambda uid: lungs,
        labels=lambda uid: nodules.astype(np.uint8),
    )  # fmt: skip
    settings = SimpleNamespace(patch_size=26, patch_spacing=1.0, fpr_backgrounds=30)
    none = findings[:0].assign(score=0.0)
    _, table = fpr.patch_positions(SimpleNamespace(settings=settings), data, scan.uid, none, np.random.default_rng(0))
    points = fpr.positions(table[table["kind"] == "background"])
    assert len(points) == 30 and lungs[tuple(np.rint(scan.to_voxel(points)).astype(int).T)].all()
    marked = ct.Scan(nodules.astype(np.int16) * 1000, scan.spacing, scan.origin, scan.direction, scan.uid)
    assert ct.extract_patches(marked, points, 26 + 2 * fpr.MARGIN, 1.0).max() <= 0


def test_unknown_bank_is_an_input_error():
    with pytest.raises(runs.InputError, match="unknown bank 'negatives'"):
        fpr.load_bank(None, "negatives")


def test_the_curve_over_the_radius_begins_unchanged_and_falls(toy):
    curve = banks.latent_curve(toy, (0, 0.5, 1.5), 8, generator())
    assert curve.groupby("eps").size().tolist() == [8, 8, 8]
    first = curve[curve["eps"] == 0]
    assert (first["change_hu"] == 0).all() and first["ssim"].to_numpy() == pytest.approx(np.ones(8))
    means = curve.groupby("eps").mean()
    assert means["confidence"].is_monotonic_decreasing and means["change_hu"].is_monotonic_increasing
    assert means["ssim"].is_monotonic_decreasing and (curve["diameter_mm"] >= 6).all()
    moved = curve[curve["eps"] == 1.5]["length"].to_numpy() - first["length"].to_numpy()
    assert np.abs(moved).max() <= 1.5 / toy.generator.latent_size**0.5 + 1e-5  # the root of L scales a length of 1.5


def test_image_change_is_measured_inside_alone():
    before, inside = torch.rand(2, 1, 10, 10, 10), torch.zeros(2, 1, 10, 10, 10, dtype=torch.bool)
    inside[..., :3] = True
    after = before + torch.where(inside, 0.05, 0.0)
    change, _ = banks.image_change(before, after, inside)
    assert change.tolist() == pytest.approx([70, 70], rel=1e-4)
    far = before.clone()
    far[..., 9] += 0.3  # beyond the window of the similarity
    change, ssim = banks.image_change(before, far, inside)
    assert change.tolist() == [0, 0] and ssim.tolist() == pytest.approx([1, 1])


def test_a_voxel_is_stored_as_the_level_that_comes_nearest_to_the_searched_patch():
    eps = SETTINGS.attack_eps
    start = (1.2 * patches() - 0.1).clamp(0, 1)  # a sixth of the voxels on a bound
    searched = (start + eps * (2 * patches(seed=1) - 1)).clamp(0, 1)
    rebuilt = (start + recipes.unpack(recipes.pack(searched - start, eps, start), eps, SIZE)).clamp(0, 1)
    levels = torch.tensor([-1, -1 / 3, 1 / 3, 1]) * eps
    nearest = ((start[..., None] + levels).clamp(0, 1) - searched[..., None]).abs().amin(-1)
    assert torch.allclose((rebuilt - searched).abs(), nearest, atol=1e-7)
    on_bound = (start == 0) & (searched == 0) | (start == 1) & (searched == 1)
    assert on_bound.sum() > 500 and torch.equal(rebuilt[on_bound], searched[on_bound])


def test_what_a_search_left_as_it_was_gets_neither_brighter_nor_darker():
    still = recipes.unpack(recipes.pack(torch.zeros(2, 1, SIZE, SIZE, SIZE), 0.02), 0.02, SIZE)
    assert still.mean().abs() < 1e-9 and torch.allclose(still.abs(), torch.tensor(0.02 / 3))
    for axis in (2, 3, 4):
        assert torch.equal(still.roll(1, axis), -still)


def test_a_table_tells_of_the_rebuilt_patch(toy):
    table = banks.make_shard(toy, "noise", 0).to_pandas()
    recipe = {name: torch.tensor(np.stack(table[name])) for name in ("seed", "eps")}
    recipe["delta"] = torch.tensor(np.stack([np.frombuffer(row, np.uint8) for row in table["delta"]]))
    bank, rows = toy.rebuilt("noise", recipe), torch.arange(len(table))
    assert np.allclose(banks.attack_loss(toy.network, 0)(bank[rows]).detach(), table["loss_after"], atol=1e-6)
    assert np.allclose((bank[rows] - bank.start(rows)).flatten(1).abs().amax(1), table["delta_norm"])


def test_patches_whose_rebuilt_decision_differs_are_left_out_and_counted(toy, tmp_path, monkeypatch):
    toy = work(ToyRun(settings=SimpleNamespace(**vars(SETTINGS) | {"attack_eps": 0.1})))
    whole = banks.make_shard(toy, "noise", 0).to_pandas()
    moved = (whole["confidence_before"] > 0.5) != (whole["confidence_searched"] > 0.5)
    assert 0 < moved.sum()
    still = recipes.pack(torch.zeros(1, 1, SIZE, SIZE, SIZE), 0.1)
    monkeypatch.setattr(recipes, "pack", lambda delta, *given: still.repeat(len(delta), 1))
    shard = banks.make_shard(toy, "noise", 0)
    assert shard["item"].to_pylist() == whole["item"][~moved].tolist()
    assert banks.left_out(shard.schema) == {"noise": {"redrawn": 0, "under_6mm": 0, "changed": moved.sum()}}
    banks.pq.write_table(shard, tmp_path / "noise-0.parquet")
    counts = banks.summarise(tmp_path).set_index("bank").loc["noise"]
    assert counts["changed"] == moved.sum() and counts["stored"] == 8 - moved.sum()
    assert banks.sound(tmp_path / "noise-0.parquet", 8) and not banks.sound(tmp_path / "noise-0.parquet", 9)


def test_draws_of_small_nodules_are_counted(toy, tmp_path):
    class Smaller(Ball):
        def forward(self, z):
            return super().forward(z - torch.tensor([1.0, 0.0]))

    toy = work(toy.run, synthesizer=Smaller())
    for k in range(2):
        banks.pq.write_table(banks.make_shard(toy, "synthetic", k), tmp_path / f"synthetic-{k}.parquet")
    counts = banks.summarise(tmp_path).set_index("bank").loc[list(fpr.BANKS[:2])]
    tables = [pd.read_csv(tmp_path / f"bank_{name}.csv") for name in fpr.BANKS[:2]]
    assert counts["redrawn"].tolist() == [table["redraws"].sum() for table in tables] and counts["redrawn"].min() > 0
    assert (counts["stored"] + counts["under_6mm"] + counts["changed"] == 12).all()


def test_a_short_shard_may_be_without_a_large_nodule_a_bank_may_not(toy, tmp_path, monkeypatch):
    small = torch.tensor([[-1.9, 0.0]])
    monkeypatch.setattr(synthesizer, "draw_latents", lambda net, count, *given: small.repeat(count, 1))
    monkeypatch.setattr(banks, "search_latent", lambda *given: pgd.Attack(given[3], *torch.zeros(3, len(given[3])), 1))
    with pytest.raises(runs.InputError, match="no synthetic nodule reaches 6 mm"):
        banks.make_shard(toy, "synthetic", 0)
    shard = banks.make_shard(toy, "synthetic", 1)  # of four searches
    assert len(shard) == 0
    banks.pq.write_table(shard, tmp_path / "synthetic-1.parquet")
    assert banks.sound(tmp_path / "synthetic-1.parquet", 4)
    assert recipes.read(tmp_path, "synthetic", recipes.COLUMNS["synthetic"], "synthetic-pgd") == {}
    counts = banks.summarise(tmp_path).assign(drawn=4)
    with pytest.raises(runs.InputError, match="no synthetic nodule reaches 6 mm"):
        banks.check_stored(counts)
    banks.check_stored(counts.assign(stored=1))


def test_an_answer_that_is_no_number_names_shard_and_item(toy):
    class Broken(Detector):
        def forward(self, shown):
            out = super().forward(shown)
            return torch.where((shown[:, 0, 0, 0, 0] > 0.9)[:, None], torch.nan, out)

    first = recipes.noise(torch.randint(2**63 - 1, (5,), generator=toy.run.generator("banks", "noise", 0)), SIZE)[:, 0, 0, 0, 0]
    wrong = (first > 0.9).nonzero().flatten().tolist()
    assert wrong
    settings = SimpleNamespace(**vars(SETTINGS) | {"attack_eps": 1e-6})
    with pytest.raises(runs.InputError, match=rf"noise shard 0, item {wrong[0]}: the answer of baseline"):
        banks.make_shard(work(ToyRun(settings=settings), network=Broken()), "noise", 0)


def spoilt(toy, path, damage):
    """Damage a shard in one of several ways."""
    raw, table = path.read_bytes(), banks.pq.read_table(path).to_pandas()
    if damage == "short":
        return path.write_bytes(raw[:200])
    if damage == "empty":
        return path.write_bytes(b"")
    if damage == "flipped":
        at = banks.pq.read_metadata(path).row_group(0)
        column = next(at.column(k) for k in range(at.num_columns) if at.column(k).path_in_schema == "delta")
        at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2  # data, not a page's head
        return path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
    if damage == "another eps":
        table.loc[1, "eps"] = 0.2
    if damage == "place":
        table.loc[0, "place"] = -1
    if damage == "view":
        table.at[0, "view"] = np.array([0, 0, 0, 48], np.int8)
    if damage == "column":
        table = table.drop(columns="delta")
    banks.pq.write_table(banks.pa.Table.from_pandas(table, preserve_index=False), path)


@pytest.mark.parametrize("damage", ["short", "empty", "flipped", "another eps", "place", "view", "column"])
def test_a_damaged_shard_is_named(toy, tmp_path, damage):
    for k in range(2):
        path = tmp_path / f"perturbed-{k:06d}.parquet"
        banks.pq.write_table(banks.make_shard(toy, "perturbed", k), path, compression="zstd", write_page_checksum=True)
    spoilt(toy, path, damage)
    with pytest.raises(runs.InputError, match=r"^\S*perturbed-000001\.parquet.* delete it and make the banks again"):
        recipes.read(tmp_path, "perturbed", recipes.COLUMNS["perturbed"], "perturbed")


def test_recipes_of_other_patches_are_an_input_error(toy):
    recipe = {"place": torch.tensor([0, 99]), "view": torch.zeros(2, 4, dtype=torch.int8), "delta": torch.zeros(2, 1024), "eps": [0.02]}
    with pytest.raises(runs.InputError, match="training patch 99 of 5"):
        toy.rebuilt("perturbed", recipe)
    recipe |= {"place": torch.tensor([0, 1]), "view": torch.tensor([[0, 0, 0, 0], [9, 0, 0, 0]])}
    with pytest.raises(runs.InputError, match="shifts a patch by 9 of 4 voxels"):
        toy.rebuilt("perturbed", recipe)


@pytest.mark.parametrize("damage", ["short", "empty", "flipped"])
def test_fill_makes_a_damaged_shard_again_and_no_other(toy, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(banks, "prepare", lambda run: toy)
    monkeypatch.setattr(banks, "shard_folder", lambda run: tmp_path / "key")
    folder = banks.fill(toy.run)
    before = contents(folder)
    made = {name: (folder / name).stat().st_mtime_ns for name in before}
    spoilt(toy, folder / "noise-000001.parquet", damage)
    banks.fill(toy.run)
    assert contents(folder) == before
    assert [name for name in before if (folder / name).stat().st_mtime_ns != made[name]] == ["noise-000001.parquet"]


@pytest.fixture
def stage(toy, tmp_path, monkeypatch):
    """A toy run whose banks are built in a folder, its shards in bank-shards/key."""

    class Run(ToyRun):
        def path(self, *names):
            return tmp_path.joinpath(*names)

    @contextmanager
    def writing(run, stage):
        run.path(stage).mkdir()
        yield run.path(stage)

    monkeypatch.setattr(runs, "writing", writing)
    monkeypatch.setattr(banks, "prepare", lambda run: toy)
    monkeypatch.setattr(banks, "shard_folder", lambda run: tmp_path / "bank-shards" / "key")
    return Run(settings=SETTINGS)


def test_building_removes_old_shards_but_none_that_another_job_is_at(stage, tmp_path):
    busy, old = (tmp_path / "bank-shards" / name for name in ("busy", "old"))
    for folder in (busy, old):
        folder.mkdir(parents=True)
        (folder / "noise-000000.parquet").write_bytes(b"x")
    (tmp_path / "bank-shards" / ".DS_Store").write_text("stray")
    with banks.locked(busy, fcntl.LOCK_SH):
        banks.build(stage)
    assert busy.exists() and not old.exists() and (tmp_path / "bank-shards" / ".DS_Store").exists()
    counts = pd.read_csv(tmp_path / "banks" / "counts.csv")
    assert (counts["drawn"] == counts["stored"] + counts["under_6mm"] + counts["changed"]).all() and (counts["drawn"] == 12).all()


def test_building_copies_where_files_cannot_be_linked(stage, tmp_path, monkeypatch):
    def refused(*given):
        raise OSError(errno.EXDEV, "not on this file system")

    monkeypatch.setattr(os, "link", refused)
    banks.build(stage)
    assert contents(tmp_path / "banks") == contents(tmp_path / "bank-shards" / "key") and len(contents(tmp_path / "banks")) == 6


def test_a_bank_that_lacks_a_shard_is_an_input_error(stage, toy, tmp_path, monkeypatch):
    banks.build(stage)
    monkeypatch.setattr(runs, "require", lambda run, stage: tmp_path / stage)
    monkeypatch.setattr(fpr, "read_patches", lambda run, dataset: (None, toy.hu))
    assert len(fpr.load_bank(stage, "noise")[1]) == 12
    (tmp_path / "banks" / "noise-000001.parquet").unlink()
    with pytest.raises(runs.InputError, match="8 recipes of noise, its table 12: a file is missing"):
        fpr.load_bank(stage, "noise")


def test_shards_outlive_a_rerun_to_the_same_files_and_no_other(run):
    for stage, names in banks.READ.items():
        run.path(stage).mkdir(parents=True)
        for name in (*names, "provenance.json"):
            run.path(stage, name).write_text(name)
    first = banks.shard_folder(run)
    for stage in banks.READ:
        run.path(stage, "provenance.json").write_text(json.dumps({"wall_seconds": 3.4}))
    assert banks.shard_folder(run) == first
    run.path("patches", "train.safetensors").write_text("others")
    assert banks.shard_folder(run) != first


MEMORY = """
import resource, sys
from pathlib import Path
from lungadv import recipes
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
marks = []
for folder in sys.argv[1:]:
    found = recipes.read(Path(folder), "noise", recipes.COLUMNS["noise"], "noise")
    del found
    marks.append(peak())
print(*marks)
"""


def test_reading_a_bank_takes_little_more_memory_than_the_bank(tmp_path):
    rng, shard = np.random.default_rng(0), 128
    for name, count in (("small", 4), ("large", 20)):  # 32 and 160 MiB
        (tmp_path / name).mkdir()
        for k in range(count):
            columns = {"bank": ["noise"] * shard, "seed": range(shard), "eps": [0.02] * shard}
            columns["delta"] = [rng.bytes(65536) for _ in range(shard)]
            banks.pq.write_table(banks.pa.table(columns), tmp_path / name / f"noise-{k:06d}.parquet")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "large")]
    small, large = map(float, subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split())
    assert large - small < 1.4 * 128


def test_backgrounds_keep_clear_of_the_outlines_of_the_phantoms_nodules():
    recipe = {"shape": (64, 88, 100), "spacing": (2.5, 2.5, 2.5), "nodules": [{"type": kind, "diameter_mm": 14} for kind in phantom.TYPES]}
    holding = {True: 0, False: 0}
    for index in range(3):
        person = phantom.simulate(recipe | {"small_nodules": 2, "disputed": 1}, 5, index)
        marked = replace(person.scan, hu=(person.labels > 0).astype(np.int16) * 1000)
        for outlined in holding:
            given = person.lungs > 0, person.scan, person.nodules, 20.0, 400, np.random.default_rng(0)
            points = fpr.clear_positions(*given, person.labels if outlined else None)
            assert len(points) == 400
            holding[outlined] += int((ct.extract_patches(marked, points, 20, 1.0).amax((1, 2, 3, 4)) > 0).sum())
    assert holding[True] == 0 < holding[False]
