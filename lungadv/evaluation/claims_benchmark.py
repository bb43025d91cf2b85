"""Claims B1 to B7: Table II. Each function measures one claim and judges it by its rule in `paper/claims.csv`.

A bootstrap over scans compares two weight files: trained again with another seed, the order may turn. So these claims are judged on
differences between runs of at least ENOUGH_SEEDS seeds, with Student's interval. With fewer, the interval over the scans of this run
is shown, and the best verdict is "consistent". CPM is the mean of both benchmarks' CPM. Each row says what its seeds could have found:
the smallest true difference with power 0.8.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lungadv.evaluation.stats import detectable_difference, t_interval
from lungadv.evaluation.verdicts import (
    CONTROL,
    CONTROLS,
    FROM_SCRATCH,
    PERTURB,
    SYN,
    SYN_RANDOM,
    Interval,
    Measured,
    MissingNumbers,
    Numbers,
    all_above,
    format_intervals,
    verdict,
)
from lungadv.training.strategies import BASELINE, STRATEGIES

__all__ = [
    "judge_best_strategy",
    "judge_beta_loss",
    "judge_fine_tuning",
    "judge_perturbation",
    "judge_random_nodules",
    "judge_searched_nodules",
    "judge_subsolid_nodules",
    "strategy_difference",
]

ENOUGH_SEEDS = 3


@dataclass(frozen=True)
class Difference:
    """A strategy minus another: the mean over seeds with Student's interval, or one run's with the interval over its scans."""

    mean: float
    interval: Interval
    seeds: int
    level: float = 0.95

    @property
    def detectable(self) -> float:
        """The smallest true difference found with power 0.8."""
        return detectable_difference((self.interval[1] - self.interval[0]) / 2, self.seeds, self.level)


def strategy_difference(numbers: Numbers, a: str, b: str, measure: str = "cpm", subset: str = "all", level: float = 0.95) -> Difference:
    """The Difference a - b in a measure of `benchmarks/differences.csv`, both benchmarks together; level 0.95 or 0.9.

    Raises MissingNumbers where this run has none.
    """
    t = numbers.differences
    if t.empty:
        raise MissingNumbers("no benchmarks/differences.csv")
    keys = {"a": a, "b": b, "measure": measure, "subset": subset, "benchmark": "both"}
    rows = t[np.logical_and.reduce([t[key] == value for key, value in keys.items()])]
    if len(rows) >= ENOUGH_SEEDS:
        return Difference(rows["difference"].mean(), t_interval(rows["difference"], level), len(rows), level)
    own = rows[rows["seed"] == numbers.seed]
    if own.empty:
        raise MissingNumbers(f"no difference of {a} and {b} in {measure} of {subset}")
    tail = "90" if level == 0.9 else ""
    return Difference(own["difference"].iloc[0], (own[f"lower{tail}"].iloc[0], own[f"upper{tail}"].iloc[0]), 1, level)


def judge_differences(texts: Sequence[str], differences: Sequence[Difference], met: bool, direction: bool) -> Measured:
    """A row of the ledger on differences, with the largest of what each could have found; with too few seeds at best "consistent"."""
    seeds = min(difference.seeds for difference in differences)
    judged = verdict(met and seeds >= ENOUGH_SEEDS, met or direction)
    text = "; ".join(f"{difference.mean:+.3f} {name}" for name, difference in zip(texts, differences, strict=True))
    text += f"; power 0.8 from {max(difference.detectable for difference in differences):.3f}"
    return Measured(text, format_intervals(*(difference.interval for difference in differences)), judged, seeds)


def judge_gains(texts: Sequence[str], differences: Sequence[Difference]) -> Measured:
    """A row of the ledger by the rule that all differences lie above zero."""
    met = all_above([difference.interval for difference in differences])
    return judge_differences(texts, differences, met, all(difference.mean > 0 for difference in differences))


def judge_beta_loss(numbers: Numbers) -> Measured:
    """B1, equivalence of Beta loss and cross-entropy: the 90 % interval lies within 0.05."""
    entropy, beta = FROM_SCRATCH
    found = strategy_difference(numbers, beta, entropy, level=0.9)
    inside = -0.05 < found.interval[0] and found.interval[1] < 0.05
    return judge_differences([f"CPM against {entropy} (90 % interval)"], [found], inside, abs(found.mean) < 0.05)


def judge_fine_tuning(numbers: Numbers) -> Measured:
    """B2, cross-entropy first and Beta after: better than either alone. Beside the rule, than either alone trained on for as long."""
    found = judge_gains(
        [f"CPM against {other}" for other in FROM_SCRATCH],
        [strategy_difference(numbers, BASELINE, other) for other in FROM_SCRATCH],
    )
    trained_on = [CONTROLS[other] for other in FROM_SCRATCH]
    gains = ", ".join(f"{strategy_difference(numbers, BASELINE, other).mean:+.3f} against {other}" for other in trained_on)
    return replace(found, text=f"{found.text}; beside the rule, at equal updates: {gains}")


def judge_random_nodules(numbers: Numbers) -> Measured:
    """B3, random synthetic nodules: better than the baseline and than training on without them."""
    others = (BASELINE, CONTROL)
    differences = [strategy_difference(numbers, SYN_RANDOM, other) for other in others]
    return judge_gains([f"CPM against {other}" for other in others], differences)


def judge_searched_nodules(numbers: Numbers) -> Measured:
    """B4, PGD against random nodules: better, and the more so at few false positives."""
    found = [strategy_difference(numbers, SYN, SYN_RANDOM, measure) for measure in ("cpm", "low-minus-high")]
    return judge_gains([f"CPM against {STRATEGIES[SYN_RANDOM].label}", "gain at FP <= 0.5 over gain at FP >= 1"], found)


def judge_best_strategy(numbers: Numbers) -> Measured:
    """B5: beta+syn is above all baselines and the control, and no other strategy is significantly above it."""
    below = (*FROM_SCRATCH, BASELINE, CONTROL)
    others = (SYN_RANDOM, *PERTURB)
    found = {other: strategy_difference(numbers, SYN, other) for other in below + others}
    unbeaten = all(found[other].interval[1] >= 0 for other in others)
    met = unbeaten and all_above([found[other].interval for other in below])
    direction = unbeaten and all(found[other].mean > 0 for other in below)
    return judge_differences([f"CPM against {other}" for other in found], list(found.values()), met, direction)


def judge_perturbation(numbers: Numbers) -> Measured:
    """B6, perturbation: above the baseline, and at most 0.01 above beta+syn."""
    found = {(name, other): strategy_difference(numbers, name, other) for name in PERTURB for other in (BASELINE, CONTROL, SYN)}
    gains, excess = ([found[name, other] for name in PERTURB] for other in (BASELINE, SYN))
    met = all_above([gain.interval for gain in gains]) and all(more.interval[1] < 0.01 for more in excess)
    direction = all(gain.mean > 0 for gain in gains) and all(more.mean < 0.01 for more in excess)
    return judge_differences([f"{name} against {other}" for name, other in found], list(found.values()), met, direction)


def judge_subsolid_nodules(numbers: Numbers) -> Measured:
    """B7: on ground-glass and part-solid nodules beta+syn beats training on without new data."""
    found = strategy_difference(numbers, SYN, CONTROL, subset="subsolid")
    return judge_gains(["sensitivity-average on ground-glass and part-solid nodules against control"], [found])
