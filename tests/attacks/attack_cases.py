"""Losses, starts and searches that the tests of the attacks share."""

import torch
from hypothesis import strategies as st
from torch import nn

SHAPES = [(8,), (4, 6), (5, 7, 7), (1, 9, 9, 9)]
NORMS = {"linf": torch.inf, "l2": 2, "l1": 1}
RULES = ["fixed", "cosine", "halving"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(shape, samples=3, dtype=torch.float64):
    """A linear loss whose weights are nowhere near zero, and starting points in [0.3, 0.7]."""
    weights = torch.randn(samples, *shape, generator=generator(1), dtype=dtype)
    weights = weights + 0.1 * weights.sign()
    start = 0.3 + 0.4 * torch.rand(samples, *shape, generator=generator(2), dtype=dtype)
    return (lambda x, w: (x * w).flatten(1).sum(1)), start, weights


def column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


def length(offset, norm):
    return torch.linalg.vector_norm(offset.flatten(1), NORMS[norm], dim=1)


def rugged(x):
    return torch.sin(25 * x).sum(1) + torch.cos(40 * x[:, 0] * x[:, 1])


class Network(nn.Module):
    """A small 3D network with everything that an attack could leave changed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(3 * 27, 1))
        self.layers[0].bias.requires_grad_(False)
        self.layers[1].eval()

    def forward(self, x):
        return self.layers(x)[:, 0]


def state(network):
    return (
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [module.training for module in network.modules()],
    )


@st.composite
def searches(draw):
    norm = draw(st.sampled_from(["linf", "l2", "l1"]))
    options = dict(norm=norm, rule=draw(st.sampled_from(RULES)), momentum=draw(st.sampled_from([None, 0.0, 0.7])))
    options |= dict(bounds=draw(st.sampled_from([None, (0.0, 1.0)])), steps=draw(st.integers(1, 7)), restarts=draw(st.integers(1, 3)))
    count, seed = draw(st.integers(1, 9)), draw(st.integers(0, 1000))
    start = torch.rand(count, 2, generator=generator(seed))
    eps = draw(st.sampled_from([0.0, 0.05, 0.5])) * torch.rand(count, generator=generator(seed + 1))
    return start, options | dict(eps=eps)
