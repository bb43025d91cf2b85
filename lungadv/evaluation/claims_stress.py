"""Claims S1 to S11: the stress tests. Each function measures one claim and judges it by its rule in `paper/claims.csv`.

Robustness is compared at thresholds of equal clean false-positive rate: a network that says yes to everything gains nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lungadv.evaluation.stats import (
    auc_interval,
    mean_interval,
    median_difference_interval,
    share_interval,
)
from lungadv.evaluation.thresholds import rejection
from lungadv.evaluation.verdicts import (
    CONTROL,
    PERTURB,
    SYN,
    Interval,
    Measured,
    Numbers,
    all_above,
    format_intervals,
    verdict,
)
from lungadv.training.strategies import BASELINE
from lungadv.utils.statistics import LEVEL_Z196, wilson_interval

__all__ = [
    "judge_augmented_confidence",
    "judge_baseline_confidence",
    "judge_lung_patches",
    "judge_minimal_eps",
    "judge_noise_patches",
    "judge_noise_resistance",
    "judge_noise_response",
    "judge_nodule_types",
    "judge_perturbed_nodules",
    "judge_poisson_resistance",
    "judge_rejection",
]

UNIFORM = tuple(f"uniform-{level}" for level in (1, 2, 3, 4))  # conditions, by growing magnitude
ATTACKED = (BASELINE, SYN, *PERTURB)  # the networks of Figures 12 to 14


def judge_nodule_types(numbers: Numbers) -> Measured:
    """S1: PGD-searched nodules are smaller and less dense than real ones."""
    found = {}
    for measure in ("diameter_mm", "mean_hu"):
        pgd, real = (numbers.series("S1", measure, "", condition).to_numpy() for condition in ("pgd", "real"))
        found[measure] = auc_interval(pgd, real)
    rare = {
        condition: sum(numbers.series("S1", measure, "", condition).mean() for measure in ("non_solid", "part_solid"))
        for condition in ("real", "random", "pgd")
    }
    (size, size_interval), (density, density_interval) = found.values()
    text = f"AUC smaller {size:.2f}, less dense {density:.2f}; sub-solid " + ", ".join(f"{name} {rare[name]:.0%}" for name in rare)
    judged = verdict(size >= 0.6 and density >= 0.6, size > 0.5 and density > 0.5)
    return Measured(text, format_intervals(size_interval, density_interval), judged)


def judge_baseline_confidence(numbers: Numbers) -> Measured:
    """S2: the baseline misses some random nodules and puts most searched ones around 0.5; at least 1000 of each.

    The direction: one of the two.
    """
    random, pgd = (numbers.series("S2", "confidence", BASELINE, condition) for condition in ("random", "pgd"))
    missed, unsure = (random < 0.5).mean(), pgd.between(0.3, 0.7)
    text = f"{missed:.1%} of {len(random)} random below 0.5; {unsure.mean():.1%} of {len(pgd)} PGD within 0.3-0.7"
    some, most = 0.1 <= missed <= 0.5, unsure.mean() > 0.5
    judged = verdict(some and most and min(len(random), len(pgd)) >= 1000, some or most)
    return Measured(text, format_intervals(share_interval(unsure)), judged)


def judge_augmented_confidence(numbers: Numbers) -> Measured:
    """S3: beta+syn recognises fresh PGD nodules, and more of them than the control."""
    syn, control = numbers.paired("S3", "confidence", (SYN, "pgd"), (CONTROL, "pgd"))
    share, control_share = (syn > 0.5).mean(), (control > 0.5).mean()
    interval = mean_interval(1.0 * (syn > 0.5) - (control > 0.5))
    text = f"{share:.1%} above 0.5 (control {control_share:.1%}), median {np.median(syn):.2f}"
    judged = verdict(share >= 0.7 and np.median(syn) >= 0.7 and interval[0] > 0, share > control_share)
    return Measured(text, format_intervals(interval), judged)


def judge_noise_response(numbers: Numbers) -> Measured:
    """S4: the baseline's median response falls with the magnitude of uniform noise."""
    responses = numbers.paired("S5", "confidence", *((BASELINE, condition) for condition in ("clean", *UNIFORM)))
    medians = [response.median() for response in responses]
    fall, interval = medians[0] - medians[-1], median_difference_interval(responses[0], responses[-1])
    text = "median " + ", ".join(f"{median:.2f}" for median in medians)
    return Measured(text, format_intervals(interval), verdict((np.diff(medians) <= 0).all() and fall >= 0.2, fall > 0))


def detection_gains(numbers: Numbers, claim: str, network: str, conditions: Sequence[str]) -> list[tuple[float, Interval]]:
    """The share detected by a network minus the baseline's, and minus the control's, with intervals, for each condition."""
    gains = []
    for condition in conditions:
        for other in (BASELINE, CONTROL):
            ours, theirs = numbers.detected(claim, (network, condition), (other, condition))
            gains.append((ours.mean() - theirs.mean(), mean_interval(1.0 * ours - theirs)))
    return gains


def resistance(
    numbers: Numbers, claim: str, mild: Sequence[str], strong: Sequence[str]
) -> tuple[str, list[Interval], bool, bool]:
    """The gains of beta+syn under mild noise and of the perturb networks under strong noise.

    Returns a text, the weakest interval of each network, whether all gains are above zero, and whether each network's are on average.
    """
    parts = {SYN: detection_gains(numbers, claim, SYN, mild)}
    parts |= {name: detection_gains(numbers, claim, name, strong) for name in PERTURB}
    weakest = {name: min(gains, key=lambda gain: gain[1][0]) for name, gains in parts.items()}
    text = "share detected, weakest gain: " + ", ".join(f"{name} {gain:+.3f}" for name, (gain, _) in weakest.items())
    intervals = [interval for _, interval in weakest.values()]
    direction = all(np.mean([gain for gain, _ in gains]) > 0 for gains in parts.values())
    return text, intervals, all_above(intervals), direction


def judge_noise_resistance(numbers: Numbers) -> Measured:
    """S5: beta+syn is above baseline and control at the two mildest levels, the perturb networks at the two strongest."""
    text, intervals, met, direction = resistance(numbers, "S5", UNIFORM[:2], UNIFORM[2:])
    return Measured(text, format_intervals(*intervals), verdict(met, direction))


def judge_poisson_resistance(numbers: Numbers) -> Measured:
    """S6: the baseline falls from scale 50 to 1; beta+syn is above at 50, the perturb networks at both."""
    medians = [numbers.series("S6", "confidence", BASELINE, condition).median() for condition in ("poisson-50", "poisson-1")]
    fall = medians[0] - medians[1]
    text, intervals, met, direction = resistance(numbers, "S6", ["poisson-50"], ["poisson-50", "poisson-1"])
    text = f"baseline median {medians[0]:.2f} to {medians[1]:.2f}; {text}"
    return Measured(text, format_intervals(*intervals), verdict(met and fall >= 0.2, direction and fall > 0))


def weak_and_strong(values: dict[str, float]) -> tuple[float, float]:
    """The least of the baseline's and beta+syn's values, and the greatest of the perturb networks'."""
    return min(values[BASELINE], values[SYN]), max(values[name] for name in PERTURB)


def beside_the_rule(numbers: Numbers, claim: str, measure: Callable[[pd.Series, pd.Series], float]) -> str:
    """What the rule leaves out: `measure` of clean and attacked answers of the control, and of attacks made through other networks.

    "white-box" is made through the network itself, "independent" through baseline-beta, which shares no weights with it. Answers are
    bool series over the same items: whether the confidence is above the threshold that the claim's rule has.
    """
    clean = "noise" if claim == "S8" else "clean"

    def answers(*keys):
        return numbers.detected(claim, *keys) if claim == "S7" else [values > 0.5 for values in numbers.paired(claim, "confidence", *keys)]

    shown = {f"{CONTROL} by transfer": (CONTROL, "pgd")}
    shown |= {f"{name} {attack}": (name, attack) for attack in ("white-box", "independent") for name in ATTACKED}
    values = {label: measure(*answers((name, clean), (name, attack))) for label, (name, attack) in shown.items()}
    return "; beside the rule: " + ", ".join(f"{label} {value:.2f}" for label, value in values.items())


def judge_perturbed_nodules(numbers: Numbers) -> Measured:
    """S7: attacked nodules are lost by the baseline and beta+syn, and kept by the perturb networks."""
    drops, intervals = {}, []
    for name in ATTACKED:
        clean, pgd = numbers.detected("S7", (name, "clean"), (name, "pgd"))
        drops[name] = clean.mean() - pgd.mean()
        intervals.append(mean_interval(1.0 * clean - pgd))
    weak, strong = weak_and_strong(drops)
    text = "drop in share detected: " + ", ".join(f"{name} {drop:.2f}" for name, drop in drops.items())
    text += beside_the_rule(numbers, "S7", lambda clean, attacked: clean.mean() - attacked.mean())
    return Measured(text, format_intervals(*intervals), verdict(weak >= 0.5 and strong <= 0.15, weak > strong))


def judge_noise_patches(numbers: Numbers) -> Measured:
    """S8: noise leaves the baseline negative; adversarial noise activates it and beta+syn, not the perturb networks."""
    noise = (numbers.series("S8", "confidence", BASELINE, "noise") > 0.5).mean()
    active = {name: numbers.series("S8", "confidence", name, "pgd") > 0.5 for name in ATTACKED}
    shares = {name: values.mean() for name, values in active.items()}
    weak, strong = weak_and_strong(shares)
    text = f"above 0.5: noise {noise:.1%} (baseline); adversarial " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    text += beside_the_rule(numbers, "S8", lambda clean, attacked: attacked.mean())
    judged = verdict(noise < 0.5 and weak >= 0.5 and strong <= 0.15, weak > strong)
    return Measured(text, format_intervals(*(share_interval(values) for values in active.values())), judged)


def judge_lung_patches(numbers: Numbers) -> Measured:
    """S9: clean lung patches are negative for all; attacked ones more often for the perturb networks than for the baseline."""
    clean = {name: (numbers.series("S9", "confidence", name, "clean") > 0.5).mean() for name in ATTACKED}
    attacked = {name: (numbers.series("S9", "confidence", name, "pgd") > 0.5).mean() for name in ATTACKED}
    pairs = [numbers.paired("S9", "confidence", (BASELINE, "pgd"), (name, "pgd")) for name in PERTURB]
    intervals = [mean_interval(1.0 * (base > 0.5) - (perturb > 0.5)) for base, perturb in pairs]
    text = "above 0.5, clean to attacked: " + ", ".join(f"{name} {clean[name]:.0%} to {attacked[name]:.0%}" for name in ATTACKED)
    text += beside_the_rule(numbers, "S9", lambda clean, attacked: attacked.mean())
    lower = [attacked[BASELINE] - attacked[name] for name in PERTURB]
    judged = verdict(max(clean.values()) <= 0.1 and min(lower) >= 0.3, min(lower) > 0)
    return Measured(text, format_intervals(*intervals), judged)


def judge_rejection(numbers: Numbers) -> Measured:
    """S10: most wrong answers to attacked images pass an uncertainty threshold that keeps 95 % of clean images (see `rejection`).

    The attack is that of the stress tests, on the log-odds. The direction, which the rule leaves open: more of the wrong answers pass
    than the 5 % of clean images that do not.
    """

    def both(measure, condition):
        kinds = [numbers.series("S10", measure, BASELINE, f"{condition}-{kind}") for kind in ("positive", "negative")]
        return [kind.to_numpy() for kind in kinds]

    clean, attacked = (np.concatenate(both("uncertainty", condition)) for condition in ("clean", "pgd"))
    positive, negative = both("confidence", "pgd")
    found = rejection(clean, attacked, np.concatenate([~(positive > 0.5), negative > 0.5]))
    if not found["n_wrong"]:
        return Measured("no attacked image is answered wrongly", "", "not reproduced")
    kept, count = found["kept"], found["n_wrong"]
    text = f"{kept:.1%} of {count} wrong answers kept; AUROC of uncertainty {found['auroc']:.2f}"
    interval = wilson_interval(round(kept * count), count, LEVEL_Z196)
    return Measured(text, format_intervals(interval), verdict(kept >= 0.5, kept > 0.05))


def judge_minimal_eps(numbers: Numbers) -> Measured:
    """S11: the smallest eps that flips a decision is larger, and its SSIM lower, for the perturb networks; and finite.

    A decision that nothing flips has an infinite eps, beyond every other one, and no SSIM. SSIM is judged on what both networks flip.
    """
    names = (BASELINE, *PERTURB)
    eps, ssim = (
        dict(zip(names, numbers.paired("S11", measure, *((name, "white-box") for name in names)), strict=True))
        for measure in ("eps", "ssim")
    )
    beyond = 2 * max(values[np.isfinite(values)].max() for values in eps.values())  # stands for infinity, which cannot be subtracted
    baseline_eps = eps[BASELINE].clip(upper=beyond)
    larger = [median_difference_interval(eps[name].clip(upper=beyond), baseline_eps) for name in PERTURB]
    lower = []
    for name in PERTURB:
        flipped = ssim[BASELINE].notna() & ssim[name].notna()
        pair = ssim[BASELINE][flipped], ssim[name][flipped]
        lower.append(median_difference_interval(*pair) if flipped.any() else (-np.inf, np.inf))
    medians = {name: eps[name].median() for name in names}
    text = ", ".join(
        f"{name} eps {medians[name]:.3f} SSIM {ssim[name].median():.2f} ({np.isinf(eps[name]).mean():.0%} never flipped)" for name in names
    )
    met = all_above(larger + lower) and np.isfinite(list(medians.values())).all()
    direction = min(medians[name] for name in PERTURB) > medians[BASELINE]
    return Measured(text, format_intervals(*larger, *lower), verdict(met, direction))
