"""When training ends, on validation losses that are made up."""

import pytest

from lungadv.training.early_stopping import DECAY, EarlyStopping


def run(losses, limit, patience, every=10):
    """Train on made-up losses, one a check; the rate of each update, and the rule at its end."""
    stopping, rates, update = EarlyStopping(limit, patience), [], 0
    while update < stopping.end:
        if update % every == 0:
            stopping.check(update, losses(update))
        rates.append(stopping.rate(update))
        update += 1
    return rates, stopping


def test_the_rate_falls_once_the_loss_has_stopped_falling():
    rates, stopping = run(lambda update: max(0.2, 1 - update / 100), 1000, 3)
    start = 80 + 3 * 10  # the last gain, and three checks without one
    assert stopping.converged and stopping.decay_start == start and len(rates) == stopping.end == round(start * (1 + DECAY) + 0.5)
    assert rates[:start] == [1.0] * start and rates[start] == 1.0
    falls = [a - b for a, b in zip(rates[start:-1], rates[start + 1 :], strict=True)]
    assert falls == pytest.approx([1 / (stopping.end - start)] * len(falls))


def test_a_loss_that_still_falls_at_the_limit_has_not_converged():
    rates, stopping = run(lambda update: 0.9 ** (update / 10), 100, 3)
    assert not stopping.converged and len(rates) == 100
    assert rates[:80] == [1.0] * 80 and rates[-1] == pytest.approx(1 / 20)


def test_gains_of_less_than_a_hundredth_do_not_count():
    _, stopping = run(lambda update: 1 - 1e-5 * update, 1000, 4)
    assert stopping.converged and stopping.decay_start == 40 + 40  # the first four checks do not count


def test_a_network_that_gets_worse_at_first_is_trained_on():
    _, stopping = run(lambda update: 0.1 if update == 0 else max(0.2, 0.5 - update / 200), 1000, 3)
    assert stopping.converged and stopping.decay_start == 60 + 30
