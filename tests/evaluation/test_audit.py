"""The audit against oracles: honest models, and models broken on purpose."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv.evaluation import audit, stress
from lungadv.evaluation.audit_searches import MisleadingGradient, gradient_agreement
from lungadv.evaluation.detector import OUTPUTS, StressedModel, wrap_classifier
from tests.evaluation.toy_models import (
    SIZE,
    TERMS,
    Dropping,
    Fragile,
    InPlace,
    Mean,
    Misled,
    PartlyWrong,
    Rounding,
    Saturated,
    Shares,
    StraightThrough,
    Template,
    Unclamped,
    random,
)


def failures(report):
    return set(report.audit.loc[report.audit["verdict"] == "fail", "check"])


def failed(report, words):
    return any(words in check for check in failures(report))


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_honest_model_passes(output, nodules, honest):
    report = honest if output == "evidence" else audit.report(Template(output, gain=0.2).eval(), *nodules, output=output, **TERMS)
    assert report.holds and not failures(report)
    assert set(report.audit["verdict"]) == {"pass"} and report.audit["check"].is_unique
    assert report.notes == [] and report.settings["attack"] == "PGD" and report.settings["eps_hu"] == pytest.approx(28)
    assert (report.loss["log_odds"].diff().dropna() >= 0).all() and report.loss["evaluations"].iloc[-1] == TERMS["steps"] + 2


def test_a_model_whose_gradient_is_masked_by_quantisation_fails(nodules):
    report = audit.report(Rounding("logit"), *nodules, output="logit", **TERMS)
    assert not report.holds
    for words in ("has a gradient", "FGSM does more", "no gradient-free attack beats PGD", "no transferred attack beats PGD"):
        assert failed(report, words), words


def test_a_model_that_saturates_fails(nodules):
    report = audit.report(Saturated("logit"), *nodules, output="logit", **TERMS)
    clean = stress.select(report.stress, test="clean")["share_wrong"].iloc[:2]
    assert (clean == 0).all() and not report.holds
    for words in ("has a gradient", "success grows towards 100 %", "FGSM does more"):
        assert failed(report, words), words


def test_a_model_with_a_misleading_gradient_fails(nodules):
    report = audit.report(Misled("logit"), *nodules, output="logit", **TERMS)
    assert failed(report, "no gradient-free attack beats PGD") and not failed(report, "has a gradient")


def verdict(report, words):
    (found,) = report.audit.loc[report.audit["check"].str.contains(words, regex=False), "verdict"]
    return found


@pytest.mark.parametrize("broken", [PartlyWrong, StraightThrough])
def test_a_gradient_that_is_partly_wrong_fails(broken, nodules):
    report = audit.report(broken("logit", gain=0.2), *nodules, output="logit", **TERMS)
    assert verdict(report, "the gradient predicts the loss") == "fail" and verdict(report, "has a gradient") == "pass"


def test_what_the_gradient_foresees_is_known_for_a_linear_and_for_a_partly_wrong_model(nodules, honest):
    row = honest.audit[honest.audit["check"].str.contains("the gradient predicts")].iloc[0]
    assert row["value"] == pytest.approx(1, abs=1e-3) and row["verdict"] == "pass"
    size, flipped = Template().template.abs(), random(SIZE, SIZE, SIZE, seed=5) < 0.4
    expected = ((size * ~flipped).sum() - (size * flipped).sum()) / size.sum()
    report = audit.report(PartlyWrong("logit", gain=0.2), *nodules, output="logit", **TERMS)
    row = report.audit[report.audit["check"].str.contains("the gradient predicts")].iloc[0]
    assert row["value"] == pytest.approx(expected.item(), abs=1e-3)


def test_what_the_gradient_foresees_counts_voxels_on_a_bound_once():
    model = Template("logit")
    black = torch.zeros(4, 1, SIZE, SIZE, SIZE)
    signs, detector = -torch.ones(4), StressedModel(model, "logit")
    dead, ratio = gradient_agreement(lambda batch, sign: sign * detector.log_odds(batch), black, signs, 0.001)
    assert dead == 0 and ratio == pytest.approx(1, abs=1e-3)


def test_an_honest_model_of_the_mean_holds():
    noise = 0.04 * (random(24, 1, SIZE, SIZE, SIZE) - 0.5)
    report = audit.report(Mean().eval(), 0.5 + noise[:12], 0.47 + noise[12:], output="logit", **TERMS)
    assert report.holds, failures(report)
    assert verdict(report, "a copy with a misleading gradient is found out") == "pass"


def test_a_copy_that_nothing_misleads_is_not_measured(nodules, monkeypatch):
    monkeypatch.setattr(MisleadingGradient, "backward", staticmethod(lambda ctx, gradient: gradient))
    report = audit.report(Template("logit", gain=0.2), *nodules, output="logit", **TERMS)
    assert verdict(report, "a copy with a misleading gradient is found out") == "not measured" and report.holds


def test_a_model_that_is_infinite_under_attack_alone_fails_and_its_attack_goes_on(nodules):
    report = audit.report(Unclamped("logit"), *nodules, output="logit", **TERMS)
    assert verdict(report, "answers are finite") == "fail"
    share = report.stress.set_index(["test", "level", "kind"])["share_wrong"]
    for kind in ("positives", "negatives"):
        assert share["clean", 0, kind] == 0 and share["pgd", 0.05, kind] == 1
    assert np.isfinite(report.stress["mean_confidence"]).all() and np.isfinite(report.loss["log_odds"]).all()


def test_very_large_log_odds_are_no_trouble(nodules):
    with np.errstate(over="raise"):
        report = audit.report(Template("logit", gain=1e3), *nodules, output="logit", **TERMS)
    assert report.holds, failures(report)


@pytest.mark.parametrize("count", [1, 3])
def test_of_too_few_patches_a_perfect_model_does_not_fail(count, nodules):
    report = audit.report(Template("logit", gain=0.2), *(kind[:count] for kind in nodules), output="logit", **TERMS)
    assert verdict(report, "judged better than by chance") == "not measured" and report.holds, failures(report)
    assert "too few" in report.notes[0]


def test_a_tie_is_no_nodule_in_the_table_and_in_the_audit(nodules):
    report = audit.report(lambda x: 0 * x.sum(dim=(1, 2, 3, 4)), *nodules, output="logit", **TERMS)
    share = report.stress.set_index(["test", "level", "kind"])["share_wrong"]
    assert share["pgd", 0.02, "positives"] == 1 and share["pgd", 0.02, "negatives"] == 0
    row = report.audit[report.audit["check"].str.contains("twice the steps")].iloc[0]
    assert row["value"] == row["reference"] == 0.5


@pytest.mark.parametrize("gradients", [True, False])
def test_a_model_that_works_in_place_is_judged_as_one_that_does_not(gradients, nodules):
    given, before = [patches.numpy().copy() for patches in nodules], [patches.clone() for patches in nodules]
    tables = []
    for model in (InPlace("logit", gain=0.2), Template("logit", gain=0.2)):
        asked = model if gradients else lambda x, model=model: model(x.detach()).detach()
        tables.append(audit.report(asked, *given, output="logit", **TERMS).stress)
    pd.testing.assert_frame_equal(*tables, rtol=1e-3)
    assert all((patches == kept.numpy()).all() for patches, kept in zip(given, before, strict=True))


def test_a_gradient_that_in_place_work_has_spoilt_is_named(patches):
    def model(x):
        squares = x.square()
        x.mul_(2)
        return squares.sum(dim=(1, 2, 3, 4))

    with pytest.raises(ValueError, match="the model's gradient fails: it works in place"):
        stress.stress_test(model, patches, patches, output="logit", noise=2)


def test_a_model_that_answers_by_chance_fails(nodules):
    torch.manual_seed(0)
    assert failed(audit.report(Dropping("logit"), *nodules, output="logit", **TERMS), "answered as when they were found")


def test_a_model_that_knows_nothing_fails_before_any_attack(nodules):
    report = audit.report(Template("logit", gain=0.01, bias=1.0), *nodules, output="logit", **TERMS)
    assert failed(report, "judged better than by chance")


def test_the_audit_leaves_model_and_random_state_as_they_were(nodules):
    model, state = Fragile().eval(), torch.random.get_rng_state()
    report = audit.report(model, *nodules, output="logit", **TERMS)
    assert torch.equal(state, torch.random.get_rng_state()) and report.notes == []
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_report_is_deterministic(nodules, honest):
    again = audit.report(Template("evidence", gain=0.2).eval(), *nodules, output="evidence", **TERMS)
    for name in ("stress", "audit", "loss"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(honest, name))


def test_a_surrogate_of_the_users_own_is_used(nodules):
    report = audit.report(Rounding("logit"), *nodules, output="logit", surrogate=Template("logit"), **TERMS)
    row = report.audit[report.audit["check"].str.contains("no transferred attack")].iloc[0]
    assert row["verdict"] == "fail" and report.settings["surrogate"] == "given"
    assert row["reference"] > row["value"]


def test_a_surrogate_without_gradients_is_named(nodules):
    with pytest.raises(ValueError, match="the surrogate has no gradients"):
        audit.report(Template("logit"), *nodules, output="logit", surrogate=lambda x: Template("logit")(x).detach(), **TERMS)


def test_a_classifier_without_gradients_is_attacked_by_asking(nodules):
    model = wrap_classifier(Shares())
    report = audit.report(model, *nodules, output="logits", **TERMS)
    assert "no gradients" in report.notes[0] and set(report.stress["test"]) == {"clean", "uniform", "poisson", "random", "square"}
    share = report.stress.set_index(["test", "level", "kind"])["share_wrong"]
    assert share["clean", 0, "positives"] == 0 and share["square", 0.3, "positives"] == 1
    unmeasured = set(report.audit.loc[report.audit["verdict"] == "not measured", "check"])
    assert len(unmeasured) == 6 and all(any(word in check for word in ("gradient", "FGSM", "head")) for check in unmeasured)
    with pytest.raises(ValueError, match="not 0 and 1"):
        wrap_classifier(type("Words", (Shares,), {"classes_": ["benign", "nodule"]})())


def test_a_model_for_other_patches_is_named(patches):
    network = nn.Sequential(nn.Flatten(), nn.Linear(100, 2)).eval()
    with pytest.raises(ValueError, match=r"fails on patches of shape \(1, 1, 8, 8, 8\): RuntimeError"):
        audit.report(network, patches, patches, output="logits")
