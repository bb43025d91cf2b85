"""Attacks on candidate networks whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from lungadv.data.scan import Scan
from lungadv.evaluation.candidate_attacks import (
    CONDITIONS,
    attack_crops,
    attack_numbers,
    finetuned_numbers,
    fused_logits,
    is_detected,
    nodule_crops,
)
from lungadv.settings import AttackSettings, load_settings

TINY = load_settings("tiny")
ATTACK = AttackSettings(eps=0.02, noise_eps=0.1, steps=5)
SETTINGS = replace(TINY, candidates=replace(TINY.candidates, spacing=2.5, sigma=3.0), attack=ATTACK)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def marks(rows, uid="1", source="blob"):
    """Marks from (x, score) or (x, score, diameter), along a line."""
    rows = [(*row, np.nan)[:3] for row in rows]
    table = pd.DataFrame(rows, columns=["coordX", "score", "diameter_mm"], dtype=float)
    return table.assign(seriesuid=uid, source=source, coordY=0.0, coordZ=0.0)


def nodules(*rows):
    table = pd.DataFrame(rows, columns=["seriesuid", "coordX", "diameter_mm"])
    return table.assign(coordY=0.0, coordZ=0.0)


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
    logits = fused_logits({"blob": Sharp(), "blob-ggo": Sharp(0.0)})
    np.testing.assert_allclose(logits(volumes).detach(), expected, rtol=1e-6)


def test_an_attack_on_crops_hides_what_noise_of_its_size_does_not():
    volumes = torch.zeros(6, 1, 16, 16, 16)
    volumes[..., 7:10, 7:10, 7:10] = 0.6
    nodules = [np.array([[8.0, 8.0, 8.0, 1.0]])] * 6
    volumes[:, :, 8, 8, 8] = 0.64
    # before: logit 14 at the centre; under attack 12; its neighbours reach 12 at most
    level = torch.tensor(12.01).sigmoid().double().item()
    logits = fused_logits({"blob": Sharp(), "blob-ggo": Sharp()})
    made = attack_crops(logits, volumes, nodules, SETTINGS, generator())
    assert list(made) == ["pgd", "random"]
    for batch in made.values():
        assert 0 <= batch.min() and batch.max() <= 1 and (batch - volumes).abs().max() <= SETTINGS.attack.eps + 1e-6
    found = {name: is_detected(logits, batch, nodules, level) for name, batch in ({"clean": volumes} | made).items()}
    assert found["clean"].all() and not found["pgd"].any() and found["random"].any()


def test_a_nodule_is_looked_for_in_its_sphere_wherever_it_lies():
    place = (11, 6, 9)
    around = {tuple(np.add(place, step)) for step in [(0, 0, 0), *np.eye(3, dtype=int), *-np.eye(3, dtype=int)]}
    seen = set()
    for voxel in np.ndindex(16, 16, 16):
        if max(abs(np.subtract(voxel, place))) <= 2:
            volume = torch.zeros(1, 1, 16, 16, 16)
            volume[0, 0][voxel] = 0.9
            seen |= {voxel} if is_detected(lambda x: Sharp()(x)[0], volume, [np.array([[*place, 1.2]])], 0.9)[0] else set()
    assert seen == around


def test_scans_without_nodules_do_not_use_up_those_that_are_attacked(monkeypatch):
    grid = Scan(np.zeros((16, 16, 16), np.int16), (2.5, 2.5, 2.5), (0, 0, 0), np.eye(3), "1.2")
    monkeypatch.setattr("lungadv.evaluation.candidate_attacks.lung_grid", lambda scan, lungs, spacing: (replace(grid, uid=scan), None))
    table = nodules(*[(uid, 20.0, 8.0) for uid in ("b", "d", "d", "e")]).assign(coordY=20.0, coordZ=20.0)
    data = SimpleNamespace(uids=list("abcde"), annotations=table, scan=lambda uid: uid, lungs=lambda uid: None)
    found = list(nodule_crops(data, replace(TINY.candidates, attack_scans=2, spacing=2.5, crop=20.0)))
    assert [(uid, len(crops)) for uid, crops, _ in found] == [("b", 1), ("d", 2)]


def test_finetuned_numbers_count_shown_nodules_and_clean_sensitivity():
    conditions = np.repeat(CONDITIONS, 2)
    table = pd.DataFrame({"seriesuid": "1", "item": ["1:0", "1:1"] * 4, "network": "plain", "condition": conditions})
    table = pd.concat([table.assign(value=[1, 1, 1, 1, 0, 0, 0, 1]), table.assign(network="hardened", value=1)])
    truth = nodules(("1", 0.0, 6.0), ("2", 0.0, 8.0))
    both = {"plain": pd.concat([marks([(0, 0.9)]), marks([(0, 0.8)], uid="2")]), "hardened": marks([(0, 0.9)])}
    rows = finetuned_numbers(table, both, truth, 2, 100)
    attacked = rows[rows["dataset"] == "benchmarks"].set_index(["network", "condition"])
    assert attacked.loc["plain", "sensitivity"].to_dict() == {"clean": 1, "random": 1, "transfer": 0, "pgd": 0.5}
    assert (attacked["nodules"] == 2).all() and (attacked.loc["hardened", "sensitivity"] == 1).all()
    expected = stats.binomtest(1, 2).proportion_ci(method="wilson")
    assert attacked.loc[("plain", "pgd"), ["lower", "upper"]].tolist() == pytest.approx([expected.low, expected.high])
    clean = rows[rows["dataset"] == "validation"].set_index(["network", "per_scan"])["sensitivity"]
    assert clean["plain", 100] == 1 and clean["hardened", 100] == 0.5
    numbers = attack_numbers(table)
    assert set(numbers["condition"]) == {"clean", "pgd", "random"} and numbers["value"].tolist() == [1, 1, 1, 1, 0, 1]
