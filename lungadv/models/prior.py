"""The codes that a synthesizer is drawn from: those of its training nodules, N(mu_i, sigma_i^2) of section III-B, whitened."""

import torch
from torch import nn

from lungadv.models.grain import GRAINS

__all__ = ["Prior"]


class Prior(nn.Module):
    """The aggregate posterior of M training nodules, a mixture of M Gaussians, as codes z of zero mean and unit covariance.

    z (N, L + GRAINS) holds the L numbers that encoder and decoder speak, whitened, and then the standard normal ones of grain.
    nodules: M; latent_size: L; traits: numbers that are kept of each nodule. Before `fill`, all of z is standard normal.
    """

    def __init__(self, nodules: int, latent_size: int, traits: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(nodules, latent_size))
        self.register_buffer("deviation", torch.ones(nodules, latent_size))
        self.register_buffer("traits", torch.zeros(nodules, traits, dtype=torch.bool))
        self.register_buffer("center", torch.zeros(latent_size))
        self.register_buffer("spread", torch.eye(latent_size))  # lower triangular

    def fill(self, mean: torch.Tensor, log_variance: torch.Tensor, traits: torch.Tensor) -> None:
        """Take mean and log-variance (M, L) and traits (M, T), bool, of the training nodules."""
        covariance = torch.cov(mean.T, correction=0) + torch.diag(log_variance.exp().mean(0))
        self.mean, self.deviation, self.traits = mean, (log_variance / 2).exp(), traits.to(mean.device)
        self.center, self.spread = mean.mean(0), torch.linalg.cholesky(covariance)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z (N, L + GRAINS) as codes of the decoder, center + spread z (N, L), and the numbers of grain (N, GRAINS)."""
        code, grain = z.split([len(self.center), GRAINS], dim=1)
        return self.center + code @ self.spread.T, grain

    def whiten(self, codes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """z (N, L + GRAINS) of the encoder's codes (N, L), with random numbers of grain: the inverse of `forward`."""
        grain = torch.randn(len(codes), GRAINS, generator=generator, device=generator.device)
        return torch.cat([torch.linalg.solve_triangular(self.spread, (codes - self.center).T, upper=False).T, grain], dim=1)

    def draw(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """z (N, L + GRAINS), each drawn from the Gaussian of a training nodule, those of `rows` (N,). All is on one device."""
        noise = torch.randn(len(rows), len(self.center), generator=generator, device=generator.device)
        return self.whiten(self.mean[rows] + self.deviation[rows] * noise, generator)
