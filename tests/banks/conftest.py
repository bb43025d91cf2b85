"""What the tests of the banks share: a detector, a synthesizer and training patches of a few lines."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv.banks import search, shards
from lungadv.banks.search import SearchContext
from lungadv.data.positions import shift_margin
from lungadv.data.scan import to_hu
from lungadv.settings import load_settings

SIZE = 16
SETTINGS = load_settings("tiny", attack={"eps": 0.02, "steps": 5}, latent={"eps": 1.5, "steps": 8})


class Detector(nn.Module):
    """Evidence (or logits) that grows with the contrast of the centre to its surroundings."""

    def __init__(self, output="evidence"):
        super().__init__()
        self.output, self.scale = output, nn.Parameter(torch.tensor(12.0))

    def forward(self, patches):
        centre = patches[:, 0, 6:10, 6:10, 6:10].mean((1, 2, 3))
        logit = self.scale * (centre - patches.mean((1, 2, 3, 4)) - 0.15)
        if self.output == "logits":
            return torch.stack([-logit / 2, logit / 2], dim=1)
        return nn.functional.softplus(torch.stack([logit, -logit], dim=1))


class Ball(nn.Module):
    """A ball whose size and brightness are the two numbers of the code."""

    latent_size = 2

    def draw(self, count, generator):
        return torch.randn(count, self.latent_size, generator=generator)

    def forward(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(SIZE) - (SIZE - 1) / 2] * 3, indexing="ij"))
        radius = (2 + z[:, :1]).reshape(-1, 1, 1, 1, 1)
        mask = torch.sigmoid(4 * (radius - grid.norm(dim=0)))
        return mask * z[:, 1].sigmoid().reshape(-1, 1, 1, 1, 1), mask


def new_generator(kind, number):
    """The generator of a kind's shard of that number."""
    return torch.Generator().manual_seed(sum(map(ord, f"banks{kind}{number}")))


def new_context(network=None, synthesizer=None, settings=SETTINGS, items=12):
    """What banks are made from, with patches of dark noise with a margin."""
    side = SIZE + 2 * shift_margin(settings.patch.spacing)
    hu = to_hu(0.2 * torch.rand(5, 1, side, side, side, generator=torch.Generator().manual_seed(0))).round().to(torch.int16)
    rows = pd.DataFrame(
        {"item": range(items), "place": np.arange(items) % 5, "seriesuid": "1.2", "coordX": 0.0, "coordY": 0.0, "coordZ": 0.0}
    ).assign(depth_mm=16.0)
    tables = {"synthetic": rows, "perturbed": rows.assign(type="solid", diameter_mm=8.0), "noise": rows[["item"]]}
    return SearchContext(settings, network or Detector(), synthesizer or Ball(), hu, tables)


def on_cpu_in_small_shards(patch):
    """Call patch(module, name, value) so that searches run on the CPU, in shards of 8 and batches of 5."""
    patch(search, "get_device", lambda: torch.device("cpu"))
    patch(shards, "SHARD", 8)
    patch(shards, "BATCH", 5)


@pytest.fixture
def detector():
    """The class of the detector."""
    return Detector


@pytest.fixture
def ball():
    """The class of the synthesizer."""
    return Ball


@pytest.fixture
def make_context(monkeypatch):
    """The function `new_context`, on the CPU, in shards of 8 and batches of 5."""
    on_cpu_in_small_shards(monkeypatch.setattr)
    return new_context


@pytest.fixture
def context(make_context):
    """A search context of toys."""
    return make_context()


@pytest.fixture
def shard_generator():
    """The function `new_generator`."""
    return new_generator


@pytest.fixture
def make_shard():
    """The function (context, kind, number) -> shard, with draws that follow from kind and number."""
    return lambda context, kind, number: shards.make_shard(context, kind, number, new_generator(kind, number))


@pytest.fixture
def patches():
    """The function (count, seed) -> random patches in [0, 1]."""
    return lambda count=7, seed=0: torch.rand(count, 1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
