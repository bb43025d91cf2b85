from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv import ct, runs, synthesizer


def ball(diameter, size=32, spacing=1.25, centre=None):
    """A ball of `diameter` mm, bool, around `centre` (voxels z, y, x; default the middle)."""
    centre = np.full(3, (size - 1) / 2) if centre is None else np.asarray(centre)
    return (((np.indices((size,) * 3) - centre[:, None, None, None]) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    masks = torch.from_numpy(np.stack([synthesizer.soft_mask(ball(8 + k % 8, 16, 2.5), 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


KINDS = ["solid", "ground_glass"]
TABLE = pd.DataFrame({"seriesuid": "1.2", "diameter_mm": 10.0, "type": np.resize(KINDS, 24), "spiculated": False})
SETTINGS = SimpleNamespace(
    syn_latent=4, syn_width=4, syn_steps=120, syn_batch=8, syn_rate=0.01, syn_kl=0.1, syn_critic=0.01, syn_penalty=10.0, syn_judged=1
)  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    return synthesizer.train(*pairs(), SETTINGS, torch.Generator().manual_seed(0))


def test_fusion_replaces_the_background_where_the_mask_is_one_and_nowhere_else():
    background, appearance = torch.rand(2, 2, 1, 8, 8, 8)
    mask = torch.zeros_like(background)
    mask[..., :4] = 1
    fused = synthesizer.fuse(background, mask * appearance, mask)
    assert torch.equal(fused[..., :4], appearance[..., :4]) and torch.equal(fused[..., 4:], background[..., 4:])


@pytest.mark.parametrize("diameter", [6.0, 9.0, 14.0, 25.0])
@pytest.mark.parametrize("spacing", [0.625, 1.25])
def test_diameter_of_a_ball(diameter, spacing):
    mask = synthesizer.soft_mask(ball(diameter, 48, spacing), spacing, 3.0)
    assert synthesizer.diameter_mm(torch.from_numpy(mask)[None, None], spacing).item() == pytest.approx(diameter, rel=0.05)


def test_soft_mask_is_a_ramp_of_the_stated_width():
    inside = np.zeros((24, 24, 24), bool)
    inside[:, :, :12] = True  # the outline lies between voxels 11 and 12
    row = synthesizer.soft_mask(inside, 1.0, 4.0)[12, 12]
    assert np.allclose(row[8:16], [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])


def test_cut_out_takes_each_nodule_with_its_own_label_and_position():
    labels = np.zeros((40, 40, 40), np.uint8)
    centres = [[10, 12, 11], [27, 26, 28]]  # voxels z, y, x
    labels[ball(10, 40, 1.25, centres[0])] = 1
    labels[ball(16, 40, 1.25, centres[1])] = 2
    hu = np.select([labels == 1, labels == 2], [40, -600], -850).astype(np.int16)
    scan = ct.Scan(hu, (1.25,) * 3, (-30, 5, 100), np.eye(3), "toy")
    nodules, masks = synthesizer.cut_out(scan, labels, scan.to_world(centres), 16, 1.25, 3.0)
    assert nodules.shape == masks.shape == (2, 1, 16, 16, 16)
    assert synthesizer.diameter_mm(masks, 1.25).numpy() == pytest.approx([10, 16], rel=0.06)
    for nodule, mask, value in zip(nodules, masks, (40, -600), strict=True):
        assert ct.to_hu(nodule[mask == 1]).numpy() == pytest.approx(value, abs=1)
        assert (nodule <= mask).all() and (nodule[mask == 0] == 0).all()


def test_cut_out_without_segmentation_is_an_input_error():
    scan = ct.Scan(np.zeros((20, 20, 20), np.int16), (1.25,) * 3, (0, 0, 0), np.eye(3), "toy")
    with pytest.raises(runs.InputError, match="scan toy: nodule 1 has no voxel"):
        synthesizer.cut_out(scan, np.zeros((20, 20, 20), np.uint8), [[10, 10, 10]], 16, 1.25, 3.0)


def test_cutouts_keep_tensors_and_table_in_step(monkeypatch):
    sizes = {"a": (8, 12), "b": (), "c": (16,)}

    class Data:
        uids = list(sizes)
        annotations = pd.DataFrame(
            [{"seriesuid": u, "coordX": 20.0 + 30 * k, "coordY": 25.0, "coordZ": 25.0, "diameter_mm": d}
             for u in "ca" for k, d in enumerate(sizes[u])]  # fmt: skip
        )

        def of(self, dataset):
            assert dataset == "train"
            return self

        def opened(self, uid):
            return ct.Scan(np.full((40, 40, 60), 40, np.int16), (1.25,) * 3, (0, 0, 0), np.eye(3), uid)

        def labels(self, uid):
            labels = np.zeros((40, 40, 60), np.uint8)
            for k, d in enumerate(sizes[uid]):
                grid = np.indices(labels.shape) * 1.25 - np.array([25.0, 25.0, 20.0 + 30 * k])[:, None, None, None]
                labels[(grid**2).sum(0) < (d / 2) ** 2] = k + 1
            return labels

    monkeypatch.setattr(synthesizer.datasets, "load", lambda run: Data())
    run = SimpleNamespace(settings=SimpleNamespace(patch_size=24, patch_spacing=1.25, syn_edge=3.0))
    nodules, masks, table = synthesizer.cutouts(run)
    assert table["seriesuid"].tolist() == ["a", "a", "c"]
    assert synthesizer.diameter_mm(masks, 1.25).numpy() == pytest.approx(table["diameter_mm"].to_numpy(), rel=0.1)


def test_the_objective_against_closed_forms():
    mean, log_variance = torch.randn(2, 6, 3)
    oracle = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0, 1))
    assert synthesizer.kl_divergence(mean, log_variance) == pytest.approx(oracle.sum(1).mean().item(), rel=1e-5)
    nodules, masks = pairs(4)
    hard = (masks > 0.5).float()
    assert synthesizer.reconstruction_error(hard * 0.5, hard, hard * 0.5, hard) == 0
    small, large = hard[:1], hard[3:]
    errors = [synthesizer.reconstruction_error(m * 0.5, m, m * 0.7, m).item() for m in (small, large)]
    assert errors == pytest.approx([0.2, 0.2])  # of the nodule's own volume, whatever its size


def test_spectral_norm_bounds_every_layer_of_the_critic(trained):
    critic = trained[2]
    layers = [module for module in critic.modules() if isinstance(module, (torch.nn.Conv3d, torch.nn.Linear))]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.05)


def test_gradient_penalty_is_the_squared_distance_of_the_slope_from_one():
    class Slope(torch.nn.Module):
        def forward(self, nodule, mask):
            return 3 * nodule.flatten(1)[:, 0] + 4 * mask.flatten(1)[:, 1]

    real, fake = torch.rand(2, 2, 5, 1, 4, 4, 4)
    assert synthesizer.gradient_penalty(Slope(), real, fake, None).item() == pytest.approx((5 - 1) ** 2)


def test_the_penalty_of_training_stays_small(trained):
    assert trained[3]["penalty"].tail(10).mean() < 0.3


def test_training_learns_and_samples_are_nodules(trained):
    encoder, generator, _, losses = trained
    nodules, masks = pairs()
    assert losses["reconstruction"].tail(5).mean() < 0.5 * losses["reconstruction"].head(5).mean()
    mean, _ = encoder(nodules, masks)
    assert synthesizer.diameter_mm(generator(mean)[1], 2.5).numpy() == pytest.approx(synthesizer.diameter_mm(masks, 2.5).numpy(), rel=0.5)
    sampled = synthesizer.diameter_mm(synthesizer.drawn(generator, torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))[1], 2.5)
    assert (sampled >= 6).float().mean() > 0.8


def test_training_is_repeatable_and_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    settings = SimpleNamespace(**vars(SETTINGS) | {"syn_steps": 4})
    once, again = (synthesizer.train(*pairs(), settings, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert once[3].equals(again[3]) and torch.equal(once[1].seed.weight, again[1].seed.weight)


def test_the_critic_takes_part_in_every_nth_step_alone():
    settings = SimpleNamespace(**vars(SETTINGS) | {"syn_steps": 7, "syn_judged": 3})
    losses = synthesizer.train(*pairs(), settings, torch.Generator().manual_seed(7))[3]
    assert losses.index[losses["critic"].notna()].tolist() == [0, 3, 6] and losses[["reconstruction", "kl"]].notna().all(axis=None)


def test_gradient_reaches_the_code_and_no_parameter(trained):
    generator = trained[1]
    z = torch.randn(3, 4, requires_grad=True)
    synthesizer.fuse(torch.rand(3, 1, 16, 16, 16), *generator(z)).sum().backward()
    assert z.grad.abs().amax(1).min() > 0
    assert not generator.training and all(not p.requires_grad and p.grad is None for p in generator.parameters())


def test_turning_moves_nodule_and_mask_alike():
    nodules, masks = torch.rand(2, 2, 1, 6, 6, 6)
    turned = synthesizer.turned((nodules, masks), torch.Generator().manual_seed(3))
    assert torch.equal(*(torch.sort(cubes.flatten()).values for cubes in (turned[0], nodules)))
    both = synthesizer.turned((nodules, nodules), torch.Generator().manual_seed(3))
    assert torch.equal(both[0], both[1]) and torch.equal(both[0], turned[0])


@pytest.mark.parametrize("size, channels, edge", [(16, [4, 8], 4), (24, [4, 8, 16], 3), (32, [4, 8, 16], 4), (64, [4, 8, 16, 32], 4)])
def test_pyramid(size, channels, edge):
    assert synthesizer.pyramid(size, 4) == (channels, edge)


def test_a_built_synthesizer_loads_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    run = runs.open_run("tiny", 100, syn_steps=5, syn_conditioned_steps=5)
    monkeypatch.setattr(runs, "STAGES", runs.STAGES | {"synthesizer": runs.Stage("lungadv.synthesizer:build", 1)})
    asked_for = []
    monkeypatch.setattr(synthesizer, "cutouts", lambda run, dataset="train": asked_for.append(dataset) or (*pairs(), TABLE))
    synthesizer.build(run)
    generator, again = synthesizer.load(run), synthesizer.load(run)
    z = torch.randn(2, generator.latent_size)
    assert torch.equal(generator(z)[0], again(z)[0]) and generator(z)[1].shape == (2, 1, 16, 16, 16)
    nodules, masks, stored = synthesizer.load_cutouts(run)
    assert stored["seriesuid"].tolist() == ["1.2"] * 24 and torch.allclose(masks, pairs()[1], atol=1e-3)
    quality = pd.read_csv(run.path("synthesizer", "quality.csv")).set_index("group")
    assert quality.index.tolist() == ["held-out", "training", "rebuilt", "sampled", "sampled, 6 mm and up"]
    assert asked_for == ["train", "validation"] and quality.loc["training", "precision"] == quality.loc["training", "recall"] == 1
    assert pd.read_csv(run.path("synthesizer", "spectrum.csv"))["waves"].tolist() == list(range(1, 9))
    assert len(pd.read_csv(run.path("synthesizer", "training.csv"))) == 5
    assert "size" in pd.read_csv(run.path("synthesizer", "training_conditioned.csv"))
    made = pd.read_csv(run.path("synthesizer", "conditioned.csv"))
    assert len(made) == 5 * run.settings.syn_orders and made["spiculated"].sum() == run.settings.syn_orders
    ordering = synthesizer.load_conditioned(run)
    once, twice = (synthesizer.draw_conditioned(ordering, made, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once[0], twice[0]) and once[1].shape == (len(made), 1, 16, 16, 16)


class Cubes:
    """Cubes whose side grows with the only number of the code."""

    latent_size = 1

    def __call__(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(16) - 7.5] * 3, indexing="ij")).abs().amax(0)
        mask = (grid < (3 + 1.5 * z).reshape(-1, 1, 1, 1, 1)).float()
        return mask, mask


def test_draw_latents_draws_small_nodules_again_and_no_others():
    def diameters(z):
        return synthesizer.diameter_mm(Cubes()(z)[1], 1.25)

    plain = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    z = synthesizer.draw_latents(Cubes(), 100, 1.25, torch.Generator().manual_seed(0))
    large = diameters(plain) >= 6
    assert 0 < large.sum() < 100 and (diameters(z) >= 6).all()
    assert torch.equal(z[large], plain[large]) and (z[~large] != plain[~large]).all()
    once = synthesizer.draw_latents(Cubes(), 100, 1.25, torch.Generator().manual_seed(0), attempts=1)
    assert (diameters(once) < 6).any()  # draws come to an end
    redraws = torch.zeros(100, dtype=torch.int64)
    counted = synthesizer.draw_latents(Cubes(), 100, 1.25, torch.Generator().manual_seed(0), redraws)
    assert torch.equal(counted, z) and torch.equal(redraws > 0, ~large) and redraws.max() > 1


def test_a_nodule_thinner_than_a_voxel_still_has_a_mask():
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[6, 5:8, 5:8] = 1  # between the voxels of the cube, none of them is half covered
    scan = ct.Scan(np.full(labels.shape, -800, np.int16), (2.5, 2.5, 2.5), (0.0, 0.0, 0.0), np.eye(3), "a")
    centre = scan.to_world([[6.0, 6.0, 6.0]])
    _, masks = synthesizer.cut_out(scan, labels, centre, 8, 2.5, edge=3.0)
    assert masks.max() > 0.5
    with pytest.raises(runs.InputError, match="no voxel"):
        synthesizer.cut_out(scan, np.zeros_like(labels), centre, 8, 2.5, edge=3.0)


def test_an_even_field_is_drawn_even_without_a_grid():
    generator = synthesizer.Generator(16, 4, 8)
    channels = generator.seed_shape[0]
    generator.seed_shape, generator.seed = (channels, 12, 12, 12), torch.nn.Linear(4, channels * 12**3)
    torch.nn.init.zeros_(generator.seed.weight)
    generator.seed.bias.data = torch.randn(channels, generator=torch.Generator().manual_seed(0)).repeat_interleave(12**3)
    for cubes in generator(torch.zeros(1, 4)):
        inner = cubes[..., 12:36, 12:36, 12:36]  # beyond the reach of the border
        assert cubes.shape[2:] == (48, 48, 48) and inner.max() - inner.min() < 1e-6 and inner.max() > 0


def test_a_condition_has_size_type_and_spicules():
    table = pd.DataFrame({"diameter_mm": [10.0, 20.0], "type": ["part_solid", "unspecified"], "spiculated": [True, False]})
    assert np.allclose(synthesizer.condition(table), [[0, 0, 0, 1, 0, 1], [np.log(2) / 0.4, 0, 0, 0, 0, 0]])


def test_size_error_is_the_relative_error_of_balls():
    masks = torch.from_numpy(np.stack([synthesizer.soft_mask(ball(d), 1.25, 3.0) for d in (8, 16)])).unsqueeze(1).requires_grad_()
    measured = synthesizer.diameter_mm(masks, 1.25).numpy()
    for factor in (1, 1.5):
        asked = synthesizer.condition(pd.DataFrame({"diameter_mm": measured * factor, "type": "solid", "spiculated": False}))
        assert synthesizer.size_error(masks, asked, 1.25).item() == pytest.approx(np.log(factor), abs=0.03)
    synthesizer.size_error(masks, asked, 1.25).backward()
    assert (masks.grad.flatten(1).sum(1) < 0).all()  # they were asked to be larger


def test_resized_changes_the_diameter_alone():
    conditions = synthesizer.condition(pd.DataFrame({"diameter_mm": [8.0] * 500, "type": "solid", "spiculated": True}))
    other = synthesizer.resized(conditions, torch.Generator().manual_seed(0))
    diameters = 10 * np.exp(0.4 * other[:, 0].numpy())
    assert torch.equal(other[:, 1:], conditions[:, 1:]) and 6 <= diameters.min() < 6.2 and 19.5 < diameters.max() <= 20.001
    assert np.median(diameters) == pytest.approx(np.sqrt(6 * 20), rel=0.1)


def test_every_kind_is_drawn_as_often():
    kinds = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert torch.allclose(synthesizer.evenly(kinds), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))


def test_the_conditioned_generator_keeps_to_the_size():
    nodules, masks = pairs()
    table = TABLE.assign(diameter_mm=synthesizer.diameter_mm(masks, 2.5))
    settings = SimpleNamespace(**vars(SETTINGS) | {"syn_size": 5.0, "patch_spacing": 2.5, "syn_steps": 120})
    _, generator, _, losses = synthesizer.train(nodules, masks, settings, torch.Generator().manual_seed(0), synthesizer.condition(table))
    asked = pd.DataFrame({"diameter_mm": np.geomspace(8, 16, 40), "type": np.resize(KINDS, 40), "spiculated": False})
    drawn = synthesizer.draw_conditioned(generator, asked, torch.Generator().manual_seed(1))
    measured = synthesizer.diameter_mm(drawn[1], 2.5).numpy()
    assert np.corrcoef(measured, asked["diameter_mm"])[0, 1] > 0.9 and np.median(np.abs(np.log(measured / asked["diameter_mm"]))) < 0.15
    assert losses["size"].tail(10).mean() < 0.3 * losses["size"].head(10).mean()


@pytest.mark.parametrize("change", [{"diameter_mm": 5.0}, {"diameter_mm": 25.0}, {"type": "cyst"}])
def test_what_cannot_be_drawn_is_an_input_error(change):
    asked = TABLE.iloc[:2].assign(**change)
    with pytest.raises(runs.InputError, match="can be drawn: ask for 6 to 20 mm and one of solid"):
        synthesizer.draw_conditioned(synthesizer.Generator(16, 4, 8, synthesizer.CONDITIONS), asked, torch.Generator())


def test_spicules_reach_out_and_keep_the_volume():
    masks = torch.from_numpy(synthesizer.soft_mask(ball(16), 1.25, 3.0)).expand(32, 1, -1, -1, -1)
    spiky = synthesizer.spiculate(0.7 * masks, masks, torch.Generator().manual_seed(1))
    assert torch.allclose(spiky[0], 0.7 * spiky[1], atol=1e-6)
    plain, other = (synthesizer.features(*pair, 1.25) for pair in ((0.7 * masks, masks), spiky))
    assert ((other["diameter_mm"] / 16) ** 3).mean() == pytest.approx(((plain["diameter_mm"] / 16) ** 3).mean(), rel=0.03)
    assert (other["area"] > 1.05 * plain["area"]).all()
    points = torch.from_numpy(np.indices((32,) * 3)).flatten(1).sub(15.5).norm(dim=0) * 1.25
    farthest = torch.stack([points[mask.flatten() > 0.5].max() for mask in spiky[1]])
    assert (farthest > 1.15 * 8).all()


def test_a_condition_sets_the_brightness_of_the_whole_nodule():
    torch.manual_seed(0)
    generator, z = synthesizer.Generator(16, 4, 8, 2), torch.randn(3, 4)
    generator.seed.weight.data[:, 4:] = 0  # by this way alone
    generator.tone.weight.data[:] = torch.tensor([[0.5, 0.0]])
    (dark, mask), (bright, same) = (generator(z, torch.tensor([[first, 1.0]]).expand(3, 2)) for first in (0.0, 1.0))
    assert torch.equal(mask, same) and (bright > dark).all()


def test_only_what_is_to_be_spiculated_gets_spicules(monkeypatch):
    torch.manual_seed(0)
    generator = synthesizer.Generator(16, 4, 8, synthesizer.CONDITIONS)
    asked = pd.DataFrame({"diameter_mm": 10.0, "type": "solid", "spiculated": [True, False, True]})
    with_spicules = synthesizer.draw_conditioned(generator, asked, torch.Generator().manual_seed(1))
    monkeypatch.setattr(synthesizer, "spiculate", lambda nodules, masks, generator: (nodules, masks))
    without = synthesizer.draw_conditioned(generator, asked, torch.Generator().manual_seed(1))
    assert [bool((a != b).any()) for a, b in zip(with_spicules[1], without[1], strict=True)] == [True, False, True]


def test_a_forest_and_neighbours_judge_two_sets():
    rng = np.random.default_rng(0)
    one, same, far = rng.normal(size=(100, 4)), rng.normal(size=(120, 4)), rng.normal(size=(120, 4)) + 8
    narrow = 0.1 * rng.normal(size=(120, 4))
    assert synthesizer.told_apart(one, same) == pytest.approx(0.5, abs=0.12) and synthesizer.told_apart(one, far) > 0.99
    assert synthesizer.precision_recall(one, one) == (1, 1) and synthesizer.precision_recall(one, far) == (0, 0)
    assert min(synthesizer.precision_recall(one, same)) > 0.6
    precision, recall = synthesizer.precision_recall(one, narrow)
    assert precision > 0.9 and recall < 0.3  # all of them likely, but few of the others covered
    units = np.array([1, 1000, 1e-3, 1])
    assert synthesizer.precision_recall(one * units, same * units) == pytest.approx(synthesizer.precision_recall(one, same))


def test_radial_spectrum_of_a_wave_is_one_line():
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(2, 1, 16, 16, 16)
    power = synthesizer.radial_spectrum(wave)
    assert power.shape == (2, 8) and power[:, 2].min() > 0 and power.sum(1).allclose(power[:, 2], rtol=1e-4)
    shells = (np.rint(np.sqrt((np.stack(np.meshgrid(*[np.fft.fftfreq(16, 1 / 16)] * 3)) ** 2).sum(0))) == 3).sum()
    assert power[0, 2].item() == pytest.approx(2 * 0.25 / shells, rel=1e-4)  # two lines of amplitude 1/2


def test_features_of_balls_and_rods():
    masks = torch.zeros(3, 1, 32, 32, 32)
    masks[0, 0] = torch.from_numpy(ball(16.0).astype(np.float32))
    masks[1, 0, 6:26, 14:18, 14:18] = 1  # 20 x 4 x 4 voxels
    table = synthesizer.features(masks * 0.5, masks, 1.25)
    assert table["mean_hu"].tolist() == pytest.approx([-300, -300, -1000]) and (table["diameter_mm"].iloc[2] == 0)
    assert table["sd_hu"].tolist() == pytest.approx([0, 0, 0], abs=1e-3) == table["step_hu"].tolist()
    for column in ("length", "breadth"):
        assert table[column].tolist() == pytest.approx([1, 5, 1], rel=0.02)
    assert table["area"].iloc[1] == pytest.approx((2 * 16 + 4 * 80) / 320 ** (2 / 3))
    assert table["offset_mm"].tolist() == pytest.approx([0, 0, 0], abs=1e-4)


def test_compare_measures_against_the_first_group():
    nodules, masks = pairs()
    table = synthesizer.compare({"a": (nodules, masks), "b": (nodules, masks), "c": (nodules * 0.5, masks)}, 2.5).set_index("group")
    assert table.loc["b", ["diameter_w1", "hu_w1", "diameter_ks", "hu_ks"]].tolist() == [0, 0, 0, 0] and np.isnan(table.loc["a", "auc"])
    means = synthesizer.describe(nodules, masks, 2.5)["mean_hu"] + 1000
    assert table.loc["c", "hu_w1"] == pytest.approx(means.mean() / 2, rel=1e-4) and table.loc["c", "diameter_w1"] == 0
