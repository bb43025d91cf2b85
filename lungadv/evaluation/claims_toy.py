"""Claims T1 to T7: the two moons. Each function measures one claim and judges it by its rule in `paper/claims.csv`.

Its numbers come in groups; each repetition is an item. "panel" holds the conditions a to f of Figure 7, "spots" the added spots
(random and hard, uniform and noise). "dimension" has the negatives added (uniform or pgd) and the dimension.
"""

import numpy as np
import pandas as pd

from lungadv.evaluation.stats import t_interval
from lungadv.evaluation.verdicts import NUMBER_COLUMNS, Interval, Measured, Numbers, format_intervals, verdict

__all__ = [
    "judge_dimensions",
    "judge_random_samples",
    "judge_searched_negatives",
    "judge_searched_samples",
    "judge_separation",
    "judge_tail_recall",
    "judge_uniform_negatives",
    "two_moons_samples",
]


def two_moons_samples(table: pd.DataFrame) -> pd.DataFrame:
    """`two_moons/numbers.csv` with NUMBER_COLUMNS: its group stands as the claim, its repetition as the item."""
    condition = table["name"] + np.where(table["group"] == "dimension", "-" + table["dimension"].astype(str), "")
    return table.assign(claim=table["group"], network="", condition=condition, item=table["seed"].astype(str))[NUMBER_COLUMNS]


def mean_difference(numbers: Numbers, group: str, measure: str, a: str, b: str, factor: float = 1.0) -> tuple[float, Interval]:
    """The mean of a - factor * b over repetitions, and Student's interval."""
    first, second = numbers.paired(group, measure, ("", a), ("", b))
    return float(np.mean(first - factor * second)), t_interval(first - factor * second)


def judge_separation(numbers: Numbers) -> Measured:
    """T1, all spots: the network tells the moons apart. The direction, which the rule leaves open, is an accuracy of 0.9."""
    accuracy = numbers.series("panel", "accuracy", "", "a")
    mean = accuracy.mean()
    interval = format_intervals(t_interval(accuracy))
    return Measured(f"accuracy {mean:.3f}", interval, verdict(mean >= 0.98, mean >= 0.9), len(accuracy))


def judge_tail_recall(numbers: Numbers) -> Measured:
    """T2, few and long-tailed positives: recall in the tail falls."""
    mean, interval = mean_difference(numbers, "panel", "tail_recall", "b", "a")
    seeds = len(numbers.series("panel", "tail_recall", "", "b"))
    return Measured(f"tail recall {mean:+.3f}", format_intervals(interval), verdict(interval[1] < 0, mean < 0), seeds)


def judge_random_samples(numbers: Numbers) -> Measured:
    """T3: random samples of the VAE fill the hole, and the far positive area is large."""
    mean, interval = mean_difference(numbers, "panel", "tail_recall", "c", "b")
    far = numbers.series("panel", "confident_far_share", "", "c")
    judged = verdict(interval[0] > 0 and far.mean() > 0.1, mean > 0)
    text = f"tail recall {mean:+.3f}; far area {far.mean():.1%}"
    return Measured(text, format_intervals(interval, t_interval(far)), judged, len(far))


def judge_uniform_negatives(numbers: Numbers) -> Measured:
    """T4: uniform negatives more than halve the far area and cost little recall.

    The direction, which the rule leaves open: a smaller area at a loss of recall of 0.15 at most.
    """
    _, interval = mean_difference(numbers, "panel", "confident_far_share", "d", "c", factor=0.5)
    before, after = (numbers.series("panel", "confident_far_share", "", panel) for panel in "cd")
    loss, _ = mean_difference(numbers, "panel", "recall", "c", "d")
    text = f"far area {before.mean():.1%} to {after.mean():.1%}; recall {-loss:+.3f}"
    judged = verdict(interval[1] < 0 and loss <= 0.05, after.mean() < before.mean() and loss <= 0.15)
    return Measured(text, f"{format_intervals(interval)} (area minus half of it before)", judged, len(after))


def judge_searched_samples(numbers: Numbers) -> Measured:
    """T5: PGD finds spots that are rare and real, that is sparse and near the arc."""
    mean, interval = mean_difference(numbers, "spots", "sparse_share", "hard", "random")
    sparse = numbers.series("spots", "sparse_share_of_arc", "", "hard")
    text = f"share sparse and on the arc {mean:+.3f} against random; {sparse.mean():.1%} of those on the arc are sparse"
    judged = verdict(interval[0] > 0 and sparse.mean() >= 0.9, mean > 0)
    return Measured(text, format_intervals(interval), judged, len(sparse))


def judge_searched_negatives(numbers: Numbers) -> Measured:
    """T6: PGD moves negatives towards the positive cluster."""
    mean, interval = mean_difference(numbers, "spots", "nearest_positive", "noise", "uniform")
    seeds = len(numbers.series("spots", "nearest_positive", "", "noise"))
    return Measured(f"distance {mean:+.3f}", format_intervals(interval), verdict(interval[1] < 0, mean < 0), seeds)


def judge_dimensions(numbers: Numbers) -> Measured:
    """T7: in 50 dimensions PGD negatives leave less far area than uniform ones, at little cost of recall."""
    far = {
        d: mean_difference(numbers, "dimension", "confident_far_share", f"pgd-{d}", f"uniform-{d}") for d in (2, 10, 50)
    }
    loss, _ = mean_difference(numbers, "dimension", "recall", "uniform-50", "pgd-50")
    text = "far area " + ", ".join(f"{mean:+.3f} at d = {d}" for d, (mean, _) in far.items()) + f"; recall {-loss:+.3f} at d = 50"
    mean, interval = far[50]
    seeds = len(numbers.series("dimension", "recall", "", "pgd-50"))
    return Measured(text, format_intervals(interval), verdict(interval[1] < 0 and loss <= 0.05, mean < 0), seeds)
