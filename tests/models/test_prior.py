import pytest
import torch

from lungadv.models.grain import GRAINS
from lungadv.models.prior import Prior


@pytest.fixture
def filled():
    """The prior of 400 codes of 3 numbers that are correlated, off centre and narrow."""
    torch.manual_seed(0)
    mean = torch.randn(400, 3) @ torch.tensor([[2.0, 0, 0], [1.0, 0.5, 0], [0, 0, 0.1]]) + torch.tensor([1.0, -2.0, 0.0])
    prior = Prior(400, 3, 2)
    prior.fill(mean, torch.full((400, 3), -2.0), torch.zeros(400, 2, dtype=torch.bool))
    return prior


def test_whitened_draws_have_no_mean_and_unit_covariance(filled):
    rows = torch.randint(400, (20000,), generator=torch.Generator().manual_seed(1))
    z = filled.draw(rows, torch.Generator().manual_seed(2))
    assert z.mean(0).abs().max() < 0.05 and (torch.cov(z.T) - torch.eye(3 + GRAINS)).abs().max() < 0.05


def test_whitening_is_undone(filled):
    codes = torch.randn(5, 3)
    z = filled.whiten(codes, torch.Generator().manual_seed(0))
    again, grain = filled(z)
    assert torch.allclose(again, codes, atol=1e-5) and torch.equal(grain, z[:, 3:])


def test_a_draw_is_of_the_gaussian_of_its_nodule(filled):
    codes, _ = filled(filled.draw(torch.full((5000,), 7), torch.Generator().manual_seed(0)))
    assert torch.allclose(codes.mean(0), filled.mean[7], atol=0.03)
    assert torch.allclose(codes.std(0), torch.exp(torch.tensor(-1.0)), atol=0.02)


def test_before_it_is_filled_it_is_standard_normal():
    z = Prior(1, 4, 0).draw(torch.zeros(5000, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert z.mean().abs() < 0.02 and (torch.cov(z.T) - torch.eye(4 + GRAINS)).abs().max() < 0.06
