"""Batches moved against the network of the moment, against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lungadv.models.dense_unet import new_network
from lungadv.training.adversarial import adversarial_batches
from lungadv.training.losses import sample_losses


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_batches_are_moved_against_the_network_of_that_moment(output):
    """A network whose answer hangs on <x - 0.5, w>: the worst patches are eps sign(w) away, uphill for a positive, downhill for a negative.

    Turning w round between two batches turns the patches round.
    """

    class Template(nn.Module):
        def __init__(self):
            super().__init__()
            self.output, self.w = output, nn.Parameter(torch.randn(4, 4, 4, generator=generator()))

        def forward(self, x):
            odds = 0.1 * ((x - 0.5) * self.w).sum(dim=(1, 2, 3, 4))
            positive = torch.stack([odds, -odds], dim=1)
            return F.softplus(positive) if output == "evidence" else positive.flip(1)

    model, grey = Template().train(), torch.full((4, 1, 4, 4, 4), 0.5)
    target, eps = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0.02, 0, 0.1])
    batches = ((grey.clone(), target) for _ in range(2))
    moved = adversarial_batches(model, batches, eps, steps=8, generator=generator())
    for turn in (1, -1):
        x, y = next(moved)
        uphill = model.w.detach().sign()
        torch.testing.assert_close(x[1, 0] - 0.5, -0.02 * uphill, atol=1e-6, rtol=0)
        torch.testing.assert_close(x[3, 0] - 0.5, 0.1 * uphill, atol=1e-6, rtol=0)
        assert torch.equal(x[[0, 2]], grey[[0, 2]]) and torch.equal(y, target)
        assert model.training and model.w.requires_grad and model.w.grad is None, turn
        with torch.no_grad():
            model.w.neg_()


def test_a_search_raises_the_loss_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    model, x, target = new_network("evidence", 4).train(), torch.rand(6, 1, 16, 16, 16, generator=generator()), torch.arange(6) % 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = torch.arange(6) >= 2
    moved, _ = next(adversarial_batches(model, iter([(x.clone(), target)]), 0.05 * rows, steps=5, generator=generator()))
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        clean, attacked = (sample_losses(model, batch, target) for batch in (x, moved))
    assert (attacked[rows] > clean[rows]).all() and torch.equal(moved[~rows], x[~rows])
