"""The training loop against closed-form updates."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lungadv.models.dense_unet import new_network, predict
from lungadv.training.loop import descend, fit, train
from lungadv.training.losses import classification_loss


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))


def product(model, x):
    return model.w * x


def falling_weights(rate, updates):
    "With a gradient of 1 every step of Adam is its learning rate, which falls as a half cosine: the weights are known."
    return 1 - np.cumsum([rate * (1 + np.cos(np.pi * k / updates)) / 2 for k in range(updates)])


def ones(count):
    return iter([(torch.tensor(1.0),)] * count)


def test_fitting_leaves_the_moving_average_of_the_weights():
    model, rate, updates, decay = Weight(), 0.1, 8, 0.7
    table = fit(model, product, ones(updates), updates, learning_rate=rate, ema_decay=decay)
    weights = falling_weights(rate, updates)
    average = weights[0]
    for weight in weights[1:]:
        average = decay * average + (1 - decay) * weight
    assert table.columns.tolist() == ["update", "loss"] and table["update"].tolist() == list(range(updates))
    np.testing.assert_allclose(table["loss"], [1, *weights[:-1]], rtol=1e-6)
    assert model.w.item() == pytest.approx(average, rel=1e-6) and abs(average - weights[-1]) > 0.01
    assert not model.training


def test_without_an_average_the_last_weights_are_left():
    model = Weight()
    fit(model, product, ones(8), 8, learning_rate=0.1)
    assert model.w.item() == pytest.approx(falling_weights(0.1, 8)[-1], rel=1e-6) and not model.training


def test_the_average_covers_the_normalisation_too():
    torch.manual_seed(0)
    model, x = new_network("logits", 4), torch.rand(4, 1, 16, 16, 16)
    fit(model, classification_loss, iter([(x, torch.arange(4) % 2)] * 3), 3, learning_rate=1e-3, ema_decay=0.95)
    norm = model.unet.stem[1]
    assert norm.running_mean.abs().sum() > 0 and norm.running_var.isfinite().all() and predict(model, x)[0].isfinite().all()


def test_parts_of_a_batch_that_are_no_tensors_reach_the_loss_as_they_are():
    boxes = [np.zeros((2, 4)), np.zeros((0, 4))]
    seen = []

    def loss(model, x, nodules):
        seen.append(nodules)
        return model.w * x

    fit(Weight(), loss, iter([(torch.tensor(1.0), boxes)]), 1, learning_rate=0.1)
    assert seen[0] is boxes


def test_a_loss_that_is_not_finite_stops_the_training():
    values = iter([(torch.tensor(value),) for value in (1.0, float("nan"), 1.0)])
    with pytest.raises(FloatingPointError, match="beta: the loss is nan at update 1; lower the learning rate"):
        fit(Weight(), product, values, 3, learning_rate=1e-3, desc="beta")


def test_each_of_several_losses_is_checked():
    with pytest.raises(FloatingPointError, match="synthesizer: the penalty is inf at update 0"):
        train(lambda update: {"kl": 0.0, "penalty": float("inf")}, 3, desc="synthesizer")


def test_the_monitor_sees_the_moving_average_before_the_first_and_after_each_update():
    model, seen = Weight(), []

    def monitor(update, average):
        seen.append((update, average.w.item(), average.training))

    fit(model, product, ones(3), 3, learning_rate=0.1, ema_decay=0.7, monitor=monitor)
    assert [update for update, *_ in seen] == [0, 1, 2, 3] and not any(training for *_, training in seen)
    assert seen[0][1] == 1 and seen[-1][1] == pytest.approx(model.w.item())


def test_schedulers_step_once_an_update_and_steps_may_return_other_losses():
    model, rates = Weight(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def step(update):
        rates.append(optimizer.param_groups[0]["lr"])
        loss = model.w * 1.0
        descend(optimizer, loss)
        return {"loss": loss.item()} | ({"critic": 2.0} if update % 2 == 0 else {})

    table = train(step, 4, schedulers=[CosineAnnealingLR(optimizer, 4)])
    np.testing.assert_allclose(rates, [(1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)], rtol=1e-6)
    assert model.w.item() == pytest.approx(1 - sum(rates))
    expected = {"update": range(4), "loss": 1 - np.cumsum([0, *rates[:-1]]), "critic": [2.0, np.nan] * 2}
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected))
