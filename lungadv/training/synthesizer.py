"""How the synthesizer is trained: encoder and generator as a sigma-VAE, and late the critic against the generator (Eqs. 5 and 6)."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from lungadv.models.cubes import Cubes, to_cubes
from lungadv.models.grain import GRAINS, fine_deviation
from lungadv.models.synthesizer import Critic, Encoder, Generator, gaussian_nll, gradient_penalty, kl_divergence, log_size
from lungadv.settings import SynthesizerSettings
from lungadv.training.augment import cube_symmetry, random_cube_symmetry
from lungadv.training.loop import descend, train
from lungadv.utils.device import get_device

__all__ = ["class_weights", "encode", "train_synthesizer"]

NEIGHBOURS = 40  # voxels that say as much as one: neighbours are alike
SIZE_OBSERVATIONS, TONE_OBSERVATIONS = 20, 3  # of the one diameter, and of the mean brightness: (l - l')^2 / variance weighs half as much
FULL = 0.99  # what is as bright may be brighter than the window, and where a mask is as full is inside
REMEMBERED = 0.98  # of the generator's sigma at an update


def train_synthesizer(
    nodules: torch.Tensor,
    masks: torch.Tensor,
    traits: torch.Tensor,
    spacing: float,
    settings: SynthesizerSettings,
    generator: torch.Generator,
) -> tuple[Encoder, Generator, Critic, pd.DataFrame]:
    """Train encoder, generator and critic on cut-outs (N, 1, P, P, P) in [0, 1] with voxels of `spacing` mm.

    traits: bool (N, T), what the generator remembers of each nodule.
    generator: on the CPU; it gives the first weights and all draws. The networks train on the accelerator if there is one.

    Returns the three networks, in eval mode and frozen, and the table of losses, one row a step.
    Raises FloatingPointError when a loss is no longer finite.
    """
    networks = _new_networks(nodules.shape[-1], spacing, traits.shape, settings, generator.initial_seed())
    encoder, synthesizer, critic = networks
    optimizers = [
        torch.optim.Adam(parameters, lr=settings.learning_rate, betas=betas)
        for parameters, betas in (([*encoder.parameters(), *synthesizer.parameters()], (0.9, 0.99)), (critic.parameters(), (0.5, 0.9)))
    ]
    schedulers = [OneCycleLR(optimizer, settings.learning_rate, settings.updates, pct_start=0.1) for optimizer in optimizers[:1]]
    cubes, weights = to_cubes(nodules, masks, spacing, settings.edge), class_weights(traits)
    fineness = synthesizer.grain.fineness(nodules.shape[-1], spacing)
    synthesizer.sigma[1] = fine_deviation(nodules, (masks == 1) & (nodules < 1)) / fineness

    def step(update):
        chosen = torch.multinomial(weights, settings.batch_size, replacement=True, generator=generator)
        symmetry = random_cube_symmetry(generator)
        real = [cube_symmetry(volumes[chosen], *symmetry).to(get_device()) for volumes in (nodules, masks)]
        return update_networks(networks, optimizers, _batch(cubes, chosen, symmetry), real, settings, update, generator)

    losses = train(step, settings.updates, schedulers=schedulers, desc="training the synthesizer").rename(columns={"update": "step"})
    for network in networks:
        network.eval().requires_grad_(False).zero_grad()
    synthesizer.prior.fill(*encode(encoder, cubes), traits)
    return *networks, losses


def class_weights(classes: torch.Tensor) -> torch.Tensor:
    """The weight (N,) of each row in a draw, for classes (N, K) of rows that are equal: a class is drawn by the root of its number."""
    _, index, count = classes.unique(dim=0, return_inverse=True, return_counts=True)
    return count[index].float().rsqrt()


def _new_networks(size, spacing, remembered, settings, seed):
    """Untrained encoder, generator and critic on the device, in train mode; the global random stream stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, critic = Encoder(settings.latent_size - GRAINS, settings.width), Critic(size, settings.width)
        synthesizer = Generator(size, spacing, settings.edge, settings.latent_size, settings.width, *remembered)
    return [network.to(get_device()).train() for network in (encoder, synthesizer, critic)]


def _batch(cubes, rows, symmetry):
    """Some of the nodules, turned, on the device."""
    volumes = (cubes.distance, cubes.appearance, cubes.mask)
    turned = (cube_symmetry(volume[rows], *symmetry).contiguous().to(get_device()) for volume in volumes)
    return Cubes(*turned, cubes.diameter[rows].to(get_device()))


@torch.no_grad()
def encode(encoder: nn.Module, cubes: Cubes) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance, each (N, L), of the codes of nodules, on the encoder's device."""
    device = next(encoder.parameters()).device
    parts = zip(*[part.to(device).split(64) for part in (cubes.distance, cubes.appearance, cubes.mask, cubes.diameter)], strict=True)
    means, log_variances = zip(*[encoder(Cubes(*part)) for part in parts], strict=True)
    return torch.cat(means), torch.cat(log_variances)


def update_networks(
    networks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    cubes: Cubes,
    real: Sequence[torch.Tensor],
    settings: SynthesizerSettings,
    update: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """One step of encoder and generator, and late one of the critic before it, on a batch of N nodules; returns the losses by name.

    networks: encoder, generator, critic; optimizers: of encoder and generator together, of the critic.
    cubes, real: the same nodules as the encoder and as the critic sees them; `real` is nodules and masks (N, 1, P, P, P).
    """
    encoder, synthesizer, critic = networks
    mean, log_variance = encoder(cubes)
    code = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator).to(mean.device)
    drawn = synthesizer.decoder(code)
    losses, sigma = _reconstruction(cubes, *drawn)
    losses["kl"] = kl_divergence(mean, log_variance).sum()
    warmth = min(1.0, 2 * update / settings.updates)
    loss = sum(losses.values()) + (warmth - 1) * losses["kl"]
    synthesizer.sigma[[0, 2]] = synthesizer.sigma[[0, 2]].lerp(sigma, 1 - REMEMBERED)
    if settings.critic_weight > 0 and update >= settings.critic_start * settings.updates and update % settings.critic_every == 0:
        grain = torch.randn(len(code), GRAINS, generator=generator).to(code.device)
        distance, appearance, _ = drawn
        fake = synthesizer.render(distance, appearance, cubes.diameter, grain)
        losses |= _update_critic(critic, optimizers[1], real, [part.detach() for part in fake], settings.gradient_penalty, generator)
        loss = loss - settings.critic_weight * critic(*_turned(fake, generator)).mean()
    descend(optimizers[0], loss)
    return {name: value.item() for name, value in losses.items()}


def _reconstruction(cubes, distance, appearance, size):
    """-log likelihood in nats of what is decoded, by name; the deviations (2,) left: of the outline in mm, of the rim as a share.

    Inside and rim have each a variance of its own: a rim holds what its surroundings were estimated wrong by, noise to the code.
    """
    shape, length = distance.tanh() - cubes.distance.tanh(), log_size(cubes.diameter)
    error = appearance - cubes.appearance
    error = torch.where(cubes.appearance > FULL, error.clamp(max=0), error)
    inside, core = (cubes.mask > FULL).float(), (cubes.mask > 0.5).float()
    tone = (error * core).flatten(1).sum(1) / core.flatten(1).sum(1).clamp(min=1)
    errors = {
        "distance": (shape, torch.ones_like(shape)),
        "appearance": (error, inside),
        "rim": (error * cubes.mask.sqrt(), cubes.mask * (1 - inside)),
        "tone": (tone, torch.ones_like(tone)),
        "size": (size - length, torch.ones_like(length)),
    }
    observations = {name: weight.sum() / len(size) / NEIGHBOURS for name, (_, weight) in errors.items()}
    observations |= {"tone": TONE_OBSERVATIONS, "size": SIZE_OBSERVATIONS}
    losses = {name: gaussian_nll(*pair, observations[name])[0] for name, pair in errors.items()}
    _, outline = gaussian_nll((distance - cubes.distance) * (cubes.diameter / 2).reshape(-1, 1, 1, 1, 1), cubes.mask * (1 - cubes.mask), 1)
    rim = cubes.mask * (1 - inside)
    share = (rim * error).square().sum() / (rim * (1 - cubes.mask) * cubes.appearance).square().sum().clamp(min=1e-6)
    return losses, torch.stack([outline, share]).detach().sqrt()


def _turned(pair, generator):
    """Nodules and masks, turned and flipped at random, alike."""
    symmetry = random_cube_symmetry(generator)
    return [cube_symmetry(cubes, *symmetry) for cubes in pair]


def _update_critic(critic, optimizer, real, fake, penalty_weight, generator):
    """One step of the critic on real and generated nodules and masks, N of each (Eq. 5); returns its two losses."""
    critic.requires_grad_(True)
    real, fake = _turned(real, generator), _turned(fake, generator)
    wasserstein = critic(*real).mean() - critic(*fake).mean()
    penalty = gradient_penalty(critic, real, fake, generator)
    descend(optimizer, penalty_weight * penalty - wasserstein)
    critic.requires_grad_(False)
    return {"critic": wasserstein, "penalty": penalty}
