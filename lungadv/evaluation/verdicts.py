"""What claims are judged on, and the verdict of one: numbers by item, the rows of Table II that claims name, a row of the ledger."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lungadv.training.strategies import BASELINE, SEGMENTATION, STRATEGIES

__all__ = [
    "CONTROL",
    "CONTROLS",
    "FROM_SCRATCH",
    "NUMBER_COLUMNS",
    "PERTURB",
    "SYN",
    "SYN_RANDOM",
    "Interval",
    "Measured",
    "MissingNumbers",
    "Numbers",
    "all_above",
    "format_intervals",
    "verdict",
]

Interval = tuple[float, float]  # (low, high)

FROM_SCRATCH = tuple(name for name, strategy in STRATEGIES.items() if strategy.start == SEGMENTATION)
CONTROLS = {strategy.start: name for name, strategy in STRATEGIES.items() if strategy.control}  # of each row, itself trained on
CONTROL = CONTROLS[BASELINE]
(SYN_RANDOM,) = (name for name, strategy in STRATEGIES.items() if strategy.positives == ("synthetic-random",))
(SYN,) = (name for name, strategy in STRATEGIES.items() if strategy.positives == ("synthetic-pgd",))
PERTURB = tuple(name for name, strategy in STRATEGIES.items() if strategy.in_paper and "perturbed" in strategy.positives)

NUMBER_COLUMNS = ["claim", "measure", "network", "condition", "item", "value"]  # of numbers.csv


class MissingNumbers(LookupError):
    """A claim cannot be judged: its numbers are not there."""


@dataclass(frozen=True)
class Numbers:
    """What claims are judged on."""

    samples: pd.DataFrame  # NUMBER_COLUMNS: texts and a value; the same item under two conditions is the same sample
    differences: pd.DataFrame  # `benchmarks/differences.csv` of each finished run of the same terms, with its seed
    seed: int = 0  # this run's

    def series(self, claim: str, measure: str, network: str = "", condition: str = "") -> pd.Series:
        """The values of one measure, indexed by item. Raises MissingNumbers where there are none."""
        t = self.samples
        chosen = t[(t["claim"] == claim) & (t["measure"] == measure) & (t["network"] == network) & (t["condition"] == condition)]
        if chosen.empty:
            raise MissingNumbers(f"{claim}: no {measure} of {network or 'any network'} {condition}".rstrip())
        return chosen.set_index("item")["value"]

    def paired(self, claim: str, measure: str, *keys: tuple[str, str]) -> list[pd.Series]:
        """One series of a measure for each (network, condition), over the items that all of them have.

        Raises MissingNumbers where one has no values, or no item has all.
        """
        table = pd.concat([self.series(claim, measure, *key) for key in keys], axis=1, join="inner")
        if table.empty:
            raise MissingNumbers(f"{claim}: no item has {measure} under all of {keys}")
        return [table.iloc[:, column] for column in range(len(keys))]

    def threshold(self, network: str) -> float:
        """The confidence above which 5 % of clean validation negatives lie."""
        return self.series("all", "threshold", network).iloc[0]

    def detected(self, claim: str, *keys: tuple[str, str]) -> list[pd.Series]:
        """Whether each item's confidence is above its network's threshold: a bool series for each (network, condition)."""
        found = self.paired(claim, "confidence", *keys)
        return [confidence > self.threshold(network) for confidence, (network, _) in zip(found, keys, strict=True)]


@dataclass(frozen=True)
class Measured:
    """What was measured of one claim, and its verdict."""

    text: str
    interval: str  # one or several, see `format_intervals`
    verdict: str
    seeds: int = 1  # repetitions or training seeds behind it


def verdict(met: bool, direction: bool) -> str:
    """ "reproduced" where the rule is met, "consistent" where at least the direction is right, else "not reproduced"."""
    return "reproduced" if met else "consistent" if direction else "not reproduced"


def format_intervals(*intervals: Interval) -> str:
    """Intervals as text: "[0.100, 0.250]; [0.300, 0.400]"."""
    return "; ".join(f"[{low:.3f}, {high:.3f}]" for low, high in intervals)


def all_above(intervals: Iterable[Interval], bound: float = 0.0) -> bool:
    """Whether all intervals lie above a bound."""
    return all(low > bound for low, _ in intervals)
