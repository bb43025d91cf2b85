"""Batch statistics of their own for adversarial samples."""

from copy import deepcopy

import torch

from lungadv.models.dense_unet import new_network
from lungadv.training.losses import sample_losses
from lungadv.training.own_normalisation import OwnNormalisation

ROWS = torch.tensor([False, True, False, True, True, False])


def batch():
    patches = torch.rand(6, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    patches[ROWS] = 0.5 + 0.1 * patches[ROWS]
    return patches, torch.tensor([1, 0, 1, 0, 1, 0])


def network():
    torch.manual_seed(0)
    return new_network("evidence", 4).train()


def test_the_networks_own_statistics_are_those_of_the_real_samples():
    own, alone, (patches, target) = network(), network(), batch()
    loss = OwnNormalisation(own, ROWS)(own, patches, target)
    real, adversarial = (sample_losses(deepcopy(alone), patches[rows], target[rows]) for rows in (~ROWS, ROWS))
    sample_losses(alone, patches[~ROWS], target[~ROWS])
    torch.testing.assert_close(loss, torch.cat([real, adversarial]).mean())
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value)


def test_both_sets_are_trained_and_only_the_first_stays():
    own, (patches, target) = network(), batch()
    names = list(own.state_dict())
    loss = OwnNormalisation(own, ROWS)
    loss(own, patches, target).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in list(loss.parameters())[:2])
    assert own.unet.stem[1].weight.grad.abs().sum() > 0 and own.unet.stem[0].weight.grad.abs().sum() > 0
    assert list(own.state_dict()) == names
