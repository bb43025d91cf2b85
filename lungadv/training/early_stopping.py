"""When training ends: a constant learning rate until the validation loss stops falling, then a short fall of the rate to 0.

One rule for every network of false-positive reduction, so that networks are compared where each has stopped improving.
"""

import math
from dataclasses import dataclass

__all__ = ["EarlyStopping"]

GAIN = 0.01  # relative fall of the validation loss that counts as one
DECAY = 0.25  # updates of the falling rate, as a share of those before


@dataclass
class EarlyStopping:
    """Decides from validation losses when the learning rate begins to fall, and when training ends.

    limit: the most updates; patience: checks without a gain of GAIN after which the loss has stopped falling.
    As many checks go by before the first one counts: a network that meets new kinds of patches answers worse on validation at first.
    """

    limit: int
    patience: int
    checks: int = 0
    lowest: float = math.inf
    stale: int = 0
    decay_start: int | None = None
    converged: bool = False

    @property
    def end(self) -> int:
        """The number of updates at which training ends, as far as is known."""
        return self.limit if self.decay_start is None else min(self.limit, math.ceil((1 + DECAY) * self.decay_start))

    def check(self, update: int, loss: float) -> None:
        """Take the validation loss after `update` updates into account."""
        self.checks += 1
        if self.checks <= self.patience:
            return
        if loss < (1 - GAIN) * self.lowest:
            self.lowest, self.stale = loss, 0
        else:
            self.stale += 1
        if self.decay_start is None and self.stale >= self.patience:
            self.decay_start, self.converged = update, True

    def rate(self, update: int) -> float:
        """The learning rate of an update, as a share of the first."""
        if self.decay_start is None and update >= self.limit / (1 + DECAY):  # no time is left to wait for a plateau
            self.decay_start = update
        if self.decay_start is None:
            return 1.0
        return max(0.0, (self.end - update) / max(1, self.end - self.decay_start))
