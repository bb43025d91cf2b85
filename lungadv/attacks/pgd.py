"""Projected gradient descent: one function that searches a small ball for the worst input, over any tensor."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from tqdm import tqdm

from .checks import check_search, known_loss
from .norms import make_product
from .objective import Objective
from .random_source import RandomSource
from .record import Record, success_rule
from .state import State
from .step_rules import StepRule, make_step_rule

__all__ = ["Attack", "fgsm", "frozen", "pgd"]


@dataclass(frozen=True)
class Attack:
    """What a search found, sample by sample."""

    best: torch.Tensor  # (N, ...) the first point that succeeded by the caller's rule, else the point of highest loss; a tuple like start
    loss_start: torch.Tensor  # (N,) the loss of the start
    loss_best: torch.Tensor  # (N,) the loss of `best`, never below loss_start unless a rule chose the point
    success: torch.Tensor  # (N,) bool: what the caller's rule says of `best`; without a rule, whether the loss rose
    steps: int  # gradient steps allowed to each sample, restarts included


@contextlib.contextmanager
def frozen(model: nn.Module | Callable) -> Iterator[nn.Module | Callable]:
    """The model in eval mode, its parameters frozen; afterwards every module and parameter is as it was. A plain function passes."""
    if not isinstance(model, nn.Module):
        yield model
        return
    modes = [(module, module.training) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in trained:
            parameter.requires_grad_(wanted)


def _ascend(objective: Objective, state: State, rule: StepRule, record: Record, bar: tqdm) -> None:
    """One restart from `state.points`: x <- project(x + step_size * direction(gradient)) (Madry et al. 2018, section 2.1)."""
    for step in range(rule.steps):
        if len(state) == 0:  # all have succeeded
            bar.update(rule.steps - step)
            return
        state = objective.differentiate(state)
        record.keep_best(state)
        state = record.drop_inactive(state)
        state = rule.adapt(state, step)
        points = state.ball.step(state.points, state.gradients, state.step_size)
        points = state.ball.project(points)
        state = rule.move(state, points)
        bar.update()
    if len(state):
        record.keep_best(objective.evaluate(state))


def _search(objective, state, rule, record, source, *, random_start, restarts, loss_start, batch_size, progress):
    """All restarts of all samples of `state`, in batches; the arguments are those of `pgd`, checked. What is found lies in `record`."""
    batches = state.rows.split(batch_size or max(1, len(state)))
    if loss_start is not None:
        record.keep_best(replace(state, loss=known_loss(loss_start, state.points[0])))
    elif random_start:  # else the first iterate is the start
        for rows in batches:
            record.keep_best(objective.evaluate(state[rows]))
    with tqdm(total=restarts * len(batches) * rule.steps, desc=progress, disable=progress is None, mininterval=1) as bar:
        for _ in range(restarts):
            record.restart()
            if random_start:  # drawn for all samples at once: batch_size changes no number
                state = replace(state, points=state.ball.draw(source))
            for rows in batches:
                _ascend(objective, state[rows[record.active(rows)]], rule, record, bar)


def pgd(
    loss: Callable[..., torch.Tensor],  # (batch, *context) -> (N,), one value a sample; it is ascended
    start: torch.Tensor | tuple[torch.Tensor, ...],  # (N, ...) floating, left as it is; a tuple is searched together, `loss` gets a tuple
    *,
    context: tuple[torch.Tensor, ...] = (),  # tensors of first dimension N, handed to `loss` and `success` beside the batch
    eps: float | torch.Tensor | tuple,  # radius in the units of start, one or (N,); a tuple for a tuple, as step_size, norm and bounds
    steps: int,  # gradient steps of each restart
    step_size: float | torch.Tensor | tuple | None = None,  # length of a step in the norm, one number or (N,); default by rule
    norm: str | tuple[str, ...] = "linf",  # "linf", "l2" or "l1"
    bounds: tuple | None = None,  # (low, high) of valid values, numbers or tensors that broadcast to start
    random_start: bool = True,  # begin anywhere in the ball instead of at its centre
    restarts: int = 1,
    success: float | Callable | None = None,  # loss above which a sample has succeeded and leaves, or (batch, *context) -> (N,) bool
    generator: torch.Generator | None = None,  # on start's device: the same one gives the same result, whatever batch_size
    seeds: Sequence[int] | torch.Tensor | None = None,  # (N,) instead of a generator: a result depends on its own seed alone
    rule: str = "fixed",  # the step's length: "fixed", "cosine" or "halving" (Auto-PGD), see `step_rules`
    momentum: float | None = None,  # share of the last move in the next, in [0, 1); default 0.25 for "halving", else 0
    loss_start: torch.Tensor | None = None,  # (N,) the loss of the start where it is known already: saves one forward
    batch_size: int | None = None,  # samples at a time; default all
    autocast: torch.dtype | None = None,  # torch.bfloat16: `loss` runs under torch.autocast; points and gradients keep start's type
    progress: str | None = None,  # text beside a progress bar
) -> Attack:
    """Search each sample's ball for the point of highest loss (Madry et al. 2018; the paper's Eq. 9).

    The default step is 2.5 eps / steps; the first is 5 eps / steps under "cosine" and 2 eps under "halving".
    K steps cost K forwards and gradients, and one forward of the last iterate. A random start costs one more, of the start itself.
    A network in training mode would move its batch statistics: call this within `frozen(network)`.
    Raises ValueError for arguments that cannot be meant, and for a loss that does not return one value a sample.
    """
    single, ball = torch.is_tensor(start), make_product(start, eps, norm, bounds)
    check_search(ball.start[0], context, steps, restarts, random_start)
    source, step_rule = RandomSource(ball.start[0], generator, seeds), make_step_rule(rule, steps, momentum)
    state = State.at_start(ball, context, step_rule.first_step_size(step_size, ball))
    objective, record = Objective(loss, single, autocast), Record(ball.start, success_rule(success, single))
    plan = {"random_start": random_start, "restarts": restarts, "loss_start": loss_start, "batch_size": batch_size}
    _search(objective, state, step_rule, record, source, progress=progress, **plan)
    return Attack(*record.results(single), steps * restarts)


def fgsm(
    loss: Callable[..., torch.Tensor],
    start: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    context: tuple[torch.Tensor, ...] = (),
    eps: float | torch.Tensor | tuple,
    norm: str | tuple[str, ...] = "linf",
    bounds: tuple | None = None,
    success: float | Callable | None = None,
) -> Attack:
    """One step of length eps from the start (Goodfellow et al. 2015), at the cost of one gradient and two forwards.

    For the arguments and errors see `pgd`.
    """
    options = {"context": context, "norm": norm, "bounds": bounds, "success": success}
    return pgd(loss, start, eps=eps, step_size=eps, steps=1, random_start=False, **options)
