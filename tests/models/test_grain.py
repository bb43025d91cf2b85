import pytest
import torch

from lungadv.models.grain import GRAINS, Grain, fine_deviation


def test_grain_has_unit_deviation_and_follows_from_its_numbers():
    numbers = torch.randn(64, GRAINS, generator=torch.Generator().manual_seed(0))
    fields, again = Grain()(numbers, 32, 1.25), Grain()(numbers, 32, 1.25)
    assert fields.shape == (64, 2, 32, 32, 32) and torch.equal(fields, again)
    assert fields.std().item() == pytest.approx(1, abs=0.1) and fields.mean().abs() < 0.02
    assert torch.corrcoef(fields.transpose(0, 1).flatten(1))[0, 1].abs() < 0.05  # outline and appearance have grain of their own


def test_grain_is_as_fine_in_mm_at_any_spacing():
    numbers = torch.randn(8, GRAINS, generator=torch.Generator().manual_seed(0))
    coarse, fine = Grain()(numbers, 16, 2.5), Grain()(numbers, 64, 0.625)
    assert torch.allclose(coarse[..., 8, 8, 8], fine[..., 33:35, 33:35, 33:35].mean((2, 3, 4)), atol=0.35)
    neighbours = [torch.corrcoef(torch.stack([f[..., 1:].flatten(), f[..., :-1].flatten()]))[0, 1] for f in (fine, coarse)]
    assert neighbours[0] > 0.8 > 0.4 > neighbours[1]


def test_the_finest_detail_is_grain_and_neither_slope_nor_edge():
    ramp = torch.linspace(0, 1, 24).expand(2, 1, 24, 24, 24)
    noise = 0.03 * torch.randn(ramp.shape, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(ramp, dtype=torch.bool)
    assert fine_deviation(ramp, everywhere) < 1e-5
    step = (torch.arange(24) > 11).float().reshape(24, 1, 1)
    assert fine_deviation(ramp + noise + step, everywhere) == pytest.approx(0.03 * (7 / 6) ** 0.5, rel=0.15)
    inside = everywhere.clone()
    inside[..., 12:] = False
    assert fine_deviation(torch.where(inside, noise, 9.0), inside) == pytest.approx(0.03 * (7 / 6) ** 0.5, rel=0.05)
    assert fine_deviation(noise, ~everywhere) == 0
