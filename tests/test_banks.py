from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv import banks, ct, fpr, runs, synthesizer

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
    free = banks.pgd(lambda codes: -Ball()(codes)[1].flatten(1).sum(1), z, eps=1.5, steps=8, norm="l2", generator=generator()).best
    assert (diameters(free) < 6).all()  # the ball around each code reaches smaller ones
    found = banks.search_latent(Detector(), Ball(), 0.2 * patches(3), z, SETTINGS, generator()).best
    assert (diameters(found) >= 6).all()


def test_attack_loss_of_logits_is_cross_entropy():
    network, x = Detector("logits"), patches()
    probability = network(x).softmax(1)[:, 1]
    assert torch.allclose(banks.attack_loss(network, 1)(x), -probability.log(), atol=1e-6)
    assert torch.allclose(banks.attack_loss(network, 0)(x), -(1 - probability).log(), atol=1e-6)


def test_in_batches_keeps_rows_in_order():
    start = patches(10)
    whole = banks.perturb(Detector(), start, 1, SETTINGS, None)
    found = banks.in_batches(lambda x: banks.perturb(Detector(), x, 1, SETTINGS, None), "test", torch.device("cpu"), start, batch_size=4)
    assert torch.allclose(found.loss_start, whole.loss_start) and found.steps == whole.steps
    assert (found.best - start).abs().max() <= SETTINGS.attack_eps + 1e-6


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


def synthetic(seed=0):
    sites = pd.DataFrame({"seriesuid": [f"1.{k}" for k in range(12)], "coordX": 0.0, "coordY": 0.0, "coordZ": 0.0})
    behind = 0.2 * patches(12)
    return sites, behind, *banks.synthetic_banks(Detector(), Ball(), sites, behind, SETTINGS, generator(seed))


def test_synthetic_banks_are_pairs_of_nodules_that_count():
    _, behind, found, drawn = synthetic()
    (random_table, random_patches), (pgd_table, pgd_patches) = (found[name] for name in fpr.BANKS[:2])
    assert drawn == 12 * SETTINGS.bank_samples
    z = synthesizer.draw_latents(Ball(), drawn, SETTINGS.patch_spacing, generator())
    assert random_table["item"].tolist() == pgd_table["item"].tolist() == list(range(drawn))
    assert random_table["diameter_mm"].min() >= 6 and pgd_table["diameter_mm"].min() >= 6
    assert len(random_table) == len(random_patches) and len(pgd_table) == len(pgd_patches)
    assert (random_table["delta_norm"] == 0).all() and (pgd_table["delta_norm"] <= SETTINGS.latent_eps + 1e-5).all()
    row = random_table.iloc[0]
    background = behind[row["item"] // SETTINGS.bank_samples]
    assert torch.equal(random_patches[0], synthesizer.fuse(background[None], *Ball()(z[row["item"] : row["item"] + 1]))[0])
    pairs = random_table.merge(pgd_table, on="item")
    assert (pairs["seriesuid_x"] == pairs["seriesuid_y"]).all() and (pairs["loss_after_y"] >= pairs["loss_before_x"]).all()
    assert (pairs["loss_after_y"] > pairs["loss_before_x"]).mean() > 0.7


def test_small_nodules_are_left_out_of_the_banks(monkeypatch):
    small = torch.tensor([[0.5, 0.0], [-1.9, 0.0]]).repeat(6 * SETTINGS.bank_samples, 1)
    monkeypatch.setattr(synthesizer, "draw_latents", lambda *given: small)
    monkeypatch.setattr(banks, "search_latent", lambda *given: banks.Attack(given[3], *torch.zeros(3, len(given[3])), 1))
    _, behind, found, drawn = synthetic()
    for name in fpr.BANKS[:2]:
        table, kept = found[name]
        assert table["item"].tolist() == list(range(0, drawn, 2)) and len(kept) == drawn // 2 and (table["diameter_mm"] >= 6).all()


def test_a_synthesizer_of_specks_is_an_input_error():
    class Speck(Ball):
        def forward(self, z):
            nodule, mask = super().forward(z)
            return nodule * 0, mask * 0

    sites = pd.DataFrame({"seriesuid": ["1"], "coordX": 0.0, "coordY": 0.0, "coordZ": 0.0})
    with pytest.raises(runs.InputError, match="no synthetic nodule reaches 6 mm"):
        banks.synthetic_banks(Detector(), Speck(), sites, patches(1), SETTINGS, generator())


def test_stored_patches_keep_their_decisions_and_the_counts_say_so(tmp_path, monkeypatch):
    table, start = banks.uniform_noise(10, SIZE, generator())
    table, found = banks.perturbed_bank(Detector(), table, start, 0, SETTINGS, generator(), "test")
    counts = banks.store(tmp_path, "noise", table, found, Detector(), torch.device("cpu"))
    monkeypatch.setattr(runs, "require", lambda run, stage: tmp_path)
    stored, again = fpr.load_bank(None, "noise")
    assert again.dtype == torch.float32 and (again - found).abs().max() <= 2**-12
    assert counts["changed_by_float16"] == 0 and counts["stored"] == 10
    assert counts["positive_after"] == (stored["confidence_after"] > 0.5).sum()
    assert (stored["confidence_after"] > stored["confidence_before"]).all() and (stored["delta_norm"] <= SETTINGS.attack_eps + 1e-6).all()


def test_decisions_changed_by_rounding_are_counted(tmp_path):
    class Edge(nn.Module):
        """Positive only for values that float16 cannot hold."""

        output = "evidence"

        def forward(self, x):
            exact = (x.flatten(1)[:, 0] != x.flatten(1)[:, 0].half().float()).float()
            return torch.stack([exact, 1 - exact], dim=1)

    table = pd.DataFrame({"confidence_before": [0.5, 0.5]})
    two = torch.tensor([0.5, 0.500001]).reshape(2, 1, 1, 1, 1)
    assert banks.store(tmp_path, "noise", table, two, Edge(), torch.device("cpu"))["changed_by_float16"] == 1


def test_unknown_bank_is_an_input_error():
    with pytest.raises(runs.InputError, match="unknown bank 'negatives'"):
        fpr.load_bank(None, "negatives")
