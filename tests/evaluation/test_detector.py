"""A model as a detector, against linear models whose worst input is known."""

import pytest
import torch

from lungadv.attacks.pgd import frozen
from lungadv.attacks.square import square
from lungadv.evaluation.detector import OUTPUTS, StressedModel, check_answers, has_gradient, log_odds
from tests.evaluation.toy_models import SIZE, Template, random


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_head_gives_the_same_log_odds_and_confidence(output, patches):
    model = Template(output)
    expected = ((patches - 0.5) * model.template).sum(dim=(1, 2, 3, 4)).detach()
    torch.testing.assert_close(log_odds(model(patches), output, len(patches)).detach(), expected, rtol=1e-4, atol=1e-5)
    confidence, uncertainty = StressedModel(model, output, batch_size=5).predict(patches)
    torch.testing.assert_close(confidence, expected.sigmoid(), rtol=1e-4, atol=1e-5)
    assert uncertainty.shape == (12,) and ((uncertainty > 0) & (uncertainty <= 1)).all()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("label", [0, 1])
def test_the_attack_reaches_the_known_worst_point_of_a_linear_model(output, label, patches):
    model = Template(output)
    attacked = StressedModel(model, output).attack(patches, label, eps=0.1, steps=20, generator=torch.Generator().manual_seed(1))
    worst = patches + (1 - 2 * label) * 0.1 * model.template.detach().sign()
    torch.testing.assert_close(attacked, worst, atol=1e-6, rtol=0)


def test_the_attack_stays_in_the_unit_box():
    patches = random(4, 1, SIZE, SIZE, SIZE)
    attacked = StressedModel(Template("logit"), "logit").attack(patches, 1, eps=0.4, steps=5, generator=torch.Generator().manual_seed(1))
    assert attacked.min() >= 0 and attacked.max() <= 1 and (attacked - patches).abs().max() <= 0.4 + 1e-6


def test_answers_that_are_not_finite_are_counted_and_read_as_the_surest_or_as_one_half(patches):
    detector = StressedModel(lambda x: torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]), "logit")
    confidence, _ = detector.predict(patches[:4])
    torch.testing.assert_close(confidence, torch.tensor([0.5, 1.0, 0.0, torch.tensor(1.0).sigmoid()]))
    assert detector.finite == {True: 1, False: 3}
    unsure = StressedModel(lambda x: torch.tensor([[torch.inf, 0.0], [torch.nan, 1.0]]), "evidence").predict(patches[:2])[1]
    assert unsure.tolist() == [0, 1]


@pytest.mark.parametrize("terms", [{"steps": 3}, {"steps": 3, "restarts": 2}, {"steps": 3, "norm": "l2"}, {"queries": 20}])
def test_an_attack_does_not_depend_on_the_batch_size(terms, patches):
    def rugged(x):
        return torch.sin(400 * x).mean(dim=(1, 2, 3, 4))

    terms = terms | ({"search": square} if "queries" in terms else {}) | {"eps": 0.3 if "norm" in terms else 0.05}
    whole, parts = (
        StressedModel(rugged, "logit", batch_size=size).attack(patches, 1, generator=torch.Generator().manual_seed(1), **terms)
        for size in (64, 5)
    )
    assert torch.equal(whole, parts) and not torch.equal(whole, patches)


@pytest.mark.parametrize("output, gain", [("logit", None), ("evidence", 1.0)])
def test_no_patches_have_no_answers(output, gain):
    model = (lambda x: x.flatten(1).mean(1)) if gain is None else (lambda x: gain * x.flatten(1)[:, :2])
    confidence, uncertainty = StressedModel(model, output).predict(torch.rand(0, 1, 4, 4, 4))
    assert confidence.shape == uncertainty.shape == (0,)


def softmax(temperature):
    return lambda x: (Template("logits")(x) / temperature).softmax(1)


@pytest.mark.parametrize(
    "model, output",
    [
        (lambda x: Template("logit")(x).sigmoid(), "logit"),
        (lambda x: Template("logit")(x).sigmoid()[:, None], "logit"),
        *((softmax(temperature), output) for temperature in (1, 50) for output in ("logits", "evidence")),
    ],
)
def test_probabilities_are_named(model, output, patches):
    with pytest.raises(ValueError, match="the model returned probabilities.*return what is before the s.*or "):
        check_answers(StressedModel(model, output), patches[:8])


@pytest.mark.parametrize("output", OUTPUTS)
def test_heads_that_are_no_probabilities_pass(output, patches):
    check_answers(StressedModel(Template(output), output), patches[:8])
    check_answers(StressedModel(lambda x: torch.full((len(x), 2), 0.4), "evidence"), patches[:8])  # weak evidence, not a share
    check_answers(StressedModel(lambda x: torch.full((len(x),), 0.4), "logit"), patches[:1])  # one answer proves nothing


def script(how):
    model = Template("logit")
    if how == "traced":
        return torch.jit.trace(model, random(2, 1, SIZE, SIZE, SIZE))
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIZE**3, 2)).eval())
    return torch.jit.freeze(scripted) if how == "frozen" else scripted


@pytest.mark.parametrize("how", ["scripted", "frozen", "traced"])
def test_torchscript_is_judged_like_any_network(how, patches):
    model, output = script(how), "logit" if how == "traced" else "logits"
    with frozen(model):
        detector = StressedModel(model, output)
        assert has_gradient(detector, patches[:1])
        before = detector.log_odds(patches)
        attacked = detector.attack(patches, 1, eps=0.05, steps=3, generator=torch.Generator().manual_seed(0))
        assert (detector.log_odds(attacked) < before).all()


def test_torchscript_made_for_inference_is_judged_or_refused_in_one_line(patches):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, SIZE), torch.nn.Flatten()).eval()
    scripted = torch.jit.optimize_for_inference(torch.jit.script(network))
    with frozen(scripted):
        try:
            assert has_gradient(StressedModel(scripted, "logits"), patches[:1])
        except ValueError as error:
            assert "\n" not in str(error)
