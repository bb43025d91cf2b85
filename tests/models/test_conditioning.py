import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import diameter_mm
from lungadv.models.conditioning import conditioning_grid, draw_conditioned, encode_traits
from lungadv.models.grain import GRAINS
from lungadv.models.synthesizer import Generator
from lungadv.utils.errors import InputError

TRAINED_ON = pd.DataFrame({"type": ["solid", "solid", "ground_glass", "unspecified"], "spiculated": [False, True, False, False]})
REQUESTED = pd.DataFrame({"diameter_mm": [10.0, 14.0], "type": ["solid", "ground_glass"], "spiculated": False})


def draws():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def generator():
    """An untrained generator that remembers four nodules; their codes are 0 to 3, and nearly sharp."""
    torch.manual_seed(0)
    generator = Generator(32, 1.25, 3.0, 1 + GRAINS, 4, *encode_traits(TRAINED_ON).shape).requires_grad_(False)
    generator.prior.fill(torch.arange(4.0)[:, None], torch.full((4, 1), -12.0), encode_traits(TRAINED_ON))
    return generator


def test_traits_are_type_and_outline():
    assert encode_traits(TRAINED_ON).int().tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]


def test_nodules_to_order_are_drawn_near_training_nodules_of_their_kind(generator, monkeypatch):
    seen = []
    monkeypatch.setattr(generator.prior, "draw", lambda rows, draws: seen.extend(rows.tolist()) or torch.zeros(len(rows), 1 + GRAINS))
    draw_conditioned(generator, pd.concat([REQUESTED, REQUESTED.assign(type="solid", spiculated=True)]), draws())
    assert seen == [0, 2, 1, 1]


def test_a_requested_size_is_met(generator):
    requested = pd.DataFrame({"diameter_mm": np.geomspace(6, 20, 12), "type": "solid", "spiculated": False})
    once, again = (draw_conditioned(generator, requested, draws()) for _ in range(2))
    assert torch.equal(once[0], again[0])
    assert diameter_mm(once[1], 1.25).numpy() == pytest.approx(requested["diameter_mm"].to_numpy(), rel=0.1)


@pytest.mark.parametrize("diameter", [5.0, 25.0])
def test_a_size_that_cannot_be_drawn_is_an_input_error(generator, diameter):
    with pytest.raises(InputError, match="can be drawn: ask for 6 to 20 mm"):
        draw_conditioned(generator, REQUESTED.assign(diameter_mm=diameter), draws())


@pytest.mark.parametrize("change", [{"type": "cyst"}, {"type": "part_solid"}, {"type": "unspecified"}, {"spiculated": [False, True]}])
def test_what_no_training_nodule_is_like_is_an_input_error(generator, change):
    with pytest.raises(InputError, match="no training nodule is a .*: ask for what there is, of ground_glass, solid, spiculated"):
        draw_conditioned(generator, REQUESTED.assign(**change), draws())


def test_the_grid_has_every_diameter_of_every_kind_that_was_trained_on(generator):
    grid = conditioning_grid(generator, 6)
    kinds = grid.groupby(["type", "spiculated"])["diameter_mm"]
    assert sorted(kinds.groups) == [("ground_glass", False), ("solid", False), ("solid", True)]
    for _, rows in kinds:
        assert rows.iloc[[0, -1]].tolist() == [6, 20] and np.allclose(np.diff(np.log(rows)), np.log(20 / 6) / 5)
