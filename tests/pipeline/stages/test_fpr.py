"""Whole strategies, on pools of one grey value each."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lungadv.data.positions import shift_margin
from lungadv.data.scan import to_hu
from lungadv.models.dense_unet import new_network, predict
from lungadv.pipeline.stages import fpr as stages_fpr
from lungadv.training.checkpoint import load_network, save_network
from lungadv.training.losses import AnnealedLoss
from lungadv.training.own_normalisation import OwnNormalisation
from lungadv.training.strategies import BANKS, ORACLE, SEGMENTATION, STRATEGIES
from lungadv.utils.errors import InputError

GREYS = {"synthetic-random": 0.125, "synthetic-pgd": 0.25, "perturbed": 0.375, "noise": 0.625, "ignored": 1.0, "nodule": 0.75, "rest": 0.0}
GREYS |= {"oracle-random": 0.5, "oracle-hard": 0.875}


def test_an_unknown_strategy_is_an_input_error(run):
    with pytest.raises(InputError, match="unknown strategy 'gamma': choose one of baseline-ce"):
        stages_fpr.build(run, "gamma")
    assert not run.folder.exists()


def test_an_unknown_bank_is_an_input_error():
    with pytest.raises(InputError, match="unknown bank 'positives': choose one of synthetic-random"):
        stages_fpr.read_bank(None, "positives")


def stage_of(start):
    return start if start == SEGMENTATION else f"fpr/{start}"


@pytest.fixture
def workshop(run, monkeypatch):
    """A tiny run whose pools each have one grey value, and what `fit` was given: batches, updates and the network's first weights."""

    def stage(name):
        folder = run.path(name)
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text("{}")
        return folder

    def constant(names, size):
        hu = to_hu(torch.tensor([GREYS[name] for name in names])).round().to(torch.int16)
        return hu.reshape(-1, 1, 1, 1, 1).repeat(1, 1, *(size,) * 3)

    folder, size, margin = stage("patches"), run.settings.patch.size, shift_margin(run.settings.patch.spacing)
    rows = {"nodule": 1, "rest": 0, "ignored": -1}
    names = ["nodule", "rest", "rest", "ignored", "nodule"]
    table = pd.DataFrame({"seriesuid": "1", "kind": "candidate", "type": "solid", "label": [rows[name] for name in names]})
    for dataset, side in (("train", size + 2 * margin), ("validation", size)):
        table.to_csv(folder / f"{dataset}.csv", index=False)
        save_file({"hu": constant(names, side)}, folder / f"{dataset}.safetensors")
    stage("banks")
    folder = stage("oracle")
    for name in ORACLE:
        pd.DataFrame({"seriesuid": ["1", "2"], "type": "solid"}).to_csv(folder / f"{name}.csv", index=False)
        save_file({"hu": constant([name] * 2, size + 2 * margin)}, folder / f"{name}.safetensors")
    pools = {name: torch.full((2, 1, *(size,) * 3), GREYS[name]) for name in BANKS}
    monkeypatch.setattr(stages_fpr, "read_bank", lambda run, name: (None, pools[name]))
    starts = {SEGMENTATION: "logits", "baseline-ce": "logits", "baseline-beta": "evidence", "baseline-beta-finetune": "evidence"}
    for seed, (name, output) in enumerate(starts.items()):
        torch.manual_seed(seed)
        save_network(new_network(output, run.settings.fpr.width).eval(), stage(stage_of(name)))
    given = {}

    def fit(model, loss, batches, updates, *, learning_rate, ema_decay, monitor, stopping, more, desc):
        for update in range(updates + 1):
            monitor(update, model.eval())
        given.update(batch=next(batches), updates=updates, start={k: v.clone() for k, v in model.state_dict().items()}, model=model)
        given.update(loss=loss, rate=learning_rate, monitor=monitor)
        return pd.DataFrame({"update": range(updates), "loss": 0.5})

    monkeypatch.setattr(stages_fpr, "fit", fit)
    return run, given


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.items() if not strategy.online])
def test_a_strategy_trains_on_its_pools_from_its_start(name, workshop):
    run, given = workshop
    strategy, settings = STRATEGIES[name], run.settings.fpr
    from_segmentation = strategy.start == SEGMENTATION
    before = load_network(run.path(stage_of(strategy.start)))
    folder = stages_fpr.build(run, name)
    x, target = given["batch"]
    found = {label: Counter(np.round(x[target == label][:, 0, 0, 0, 0].tolist(), 2).tolist()) for label in (1, 0)}
    half = settings.batch_size // 2
    for label, real, banks in ((1, "nodule", strategy.positives), (0, "rest", strategy.negatives)):
        shares = {0: (1,), 1: (1 / 2, 1 / 2), 2: (1 / 2, 1 / 4, 1 / 4)}[len(banks)]
        shares = (1, *shares[1:]) if strategy.added else shares
        expected = {round(GREYS[pool], 2): half * share for pool, share in zip((real, *banks), shares, strict=True)}
        assert found[label] == expected
    kept = [key for key in before.state_dict() if not from_segmentation or key.startswith("unet.")]
    assert all(torch.equal(given["start"][key], before.state_dict()[key]) for key in kept) and len(kept) > 20
    assert given["updates"] == (settings.updates if from_segmentation else settings.finetune_updates)
    assert sorted(path.name for path in folder.iterdir()) == [
        "learning.csv", "network.json", "provenance.json", "training.csv", "training.json", "validation.csv", "weights.safetensors"
    ]  # fmt: skip
    learning = pd.read_csv(folder / "learning.csv")
    assert learning["update"].tolist() == list(range(0, given["updates"] + 1, settings.check_every))
    assert isinstance(given["loss"], OwnNormalisation) == strategy.own_normalisation
    learns_evidence = strategy.output == "evidence" and strategy.start in (SEGMENTATION, "baseline-ce")
    assert isinstance(given["loss"], AnnealedLoss) == learns_evidence
    assert given["rate"] == (settings.learning_rate if from_segmentation else settings.finetune_learning_rate)
    assert learning[["auc", "brier"]].stack().between(0, 1).all()
    validation = pd.read_csv(folder / "validation.csv")
    assert len(validation) == 5 and validation["confidence"].between(0, 1).all() and validation["uncertainty"].between(0, 1).all()
    assert stages_fpr.load_strategy(run, name).output == strategy.output


def test_every_strategy_is_monitored_on_the_same_patches_whose_label_is_known(workshop):
    run, given = workshop
    monitors = []
    for name in ("baseline-ce", "beta+syn"):
        stages_fpr.build(run, name)
        monitors.append(given["monitor"])
    for monitor in monitors:
        assert monitor.labels.tolist() == [1, 0, 0, 1]
        torch.testing.assert_close(monitor.patches[:][:, 0, 0, 0, 0], torch.tensor([0.75, 0, 0, 0.75]), atol=1e-3, rtol=0)
    assert torch.equal(*(monitor.patches[:] for monitor in monitors))


def test_online_patches_are_moved_in_the_ball_and_real_ones_stay(workshop, monkeypatch):
    "The shares are those of beta+perturb; what stands beside the real patches is real nodules and fresh noise, each moved by up to eps."
    run, given = workshop
    monkeypatch.setattr(stages_fpr, "read_bank", None)  # no bank is read
    stages_fpr.build(run, "beta+online")
    x, target = given["batch"]
    quarter, eps, greys = len(x) // 4, run.settings.attack.eps, torch.tensor([GREYS["nodule"], GREYS["rest"]])
    assert target.tolist() == [1] * 2 * quarter + [0] * 2 * quarter
    nodules, perturbed, rest, noise = x.split(quarter)
    near = {"atol": 1e-3, "rtol": 0}  # HU are whole numbers
    torch.testing.assert_close(nodules, greys[0].expand_as(nodules), **near)
    torch.testing.assert_close(rest, greys[1].expand_as(rest), **near)
    offset = perturbed - greys[0]
    assert 0.5 * eps < offset.abs().amax() <= eps + 1e-3 and offset.flatten(1).std(dim=1).min() > 0
    assert noise.min() >= 0 and noise.max() <= 1 and noise.flatten(1).std(dim=1).sub(12**-0.5).abs().max() < 0.02
    assert not torch.equal(noise[0], noise[1])


def test_fine_tuning_starts_with_the_decisions_of_the_cross_entropy_network(workshop):
    run, given = workshop
    stages_fpr.build(run, "baseline-beta-finetune")
    x = torch.rand(20, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    x[::2, :, 6:10, 6:10, 6:10] = 1
    before, _ = predict(stages_fpr.load_strategy(run, "baseline-ce"), x)
    after, _ = predict(given["model"], x)
    assert torch.equal(before > 0.5, after > 0.5)
    assert np.corrcoef(before.logit(), after.logit())[0, 1] > 0.9
