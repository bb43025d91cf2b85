"""Stress tests and audit of any model against oracles: linear models whose worst input is known, and models broken on purpose."""

import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lungadv import robustness, stress

SIZE = 8


def random(*shape, seed=0, **options):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), **options)


class Template(nn.Module):
    """Log-odds `gain` * <x - 0.5, template> + `bias`, given out as evidence, one logit or two."""

    def __init__(self, output="evidence", seed=0, gain=1.0, bias=0.0, size=SIZE):
        super().__init__()
        self.output, self.gain, self.bias = output, gain, bias
        self.template = nn.Parameter(torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed)))
        self.eval()

    def forward(self, x):
        odds = self.gain * ((x - 0.5) * self.template).sum(dim=(1, 2, 3, 4)) + self.bias
        if self.output == "logit":
            return odds
        if self.output == "logits":
            return torch.stack([torch.zeros_like(odds), odds], 1)
        return torch.stack([odds.clamp(min=0).expm1(), (-odds).clamp(min=0).expm1()], 1)  # ln((e+ + 1) / (e- + 1)) = odds


class Detached(Template):
    """A network that lost its gradient."""

    def forward(self, x):
        return super().forward(x).detach()


@pytest.fixture
def patches():
    return 0.5 + 0.02 * (random(12, 1, SIZE, SIZE, SIZE) - 0.5)


@pytest.mark.parametrize("output", robustness.OUTPUTS)
def test_every_head_gives_the_same_log_odds_and_confidence(output, patches):
    model = Template(output)
    expected = ((patches - 0.5) * model.template).sum(dim=(1, 2, 3, 4)).detach()
    torch.testing.assert_close(robustness.log_odds(model(patches), output, len(patches)).detach(), expected, rtol=1e-4, atol=1e-5)
    confidence, uncertainty = robustness.Detector(model, output, batch_size=5).respond(patches)
    torch.testing.assert_close(confidence, expected.sigmoid(), rtol=1e-4, atol=1e-5)
    assert uncertainty.shape == (12,) and ((uncertainty > 0) & (uncertainty <= 1)).all()


@pytest.mark.parametrize("output", robustness.OUTPUTS)
@pytest.mark.parametrize("label", [0, 1])
def test_the_attack_reaches_the_known_worst_point_of_a_linear_model(output, label, patches):
    model = Template(output)
    attacked = robustness.Detector(model, output).attack(patches, label, eps=0.1, steps=20, generator=torch.Generator().manual_seed(1))
    worst = patches + (1 - 2 * label) * 0.1 * model.template.detach().sign()
    torch.testing.assert_close(attacked, worst, atol=1e-6, rtol=0)


def test_the_attack_stays_in_the_unit_box():
    patches = random(4, 1, SIZE, SIZE, SIZE)
    attacked = robustness.Detector(Template("logit"), "logit").attack(
        patches, 1, eps=0.4, steps=5, generator=torch.Generator().manual_seed(1)
    )
    assert attacked.min() >= 0 and attacked.max() <= 1 and (attacked - patches).abs().max() <= 0.4 + 1e-6


@pytest.mark.parametrize("magnitude", [0.05, 0.4])
def test_uniform_noise_has_its_magnitude_and_variance(magnitude):
    grey = torch.full((4, 1, 32, 32, 32), 0.5)
    noise = robustness.uniform_noise(grey, magnitude, torch.Generator().manual_seed(0)) - 0.5
    assert noise.abs().max() <= magnitude + 1e-6 and abs(noise.mean()) < 0.01 * magnitude
    assert noise.var().item() == pytest.approx(magnitude**2 / 3, rel=0.02)
    assert robustness.uniform_noise(torch.ones(1, 1, 8, 8, 8), magnitude, torch.Generator().manual_seed(0)).max() <= 1


@pytest.mark.parametrize("scale, level", [(50, 0.3), (50, 0.6), (200, 0.1)])
def test_poisson_noise_keeps_the_mean_and_has_variance_x_over_scale(scale, level):
    noisy = robustness.poisson_noise(torch.full((4, 1, 32, 32, 32), level), scale, torch.Generator().manual_seed(0))
    assert noisy.mean().item() == pytest.approx(level, rel=0.01)
    assert noisy.var().item() == pytest.approx(level / scale, rel=0.03)


def test_poisson_noise_at_scale_one_is_black_or_white():
    noisy = robustness.poisson_noise(torch.full((1, 1, 32, 32, 32), 0.3), 1, torch.Generator().manual_seed(0))
    assert set(noisy.unique().tolist()) == {0.0, 1.0}
    assert noisy.mean().item() == pytest.approx(1 - np.exp(-0.3), abs=0.01)  # clipped: any count above 0 is white


def test_random_signs_have_the_norm_of_the_attack(patches):
    change = robustness.random_signs(patches, 0.02, torch.Generator().manual_seed(0)) - patches
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.02), atol=1e-6, rtol=0)
    assert abs(change.sign().mean()) < 0.05


def test_a_clean_report_counts_what_is_wrong_and_how_sure(patches):
    model = Template("logit", gain=3.0)
    confidence = torch.sigmoid(model(patches)).detach()
    report = robustness.stress_test(model, patches, patches[:5], output="logit", noise=4).set_index(["test", "level", "kind"])
    row = report.loc[("clean", 0.0, "positives")]
    assert row["n"] == 12 and row["share_wrong"] == pytest.approx((confidence <= 0.5).float().mean().item())
    assert row["mean_confidence"] == pytest.approx(confidence.mean().item(), abs=1e-5)
    assert row["share_wrong_low"] <= row["share_wrong"] <= row["share_wrong_high"]
    assert report.loc[("clean", 0.0, "negatives"), "share_wrong"] == pytest.approx((confidence[:5] > 0.5).float().mean().item())
    strict = robustness.stress_test(model, patches, patches[:5], output="logit", noise=4, threshold=0.9).set_index(
        ["test", "level", "kind"]
    )
    assert strict.loc[("clean", 0.0, "positives"), "share_wrong"] == pytest.approx((confidence <= 0.9).float().mean().item())


def test_white_box_pgd_defeats_a_linear_model_and_random_signs_of_its_norm_do_not(patches):
    model = Template("evidence", bias=4.0)
    report = robustness.stress_test(model, patches, patches - 0.02 * model.template.detach().sign(), output="evidence", eps=0.02, noise=4)
    share = report.set_index(["test", "kind"])["share_wrong"]
    assert share["clean", "positives"] == share["random", "positives"] == 0 and share["pgd", "positives"] == 1
    assert share["clean", "negatives"] == 0 and share["pgd", "negatives"] == 1
    assert set(report["test"]) == {"clean", "uniform", "poisson", "random", "pgd"}
    assert report[report["test"] == "uniform"]["level"].unique().tolist() == [0.05, 0.1, 0.2, 0.4]


def test_no_attack_with_eps_zero(patches):
    report = robustness.stress_test(Template(), patches, patches, output="evidence", eps=0.0, noise=4)
    share = report.set_index(["test", "kind"])["mean_confidence"]
    for kind in ("positives", "negatives", "noise"):
        assert share["pgd", kind] == pytest.approx(share["clean", kind])


def test_a_stress_test_is_deterministic_and_leaves_the_random_state_alone(patches):
    state = torch.random.get_rng_state()
    first, again = (robustness.stress_test(Template(), patches, patches, output="evidence", noise=4) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert torch.equal(state, torch.random.get_rng_state())
    other = robustness.stress_test(Template(), patches, patches, output="evidence", noise=4, seed=1)
    assert not np.allclose(first["mean_confidence"], other["mean_confidence"])


class Fragile(Template):
    """A template behind a batch norm and dropout; may fail when called."""

    def __init__(self, fails=False):
        super().__init__("logit")
        self.norm, self.dropout, self.fails = nn.BatchNorm3d(1), nn.Dropout(0.5), fails

    def forward(self, x):
        if self.fails:
            raise RuntimeError("out of order")
        return super().forward(self.dropout(self.norm(x)))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_went(fails, patches):
    model = Fragile(fails).eval()
    model.template.grad = torch.ones_like(model.template)
    model.norm.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needs = [parameter.requires_grad for parameter in model.parameters()]
    if fails:
        with pytest.raises(ValueError, match=r"the model fails on patches of shape \(1, 1, 8, 8, 8\): RuntimeError: out of order"):
            robustness.stress_test(model, patches, patches, output="logit", noise=2)
    else:
        robustness.stress_test(model, patches, patches, output="logit", noise=2)
    assert needs == [parameter.requires_grad for parameter in model.parameters()]
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.template.grad, torch.ones_like(model.template)) and model.norm.weight.grad is None


@pytest.mark.parametrize("function", [robustness.stress_test, robustness.report])
@pytest.mark.parametrize("part", ["all", "dropout"])
def test_a_network_in_training_mode_is_named_and_left_in_it(function, part, patches):
    model = Fragile().eval()
    (model if part == "all" else model.dropout).train()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match=r"the model is in training mode.*call \.eval\(\)"):
        function(model, patches, patches, output="logit", noise=2)
    assert modes == [module.training for module in model.modules()]


def test_a_plain_function_and_numpy_patches_will_do(patches):
    report = robustness.stress_test(
        lambda x: 100 * (x.mean(dim=(1, 2, 3, 4)) - 0.5), patches.numpy(), patches.numpy(), output="logit", steps=3, noise=2
    )
    assert report["n"].tolist()[:3] == [12, 12, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[:, 0], r"positives have shape \(12, 8, 8, 8\), not \(N, 1, D, H, W\)"),
        (lambda x: x[:0], "positives have shape"),
        (lambda x: x.expand(-1, 2, -1, -1, -1), "positives have shape"),
        (lambda x: x.double(), "float64, not float32"),
        (lambda x: x * 1400 - 1000, "convert HU with lungadv.ct.to_unit"),
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
        robustness.stress_test(Template(), change(patches), patches, output="evidence")


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
        robustness.stress_test(model, patches, patches, output=output, noise=2)


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
        robustness.stress_test(Template(), patches, patches, output="evidence", **terms)


def test_the_name_in_stress_is_the_same_function():
    assert stress.stress_test is robustness.stress_test


def test_success_of_a_linear_model_against_eps_is_known(patches):
    model = Template("logit", bias=2.0)
    odds, reach = model(patches).detach(), model.template.abs().sum().item()
    radii = (0.002, 0.004, 0.006, 0.008)
    report = robustness.stress_test(model, patches, patches, output="logit", eps=0.001, radii=radii, noise=2)
    curve = robustness.select(report, test="pgd", kind="positives")
    assert curve["level"].tolist() == [0.001, *radii]
    expected = [(odds <= radius * reach).float().mean().item() for radius in curve["level"]]
    np.testing.assert_allclose(curve["share_wrong"], expected)
    assert 0 < curve["share_wrong"].iloc[1] < 1 or curve["share_wrong"].nunique() > 1


# The audit --------------------------------------------------------------------------------------------------------------------


class Rounding(Template):
    """Grey levels of 1/15: the gradient is zero everywhere."""

    def forward(self, x):
        return super().forward((15 * x).round() / 15)


class Shuffled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll((1, 3), (2, 4))


class Misled(Template):
    """A gradient that is there, and wrong."""

    def forward(self, x):
        return super().forward(Shuffled.apply(x))


class Saturated(Template):
    """A probability that is cut off before it is made a logit again."""

    def forward(self, x):
        return torch.logit((20 * super().forward(x)).sigmoid().clamp(0.001, 0.999))


class Dropping(Template):
    """Dropout that nobody can switch off."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x - 0.5, 0.3) + 0.5)


TERMS = {"eps": 0.02, "steps": 10, "queries": 80, "radii": (0.01, 0.05, 0.3), "noise": 2}


@pytest.fixture(scope="module")
def nodules():
    """Positives and negatives that a template tells apart by some 5 in log-odds; its sign decides, so that 0.02 is enough to flip them."""
    sign = Template().template.detach().sign()
    noise = 0.04 * (random(24, 1, SIZE, SIZE, SIZE) - 0.5)
    return 0.5 + noise[:12] + 0.012 * sign, 0.5 + noise[12:] - 0.012 * sign


def failures(report):
    return set(report.audit.loc[report.audit["verdict"] == "fail", "check"])


def failed(report, words):
    return any(words in check for check in failures(report))


@pytest.fixture(scope="module")
def honest(nodules):
    return robustness.report(Template("evidence", gain=0.2).eval(), *nodules, output="evidence", **TERMS)


@pytest.mark.parametrize("output", robustness.OUTPUTS)
def test_an_honest_model_passes(output, nodules, honest):
    report = honest if output == "evidence" else robustness.report(Template(output, gain=0.2).eval(), *nodules, output=output, **TERMS)
    assert report.holds and not failures(report)
    assert set(report.audit["verdict"]) == {"pass"} and report.audit["check"].is_unique
    assert report.notes == [] and report.settings["attack"] == "PGD" and report.settings["eps_hu"] == pytest.approx(28)
    assert (report.loss["log_odds"].diff().dropna() >= 0).all() and report.loss["evaluations"].iloc[-1] == TERMS["steps"] + 2


def test_a_model_whose_gradient_is_masked_by_quantisation_fails(nodules):
    report = robustness.report(Rounding("logit"), *nodules, output="logit", **TERMS)
    assert not report.holds
    for words in ("has a gradient", "FGSM does more", "no gradient-free attack beats PGD", "no transferred attack beats PGD"):
        assert failed(report, words), words


def test_a_model_that_saturates_fails(nodules):
    report = robustness.report(Saturated("logit"), *nodules, output="logit", **TERMS)
    clean = robustness.select(report.stress, test="clean")["share_wrong"].iloc[:2]
    assert (clean == 0).all() and not report.holds
    for words in ("has a gradient", "success grows towards 100 %", "FGSM does more"):
        assert failed(report, words), words


def test_a_model_with_a_misleading_gradient_fails(nodules):
    report = robustness.report(Misled("logit"), *nodules, output="logit", **TERMS)
    assert failed(report, "no gradient-free attack beats PGD") and not failed(report, "has a gradient")


class Flipped(torch.autograd.Function):
    """The gradient's sign is wrong in 40 % of the voxels."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(random(*gradient.shape[2:], seed=5) < 0.4, -gradient, gradient)


class PartlyWrong(Template):
    """A gradient that leads in the right direction, and less far than it could."""

    def forward(self, x):
        return super().forward(Flipped.apply(x))


class StraightThrough(Template):
    """Grey levels of 1/15, with the gradient of a model that does not round."""

    def forward(self, x):
        return super().forward(((15 * x).round() / 15 - x).detach() + x)


def verdict(report, words):
    (found,) = report.audit.loc[report.audit["check"].str.contains(words, regex=False), "verdict"]
    return found


@pytest.mark.parametrize("broken", [PartlyWrong, StraightThrough])
def test_a_gradient_that_is_partly_wrong_fails(broken, nodules):
    report = robustness.report(broken("logit", gain=0.2), *nodules, output="logit", **TERMS)
    assert verdict(report, "the gradient predicts the loss") == "fail" and verdict(report, "has a gradient") == "pass"


def test_what_the_gradient_foresees_is_known_for_a_linear_and_for_a_partly_wrong_model(nodules, honest):
    row = honest.audit[honest.audit["check"].str.contains("the gradient predicts")].iloc[0]
    assert row["value"] == pytest.approx(1, abs=1e-3) and row["verdict"] == "pass"
    size, flipped = Template().template.abs(), random(SIZE, SIZE, SIZE, seed=5) < 0.4
    expected = ((size * ~flipped).sum() - (size * flipped).sum()) / size.sum()
    report = robustness.report(PartlyWrong("logit", gain=0.2), *nodules, output="logit", **TERMS)
    row = report.audit[report.audit["check"].str.contains("the gradient predicts")].iloc[0]
    assert row["value"] == pytest.approx(expected.item(), abs=1e-3)


def test_what_the_gradient_foresees_counts_voxels_on_a_bound_once():
    model = Template("logit")
    black = torch.zeros(4, 1, SIZE, SIZE, SIZE)
    signs, detector = -torch.ones(4), robustness.Detector(model, "logit")
    dead, ratio = robustness._gradient(lambda batch, sign: sign * detector.odds(batch), black, signs, 0.001)
    assert dead == 0 and ratio == pytest.approx(1, abs=1e-3)


class Mean(nn.Module):
    """The mean grey level, the same gradient in every voxel."""

    def forward(self, x):
        return 200 * (x.mean(dim=(1, 2, 3, 4)) - 0.49)


def test_an_honest_model_of_the_mean_holds():
    noise = 0.04 * (random(24, 1, SIZE, SIZE, SIZE) - 0.5)
    report = robustness.report(Mean().eval(), 0.5 + noise[:12], 0.47 + noise[12:], output="logit", **TERMS)
    assert report.holds, failures(report)
    assert verdict(report, "a copy with a misleading gradient is found out") == "pass"


def test_a_copy_that_nothing_misleads_is_not_measured(nodules, monkeypatch):
    monkeypatch.setattr(robustness.Misleading, "backward", staticmethod(lambda ctx, gradient: gradient))
    report = robustness.report(Template("logit", gain=0.2), *nodules, output="logit", **TERMS)
    assert verdict(report, "a copy with a misleading gradient is found out") == "not measured" and report.holds


class Unclamped(Template):
    """A probability made a logit again: infinite beyond log-odds of 17 and lower than -104."""

    def forward(self, x):
        return torch.logit((2 * super().forward(x)).sigmoid())


def test_a_model_that_is_infinite_under_attack_alone_fails_and_its_attack_goes_on(nodules):
    report = robustness.report(Unclamped("logit"), *nodules, output="logit", **TERMS)
    assert verdict(report, "answers are finite") == "fail"
    share = report.stress.set_index(["test", "level", "kind"])["share_wrong"]
    for kind in ("positives", "negatives"):
        assert share["clean", 0, kind] == 0 and share["pgd", 0.05, kind] == 1
    assert np.isfinite(report.stress["mean_confidence"]).all() and np.isfinite(report.loss["log_odds"]).all()


def test_answers_that_are_not_finite_are_counted_and_read_as_the_surest_or_as_one_half(patches):
    detector = robustness.Detector(lambda x: torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]), "logit")
    confidence, _ = detector.respond(patches[:4])
    torch.testing.assert_close(confidence, torch.tensor([0.5, 1.0, 0.0, torch.tensor(1.0).sigmoid()]))
    assert detector.finite == {True: 1, False: 3}
    unsure = robustness.Detector(lambda x: torch.tensor([[torch.inf, 0.0], [torch.nan, 1.0]]), "evidence").respond(patches[:2])[1]
    assert unsure.tolist() == [0, 1]


def test_very_large_log_odds_are_no_trouble(nodules):
    with np.errstate(over="raise"):
        report = robustness.report(Template("logit", gain=1e3), *nodules, output="logit", **TERMS)
    assert report.holds, failures(report)


@pytest.mark.parametrize("count", [1, 3])
def test_of_too_few_patches_a_perfect_model_does_not_fail(count, nodules):
    report = robustness.report(Template("logit", gain=0.2), *(kind[:count] for kind in nodules), output="logit", **TERMS)
    assert verdict(report, "judged better than by chance") == "not measured" and report.holds, failures(report)
    assert "too few" in report.notes[0]


def test_a_tie_is_no_nodule_in_the_table_and_in_the_audit(nodules):
    report = robustness.report(lambda x: 0 * x.sum(dim=(1, 2, 3, 4)), *nodules, output="logit", **TERMS)
    share = report.stress.set_index(["test", "level", "kind"])["share_wrong"]
    assert share["pgd", 0.02, "positives"] == 1 and share["pgd", 0.02, "negatives"] == 0
    row = report.audit[report.audit["check"].str.contains("twice the steps")].iloc[0]
    assert row["value"] == row["reference"] == 0.5


class InPlace(Template):
    """Works in place on what it is given."""

    def forward(self, x):
        x -= 0.5
        x += 0.5
        x.clamp_(0, 1).mul_(2)
        return super().forward(x / 2)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_model_that_works_in_place_is_judged_as_one_that_does_not(gradients, nodules):
    given, before = [patches.numpy().copy() for patches in nodules], [patches.clone() for patches in nodules]
    tables = []
    for model in (InPlace("logit", gain=0.2), Template("logit", gain=0.2)):
        asked = model if gradients else lambda x, model=model: model(x.detach()).detach()
        tables.append(robustness.report(asked, *given, output="logit", **TERMS).stress)
    pd.testing.assert_frame_equal(*tables, rtol=1e-3)
    assert all((patches == kept.numpy()).all() for patches, kept in zip(given, before, strict=True))


def test_a_gradient_that_in_place_work_has_spoilt_is_named(patches):
    def model(x):
        squares = x.square()
        x.mul_(2)
        return squares.sum(dim=(1, 2, 3, 4))

    with pytest.raises(ValueError, match="the model's gradient fails: it works in place"):
        robustness.stress_test(model, patches, patches, output="logit", noise=2)


@pytest.mark.parametrize("terms", [{"steps": 3}, {"steps": 3, "restarts": 2}, {"steps": 3, "norm": "l2"}, {"queries": 20}])
def test_an_attack_does_not_depend_on_the_batch_size(terms, patches):
    def rugged(x):
        return torch.sin(400 * x).mean(dim=(1, 2, 3, 4))

    terms = terms | ({"search": robustness.square} if "queries" in terms else {}) | {"eps": 0.3 if "norm" in terms else 0.05}
    whole, parts = (
        robustness.Detector(rugged, "logit", batch_size=size).attack(patches, 1, generator=torch.Generator().manual_seed(1), **terms)
        for size in (64, 5)
    )
    assert torch.equal(whole, parts) and not torch.equal(whole, patches)


def test_a_model_that_answers_by_chance_fails(nodules):
    torch.manual_seed(0)
    assert failed(robustness.report(Dropping("logit"), *nodules, output="logit", **TERMS), "answered as when they were found")


def test_a_model_that_knows_nothing_fails_before_any_attack(nodules):
    report = robustness.report(Template("logit", gain=0.01, bias=1.0), *nodules, output="logit", **TERMS)
    assert failed(report, "judged better than by chance")


def test_the_audit_leaves_model_and_random_state_as_they_were(nodules):
    model, state = Fragile().eval(), torch.random.get_rng_state()
    report = robustness.report(model, *nodules, output="logit", **TERMS)
    assert torch.equal(state, torch.random.get_rng_state()) and report.notes == []
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_report_is_deterministic(nodules, honest):
    again = robustness.report(Template("evidence", gain=0.2).eval(), *nodules, output="evidence", **TERMS)
    for name in ("stress", "audit", "loss"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(honest, name))


def test_a_surrogate_of_the_users_own_is_used(nodules):
    report = robustness.report(Rounding("logit"), *nodules, output="logit", surrogate=Template("logit"), **TERMS)
    row = report.audit[report.audit["check"].str.contains("no transferred attack")].iloc[0]
    assert row["verdict"] == "fail" and report.settings["surrogate"] == "given"
    assert row["reference"] > row["value"]


def test_a_surrogate_without_gradients_is_named(nodules):
    with pytest.raises(ValueError, match="the surrogate has no gradients"):
        robustness.report(Template("logit"), *nodules, output="logit", surrogate=lambda x: Template("logit")(x).detach(), **TERMS)


class Shares:
    """What a classifier of scikit-learn offers."""

    classes_ = [0, 1]

    def predict_proba(self, rows):
        assert isinstance(rows, np.ndarray) and rows.ndim == 2
        odds = (rows - 0.5) @ Template().template.detach().numpy().ravel()
        share = 1 / (1 + np.exp(-odds))
        return np.stack([1 - share, share], 1)


def test_a_classifier_without_gradients_is_attacked_by_asking(nodules):
    model = robustness.flattened(Shares())
    report = robustness.report(model, *nodules, output="logits", **TERMS)
    assert "no gradients" in report.notes[0] and set(report.stress["test"]) == {"clean", "uniform", "poisson", "random", "square"}
    share = report.stress.set_index(["test", "level", "kind"])["share_wrong"]
    assert share["clean", 0, "positives"] == 0 and share["square", 0.3, "positives"] == 1
    unmeasured = set(report.audit.loc[report.audit["verdict"] == "not measured", "check"])
    assert len(unmeasured) == 6 and all(any(word in check for word in ("gradient", "FGSM", "head")) for check in unmeasured)
    with pytest.raises(ValueError, match="not 0 and 1"):
        robustness.flattened(type("Words", (Shares,), {"classes_": ["benign", "nodule"]})())


def test_what_is_written_can_be_read_and_scored_again(tmp_path, honest, nodules):
    robustness.write(honest, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    names = ["audit.csv", "examples.safetensors", "loss.csv", "report.json", "report.png", "stress.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names
    report = json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert report["audit_holds"] and len(report["audit"]) == len(honest.audit) and report["settings"]["norm"] == "linf"
    assert pd.read_csv(folder / "stress.csv")["share_wrong"].tolist() == pytest.approx(honest.stress["share_wrong"].tolist(), abs=1e-6)
    examples = load_file(folder / "examples.safetensors")
    torch.testing.assert_close(examples["clean"], torch.cat(nodules))
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (robustness.Detector(Template(gain=0.2), "evidence").respond(examples["pgd"])[0][:12] < 0.5).all()


# From files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"positives": "fine"}, "no array negatives, only positives"),
        ({"x": "fine"}, "no array positives and no negatives, only x"),
        ({"positives": "fine", "negatives": "object"}, "holds Python objects"),
        ({"positives": "fine", "negatives": "double"}, "negatives have dtype float64"),
        ({"positives": "bytes", "negatives": "fine"}, "positives have dtype uint8"),
        ({"positives": "fine", "negatives": "hu"}, r"negatives span .*, not \[0, 1\]"),
        ({"positives": "nan", "negatives": "fine"}, "positives hold NaN"),
        ({"positives": "fine", "negatives": "small"}, r"negatives are \(1, 4, 8, 8\), positives \(1, 8, 8, 8\)"),
    ],
)
def test_bad_files_of_patches_are_named(arrays, message, tmp_path, patches):
    fine = patches.numpy()
    kinds = {"fine": fine, "object": fine.astype(object), "double": fine.astype(float), "bytes": (fine * 255).astype(np.uint8)}
    kinds |= {"hu": fine * 1400 - 1000, "nan": np.where(fine > 0.505, np.nan, fine).astype(np.float32), "small": fine[:, :, :4]}
    np.savez(tmp_path / "patches.npz", **{name: kinds[kind] for name, kind in arrays.items()})
    with pytest.raises(ValueError, match=message) as error:
        robustness.load_patches(tmp_path / "patches.npz")
    assert "patches.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_named(content, tmp_path):
    (tmp_path / "patches.npz").write_bytes(content)
    with pytest.raises(ValueError, match="patches.npz"):
        robustness.load_patches(tmp_path / "patches.npz")


def test_a_single_array_is_named(tmp_path, patches):
    np.save(tmp_path / "patches.npy", patches.numpy())
    with pytest.raises(ValueError, match="single array"):
        robustness.load_patches(tmp_path / "patches.npy")


FACTORIES = """
import torch

class Mean(torch.nn.Module):
    def forward(self, x):
        return 100 * (x.mean(dim=(1, 2, 3, 4)) - 0.5)

def good(): return Mean()
def none(): return None
def broken(): raise RuntimeError("no weights")
def leaving(): raise SystemExit(3)
number = 3
"""


@pytest.mark.parametrize(
    "factory, message",
    [
        ("no_colon", "not of the form package.module:function"),
        ("made_up:", "not of the form package.module:function"),
        ("made_up_module:good", "failed with ModuleNotFoundError.* current folder"),
        ("{}:absent", "has no function absent"),
        ("{}:number", "has no function number"),
        ("{}:none", "returned NoneType, not a model"),
        ("{}:broken", "failed with RuntimeError: no weights"),
        ("{}:leaving", "failed with SystemExit"),
    ],
)
def test_a_factory_that_gives_no_model_is_named(factory, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories_of_a_test.py").write_text(FACTORIES)
    with pytest.raises(ValueError, match=message):
        robustness.make_model(factory.format("factories_of_a_test"))


def test_a_factory_in_the_working_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories_that_work.py").write_text(FACTORIES)
    assert isinstance(robustness.make_model("factories_that_work:good"), nn.Module)


def test_a_model_for_other_patches_is_named(patches):
    network = nn.Sequential(nn.Flatten(), nn.Linear(100, 2)).eval()
    with pytest.raises(ValueError, match=r"fails on patches of shape \(1, 1, 8, 8, 8\): RuntimeError"):
        robustness.report(network, patches, patches, output="logits")


def test_a_factory_that_changes_directory_or_the_path_leaves_both_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "import os, sys\ndef moving(): os.chdir('/'); return len\ndef clearing(): sys.path.remove(os.getcwd()); return len\n"
    (tmp_path / "factories_that_move.py").write_text(source)
    before = list(sys.path)
    for name in ("moving", "clearing"):
        assert robustness.make_model(f"factories_that_move:{name}") is len
        assert os.getcwd() == str(tmp_path) and sys.path == before


@pytest.mark.parametrize("output, gain", [("logit", None), ("evidence", 1.0)])
def test_no_patches_have_no_answers(output, gain):
    model = (lambda x: x.flatten(1).mean(1)) if gain is None else (lambda x: gain * x.flatten(1)[:, :2])
    confidence, uncertainty = robustness.Detector(model, output).respond(torch.rand(0, 1, 4, 4, 4))
    assert confidence.shape == uncertainty.shape == (0,)
