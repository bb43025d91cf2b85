"""The region-proposal head: the order of its outputs, its loss at known boxes."""

import numpy as np
import torch
from torch import nn

from lungadv.models.rpn import RPN, RPNLoss, anchor_boxes, anchor_sides, box_coder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled_losses(seed, global_seed):
    torch.manual_seed(0)
    network = RPN(2, 2).eval()
    nn.init.normal_(network.objectness.weight)  # untrained, it finds every place alike
    volumes = torch.rand(4, 1, 16, 16, 16, generator=generator())
    contents = [np.array([[8.0, 7.0, 6.5, 1.0]]), np.empty((0, 4)), np.array([[3.0, 3.0, 12.0, 2.0]]), np.empty((0, 4))]
    torch.manual_seed(global_seed)
    before = torch.get_rng_state()
    loss = RPNLoss([2, 4], generator(seed))
    values = [loss(network, volumes, contents).item() for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    return values


def test_rpn_loss_follows_its_generator_alone():
    first = sampled_losses(1, 5)
    assert first == sampled_losses(1, 6) and first != sampled_losses(2, 5) and np.isfinite(first).all()


def test_rpn_loss_is_least_for_the_right_boxes():
    contents = [np.array([[8.0, 7.0, 6.5, 2.2]]), np.empty((0, 4))]
    volumes = torch.zeros(2, 1, 16, 16, 16)
    anchors = anchor_boxes(volumes, [2, 4])
    truth = torch.tensor([[5.8, 4.8, 4.3, 10.2, 9.2, 8.7]])
    codes = box_coder().encode_single(truth.expand(len(anchors), -1), anchors).expand(2, -1, -1)
    silent = torch.full((2, len(anchors)), -4.0)

    def value(codes):
        return RPNLoss([2, 4], generator())(lambda x: (silent, codes), volumes, contents).item()

    assert value(codes) < value(codes + 0.3) < value(codes + 3)


def test_anchors_on_what_counts_neither_way_are_not_learnt_from():
    volumes = torch.zeros(2, 1, 16, 16, 16)
    anchors = anchor_boxes(volumes, [2, 4])
    alarm = torch.full((2, len(anchors)), -9.0)
    middle = (anchors[:, :3] + anchors[:, 3:]) / 2
    alarm[:, ((middle - torch.tensor([12.0, 12, 12])) ** 2).sum(1) < 4] = 9.0  # sure of a nodule where none is listed
    nodules, disputed = [np.array([[4.0, 4, 4, 2.0]])] * 2, [np.array([[12.0, 12, 12, 2.0]])] * 2

    def value(ignored):
        codes = torch.zeros(2, len(anchors), 6)
        return RPNLoss([2, 4], generator())(lambda x: (alarm, codes), volumes, nodules, ignored).item()

    assert value(disputed) < value([np.empty((0, 4))] * 2) == value(None)
    on_nodule = [np.array([[4.0, 4, 4, 2.0]])] * 2
    assert value(on_nodule) == value(None)  # a nodule outweighs what counts neither way


def test_a_head_lists_its_outputs_in_the_order_of_the_anchors():
    class Given(nn.Module):
        def forward(self, x):
            return None, x

    network = RPN(2, 2)
    network.backbone, network.shared, network.objectness, network.boxes = Given(), nn.Identity(), nn.Identity(), nn.Conv3d(2, 12, 1)
    maps = torch.arange(2 * 3 * 4 * 5.0).reshape(1, 2, 3, 4, 5)
    objectness, _ = network(maps)
    anchors = anchor_boxes(torch.zeros(1, 1, 6, 8, 10), [2, 4])
    z, y, x = ((anchors[:, :3] + anchors[:, 3:]) / 4).long().T  # the cell that holds the anchor's centre
    assert torch.equal(objectness[0], maps[0, (anchors[:, 3] - anchors[:, 0] > 3).long(), z, y, x])


def test_an_untrained_network_finds_nothing_whatever_its_weights():
    for seed in range(5):
        torch.manual_seed(seed)
        logits = RPN(4, 2)(torch.rand(2, 1, 16, 16, 16, generator=generator()))[0]
        assert (logits == -4).all()


def test_anchor_sides_are_even_and_at_least_two_voxels():
    assert anchor_sides((1.0, 5.0, 10.0, 20.0), 2.5) == [2, 2, 4, 8]
