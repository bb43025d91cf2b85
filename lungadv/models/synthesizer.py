"""A small generative network that draws nodules from a latent code, so that new ones can be drawn, and hard ones searched for."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lungadv.data.masks import diameter_mm, soft_edge
from lungadv.data.tables import SMALLEST_MM
from lungadv.models.cubes import SIDE, SPAN, Cubes, to_patches
from lungadv.models.grain import GRAINS, Grain
from lungadv.models.prior import Prior
from lungadv.utils.device import autocast


def log_size(diameter: torch.Tensor) -> torch.Tensor:
    """The logarithm of diameters in mm, any shape: about 0 on average and 1 in deviation."""
    return (diameter / 10).log() / 0.4


class Encoder(nn.Module):
    """Nodules as `Cubes` to mean and log-variance of their code, each (N, L) (Eq. 1)."""

    def __init__(self, latent_size: int, width: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(2, width, 3, stride=2, padding=1), nn.SiLU(), nn.Conv3d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU()
        )
        self.code = nn.Linear(2 * width * (SIDE // 4) ** 3 + 2, 2 * latent_size)

    def forward(self, cubes: Cubes) -> tuple[torch.Tensor, torch.Tensor]:
        nodule = cubes.mask * cubes.appearance
        maps = self.features(torch.cat([cubes.distance.tanh(), nodule], dim=1)).flatten(1)
        tone = nodule.flatten(1).sum(1) / cubes.mask.flatten(1).sum(1)
        numbers = torch.stack([log_size(cubes.diameter), 5 * (tone - 0.5)], dim=1)
        mean, log_variance = self.code(torch.cat([maps, numbers], dim=1)).chunk(2, dim=1)
        return mean, (log_variance - 4).clamp(-10, 5)  # -4: begin with a code that says something


def subvoxels(maps: torch.Tensor) -> torch.Tensor:
    """Maps (N, 8 C, S, S, S) as (N, C, 2 S, 2 S, 2 S): eight channels become the eight parts of a voxel."""
    parts = maps.unflatten(1, (-1, 2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Decoder(nn.Module):
    """Codes (N, L) to distance in radii and appearance in [0, 1], each (N, 1, SIDE, SIDE, SIDE), and the size (N,), see `log_size`.

    The distance begins as that of a ball, so that the network learns what differs from one.
    """

    def __init__(self, latent_size: int, width: int):
        super().__init__()
        self.seed = nn.Linear(latent_size, 4 * width * (SIDE // 4) ** 3)
        self.levels = nn.Sequential(
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv3d(4 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(2 * width, 16, 3, padding=1),
        )
        self.numbers = nn.Sequential(nn.Linear(latent_size, 4 * width), nn.SiLU(), nn.Linear(4 * width, 2))  # size and tone
        ticks = ((torch.arange(SIDE) + 0.5) / SIDE * 2 - 1) * SPAN
        self.register_buffer("ball", 1 - torch.cartesian_prod(*[ticks] * 3).norm(dim=1).reshape(1, 1, *[SIDE] * 3), persistent=False)

    def forward(self, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with autocast(code.device):
            maps = self.levels(self.seed(code).unflatten(1, (-1, *[SIDE // 4] * 3)))
        bulge, brightness = subvoxels(maps.float()).split(1, dim=1)
        size, tone = self.numbers(code).unbind(1)
        return self.ball + bulge, (brightness + 5 * tone.reshape(-1, 1, 1, 1, 1)).sigmoid(), size


class Generator(nn.Module):
    """Code z to nodule = mask * appearance, and mask, each (N, 1, P, P, P) in [0, 1] (Eq. 3), of P = size voxels of `spacing` mm.

    z (N, latent_size) is of `Prior`. edge: mm over which a mask fades. nodules: how many it is trained on; traits: numbers kept of each.
    `size` and `spacing` may be set anew: the network works on a cube of its own.
    """

    def __init__(self, size: int, spacing: float, edge: float, latent_size: int, width: int, nodules: int = 1, traits: int = 0):
        super().__init__()
        self.size, self.spacing, self.edge, self.latent_size = size, spacing, edge, latent_size
        self.decoder = Decoder(latent_size - GRAINS, width)
        self.prior = Prior(nodules, latent_size - GRAINS, traits)
        self.grain = Grain()
        self.register_buffer("sigma", torch.zeros(2))  # of distance in radii, and of appearance

    def forward(self, z: torch.Tensor, diameter: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """With `diameter` (N,) in mm, the size is as requested, whatever the code says."""
        code, grain = self.prior(z)
        distance, appearance, size = self.decoder(code)
        return self.render(distance, appearance, 10 * (0.4 * size).exp() if diameter is None else diameter, grain)

    def render(
        self, distance: torch.Tensor, appearance: torch.Tensor, diameter: torch.Tensor, grain: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoded cubes and diameters (N,) in mm with numbers of grain (N, GRAINS) as nodules and masks."""
        distance, appearance = to_patches(distance, appearance, diameter, self.size, self.spacing)
        rough, noise = self.grain(grain, self.size, self.spacing).split(1, dim=1)
        mask = soft_edge(distance + self.sigma[0] * diameter.reshape(-1, 1, 1, 1, 1) / 2 * rough, self.edge)
        return mask * (appearance + self.sigma[1] * noise).clamp(0, 1), mask

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Codes z (count, latent_size), each near that of a random training nodule."""
        rows = torch.randint(len(self.prior.mean), (count,), generator=generator, device=generator.device)
        return self.prior.draw(rows, generator)


class Critic(nn.Module):
    """Nodule and mask (N, 1, P, P, P), P = size, to a score (N,), higher for real ones (Eq. 4)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        channels = (2, width, 2 * width, 4 * width)
        layers = [
            nn.Sequential(spectral_norm(nn.Conv3d(a, b, 3, stride=2, padding=1)), nn.LeakyReLU(0.2))
            for a, b in zip(channels, channels[1:], strict=False)
        ]
        self.features = nn.Sequential(*layers)
        self.score = spectral_norm(nn.Linear(channels[-1] * -(-size // 8) ** 3, 1))

    def forward(self, nodule: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.score(self.features(torch.cat([nodule, mask], dim=1)).flatten(1)).squeeze(1)


def gaussian_nll(error: torch.Tensor, weight: torch.Tensor, observations: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-log likelihood in nats of one nodule's errors under the Gaussian of the batch's own variance (sigma-VAE), and that variance.

    error, weight: (N, ...); the variance is the weighted mean of the squares. observations: independent ones a nodule.
    At the best variance the likelihood is its logarithm, up to a constant (Rybkin et al. 2021, Eq. 8).
    """
    variance = (weight * error**2).sum() / weight.sum() + 1e-6
    return observations / 2 * variance.log(), variance


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """D_KL(N(mean, variance) || N(0, 1)) of codes (N, L) for each number of the code (L,), the mean over the batch (Eq. 2)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(0)


def gradient_penalty(
    critic: nn.Module, real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor], generator: torch.Generator | None
) -> torch.Tensor:
    """(|gradient of the score| - 1)^2 at random points between real and fake (Eq. 5; Gulrajani et al. 2017); the mean over the batch.

    real, fake: what the critic takes, N of each: nodules and masks. `generator` is on the CPU.
    """
    share = torch.rand(len(real[0]), generator=generator).to(real[0].device)
    between = [torch.lerp(a, b, share.reshape(-1, *[1] * (a.dim() - 1))).requires_grad_() for a, b in zip(real, fake, strict=True)]
    gradients = torch.autograd.grad(critic(*between).sum(), between, create_graph=True)
    return ((torch.cat([each.flatten(1) for each in gradients], dim=1).norm(dim=1) - 1) ** 2).mean()


def blend(background: torch.Tensor, nodule: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """background * (1 - mask) + nodule, all (N, 1, P, P, P) in [0, 1]; `nodule` is already multiplied by its mask (the paper's oplus)."""
    return background * (1 - mask) + nodule


@torch.no_grad()
def decode(synthesizer: nn.Module, z: torch.Tensor, *diameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodules and masks (N, 1, P, P, P) of codes (N, L), with diameters (N,) in mm where they are requested; 64 at a time."""
    parts = zip(*[numbers.split(64) for numbers in (z, *diameter)], strict=True)
    nodules, masks = zip(*[synthesizer(*part) for part in parts], strict=True)
    return torch.cat(nodules), torch.cat(masks)


@torch.no_grad()
def draw_latents(
    synthesizer: nn.Module,
    count: int,
    spacing: float,
    generator: torch.Generator,
    redraws: torch.Tensor | None = None,
    attempts: int = 50,
) -> torch.Tensor:
    """Codes (count, L) as `synthesizer.draw` gives them, of nodules of at least SMALLEST_MM; voxels of `spacing` mm.

    What stays smaller after `attempts` draws is kept as it is. `synthesizer` and `generator` live on one device, as does `redraws`,
    int (count,), to which is added how many smaller ones were drawn and dropped for each code.
    """
    z = synthesizer.draw(count, generator)
    small = torch.arange(count, device=generator.device)
    for _ in range(attempts):
        diameters = torch.cat([diameter_mm(synthesizer(codes)[1], spacing) for codes in z[small].split(64)])
        small = small[diameters < SMALLEST_MM]
        if len(small) == 0:
            break
        if redraws is not None:
            redraws[small] += 1
        z[small] = synthesizer.draw(len(small), generator)
    return z
