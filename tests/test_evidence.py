"""The Beta output against torch.distributions, numerical integration and its own limits."""

import pytest
import torch
from torch.distributions import Beta, kl_divergence

from lungadv.evidence import beta_loss, confidence, kl_to_uniform, log_odds_margin, uncertainty

EVIDENCE = torch.tensor([[0, 0], [1e-3, 2.0], [3, 0.5], [40, 700], [1e4, 0], [0, 1e4], [123, 123]], dtype=torch.float64)


def targets(label, dtype=torch.int64):
    return torch.full((len(EVIDENCE),), label, dtype=dtype)


def test_confidence_and_uncertainty_are_those_of_the_beta_distribution():
    density = Beta(EVIDENCE[:, 0] + 1, EVIDENCE[:, 1] + 1)
    torch.testing.assert_close(confidence(EVIDENCE), density.mean)
    torch.testing.assert_close(uncertainty(EVIDENCE), 2 / (density.concentration0 + density.concentration1))
    assert confidence(EVIDENCE)[0] == 0.5 and uncertainty(EVIDENCE)[0] == 1


@pytest.mark.parametrize("label", [0, 1])
def test_squared_error_equals_the_moments_of_the_distribution(label):
    density = Beta(EVIDENCE[:, 0] + 1, EVIDENCE[:, 1] + 1)
    expected = 2 * ((label - density.mean) ** 2 + density.variance)  # both classes have the same error
    torch.testing.assert_close(beta_loss(EVIDENCE, targets(label), kl_weight=0), expected, rtol=1e-6, atol=1e-12)


def test_squared_error_equals_an_integral():
    p = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for positive, negative in [(0.0, 0.0), (2.5, 1.0), (0.3, 9.0)]:
        density = Beta(torch.tensor(positive + 1.0, dtype=torch.float64), negative + 1).log_prob(p).exp()
        integral = (density * ((1 - p) ** 2 + (1 - p) ** 2)).mean()
        loss = beta_loss(torch.tensor([[positive, negative]], dtype=torch.float64), torch.ones(1), kl_weight=0)
        assert abs(loss.item() - integral.item()) < 1e-6


@pytest.mark.parametrize("label", [0, 1])
def test_regulariser_equals_torch_kl_to_the_uniform(label):
    wrong = EVIDENCE[:, label] + 1  # label 1: column 1 is the wrong class's
    expected = kl_divergence(Beta(torch.ones_like(wrong), wrong), Beta(torch.ones_like(wrong), torch.ones_like(wrong)))
    torch.testing.assert_close(kl_to_uniform(EVIDENCE, targets(label)), expected, rtol=1e-6, atol=1e-12)
    whole = beta_loss(EVIDENCE, targets(label), kl_weight=0.3)
    torch.testing.assert_close(whole, beta_loss(EVIDENCE, targets(label), kl_weight=0) + 0.3 * expected, rtol=1e-6, atol=1e-12)


def test_swapping_classes_swaps_the_roles():
    torch.testing.assert_close(beta_loss(EVIDENCE, targets(1)), beta_loss(EVIDENCE.flip(1), targets(0)))
    torch.testing.assert_close(log_odds_margin(EVIDENCE, targets(1)), -log_odds_margin(EVIDENCE, targets(0)))


def test_targets_may_be_whole_floating_or_boolean():
    whole = beta_loss(EVIDENCE, targets(1))
    assert torch.equal(whole, beta_loss(EVIDENCE, targets(1.0, torch.float32)))
    assert torch.equal(whole, beta_loss(EVIDENCE, targets(1).bool()))


@pytest.mark.parametrize("loss", [beta_loss, kl_to_uniform, log_odds_margin])
@pytest.mark.parametrize("label", [0, 1])
def test_gradients_are_those_of_finite_differences(loss, label):
    evidence = (torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: loss(e, torch.full((6,), label)), evidence)


def test_evidence_for_the_true_class_lowers_the_loss_and_the_other_raises_it():
    evidence = torch.tensor([[2.0, 3.0]], requires_grad=True)
    for loss in (beta_loss, log_odds_margin):
        (slope,) = torch.autograd.grad(loss(evidence, torch.ones(1)).sum(), evidence)
        assert slope[0, 0] < 0 < slope[0, 1]


def test_saturation_flattens_the_published_loss_but_not_the_margin():
    raw = torch.tensor([[1e4, -25.0]], dtype=torch.float64, requires_grad=True)  # before the softplus

    def slope(loss):
        return torch.autograd.grad(loss(torch.nn.functional.softplus(raw), torch.ones(1)).sum(), raw)[0].abs().max().item()

    assert slope(beta_loss) < 1e-7
    assert slope(log_odds_margin) > 5e-5


def test_margin_is_the_log_odds_of_the_confidence():
    torch.testing.assert_close(log_odds_margin(EVIDENCE, targets(0)), torch.logit(confidence(EVIDENCE)))


def test_half_precision_is_computed_in_float32():
    evidence = torch.tensor([[256.0, 0.0]], dtype=torch.bfloat16)
    assert confidence(evidence).dtype == torch.float32
    assert confidence(evidence).item() == pytest.approx(257 / 258)
    assert beta_loss(EVIDENCE, targets(1)).dtype == torch.float64


@pytest.mark.parametrize("function", [confidence, uncertainty, lambda e: beta_loss(e, torch.ones(len(e)))])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 1)])
def test_wrong_shape_is_named(function, shape):
    with pytest.raises(ValueError, match="column 0 positive"):
        function(torch.ones(shape))


@pytest.mark.parametrize("loss", [beta_loss, kl_to_uniform, log_odds_margin])
def test_wrong_targets_are_named(loss):
    with pytest.raises(ValueError, match="target has shape"):
        loss(torch.ones(4, 2), torch.ones(4, 1))
    with pytest.raises(ValueError, match="other than 0 and 1"):
        loss(torch.ones(2, 2), torch.tensor([1, -1]))


def test_negative_and_nan_evidence_are_named():
    for function in (confidence, uncertainty, lambda e: beta_loss(e, torch.ones(len(e)))):
        with pytest.raises(ValueError, match="softplus"):
            function(torch.tensor([[1.0, -0.1]]))
    for function in (confidence, uncertainty):
        with pytest.raises(ValueError, match="NaN for 1 of 2 samples"):
            function(torch.tensor([[1.0, 1.0], [1.0, float("nan")]]))


def test_nan_stays_in_its_row_of_a_loss():
    loss = beta_loss(torch.tensor([[1.0, 1.0], [float("nan"), 1.0]]), torch.ones(2))
    assert loss[0].isfinite() and loss[1].isnan()
