import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import diameter_mm, soft_mask
from lungadv.evaluation.synthesis import nodule_features
from lungadv.models import conditioning
from lungadv.models.conditioning import (
    CONDITIONS,
    class_balanced_weights,
    conditioning_grid,
    draw_conditioned,
    encode_condition,
    redraw_diameters,
    size_error,
    spiculate,
)
from lungadv.models.synthesizer import Generator
from lungadv.utils.errors import InputError

REQUESTED = pd.DataFrame({"diameter_mm": [10.0, 10.0], "type": ["solid", "ground_glass"], "spiculated": False})


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def test_a_condition_has_size_type_and_spicules():
    table = pd.DataFrame({"diameter_mm": [10.0, 20.0], "type": ["part_solid", "unspecified"], "spiculated": [True, False]})
    assert np.allclose(encode_condition(table), [[0, 0, 0, 1, 0, 1], [np.log(2) / 0.4, 0, 0, 0, 0, 0]])


def test_size_error_is_the_relative_error_of_balls():
    masks = torch.from_numpy(np.stack([soft_mask(ball(d), 1.25, 3.0) for d in (8, 16)])).unsqueeze(1).requires_grad_()
    measured = diameter_mm(masks, 1.25).numpy()
    for factor in (1, 1.5):
        requested = encode_condition(pd.DataFrame({"diameter_mm": measured * factor, "type": "solid", "spiculated": False}))
        assert size_error(masks, requested, 1.25).item() == pytest.approx(np.log(factor), abs=0.03)
    size_error(masks, requested, 1.25).backward()
    assert (masks.grad.flatten(1).sum(1) < 0).all()  # they were requested to be larger


def test_redraw_diameters_changes_the_diameter_alone():
    conditions = encode_condition(pd.DataFrame({"diameter_mm": [8.0] * 500, "type": "solid", "spiculated": True}))
    other = redraw_diameters(conditions, torch.Generator().manual_seed(0))
    diameters = 10 * np.exp(0.4 * other[:, 0].numpy())
    assert torch.equal(other[:, 1:], conditions[:, 1:]) and 6 <= diameters.min() < 6.2 and 19.5 < diameters.max() <= 20.001
    assert np.median(diameters) == pytest.approx(np.sqrt(6 * 20), rel=0.1)


def test_every_class_is_drawn_as_often():
    kinds = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert torch.allclose(class_balanced_weights(kinds), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))


@pytest.mark.parametrize("change", [{"diameter_mm": 5.0}, {"diameter_mm": 25.0}, {"type": "cyst"}])
def test_what_cannot_be_drawn_is_an_input_error(change):
    requested = REQUESTED.assign(**change)
    with pytest.raises(InputError, match="can be drawn: ask for 6 to 20 mm and one of solid"):
        draw_conditioned(Generator(16, 4, 8, CONDITIONS), requested, torch.Generator())


def test_spicules_reach_out_and_keep_the_volume():
    masks = torch.from_numpy(soft_mask(ball(16), 1.25, 3.0)).expand(32, 1, -1, -1, -1)
    spiky = spiculate(0.7 * masks, masks, torch.Generator().manual_seed(1))
    assert torch.allclose(spiky[0], 0.7 * spiky[1], atol=1e-6)
    plain, other = (nodule_features(*pair, 1.25) for pair in ((0.7 * masks, masks), spiky))
    assert ((other["diameter_mm"] / 16) ** 3).mean() == pytest.approx(((plain["diameter_mm"] / 16) ** 3).mean(), rel=0.03)
    assert (other["area"] > 1.05 * plain["area"]).all()
    points = torch.from_numpy(np.indices((32,) * 3)).flatten(1).sub(15.5).norm(dim=0) * 1.25
    farthest = torch.stack([points[mask.flatten() > 0.5].max() for mask in spiky[1]])
    assert (farthest > 1.15 * 8).all()


def test_only_what_is_to_be_spiculated_gets_spicules(monkeypatch):
    torch.manual_seed(0)
    generator = Generator(16, 4, 8, CONDITIONS)
    requested = pd.DataFrame({"diameter_mm": 10.0, "type": "solid", "spiculated": [True, False, True]})
    with_spicules = draw_conditioned(generator, requested, torch.Generator().manual_seed(1))
    monkeypatch.setattr(conditioning, "spiculate", lambda nodules, masks, generator: (nodules, masks))
    without = draw_conditioned(generator, requested, torch.Generator().manual_seed(1))
    assert [bool((a != b).any()) for a, b in zip(with_spicules[1], without[1], strict=True)] == [True, False, True]


def test_the_grid_has_every_diameter_of_every_type_and_of_spiculated_nodules():
    grid = conditioning_grid(6)
    assert len(grid) == 5 * 6 and grid["spiculated"].sum() == 6
    for _, rows in grid.groupby(["type", "spiculated"]):
        assert rows["diameter_mm"].iloc[[0, -1]].tolist() == [6, 20] and np.allclose(
            np.diff(np.log(rows["diameter_mm"])), np.log(20 / 6) / 5
        )
