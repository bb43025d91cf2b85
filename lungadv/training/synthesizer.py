"""How the synthesizer is trained: critic against generator, and the generator with its encoder (Eqs. 5 and 6)."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from lungadv.models.conditioning import class_balanced_weights, redraw_diameters, size_error
from lungadv.models.synthesizer import Critic, Encoder, Generator, gradient_penalty, kl_divergence, reconstruction_error
from lungadv.settings import SynthesizerSettings
from lungadv.training.augment import cube_symmetry, random_cube_symmetry
from lungadv.training.loop import descend, train
from lungadv.utils.device import get_device

__all__ = ["train_synthesizer", "update_networks"]


def train_synthesizer(
    nodules: torch.Tensor,
    masks: torch.Tensor,
    spacing: float,
    settings: SynthesizerSettings,
    generator: torch.Generator,
    conditions: torch.Tensor | None = None,
) -> tuple[Encoder, Generator, Critic, pd.DataFrame]:
    """Train encoder, generator and critic on cut-outs (N, 1, P, P, P) in [0, 1] with voxels of `spacing` mm.

    conditions: (N, C) of `encode_condition`, for a generator that takes them; every class is then drawn as often.
    generator: on the CPU; it gives the first weights and all draws. The networks train on the accelerator if there is one.

    Returns the three networks, in eval mode and frozen, and the table of losses, one row a step.
    Raises FloatingPointError when a loss is no longer finite.
    """
    networks = _new_networks(nodules.shape[-1], settings, generator.initial_seed(), 0 if conditions is None else conditions.shape[1])
    encoder, synthesizer, critic = networks
    weights = torch.ones(len(nodules)) if conditions is None else class_balanced_weights(conditions[:, 1:])
    optimizers = [
        torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(0.5, 0.99))
        for parameters in ([*encoder.parameters(), *synthesizer.parameters()], critic.parameters())
    ]
    schedulers = [OneCycleLR(optimizer, settings.learning_rate, settings.updates, pct_start=0.1) for optimizer in optimizers]

    def step(update):
        chosen = torch.multinomial(weights, settings.batch_size, replacement=True, generator=generator)
        symmetry = random_cube_symmetry(generator)
        real = [cube_symmetry(cubes[chosen], *symmetry).contiguous() for cubes in (nodules, masks)]
        real += [] if conditions is None else [conditions[chosen]]
        real = [part.to(get_device()) for part in real]
        with_critic = update % settings.critic_every == 0
        return update_networks(networks, optimizers, real, spacing, settings, generator, with_critic)

    losses = train(step, settings.updates, schedulers=schedulers, desc="training the synthesizer").rename(columns={"update": "step"})
    for network in networks:
        network.eval().requires_grad_(False).zero_grad()
    return *networks, losses


def _new_networks(size, settings, seed, conditions):
    """Untrained encoder, generator and critic on the device, in train mode; the global random stream stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, critic = Encoder(size, settings.latent_size, settings.width), Critic(size, settings.width, conditions)
        synthesizer = Generator(size, settings.latent_size, 2 * settings.width, conditions)
    return [network.to(get_device(), memory_format=torch.channels_last_3d).train() for network in (encoder, synthesizer, critic)]


def update_networks(
    networks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    real: Sequence[torch.Tensor],
    spacing: float,
    settings: SynthesizerSettings,
    generator: torch.Generator,
    with_critic: bool = True,
) -> dict[str, float]:
    """One step of the critic (Eq. 5), then one of encoder and generator (Eq. 6), on a batch of real pairs; returns the losses by name.

    networks: encoder, generator, critic; optimizers: of encoder and generator together, of the critic.
    real: nodules, masks (N, 1, P, P, P) and, for networks that take it, their condition (N, C). Then the size error is a term, too.
    with_critic: without it the critic stays as it is, and its term is left out of Eq. 6.
    """
    (encoder, synthesizer, critic), (nodules, masks, *condition), count = networks, real, len(real[0])
    mean, log_variance = encoder(nodules, masks)
    noise = torch.randn(2 * count, settings.latent_size, generator=generator).to(mean.device)
    # The batch as it is rebuilt, then half as many codes of the prior, with diameters of their own
    codes = torch.cat([mean + (log_variance / 2).exp() * noise[:count], noise[count : count + count // 2]])
    requested = [torch.cat([numbers, redraw_diameters(numbers[: count // 2], generator)]) for numbers in condition]
    generated = [*synthesizer(codes, *requested), *requested]

    reconstruction = reconstruction_error(nodules, masks, *(cubes[:count] for cubes in generated[:2]))
    divergence = kl_divergence(mean, log_variance)
    loss, losses = reconstruction + settings.kl_weight * divergence, {"reconstruction": reconstruction, "kl": divergence}
    if with_critic:
        fake = [part[-count:].detach() for part in generated]  # half rebuilt, half from the prior
        losses |= _update_critic(critic, optimizers[1], real, fake, settings.gradient_penalty, generator)
        loss = loss - settings.critic_weight * critic(*generated).mean()
    if condition:
        losses["size"] = size_error(generated[1], requested[0], spacing)
        loss = loss + settings.size_weight * losses["size"]
    descend(optimizers[0], loss)
    return {name: value.item() for name, value in losses.items()}


def _update_critic(critic, optimizer, real, fake, penalty_weight, generator):
    """One step of the critic on real and generated nodules, masks and conditions, N of each (Eq. 5); returns its two losses."""
    critic.requires_grad_(True)
    wasserstein = critic(*real).mean() - critic(*fake).mean()
    penalty = gradient_penalty(critic, real, fake, generator)
    descend(optimizer, penalty_weight * penalty - wasserstein)
    critic.requires_grad_(False)
    return {"critic": wasserstein, "penalty": penalty}
