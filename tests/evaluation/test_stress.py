"""Stress tests against oracles: noise whose moments are known, linear models whose worst input is known."""

import numpy as np
import pandas as pd
import pytest
import torch

import lungadv
from lungadv.evaluation import audit, stress
from lungadv.evaluation.detector import StressedModel
from tests.evaluation.toy_models import Detached, Fragile, Template


@pytest.mark.parametrize("magnitude", [0.05, 0.4])
def test_uniform_noise_has_its_magnitude_and_variance(magnitude):
    grey = torch.full((4, 1, 32, 32, 32), 0.5)
    noise = stress.uniform_noise(grey, magnitude, torch.Generator().manual_seed(0)) - 0.5
    assert noise.abs().max() <= magnitude + 1e-6 and abs(noise.mean()) < 0.01 * magnitude
    assert noise.var().item() == pytest.approx(magnitude**2 / 3, rel=0.02)
    assert stress.uniform_noise(torch.ones(1, 1, 8, 8, 8), magnitude, torch.Generator().manual_seed(0)).max() <= 1


@pytest.mark.parametrize("scale, level", [(50, 0.3), (50, 0.6), (200, 0.1)])
def test_poisson_noise_keeps_the_mean_and_has_variance_x_over_scale(scale, level):
    noisy = stress.poisson_noise(torch.full((4, 1, 32, 32, 32), level), scale, torch.Generator().manual_seed(0))
    assert noisy.mean().item() == pytest.approx(level, rel=0.01)
    assert noisy.var().item() == pytest.approx(level / scale, rel=0.03)


def test_poisson_noise_at_scale_one_is_black_or_white():
    noisy = stress.poisson_noise(torch.full((1, 1, 32, 32, 32), 0.3), 1, torch.Generator().manual_seed(0))
    assert set(noisy.unique().tolist()) == {0.0, 1.0}
    assert noisy.mean().item() == pytest.approx(1 - np.exp(-0.3), abs=0.01)  # clipped: any count above 0 is white


def test_random_signs_have_the_norm_of_the_attack(patches):
    change = stress.random_signs(patches, 0.02, torch.Generator().manual_seed(0)) - patches
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.02), atol=1e-6, rtol=0)
    assert abs(change.sign().mean()) < 0.05


def test_a_clean_report_counts_what_is_wrong_and_how_sure(patches):
    model = Template("logit", gain=3.0)
    confidence = torch.sigmoid(model(patches)).detach()
    report = stress.stress_test(model, patches, patches[:5], output="logit", noise=4).set_index(["test", "level", "kind"])
    row = report.loc[("clean", 0.0, "positives")]
    assert row["n"] == 12 and row["share_wrong"] == pytest.approx((confidence <= 0.5).float().mean().item())
    assert row["mean_confidence"] == pytest.approx(confidence.mean().item(), abs=1e-5)
    assert row["share_wrong_low"] <= row["share_wrong"] <= row["share_wrong_high"]
    assert report.loc[("clean", 0.0, "negatives"), "share_wrong"] == pytest.approx((confidence[:5] > 0.5).float().mean().item())
    strict = stress.stress_test(model, patches, patches[:5], output="logit", noise=4, threshold=0.9).set_index(["test", "level", "kind"])
    assert strict.loc[("clean", 0.0, "positives"), "share_wrong"] == pytest.approx((confidence <= 0.9).float().mean().item())


def test_white_box_pgd_defeats_a_linear_model_and_random_signs_of_its_norm_do_not(patches):
    model = Template("evidence", bias=4.0)
    report = stress.stress_test(model, patches, patches - 0.02 * model.template.detach().sign(), output="evidence", eps=0.02, noise=4)
    share = report.set_index(["test", "kind"])["share_wrong"]
    assert share["clean", "positives"] == share["random", "positives"] == 0 and share["pgd", "positives"] == 1
    assert share["clean", "negatives"] == 0 and share["pgd", "negatives"] == 1
    assert set(report["test"]) == {"clean", "uniform", "poisson", "random", "pgd"}
    assert report[report["test"] == "uniform"]["level"].unique().tolist() == [0.05, 0.1, 0.2, 0.4]


def test_no_attack_with_eps_zero(patches):
    report = stress.stress_test(Template(), patches, patches, output="evidence", eps=0.0, noise=4)
    share = report.set_index(["test", "kind"])["mean_confidence"]
    for kind in ("positives", "negatives", "noise"):
        assert share["pgd", kind] == pytest.approx(share["clean", kind])


def test_a_stress_test_is_deterministic_and_leaves_the_random_state_alone(patches):
    state = torch.random.get_rng_state()
    first, again = (stress.stress_test(Template(), patches, patches, output="evidence", noise=4) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert torch.equal(state, torch.random.get_rng_state())
    other = stress.stress_test(Template(), patches, patches, output="evidence", noise=4, seed=1)
    assert not np.allclose(first["mean_confidence"], other["mean_confidence"])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_went(fails, patches):
    model = Fragile(fails).eval()
    model.template.grad = torch.ones_like(model.template)
    model.norm.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needs = [parameter.requires_grad for parameter in model.parameters()]
    if fails:
        with pytest.raises(ValueError, match=r"the model fails on patches of shape \(1, 1, 8, 8, 8\): RuntimeError: out of order"):
            stress.stress_test(model, patches, patches, output="logit", noise=2)
    else:
        stress.stress_test(model, patches, patches, output="logit", noise=2)
    assert needs == [parameter.requires_grad for parameter in model.parameters()]
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.template.grad, torch.ones_like(model.template)) and model.norm.weight.grad is None


@pytest.mark.parametrize("function", [stress.stress_test, audit.report])
@pytest.mark.parametrize("part", ["all", "dropout"])
def test_a_network_in_training_mode_is_named_and_left_in_it(function, part, patches):
    model = Fragile().eval()
    (model if part == "all" else model.dropout).train()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match=r"the model is in training mode.*call \.eval\(\)"):
        function(model, patches, patches, output="logit", noise=2)
    assert modes == [module.training for module in model.modules()]


def test_a_plain_function_and_numpy_patches_will_do(patches):
    report = stress.stress_test(
        lambda x: 100 * (x.mean(dim=(1, 2, 3, 4)) - 0.5), patches.numpy(), patches.numpy(), output="logit", steps=3, noise=2
    )
    assert report["n"].tolist()[:3] == [12, 12, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[:, 0], r"positives have shape \(12, 8, 8, 8\), not \(N, 1, D, H, W\)"),
        (lambda x: x[:0], "positives have shape"),
        (lambda x: x.expand(-1, 2, -1, -1, -1), "positives have shape"),
        (lambda x: x.double(), r"float64, not float32: save them with .astype\('float32'\)"),
        (lambda x: (x * 1400 - 1000).numpy().astype(np.int16), "int16, not float32: convert HU with lungadv.to_unit, which gives float32"),
        (lambda x: x * 1400 - 1000, "convert HU with lungadv.to_unit"),
        (lambda x: x.numpy().astype(">f4"), ">f4, not float32"),
        (lambda x: x.numpy().astype(object), "object, not float32"),
        (lambda x: x - 0.9, r"not \[0, 1\]"),
        (
            lambda x: torch.where(torch.arange(12).reshape(12, 1, 1, 1, 1) == 3, torch.nan, x),
            r"NaN or infinity in 1 of 12 patches \(first: 3\)",
        ),
        (lambda x: x[..., :6], r"negatives are \(1, 8, 8, 8\), positives \(1, 8, 8, 6\)"),
    ],
)
def test_bad_patches_are_named(change, message, patches):
    with pytest.raises(ValueError, match=message):
        stress.stress_test(Template(), change(patches), patches, output="evidence")


@pytest.mark.parametrize(
    "model, output, message",
    [
        (Template("logits"), "evidence", "negative values, which is no evidence"),
        (Template("logits"), "logit", "returned shape"),
        (Template("logit"), "logits", "returned shape"),
        (Template("logit"), "softmax", "output 'softmax' is unknown"),
        (lambda x: (Template()(x), 0), "evidence", "returned tuple, not a tensor"),
        (lambda x: Template()(x) * torch.nan, "evidence", "returned NaN"),
        (Detached("logit"), "logit", "does not depend on the batch"),
        (lambda x: Template("logit")(x.detach()), "logit", "does not depend on the batch"),
        (lambda x: Template("logit")(x) / 0, "logit", "NaN or infinity"),
    ],
)
def test_a_model_that_does_not_fit_its_output_is_named(model, output, message, patches):
    with pytest.raises(ValueError, match=message):
        stress.stress_test(model, patches, patches, output=output, noise=2)


@pytest.mark.parametrize(
    "terms, message",
    [
        ({"eps": -0.1}, "radii are from 0 to 1"),
        ({"radii": (0.1, 28.0)}, "radii are from 0 to 1"),
        ({"eps": np.nan}, "radii are from 0 to 1"),
        ({"steps": 0}, "from 1 up"),
        ({"noise": 0}, "from 1 up"),
        ({"threshold": 1.0}, "between 0 and 1"),
    ],
)
def test_terms_that_cannot_be_meant_are_named(terms, message, patches):
    with pytest.raises(ValueError, match=message):
        stress.stress_test(Template(), patches, patches, output="evidence", **terms)


def test_success_of_a_linear_model_against_eps_is_known(patches):
    model = Template("logit", bias=2.0)
    odds, reach = model(patches).detach(), model.template.abs().sum().item()
    radii = (0.002, 0.004, 0.006, 0.008)
    report = stress.stress_test(model, patches, patches, output="logit", eps=0.001, radii=radii, noise=2)
    curve = stress.select(report, test="pgd", kind="positives")
    assert curve["level"].tolist() == [0.001, *radii]
    expected = [(odds <= radius * reach).float().mean().item() for radius in curve["level"]]
    np.testing.assert_allclose(curve["share_wrong"], expected)
    assert 0 < curve["share_wrong"].iloc[1] < 1 or curve["share_wrong"].nunique() > 1


def test_the_public_front_gives_the_same_function():
    assert lungadv.stress_test is stress.stress_test


def test_the_smallest_radius_is_the_first_radius_that_suffices(patches):
    model = Template("logit", bias=2.0)
    detector, odds = StressedModel(model, "logit"), model(patches).detach()
    grid = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
    reach = model.template.abs().sum().item()
    expected = [next((radius for radius in (0, *grid) if radius * reach >= margin), np.inf) for margin in odds.tolist()]
    eps, flipped = stress.minimal_radius(detector, patches, 1, grid, steps=20, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(eps, expected, rtol=1e-6)
    assert (detector.predict(flipped)[0][eps.isfinite()] <= 0.5).all()
    never, untouched = stress.minimal_radius(
        StressedModel(Template("logit", bias=100.0), "logit"), patches, 1, grid, steps=5, generator=torch.Generator().manual_seed(0)
    )
    assert never.isinf().all() and torch.equal(untouched, patches)


def test_stimuli_of_square_stay_in_the_ball_and_raise_the_loss(patches):
    detector, generator = StressedModel(Template("logit"), "logit"), torch.Generator().manual_seed(0)
    ((test, level, kind, attacked),) = stress.square_stimuli(detector, {"positives": patches}, 0.02, 40, generator)
    assert (test, level, kind) == ("square", 0.02, "positives") and (attacked - patches).abs().max() <= 0.02 + 1e-6
    assert (detector.predict(attacked)[0] < detector.predict(patches)[0]).all()


def test_checked_patches_are_a_tensor_with_the_same_numbers(patches):
    assert torch.equal(stress.check_patches(patches.numpy(), "positives"), patches)
