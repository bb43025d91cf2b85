"""Losses by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from lungadv.training.losses import classification_loss, sample_losses, soft_dice


class Fixed(nn.Module):
    """Gives the first two voxels of a patch as its output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return x.flatten(1)[:, :2]


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_the_loss_teaches_the_right_direction(output):
    model, x, target = Fixed(output), torch.tensor([[3.0, 0.5], [0.5, 3.0]]).reshape(2, 1, 1, 1, 2), torch.tensor([1, 0])
    if output == "logits":
        x = x.flip(-1)
    assert classification_loss(model, x, target) < classification_loss(model, x, 1 - target)
    assert classification_loss(model, x, target) == sample_losses(model, x, target).mean()
    if output == "logits":
        assert classification_loss(model, x, target).item() == pytest.approx(np.log1p(np.exp(-2.5)), rel=1e-5)


def test_dice_by_hand():
    p, q = torch.zeros(2, 2, 1, 4, 4, 4)
    p[0, 0, :2], q[0, 0, 1:3] = 1, 1
    torch.testing.assert_close(soft_dice(p, q), torch.tensor([(2 * 16 + 1) / (64 + 1), 1.0]))
