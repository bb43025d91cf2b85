"""The training loop that all networks share: progress, learning-rate schedules, a check of the losses, a moving average of the weights.

`train` repeats a step of any kind, with any number of optimizers. `fit` is `train` for one network, one loss and labelled batches.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from lungadv.training.early_stopping import EarlyStopping
from lungadv.utils.device import get_device

__all__ = ["EMA_DECAY", "descend", "fit", "train"]

EMA_DECAY = 0.99  # of the FPR networks: the average looks back over about 100 updates


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of `optimizer` down `loss`, a scalar."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def train(
    step: Callable[[int], dict[str, float]],
    updates: int,
    *,
    schedulers: Iterable[LRScheduler] = (),
    monitor: Callable[[int], None] | None = None,
    ended: Callable[[int], bool] | None = None,
    desc: str = "training",
    leave: bool = True,
) -> pd.DataFrame:
    """Repeat `step(update)` for update 0 to `updates` - 1; the schedulers step after each.

    step: makes one update and returns its losses by name, for example {"loss": 0.3}.
    monitor: called with the number of updates made so far, before the first and after each.
    ended: called likewise, after the monitor: whether to stop here.
    desc: names the training in the progress bar and in the error; leave: whether the finished bar stays on the screen.

    Returns one row an update: update, then a column a loss (NaN where a step did not return it).
    Raises FloatingPointError as soon as a loss is not finite.
    """
    rows = []
    if monitor is not None:
        monitor(0)
    for update in tqdm(range(updates), desc=desc, mininterval=2, leave=leave):
        losses = step(update)
        for name, value in losses.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{desc}: the {name} is {value} at update {update}; lower the learning rate")
        for scheduler in schedulers:
            scheduler.step()
        rows.append(losses)
        if monitor is not None:
            monitor(update + 1)
        if ended is not None and ended(update + 1):
            break
    return pd.DataFrame(rows).rename_axis("update").reset_index()


def fit(
    network: nn.Module,
    loss: Callable[..., torch.Tensor],
    batches: Iterator[tuple],
    updates: int,
    *,
    learning_rate: float,
    ema_decay: float | None = None,
    monitor: Callable[[int, nn.Module], None] | None = None,
    stopping: EarlyStopping | None = None,
    more: Iterable[nn.Parameter] = (),
    desc: str = "training",
) -> pd.DataFrame:
    """Train `network` on labelled batches with Adam; the learning rate falls to 0 as a half cosine, or as `stopping` says.

    batches: endless tuples; their tensors are moved to the accelerator if there is one, other parts are passed as they are.
    loss: loss(network, *batch) is a scalar.
    ema_decay: with it, the exponential moving average of weights and buffers is left in `network`, else the last weights.
    monitor: called as in `train`, with the moving average in evaluation mode as well; it needs `ema_decay`.
    stopping: sets the learning rate and the end, from what `monitor` tells it; `updates` is then the most that are made.
    more: parameters of the loss that are trained as well.

    Leaves `network` on the CPU in evaluation mode. Returns the table of `train`: update, loss. Raises FloatingPointError as `train` does.
    """
    network.to(get_device()).train()
    average = None if ema_decay is None else AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True).eval()
    optimizer = torch.optim.Adam([*network.parameters(), *more], lr=learning_rate)
    scheduler = LambdaLR(optimizer, stopping.rate) if stopping else CosineAnnealingLR(optimizer, updates)
    look = None if monitor is None else lambda update: monitor(update, average.module)
    ended = None if stopping is None else lambda update: update >= stopping.end
    step = _labelled_step(network, loss, batches, optimizer, average)
    table = train(step, updates, schedulers=[scheduler], monitor=look, ended=ended, desc=desc)
    if average is not None:
        network.load_state_dict(average.module.state_dict())
    network.cpu().eval()
    return table


def _labelled_step(network, loss, batches, optimizer, average):
    """The step of `fit`: one batch, one descent, and the moving average brought up to date."""
    device = get_device()

    def step(update):
        value = loss(network, *(part.to(device) if torch.is_tensor(part) else part for part in next(batches)))
        descend(optimizer, value)
        if average is not None:
            average.update_parameters(network)
        return {"loss": value.item()}

    return step
