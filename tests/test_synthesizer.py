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


SETTINGS = SimpleNamespace(
    syn_latent=4, syn_width=4, syn_steps=60, syn_batch=8, syn_rate=0.01, syn_kl=0.1, syn_critic=0.01, syn_penalty=10.0
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
    run = runs.open_run("tiny", 100, syn_steps=5)
    monkeypatch.setattr(runs, "STAGES", runs.STAGES | {"synthesizer": runs.Stage("lungadv.synthesizer:build", 1)})
    table = pd.DataFrame({"seriesuid": ["1.2"] * 24})
    monkeypatch.setattr(synthesizer, "cutouts", lambda run: (*pairs(), table))
    synthesizer.build(run)
    generator, again = synthesizer.load(run), synthesizer.load(run)
    z = torch.randn(2, generator.latent_size)
    assert torch.equal(generator(z)[0], again(z)[0]) and generator(z)[1].shape == (2, 1, 16, 16, 16)
    nodules, masks, stored = synthesizer.load_cutouts(run)
    assert stored["seriesuid"].tolist() == ["1.2"] * 24 and torch.allclose(masks, pairs()[1], atol=1e-3)
    assert pd.read_csv(run.path("synthesizer", "quality.csv"))["group"].tolist() == ["real", "rebuilt", "sampled"]
    assert len(pd.read_csv(run.path("synthesizer", "training.csv"))) == 5


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


def test_a_nodule_thinner_than_a_voxel_still_has_a_mask():
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[6, 5:8, 5:8] = 1  # between the voxels of the cube, none of them is half covered
    scan = ct.Scan(np.full(labels.shape, -800, np.int16), (2.5, 2.5, 2.5), (0.0, 0.0, 0.0), np.eye(3), "a")
    centre = scan.to_world([[6.0, 6.0, 6.0]])
    _, masks = synthesizer.cut_out(scan, labels, centre, 8, 2.5, edge=3.0)
    assert masks.max() > 0.5
    with pytest.raises(runs.InputError, match="no voxel"):
        synthesizer.cut_out(scan, np.zeros_like(labels), centre, 8, 2.5, edge=3.0)
