"""Whether an attack on a model deserves to be believed: stress tests, several attacks held against one another, one report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save
from scipy.special import expit

from lungadv.attacks.pgd import frozen
from lungadv.data.scan import HU_MAX, HU_MIN
from lungadv.evaluation.audit_checks import ATTACK_NAMES, ENOUGH, check_curve, check_searches, check_stored
from lungadv.evaluation.audit_searches import search, train_surrogate
from lungadv.evaluation.detector import StressedModel, check_mode, has_gradient, warn_if_swapped
from lungadv.evaluation.stress import LABELS, StressTerms, check_pair, stress_answers, summarise

__all__ = ["Report", "report"]

RADII = (0.005, 0.01, 0.02, 0.05, 0.1, 0.3)
AUDITED = 16  # of each kind: the patches that the audit attacks in every way


@dataclass(frozen=True)
class Report:
    """What `report` found."""

    settings: dict  # attack, norm, eps and the other terms, ready for JSON
    notes: list[str]  # what limits the audit
    stress: pd.DataFrame  # see `stress_test`
    audit: pd.DataFrame  # check, value, reference, verdict ("pass", "fail" or "not measured"), failure_means
    loss: pd.DataFrame  # evaluations, log_odds: mean over patches of the best so far, on the wrong side of the threshold
    examples: dict[str, torch.Tensor]  # "clean" and the audited attack: (N, 1, D, H, W), the positives first

    @property
    def holds(self) -> bool:
        """Whether no row of the audit failed."""
        return not (self.audit["verdict"] == "fail").any()

    def to_dict(self) -> dict:
        """All but the examples, ready for JSON: NaN is None."""
        tables = {name: _records(getattr(self, name)) for name in ("stress", "audit", "loss")}
        return {"settings": self.settings, "notes": self.notes, "audit_holds": self.holds} | tables


def _records(table):
    return [{key: None if value != value else value for key, value in row.items()} for row in table.to_dict("records")]


def report(
    model: Callable[[torch.Tensor], torch.Tensor],
    positives: torch.Tensor | np.ndarray,
    negatives: torch.Tensor | np.ndarray,
    *,
    output: str,
    eps: float = 0.02,
    steps: int = 20,
    queries: int = 200,
    radii: Sequence[float] = RADII,
    magnitudes: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    scales: Sequence[float] = (50, 1),
    noise: int = 64,
    surrogate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    threshold: float = 0.5,
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Stress `model` and audit the attack (Carlini et al. 2019, Croce and Hein 2020). For model, patches and terms see `stress_test`.

    `radii` of the success curve always hold eps and 1, the whole range. Several attacks at `eps` on the first AUDITED patches of each
    kind are compared. `surrogate` is a second model of the same output, to transfer attacks from; without one, a small network is trained.
    What needs gradients is "not measured" for a plain function without.
    Raises ValueError as `stress_test` does, for eps = 0, and for a surrogate in training mode or without gradients.
    """
    terms = StressTerms(output, eps, steps, queries, tuple(radii), tuple(magnitudes), tuple(scales), noise, threshold, seed)
    if eps == 0:
        raise ValueError("eps = 0: there is no attack to audit")
    check_mode(model, "model")
    check_mode(surrogate, "surrogate")
    detector, terms = StressedModel(model, output), replace(terms, radii=tuple(sorted({*radii, eps, 1.0})))
    clean = {kind: patches[:AUDITED] for kind, patches in check_pair(positives, negatives).items()}
    other = None if surrogate is None else _surrogate_detector(surrogate, output, clean["positives"][:1])
    answers = stress_answers(detector, positives, negatives, terms, progress)
    counts = {"positives": len(positives), "negatives": len(negatives)}
    return _report(detector, other, clean, answers, terms, counts, progress)


def _surrogate_detector(surrogate, output, patches):
    detector = StressedModel(surrogate, output)
    with frozen(surrogate):
        if not has_gradient(detector, patches):
            raise ValueError("the surrogate has no gradients to make attacks from: give a network, or none and one is trained")
    return detector


def _report(detector, surrogate, clean, answers, terms, counts, progress):
    """The report on the answers, after the searches on the `clean` patches of each kind; `surrogate` None is trained."""
    stress = summarise(answers, terms.threshold)
    warn_if_swapped(stress)
    found, examples, stored_checks = _search_and_store(detector, surrogate, clean, terms, progress)
    loss = pd.DataFrame({"evaluations": range(1, len(found.loss) + 1), "log_odds": found.loss})
    curve_checks = check_curve(stress, answers, found.main, terms.threshold)
    audit = pd.DataFrame([*curve_checks, *check_searches(found), *stored_checks])
    origin = "trained to answer as the model" if surrogate is None else "given"
    settings = _settings(terms, found.main) | counts | {"audited": len(found.signs), "surrogate": origin}
    return Report(settings, _notes(found.main, clean), stress, audit, loss, examples)


def _settings(terms, attack):
    """The terms of a report, ready for JSON."""
    return {
        "attack": ATTACK_NAMES[attack],
        "norm": "linf",
        "range": [0, 1],
        "eps_hu": terms.eps * (HU_MAX - HU_MIN),
        "eps": terms.eps,
        "steps": terms.steps,
        "queries": terms.queries,
        "seed": terms.seed,
        "radii": list(terms.radii),
        "magnitudes": list(terms.magnitudes),
        "scales": list(terms.scales),
        "noise": terms.noise,
        "output": terms.output,
        "threshold": terms.threshold,
    }


def _search_and_store(detector, surrogate, clean, terms, progress):
    """The searches, the examples of the audited attack, and the rows on the examples as they are read back."""
    signs = torch.cat([torch.full((len(patches),), 1.0 - 2 * LABELS[kind]) for kind, patches in clean.items()])
    patches, threshold = torch.cat(list(clean.values())), terms.threshold
    with frozen(detector.model), frozen(surrogate and surrogate.model):
        surrogate = surrogate or StressedModel(train_surrogate(detector, patches, terms.seed), "logit")
        effort = {"eps": terms.eps, "steps": terms.steps, "queries": terms.queries, "seed": terms.seed}
        found = search(detector, surrogate, patches, signs, threshold=threshold, progress=progress, **effort)
        examples = {"clean": patches, found.main: found.points[found.main].contiguous()}
        stored = load(save(examples))[found.main]
        claimed = expit(signs.numpy() * found.margins[found.main] + np.log(threshold / (1 - threshold)))
        return found, examples, check_stored(detector, patches, stored, claimed, eps=terms.eps)


def _notes(attack, clean):
    notes = []
    if min(map(len, clean.values())) < ENOUGH:
        notes.append(f"fewer than {ENOUGH} patches of a kind: too few to say whether clean ones are judged better than by chance")
    if attack != "pgd":
        notes.append("the model has no gradients: white-box attacks are left out, and its success under Square alone is a lower bound")
    return notes
