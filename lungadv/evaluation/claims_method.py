"""Claims M1 to M7 and N1: candidates, and what PGD does to networks. Each function measures one claim and judges it by its rule."""

from functools import partial

import numpy as np
import pandas as pd

from lungadv.evaluation.stats import (
    bootstrap_interval,
    mean_interval,
    median_difference_interval,
    share_interval,
)
from lungadv.evaluation.verdicts import Measured, MissingNumbers, Numbers, all_above, format_intervals, verdict
from lungadv.training.strategies import BASELINE
from lungadv.utils.statistics import LEVEL_Z196, wilson_interval

__all__ = [
    "judge_candidate_attack",
    "judge_candidate_recall",
    "judge_hidden_nodules",
    "judge_latent_search",
    "judge_lung_activation",
    "judge_networks_by_size",
    "judge_noise_activation",
    "judge_random_search",
]


def size_gap(weights: np.ndarray, lead: np.ndarray, small: np.ndarray) -> np.ndarray:
    """The weighted mean of `lead` (N,) over the small nodules (N,) bool minus that over the others, for weights (B, N): (B,)."""
    means = [weights[:, part] @ lead[part] / weights[:, part].sum(axis=1) for part in (small, ~small)]
    return means[0] - means[1]


def judge_networks_by_size(numbers: Numbers) -> Measured:
    """M1: the blob networks' lead over the RPN is larger on small nodules than on large ones, at 4 and at 8 candidates a scan."""
    texts, gaps, intervals = [], [], []
    for per_scan in (4, 8):
        measure = f"detected-{per_scan}"
        sizes = [
            numbers.series("M1", measure, "blob", size) - numbers.series("M1", measure, "rpn", size) for size in ("small", "large")
        ]
        lead = pd.concat(sizes)
        gap = partial(size_gap, lead=lead.to_numpy(), small=np.arange(len(lead)) < len(sizes[0]))
        gaps.append(gap(np.ones((1, len(lead)))).item())
        intervals.append(bootstrap_interval(gap, lead.index))
        texts.append(f"at {per_scan} a scan: blob minus RPN {sizes[0].mean():+.3f} on small, {sizes[1].mean():+.3f} on large")
    return Measured("; ".join(texts), format_intervals(*intervals), verdict(all_above(intervals), np.mean(gaps) > 0))


def judge_candidate_recall(numbers: Numbers) -> Measured:
    """M2: the union keeps almost every nodule at up to 100 candidates a scan, on at least 300 nodules a benchmark.

    The direction, which the rule leaves open, is a share of 0.9 on both.
    """
    texts, intervals, met, shares = [], [], True, []
    for benchmark in ("in-house", "nlst"):
        found = numbers.series("M2", "detected", "union", benchmark)
        per_scan = numbers.series("M2", "candidates_per_scan", "union", benchmark).iloc[0]
        interval = wilson_interval(round(found.sum()), len(found), LEVEL_Z196)
        met &= interval[0] >= 0.94 and len(found) >= 300 and per_scan <= 100
        shares.append(found.mean())
        intervals.append(interval)
        texts.append(f"{benchmark} {found.mean():.1%} of {len(found)} at {per_scan:.0f} a scan")
    return Measured("; ".join(texts), format_intervals(*intervals), verdict(met, min(shares) >= 0.9))


def judge_latent_search(numbers: Numbers) -> Measured:
    """M3: a bounded latent step by PGD lowers the confidence of detected nodules, looks alike, and a random step does not."""
    columns = {condition: numbers.series("M3", "confidence", BASELINE, condition) for condition in ("before", "pgd", "random")}
    table = pd.concat(columns | {"ssim": numbers.series("M3", "ssim", BASELINE, "pgd")}, axis=1, join="inner")
    table = table[table["before"] > 0.5]
    if table.empty:
        return Measured("no synthetic nodule is detected before", "", "not reproduced")
    before, pgd, random, ssim = table.median()
    fall, random_fall = before - pgd, before - random
    interval = median_difference_interval(table["before"], table["pgd"])
    text = f"median {before:.2f} to {pgd:.2f}, random step {random:.2f}; SSIM {ssim:.2f}"
    judged = verdict(fall >= 0.3 and ssim >= 0.9 and random_fall <= 0.1, fall > max(0, random_fall))
    return Measured(text, format_intervals(interval), judged)


def judge_hidden_nodules(numbers: Numbers) -> Measured:
    """M4: image PGD hides detected nodules, random noise of the same norm does not."""
    clean, pgd, random = numbers.paired("M4", "confidence", *((BASELINE, condition) for condition in ("clean", "pgd", "random")))
    if not (clean > 0.5).any():
        return Measured("no nodule is detected when clean", "", "not reproduced")
    hidden, hidden_by_noise = (pgd < 0.5)[clean > 0.5], (random < 0.5)[clean > 0.5]
    text = f"{hidden.mean():.1%} of {len(hidden)} fall below 0.5, {hidden_by_noise.mean():.1%} under random noise"
    met = hidden.mean() >= 0.8 and hidden_by_noise.mean() <= 0.1
    return Measured(text, format_intervals(share_interval(hidden)), verdict(met, hidden.mean() > hidden_by_noise.mean()))


def _judge_activation(numbers, claim, clean):
    """The share of negatives above 0.5 before and after PGD (claims M5 and M6)."""
    before, after = (values > 0.5 for values in numbers.paired(claim, "confidence", (BASELINE, clean), (BASELINE, "pgd")))
    text = f"{before.mean():.1%} above 0.5 before, {after.mean():.1%} after"
    met = before.mean() <= 0.1 and after.mean() >= 0.8
    return Measured(text, format_intervals(share_interval(after)), verdict(met, after.mean() > before.mean()))


def judge_noise_activation(numbers: Numbers) -> Measured:
    """M5: PGD near uniform noise makes the baseline answer positive."""
    return _judge_activation(numbers, "M5", "noise")


def judge_lung_activation(numbers: Numbers) -> Measured:
    """M6: PGD on negative CT patches makes the baseline answer positive."""
    return _judge_activation(numbers, "M6", "clean")


def judge_candidate_attack(numbers: Numbers) -> Measured:
    """M7: PGD on the candidate networks' own loss costs sensitivity, random noise of the same norm does not."""
    networks = numbers.samples.loc[numbers.samples["claim"] == "M7", "network"].unique()
    if len(networks) != 1:
        raise MissingNumbers(f"M7: rows of one network expected, found {list(networks)}")
    clean, pgd, random = numbers.paired("M7", "detected", *((networks[0], condition) for condition in ("clean", "pgd", "random")))
    drop, random_drop = (clean - pgd).mean(), (clean - random).mean()
    text = f"sensitivity {clean.mean():.1%} clean, {pgd.mean():.1%} under PGD, {random.mean():.1%} under random noise"
    judged = verdict(drop >= 0.3 and random_drop <= 0.05, drop > max(0, random_drop))
    return Measured(text, format_intervals(mean_interval(clean - pgd)), judged)


def judge_random_search(numbers: Numbers) -> Measured:
    """N1: most random nodules of at least 6 mm are recognised, and PGD finds harder ones of that size with as many evaluations."""
    share = (numbers.series("N1", "confidence", BASELINE, "random") > 0.5).mean()
    pgd, random = numbers.paired("N1", "hardest", (BASELINE, "pgd"), (BASELINE, "random-search"))
    interval = mean_interval(pgd - random)
    text = f"{share:.1%} of random ones above 0.5; hardest by PGD {np.mean(pgd - random):+.3f} against random search"
    return Measured(text, format_intervals(interval), verdict(share >= 0.5 and interval[1] < 0, np.mean(pgd - random) < 0))
