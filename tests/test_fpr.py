"""False-positive reduction against oracles: closed-form updates, every symmetry of a cube, pools of one grey value each."""

import json
from collections import Counter
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score
from torch import nn

from lungadv import ct, fpr, runs

PLACES = ["coordX", "coordY", "coordZ"]
SIZE = 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(count=5, seed=0):
    return torch.rand(count, 1, SIZE, SIZE, SIZE, generator=generator(seed))


def network(output, seed=0, width=4):
    torch.manual_seed(seed)
    return fpr.FPR(output, width).to(memory_format=torch.channels_last_3d).eval()


def findings(*rows, **columns):
    return pd.DataFrame(rows, columns=[*PLACES, "diameter_mm"], dtype=float).assign(**columns)


# The network ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32])
def test_outputs_have_their_shapes(size):
    x = torch.rand(2, 1, size, size, size, generator=generator())
    model = network("evidence")
    assert model(x).shape == (2, 2) and model.unet.segment(x).shape == x.shape


def test_evidence_is_the_softplus_of_the_logits_positive_first():
    evidence, logits = network("evidence"), network("logits")
    logits.load_state_dict(evidence.state_dict())
    with torch.no_grad():
        e, z = evidence(patches()), logits(patches())
    torch.testing.assert_close(e, torch.stack([F.softplus(z[:, 1]), F.softplus(z[:, 0])], dim=1))
    (sure, _), (odds, _) = fpr.predict(evidence, patches()), fpr.predict(logits, patches())
    assert torch.equal(sure > 0.5, odds > 0.5)


def test_an_unknown_output_is_an_error():
    with pytest.raises(ValueError, match="output 'sigmoid' is unknown"):
        fpr.FPR("sigmoid")


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_gradients_are_finite_on_the_smallest_patches(output):
    "The coarsest maps of 16 x 16 x 16 patches have 2 x 2 x 2 voxels: bfloat16 gradients of them were NaN on some processors."
    target = torch.arange(8) % 2
    for seed in range(12):
        model = network(output, seed, width=8).train()
        x = patches(8, seed).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        fpr.classification_loss(model, x, target).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"patches": x.grad}
        assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
        assert x.grad.abs().sum() > 0 and "unet.coarse.layers.2.0.weight" in gradients


class Fixed(nn.Module):
    """Gives the first two voxels of a patch as its output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return x.flatten(1)[:, :2]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_predictions_by_hand_in_batches(count):
    x = 5 * patches(count)
    first, second = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
    confidence, uncertainty = fpr.predict(Fixed("evidence"), x, batch_size=3)
    torch.testing.assert_close(confidence, (first + 1) / (first + second + 2))
    torch.testing.assert_close(uncertainty, 2 / (first + second + 2))
    confidence, uncertainty = fpr.predict(Fixed("logits"), x, batch_size=3)
    torch.testing.assert_close(confidence, (second - first).sigmoid())
    torch.testing.assert_close(uncertainty, 2 * torch.minimum(confidence, 1 - confidence))
    assert confidence.shape == uncertainty.shape == (count,) and not confidence.requires_grad


# Patches ----------------------------------------------------------------------------------------------------------------------


def test_labels_follow_the_strict_hit_rule_and_nodules_win():
    nodules, excluded = findings((0, 0, 0, 10), (100, 0, 0, 8)), findings((3, 0, 0, 10), (0, 50, 0, 6))
    places = [(4.9, 0, 0), (5, 0, 0), (8, 0, 0), (100, 3.9, 0), (100, 4, 0), (0, 50, 2.9), (0, 47, 0), (0, 3.5, 3.5)]
    marks = findings(*[(*place, np.nan) for place in places])
    assert fpr.label_candidates(marks, nodules, excluded).tolist() == [1, -1, 0, 1, 0, -1, 0, 1]
    assert fpr.label_candidates(marks, nodules.iloc[:0], excluded.iloc[:0]).tolist() == [0] * 8
    assert fpr.label_candidates(marks.iloc[:0], nodules, excluded).tolist() == []
    unmeasured = findings((0, 0, 0, -1))  # LUNA16 lists excluded findings like this: they count as 10 mm
    assert fpr.label_candidates(marks, nodules.iloc[:0], unmeasured).tolist() == [-1, 0, 0, 0, 0, 0, 0, -1]


def toy_scan():
    scan = ct.Scan(np.full((40, 50, 60), -850, np.int16), (2.0, 2.0, 2.5), (-60.0, 10.0, 5.0), np.diag([1.0, -1.0, 1.0]), "1.2")
    lungs = np.zeros(scan.hu.shape, bool)
    lungs[5:35, 5:45, 5:55] = True
    return scan, lungs


def test_clear_positions_lie_in_the_lungs_and_their_cubes_hold_no_nodule():
    scan, lungs = toy_scan()
    avoid = findings((0, -40, 50, 6), (30, -20, 70, 6))
    points = fpr.clear_positions(lungs, scan, avoid, 20.0, 50, np.random.default_rng(0))
    assert len(points) == 50 and len(np.unique(points, axis=0)) == 50
    assert lungs[tuple(scan.to_voxel(points).round().astype(int).T)].all()
    assert np.abs(points[:, None] - avoid[PLACES].to_numpy()).max(axis=2).min() >= 20 / 2 + 6 / 2
    assert np.array_equal(points, fpr.clear_positions(lungs, scan, avoid, 20.0, 50, np.random.default_rng(0)))
    assert len(fpr.clear_positions(lungs, scan, avoid.iloc[:0], 20.0, 7, np.random.default_rng(0))) == 7


def test_no_room_gives_no_clear_positions():
    scan, lungs = toy_scan()
    rng = np.random.default_rng(0)
    assert fpr.clear_positions(lungs & False, scan, findings(), 20.0, 5, rng).shape == (0, 3)
    assert fpr.clear_positions(lungs, scan, findings((0, -40, 50, 6)), 1000.0, 5, rng).shape == (0, 3)


def test_the_patch_table_of_a_scan_has_its_three_kinds():
    scan, lungs = toy_scan()
    data = SimpleNamespace(
        annotations=findings((0, -40, 50, 12), seriesuid="1.2", type="solid"),
        excluded=findings((30, -20, 70, 10), (0, 0, 0, 9), seriesuid=["1.2", "9.9"], type="solid"),
        opened=lambda uid: scan, lungs=lambda uid: lungs, labels=lambda uid: np.zeros(lungs.shape, np.uint8),
    )  # fmt: skip
    marks = findings((1, -40, 50, 7), (30, -21, 70, 7), (-30, -30, 30, 7), (-30, -30, 40, 7), seriesuid="1.2")
    marks = pd.concat([marks.assign(score=[0.2, 0.9, 0.5, 0.1]), findings((5, 5, 5, 7), seriesuid="9.9", score=0.99)])
    settings = SimpleNamespace(fpr_backgrounds=6, patch_size=16, patch_spacing=1.25)
    _, table = fpr.patch_positions(SimpleNamespace(settings=settings), data, "1.2", marks, np.random.default_rng(0))
    assert table.columns.tolist() == ["seriesuid", *PLACES, "kind", "label", "type", "diameter_mm", "score"]
    assert Counter(table["kind"]) == {"nodule": 1, "candidate": 4, "background": 6} and (table["seriesuid"] == "1.2").all()
    assert table[table["kind"] == "candidate"][["score", "label"]].to_numpy().tolist() == [[0.2, 1], [0.9, -1], [0.5, 0], [0.1, 0]]
    assert table[table["kind"] != "candidate"]["label"].tolist() == [1] + [0] * 6


@pytest.mark.parametrize("margin", [0, 2])
def test_loaded_patches_are_the_middle_of_the_stored_ones(margin, tmp_path, monkeypatch):
    hu = torch.randint(-1000, 400, (6, 1, *(SIZE + 2 * margin,) * 3), dtype=torch.int16, generator=generator())
    kinds = ["nodule", "candidate", "background"] * 2
    pd.DataFrame({"seriesuid": "001", "kind": kinds, "type": "solid"}).to_csv(tmp_path / "train.csv", index=False)
    save_file({"hu": hu}, tmp_path / "train.safetensors")
    monkeypatch.setattr(runs, "require", lambda run, stage: tmp_path)
    run = SimpleNamespace(settings=SimpleNamespace(patch_size=SIZE))
    table, found = fpr.load_patches(run, "train", ("nodule", "background"))
    assert table["kind"].tolist() == ["nodule", "background"] * 2 and (table["seriesuid"] == "001").all()
    middle = slice(margin, margin + SIZE)
    expected = (hu[[0, 2, 3, 5]][..., middle, middle, middle].float() + 1000) / 1400
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_what_an_attack_holds_on_is_neither_shifted_nor_turned():
    class Bank:
        fixed = True

        def __len__(self):
            return 5

        def __getitem__(self, rows):
            return torch.arange(8.0**3).reshape(1, 1, 8, 8, 8) + 1000 * rows.reshape(-1, 1, 1, 1, 1)

    drawn = fpr.draw(Bank(), 6, 8, torch.Generator().manual_seed(0))
    assert len(drawn) == 6 and torch.equal(drawn % 1000, Bank()[torch.zeros(6)])


def test_an_unknown_bank_is_an_input_error():
    with pytest.raises(runs.InputError, match="unknown bank 'positives': choose one of synthetic-random"):
        fpr.load_bank(None, "positives")


# Batches ----------------------------------------------------------------------------------------------------------------------


def symmetries(cube, size):
    """Every shift, turn and flip of a cube (Q, Q, Q), as bytes."""
    found = set()
    for z, y, x in product(range(cube.shape[0] - size + 1), repeat=3):
        part = cube[z : z + size, y : y + size, x : x + size]
        for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
            found.add(np.ascontiguousarray(part.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]).tobytes())
    return found


def test_draws_are_shifted_turned_and_flipped_patches_of_the_pool():
    pool = torch.rand(2, 1, 3, 3, 3, generator=generator())
    expected = [symmetries(cube[0].numpy(), 2) for cube in pool]
    drawn = {cube[0].numpy().tobytes() for cube in fpr.draw(pool, 3000, 2, generator())}
    assert drawn <= expected[0] | expected[1]
    assert min(len(drawn & part) for part in expected) > 0.8 * 8 * 48  # nearly all of them occur


def test_draws_keep_the_values_of_a_patch_and_follow_their_generator():
    pool = torch.rand(3, 1, 6, 6, 6, generator=generator())
    drawn = fpr.draw(pool, 11, 6, generator(4))
    values = [tuple(cube.flatten().sort().values.tolist()) for cube in pool]
    assert drawn.shape == (11, 1, 6, 6, 6) and {tuple(cube.flatten().sort().values.tolist()) for cube in drawn} <= set(values)
    torch.manual_seed(1)
    assert torch.equal(drawn, fpr.draw(pool, 11, 6, generator(4))) and not torch.equal(drawn, fpr.draw(pool, 11, 6, generator(5)))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_head_knows_what_is_at_the_centre_of_the_patch(size, monkeypatch):
    model, side = network("logits"), size // 4
    x, up = torch.rand(1, 1, size, size, size, generator=generator()), torch.zeros(1, 2 * model.unet.width, side, side, side)
    coarse, answers = torch.zeros(1, model.unet.coarse.channels, side // 2, side // 2, side // 2), {}
    for voxel in np.ndindex(side, side, side):
        maps = up.clone()
        maps[(0, slice(None), *voxel)] = 1.0
        monkeypatch.setattr(model.unet, "forward", lambda x, maps=maps: (coarse, maps))
        answers[voxel] = tuple(model(x)[0].tolist())
    middle = {voxel for voxel in answers if all(index in (side // 2 - 1, side // 2) for index in voxel)}
    assert len({answers[voxel] for voxel in middle}) == 1 and len({answers[voxel] for voxel in set(answers) - middle}) == 1
    assert answers[side // 2, side // 2, side // 2] != answers[0, 0, 0]


def test_draws_of_hu_are_in_the_unit_range():
    pool = torch.tensor([-2000, -1000, -300, 400, 3000], dtype=torch.int16).reshape(5, 1, 1, 1, 1).expand(-1, -1, 4, 4, 4)
    drawn = fpr.draw(pool, 200, 4, generator())
    assert drawn.dtype == torch.float32 and np.allclose(sorted(set(drawn.flatten().tolist())), [0, 0.5, 1])


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("name", fpr.STRATEGIES)
def test_mixtures_are_those_of_the_paper(name, size):
    "50 % real, 25 % synthetic, 25 % perturbed where there are both, else half of each, else all real; as many negatives as positives."
    plan, half = fpr.STRATEGIES[name], size // 2
    expected = {0: [half], 1: [half // 2] * 2, 2: [half // 2, half // 4, half // 4]}
    for banks in (plan.positives, plan.negatives):
        shares = fpr.mixture("real", banks, half)
        assert [pool for pool, _ in shares] == ["real", *banks] and [share for _, share in shares] == expected[len(banks)]


def test_banks_that_cannot_share_a_batch_evenly_are_an_input_error():
    for count in (3, 10):
        with pytest.raises(runs.InputError, match="make it a multiple of 8"):
            fpr.mixture("real", ["synthetic-pgd", "perturbed"], count)


def test_strategies_are_the_rows_of_the_paper_and_one_beyond():
    assert list(fpr.STRATEGIES) == list(runs.STRATEGIES)
    used = {name: (set(plan.positives), set(plan.negatives)) for name, plan in fpr.STRATEGIES.items() if plan.positives or plan.negatives}
    assert used == {
        "beta+syn-random": ({"synthetic-random"}, set()),
        "beta+syn": ({"synthetic-pgd"}, set()),
        "beta+perturb": ({"perturbed"}, {"noise"}),
        "beta+perturb+syn": ({"synthetic-pgd", "perturbed"}, {"noise"}),
        "beta+online": ({"perturbed"}, {"noise"}),
    }
    assert {name for name, plan in fpr.STRATEGIES.items() if plan.online} == set(runs.BEYOND)
    assert [name for name, plan in fpr.STRATEGIES.items() if plan.output == "logits"] == ["baseline-ce", "control-ce"]
    settings = runs.load_settings("quick")
    equal = (("baseline-ce", "baseline-beta"), ("baseline-beta-finetune", "control-ce", "control-beta"), ("control", *used))
    assert all(len({fpr.total_updates(name, settings) for name in names}) == 1 for names in equal)
    assert {fpr.STRATEGIES[name].start for name in ("control", *used)} == {"fpr/baseline-beta-finetune"}
    assert all(f"fpr/{name}" in runs.STAGES for name in fpr.STRATEGIES)


def test_targets_belong_to_the_pools_of_their_patches():
    def pool(value):
        return torch.full((3, 1, 4, 4, 4), value)

    batches = fpr.classification_batches([(pool(0.9), 4), (pool(0.8), 2)], [(pool(0.1), 3), (pool(0.2), 3)], 4, generator())
    for _ in range(3):
        x, target = next(batches)
        grey = x[:, 0, 0, 0, 0]
        assert torch.equal(target, (grey > 0.5).long())
        assert Counter(np.round(grey.tolist(), 2).tolist()) == {0.9: 4, 0.8: 2, 0.1: 3, 0.2: 3}


def test_outlines_move_with_their_patches():
    hu = torch.randint(-1000, 400, (4, 1, 10, 10, 10), dtype=torch.int16, generator=generator())
    batches = fpr.outline_batches(hu, (hu > 0).to(torch.uint8), 8, 6, generator())
    for _ in range(3):
        x, outline = next(batches)
        assert x.shape == outline.shape == (6, 1, 8, 8, 8) and torch.equal(outline, (x > ct.to_unit(torch.tensor(0.5))).float())


# Training ---------------------------------------------------------------------------------------------------------------------


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))


def test_training_leaves_the_moving_average_of_the_weights():
    "With a gradient of 1 every step of Adam is its learning rate, which falls as a half cosine: the weights are known."
    model, rate, updates, decay = Weight(), 0.1, 8, 0.7
    losses = fpr.train(model, lambda model, x: model.w * x, iter([(torch.tensor(1.0),)] * updates), updates, rate=rate, decay=decay)
    weights = 1 - np.cumsum([rate * (1 + np.cos(np.pi * k / updates)) / 2 for k in range(updates)])
    average = weights[0]
    for weight in weights[1:]:
        average = decay * average + (1 - decay) * weight
    np.testing.assert_allclose(losses, [1, *weights[:-1]], rtol=1e-6)
    assert model.w.item() == pytest.approx(average, rel=1e-6) and abs(average - weights[-1]) > 0.01
    assert not model.training


def test_the_average_covers_the_normalisation_too():
    model = network("logits").train()
    torch.manual_seed(0)
    fpr.train(model, fpr.classification_loss, iter([(patches(4), torch.arange(4) % 2)] * 3), 3)
    norm = model.unet.stem[1]
    assert norm.running_mean.abs().sum() > 0 and norm.running_var.isfinite().all() and fpr.predict(model, patches())[0].isfinite().all()


def test_a_loss_that_is_not_finite_stops_the_training():
    values = iter([(torch.tensor(value),) for value in (1.0, float("nan"), 1.0)])
    with pytest.raises(FloatingPointError, match="beta: the loss is nan at update 1; lower the learning rate"):
        fpr.train(Weight(), lambda model, x: model.w * x, values, 3, desc="beta")


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_the_loss_teaches_the_right_direction(output):
    model, x, target = Fixed(output), torch.tensor([[3.0, 0.5], [0.5, 3.0]]).reshape(2, 1, 1, 1, 2), torch.tensor([1, 0])
    if output == "logits":
        x = x.flip(-1)
    assert fpr.classification_loss(model, x, target) < fpr.classification_loss(model, x, 1 - target)
    if output == "logits":
        assert fpr.classification_loss(model, x, target).item() == pytest.approx(np.log1p(np.exp(-2.5)), rel=1e-5)


def test_dice_by_hand():
    p, q = torch.zeros(2, 2, 1, 4, 4, 4)
    p[0, 0, :2], q[0, 0, 1:3] = 1, 1
    torch.testing.assert_close(fpr.soft_dice(p, q), torch.tensor([(2 * 16 + 1) / (64 + 1), 1.0]))


# Storage and whole strategies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_stored_networks_answer_as_before(output, tmp_path):
    model = network(output)
    with torch.no_grad():
        model.unet.stem[1].running_mean += 0.1
    fpr.save_network(model, tmp_path)
    again = fpr.load_weights(tmp_path)
    assert again.output == output and not again.training and not any(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        assert torch.equal(again(patches()), model(patches()))


def test_missing_weights_are_an_input_error(tmp_path):
    (tmp_path / "network.json").write_text(json.dumps({"output": "logits", "width": 4}))
    with pytest.raises(runs.InputError, match="weights.safetensors is missing"):
        fpr.load_weights(tmp_path)


def test_an_unknown_strategy_is_an_input_error(run):
    with pytest.raises(runs.InputError, match="unknown strategy 'gamma': choose one of baseline-ce"):
        fpr.build(run, "gamma")
    assert not run.folder.exists()


GREYS = {"synthetic-random": 0.125, "synthetic-pgd": 0.25, "perturbed": 0.375, "noise": 0.625, "ignored": 1.0, "nodule": 0.75, "rest": 0.0}


@pytest.fixture
def workshop(run, monkeypatch):
    """A tiny run whose pools each have one grey value, and what `train` was given: batches, updates and the network's first weights."""

    def stage(name):
        folder = run.path(name)
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text("{}")
        return folder

    def constant(names, size):
        hu = ct.to_hu(torch.tensor([GREYS[name] for name in names])).round().to(torch.int16)
        return hu.reshape(-1, 1, 1, 1, 1).repeat(1, 1, *(size,) * 3)

    folder, size = stage("patches"), run.settings.patch_size
    rows = {"nodule": 1, "rest": 0, "ignored": -1}
    names = ["nodule", "rest", "rest", "ignored", "nodule"]
    table = pd.DataFrame({"seriesuid": "1", "kind": "candidate", "type": "solid", "label": [rows[name] for name in names]})
    for dataset, side in (("train", size + 2 * fpr.MARGIN), ("validation", size)):
        table.to_csv(folder / f"{dataset}.csv", index=False)
        save_file({"hu": constant(names, side)}, folder / f"{dataset}.safetensors")
    stage("banks")
    pools = {name: torch.full((2, 1, *(size,) * 3), GREYS[name]) for name in fpr.BANKS}
    monkeypatch.setattr(fpr, "load_bank", lambda run, name: (None, pools[name]))
    starts = {"outline": "logits", "fpr/baseline-ce": "logits", "fpr/baseline-beta": "evidence", "fpr/baseline-beta-finetune": "evidence"}
    for seed, (name, output) in enumerate(starts.items()):
        fpr.save_network(network(output, seed, run.settings.fpr_width), stage(name))
    given = {}

    def train(model, loss, batches, updates, rate, desc, watch):
        for update in range(updates + 1):
            watch(update, model.eval())
        given.update(batch=next(batches), updates=updates, start={k: v.clone() for k, v in model.state_dict().items()}, model=model)
        return [0.5] * updates

    monkeypatch.setattr(fpr, "train", train)
    return run, given


@pytest.mark.parametrize("scans", [1, 2, 12])
def test_the_outlines_dice_is_of_whole_scans_that_the_network_has_not_seen(scans, run, monkeypatch):
    kinds = ["nodule", "candidate", "nodule", "nodule"] * scans
    table = pd.DataFrame({"seriesuid": np.repeat([f"1.{k}" for k in range(scans)], 4), "kind": kinds})
    side, scan, trained = run.settings.patch_size + 2 * fpr.MARGIN, torch.arange(4 * scans) // 4, []
    hu = scan.reshape(-1, 1, 1, 1, 1).expand(-1, 1, side, side, side)
    content = {"hu": hu, "outline": torch.ones(3 * scans, 1, side, side, side)}
    monkeypatch.setattr(fpr, "read_patches", lambda run, dataset, key="hu": (table, content[key]))
    monkeypatch.setattr(fpr, "outline_batches", lambda nodules, outlines, *rest: trained.extend(nodules[:, 0, 0, 0, 0].tolist()))
    monkeypatch.setattr(fpr, "train", lambda *given, **named: [0.5])
    found = pd.read_csv(fpr.build_outline(run) / "numbers.csv").iloc[0]
    held = {1: [], 2: [0], 12: [0, 10]}[scans]
    assert trained == [k for k in range(scans) for _ in range(3) if k not in held] and found["nodules"] == 3 * len(held)


@pytest.mark.parametrize("name", [name for name, plan in fpr.STRATEGIES.items() if not plan.online])
def test_a_strategy_trains_on_its_pools_from_its_start(name, workshop):
    run, given = workshop
    plan = fpr.STRATEGIES[name]
    before = fpr.load_weights(run.path(plan.start))
    folder = fpr.build(run, name)
    x, target = given["batch"]
    found = {label: Counter(np.round(x[target == label][:, 0, 0, 0, 0].tolist(), 2).tolist()) for label in (1, 0)}
    half = run.settings.fpr_batch // 2
    for label, real, banks in ((1, "nodule", plan.positives), (0, "rest", plan.negatives)):
        shares = {0: (1,), 1: (1 / 2, 1 / 2), 2: (1 / 2, 1 / 4, 1 / 4)}[len(banks)]
        expected = {round(GREYS[pool], 2): half * share for pool, share in zip((real, *banks), shares, strict=True)}
        assert found[label] == expected
    kept = [key for key in before.state_dict() if plan.start != "outline" or key.startswith("unet.")]
    assert all(torch.equal(given["start"][key], before.state_dict()[key]) for key in kept) and len(kept) > 20
    assert given["updates"] == (run.settings.fpr_updates if plan.start == "outline" else run.settings.fpr_finetune_updates)
    assert sorted(path.name for path in folder.iterdir()) == [
        "learning.csv", "network.json", "provenance.json", "training.csv", "validation.csv", "weights.safetensors"
    ]  # fmt: skip
    learning = pd.read_csv(folder / "learning.csv")
    assert learning["update"].tolist() == np.linspace(0, given["updates"], run.settings.fpr_looks + 1).round().tolist()
    assert learning[["auc", "brier"]].stack().between(0, 1).all()
    validation = pd.read_csv(folder / "validation.csv")
    assert len(validation) == 5 and validation["confidence"].between(0, 1).all() and validation["uncertainty"].between(0, 1).all()
    assert fpr.load_network(run, name).output == plan.output


def test_online_patches_are_moved_in_the_ball_and_real_ones_stay(workshop, monkeypatch):
    "The mixture is that of beta+perturb; what stands beside the real patches is real nodules and fresh noise, each moved by up to eps."
    run, given = workshop
    monkeypatch.setattr(fpr, "load_bank", None)  # no bank is read
    fpr.build(run, "beta+online")
    x, target = given["batch"]
    quarter, eps, greys = len(x) // 4, run.settings.attack_eps, torch.tensor([GREYS["nodule"], GREYS["rest"]])
    assert target.tolist() == [1] * 2 * quarter + [0] * 2 * quarter
    nodules, perturbed, rest, noise = x.split(quarter)
    near = {"atol": 1e-3, "rtol": 0}  # HU are whole numbers
    torch.testing.assert_close(nodules, greys[0].expand_as(nodules), **near)
    torch.testing.assert_close(rest, greys[1].expand_as(rest), **near)
    offset = perturbed - greys[0]
    assert 0.5 * eps < offset.abs().amax() <= eps + 1e-3 and offset.flatten(1).std(dim=1).min() > 0
    assert noise.min() >= 0 and noise.max() <= 1 and noise.flatten(1).std(dim=1).sub(12**-0.5).abs().max() < 0.02
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_batches_are_moved_against_the_network_of_that_moment(output):
    """A network whose answer hangs on <x - 0.5, w>: the worst patches are eps sign(w) away, uphill for a positive, downhill for a negative.

    Turning w round between two batches turns the patches round.
    """

    class Template(nn.Module):
        def __init__(self):
            super().__init__()
            self.output, self.w = output, nn.Parameter(torch.randn(4, 4, 4, generator=generator()))

        def forward(self, x):
            odds = 0.1 * ((x - 0.5) * self.w).sum(dim=(1, 2, 3, 4))
            positive = torch.stack([odds, -odds], dim=1)
            return F.softplus(positive) if output == "evidence" else positive.flip(1)

    model, grey = Template().train(), torch.full((4, 1, 4, 4, 4), 0.5)
    target, rows = torch.tensor([1, 1, 0, 0]), torch.tensor([False, True, False, True])
    batches = ((grey.clone(), target) for _ in range(2))
    settings = SimpleNamespace(attack_eps=0.02, online_steps=8)
    moved = fpr.against(model, batches, rows, settings, generator())
    for turn in (1, -1):
        x, y = next(moved)
        worst = 0.02 * model.w.detach().sign()
        torch.testing.assert_close(x[1, 0] - 0.5, -worst, atol=1e-6, rtol=0)
        torch.testing.assert_close(x[3, 0] - 0.5, worst, atol=1e-6, rtol=0)
        assert torch.equal(x[[0, 2]], grey[[0, 2]]) and torch.equal(y, target)
        assert model.training and model.w.requires_grad and model.w.grad is None, turn
        with torch.no_grad():
            model.w.neg_()


def test_a_search_raises_the_loss_and_leaves_the_network_as_it_was():
    model, x, target = network("evidence").train(), patches(6), torch.arange(6) % 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, settings = torch.arange(6) >= 2, SimpleNamespace(attack_eps=0.05, online_steps=5)
    moved, _ = next(fpr.against(model, iter([(x.clone(), target)]), rows, settings, generator()))
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        clean, attacked = (fpr.sample_losses(model, batch, target) for batch in (x, moved))
    assert (attacked[rows] > clean[rows]).all() and torch.equal(moved[~rows], x[~rows])


def test_noise_is_uniform_and_never_the_same():
    pool = fpr.Noise(8)
    drawn = torch.cat([fpr.draw(pool, 20, 8, generator(seed)) for seed in (0, 1)])
    assert drawn.shape == (40, 1, 8, 8, 8) and len(torch.unique(drawn.flatten(1), dim=0)) == 40
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > 0.01


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 300), rng.random(300) < 0.3  # with ties
    assert fpr.auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert np.isnan(fpr.auc(scores, positive | True))


def test_the_watch_sees_the_moving_average_before_first_and_after_each_update():
    model, decay, seen = Weight(), 0.7, []
    batches = iter([(torch.tensor(1.0),)] * 3)
    fpr.train(
        model, lambda model, x: model.w * x, batches, 3, rate=0.1, decay=decay,
        watch=lambda update, average: seen.append((update, average.w.item(), average.training)),
    )  # fmt: skip
    assert [update for update, *_ in seen] == [0, 1, 2, 3] and not any(training for *_, training in seen)
    assert seen[0][1] == 1 and seen[-1][1] == pytest.approx(model.w.item())


def test_every_strategy_is_watched_on_the_same_balanced_patches(run):
    table, x = pd.DataFrame({"label": [0] * 50 + [-1] * 5 + [1] * 20}), patches(75)
    first, second = (fpr.look_on(run, table, x, updates) for updates in (10, 40))
    half = run.settings.fpr_watched // 2
    assert torch.equal(first.patches, second.patches) and first.labels.tolist() == [0] * half + [1] * half
    assert first.at == {0, 5, 10} and second.at == {0, 20, 40}


def test_fine_tuning_starts_with_the_decisions_of_the_cross_entropy_network(workshop):
    run, given = workshop
    fpr.build(run, "baseline-beta-finetune")
    x = patches(20)
    x[::2, :, 6:10, 6:10, 6:10] = 1
    before, _ = fpr.predict(fpr.load_network(run, "baseline-ce"), x)
    after, _ = fpr.predict(given["model"], x)
    assert torch.equal(before > 0.5, after > 0.5)
    assert np.corrcoef(before.logit(), after.logit())[0, 1] > 0.9


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_a_folded_network_answers_as_before(output, monkeypatch):
    monkeypatch.setattr(runs, "fast_type", lambda device: torch.float32)
    torch.manual_seed(0)
    network, patches = fpr.FPR(output, 4), torch.rand(6, 1, 16, 16, 16)
    for _ in range(5):
        network(patches)  # running means away from 0
    network.eval()
    expected = network(patches)
    folded = fpr.folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    assert torch.allclose(folded(patches), expected, atol=1e-5) and not any(p.requires_grad for p in folded.parameters())
