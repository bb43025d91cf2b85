import numpy as np
import pytest
import torch

from lungadv.banks.search import attack_loss, image_change, latent_curve, perturb
from lungadv.training.strategies import BANKS

EPS = 0.02


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("output", ["evidence", "logits"])
@pytest.mark.parametrize("label", [0, 1])
def test_perturb_raises_the_loss_within_eps_and_range(detector, patches, output, label):
    start = patches()
    attack = perturb(detector(output), start, label, EPS, 5, generator())
    assert (attack.loss_best > attack.loss_start).all()
    assert (attack.best - start).abs().max() <= EPS + 1e-6
    assert attack.best.min() >= 0 and attack.best.max() <= 1
    before, after = (detector("logits")(x)[:, 1] for x in (start, attack.best))
    assert (after < before).all() if label else (after > before).all()


def test_attack_loss_of_logits_is_cross_entropy(detector, patches):
    network, x = detector("logits"), patches()
    probability = network(x).softmax(1)[:, 1]
    assert torch.allclose(attack_loss(network, 1)(x), -probability.log(), atol=1e-6)
    assert torch.allclose(attack_loss(network, 0)(x), -(1 - probability).log(), atol=1e-6)


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_synthetic_banks_are_pairs_of_nodules_that_count(make_context, make_shard, detector, output):
    context = make_context(network=detector(output))
    table = make_shard(context, "synthetic", 0).to_pandas()
    random, searched = (table[table["bank"] == name].reset_index(drop=True) for name in BANKS[:2])
    assert random["item"].tolist() == searched["item"].tolist() == list(range(8)) and (table["diameter_mm"] >= 6).all()
    assert (random["delta_norm"] == 0).all() and (searched["delta_norm"] <= context.settings.latent.eps + 1e-5).all()
    assert np.array_equal(np.stack(random["code"]), np.stack(searched["code"])) and (random["seriesuid"] == searched["seriesuid"]).all()
    assert (searched["loss_after"] >= random["loss_before"]).all() and (searched["loss_after"] > random["loss_before"]).mean() > 0.7
    assert np.allclose(table["confidence_after"], table["confidence_searched"], atol=1e-5)
    assert (searched["confidence_before"] == random["confidence_searched"]).all()


def test_a_table_tells_of_the_rebuilt_patch(context, make_shard):
    table = make_shard(context, "noise", 0).to_pandas()
    recipe = {name: torch.tensor(np.stack(table[name])) for name in ("seed", "eps")}
    recipe["delta"] = torch.tensor(np.stack([np.frombuffer(row, np.uint8) for row in table["delta"]]))
    bank, rows = context.load_bank("noise", recipe), torch.arange(len(table))
    assert np.allclose(attack_loss(context.network, 0)(bank[rows]).detach(), table["loss_after"], atol=1e-6)
    assert np.allclose((bank[rows] - bank.start(rows)).flatten(1).abs().amax(1), table["delta_norm"])


def test_the_curve_over_the_radius_begins_unchanged_and_falls(context):
    curve = latent_curve(context, (0, 0.5, 1.5), 8, generator())
    assert curve.groupby("eps").size().tolist() == [8, 8, 8]
    first = curve[curve["eps"] == 0]
    assert (first["change_hu"] == 0).all() and first["ssim"].to_numpy() == pytest.approx(np.ones(8))
    means = curve.groupby("eps").mean()
    assert means["confidence"].is_monotonic_decreasing and means["change_hu"].is_monotonic_increasing
    assert means["ssim"].is_monotonic_decreasing and (curve["diameter_mm"] >= 6).all()
    moved = curve[curve["eps"] == 1.5]["length"].to_numpy() - first["length"].to_numpy()
    assert np.abs(moved).max() <= 1.5 / context.generator.latent_size**0.5 + 1e-5  # the root of L scales a length of 1.5


def test_image_change_is_measured_inside_alone():
    before, inside = torch.rand(2, 1, 10, 10, 10), torch.zeros(2, 1, 10, 10, 10, dtype=torch.bool)
    inside[..., 2:6] = True
    after = before + torch.where(inside, 0.05, 0.0)
    change, _ = image_change(before, after, inside)
    assert change.tolist() == pytest.approx([70, 70], rel=1e-4)
    far = before.clone()
    far[..., 9] += 0.3  # beyond the window of the similarity
    change, ssim = image_change(before, far, inside)
    assert change.tolist() == [0, 0] and ssim.tolist() == pytest.approx([1, 1])
