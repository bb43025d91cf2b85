"""The rows of an audit: what is measured, what it is held against, and whether the attack deserves to be believed.

The checks follow Carlini et al. 2019, "On evaluating adversarial robustness". Each has failed for some published defence.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from lungadv.evaluation.audit_searches import Searches
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.stress import is_wrong, select

__all__ = ["ATTACK_NAMES", "ENOUGH", "check_curve", "check_searches", "check_stored"]

ATTACK_NAMES = {"pgd": "PGD", "square": "Square"}
ENOUGH = 4  # patches of a kind: of fewer, even all judged rightly are not surely more than half (Wilson, 95 %)


def _check(check, value, reference, holds, meaning):
    """A row of the audit; `holds` None is "not measured"."""
    verdict = "not measured" if holds is None else "pass" if holds else "fail"
    return {"check": check, "value": float(value), "reference": float(reference), "verdict": verdict, "failure_means": meaning}


def check_stored(detector: StressedModel, clean: torch.Tensor, stored: torch.Tensor, confidence: ArrayLike, *, eps: float) -> list[dict]:
    """Rows on attacked patches as they were stored, (N, 1, D, H, W): their norm, their range, and what they are worth.

    They are held against the clean ones, and against the `confidence` (N,) that they had when they were found.
    They are answered in batches of 7.
    """
    outside = int(((stored < 0) | (stored > 1) | ~stored.isfinite()).sum())
    norm = float((stored.double() - clean.double()).abs().max())
    again = replace(detector, batch_size=7).predict(stored.nan_to_num().clamp(0, 1))[0].double().numpy()
    moved = float(np.abs(again - np.asarray(confidence)).max())
    within, change = norm <= eps + 1e-6, "answered as when they were found, at another batch size (confidence)"
    return [
        _check("stored examples: the largest change is within eps", norm, eps, within, "more was changed than the threat model allows"),
        _check("stored examples: voxels outside [0, 1] or not finite", outside, 0, outside == 0, "what is stored is no patch"),
        _check(f"stored examples: {change}", moved, 0.02, moved <= 0.02, "answers depend on chance, or on the batch"),
    ]


def check_curve(stress: pd.DataFrame, answers: pd.DataFrame, attack: str, threshold: float = 0.5) -> list[dict]:
    """Rows on success against eps, for nodules and other CT patches.

    `stress` is the table of `stress_test`, `answers` those behind it (see `stress.evaluate`), `attack` "pgd" or "square".
    """
    images = stress[stress["kind"].isin(["positives", "negatives"])]
    clean, bounded = select(images, test="clean"), images[(images["test"] == attack) & (images["level"] < 1)]
    shares = pd.concat([clean, bounded]).groupby("level")["share_wrong"].mean()
    fall, allowed = max(0.0, -shares.diff().min()), max(0.05, 1 / clean["n"].min())
    right, surely = 1 - clean["share_wrong"].mean(), 1 - clean["share_wrong_high"].mean()
    better = None if clean["n"].min() < ENOUGH else surely > 0.5
    left = _right_at_every_eps(answers[answers["test"].isin(["clean", attack])], threshold)
    unbounded = "unbounded attack: no better than chance (balanced share right at every eps up to 1)"
    return [
        _check("clean patches: judged better than by chance (balanced share right)", right, 0.5, better, "there is nothing to attack"),
        _check(
            "success falls nowhere as eps grows (largest fall)", fall, allowed, fall <= allowed, "the attack loses its way at larger eps"
        ),
        _check("success grows towards 100 % as eps does", shares.max(), 0.95, shares.max() >= 0.95, "the attack fails at any eps"),
        _check(unbounded, left, 0.5, left <= 0.5, "the attack is broken"),
    ]


def _right_at_every_eps(answers, threshold):
    """The share of CT patches that no attack fools, mean of both kinds: an attack at a smaller eps is one within the whole range."""
    images = answers[answers["kind"].isin(["positives", "negatives"])]
    fooled = [is_wrong(images["confidence"], kind, threshold) & (images["kind"] == kind) for kind in ("positives", "negatives")]
    ever = (fooled[0] | fooled[1]).groupby([images["kind"], images["index"]]).any()
    return 1 - ever.groupby("kind").mean().mean()


def check_searches(found: Searches) -> list[dict]:
    """Rows that compare the attacks with one another: does a weak attack flatter this model?"""
    white_box, attack = found.main == "pgd", ATTACK_NAMES[found.main]
    rows = [
        *_gradient_checks(found),
        _compare(found, "FGSM does more than random signs of the same norm", "fgsm", "random", "the gradient leads nowhere"),
        _compare(found, "PGD does no less than FGSM", "pgd", "fgsm", "the steps or the projection are wrong", strictly=False),
        _compare(found, f"{attack} does more than random signs of the same norm", found.main, "random", "the attack is no attack"),
        *_effort_checks(found),
    ]
    meaning = "the gradient is masked" if white_box else "the attack is weak"
    for other, what in (("square", "gradient-free"), ("transfer", "transferred")):
        if other != found.main:
            rows.append(_compare(found, f"no {what} attack beats {attack}", found.main, other, meaning, strictly=False))
    check, meaning = "the head's own loss does not beat the log-odds", "the attacked loss does not suit the head"
    rows.append(_compare(found, check, "pgd", "head", meaning, strictly=False))
    return [*rows, _worst_check(found), _misled_check(found)]


def _gradient_checks(found):
    """Rows on the gradient itself, and on answers that are not finite."""
    dead, ratio = found.no_gradient, found.gradient_ratio
    alive = None if np.isnan(dead) else dead <= 0.05
    agrees = None if np.isnan(ratio) else 0.5 <= ratio <= 1.5
    check = "the attacked loss has a gradient (share of patches without)"
    return [
        _check(check, dead, 0.05, alive, "the gradient is masked, or the head saturated"),
        _check("the gradient predicts the loss (median ratio, 0.5 to 1.5)", ratio, 1, agrees, "the gradient is not that of the answer"),
        _check(
            "answers are finite (share that is NaN or infinite)",
            found.not_finite,
            0,
            found.not_finite == 0,
            "a saturated answer shows no way out",
        ),
    ]


def _compare(found, check, attack, other, meaning, strictly=True):
    """A row: `attack` moves the log-odds further than `other`, or, unless `strictly`, no less far."""
    check = f"{check} (log-odds)"
    if not {attack, other} <= set(found.margins):
        return _check(check, np.nan, np.nan, None, meaning)
    holds = found.moves_further(attack, other) if strictly else not found.moves_further(other, attack)
    return _check(check, found.gain(attack), found.gain(other), holds, meaning)


def _effort_checks(found):
    """Rows on whether more effort would find more."""
    loss, once, size = found.loss, found.share(found.main), len(found.signs)
    late, gained = loss[-1] - loss[3 * len(loss) // 4], loss[-1] - loss[0]
    late = late / gained if gained > 0 else 1.0
    check = "the loss has levelled off (share of its rise in the last quarter)"
    rows = [_check(check, late, 0.1, late <= 0.1, "more effort would find more")]
    for change, attack in ((f"twice the {'steps' if found.main == 'pgd' else 'queries'}", "twice"), ("a second restart", "restart")):
        share = found.share(attack)
        same = abs(share - once) <= max(0.1, 1 / size)
        rows.append(_check(f"{change}: success changes by at most 0.1, or one patch", share, once, same, "more effort finds more"))
    return rows


def _worst_check(found):
    """The row on the worst of all attacks but the one led astray and the one of twice the effort."""
    once, allowed = found.share(found.main), max(0.05, 1 / len(found.signs))
    worst = found.share(*(attack for attack in found.margins if attack not in ("clean", "twice", "misled")))
    check = f"worst of all attacks, patch by patch: little more success than {ATTACK_NAMES[found.main]}"
    return _check(check, worst, once, worst - once <= allowed, "one attack alone flatters the model")


def _misled_check(found):
    """The row on the audit itself: some attack that needs no gradient beats PGD on a copy whose gradient is led astray."""
    check, meaning = "a copy with a misleading gradient is found out", "a masked gradient might go unseen"
    if found.main != "pgd":
        return _compare(found, check, "random", "misled", meaning)
    blind = max(("random", "square", "transfer"), key=found.gain)
    if not found.moves_further("pgd", "misled"):  # the copy is attacked as well as the model: nothing was led astray
        return _check(f"{check} (log-odds)", found.gain(blind), found.gain("misled"), None, meaning)
    return _compare(found, check, blind, "misled", meaning)
