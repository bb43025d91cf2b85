"""The stage "synthesizer": the paper's synthesizer, and how good it is, with its critic and without."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lungadv.data.cutouts import cut_out_dataset
from lungadv.data.kinds import CUBES, kind_of
from lungadv.evaluation.synthesis import active_numbers, compare, measure, nodule_features, quality_gates, volume_spectrum
from lungadv.models.conditioning import conditioning_grid, draw_conditioned, encode_traits
from lungadv.models.cubes import to_cubes
from lungadv.models.grain import GRAINS
from lungadv.models.synthesizer import Critic, Encoder, Generator, decode, draw_latents
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.gates import insist
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import load
from lungadv.settings import PatchSettings, load_settings
from lungadv.training.synthesizer import encode, train_synthesizer

__all__ = ["PARTS", "build", "cutout_grid", "load_cutouts", "load_generator", "load_networks"]

PARTS = ("encoder", "generator", "critic")
COLLAPSED = 4  # a code of fewer active numbers draws one nodule, over and over
SAMPLES = 1000  # codes at least, as many near every training nodule


def cutout_grid(run: Run) -> PatchSettings:
    """The size and spacing of cut-outs: those of a patch on scans, of 40 mm, since the largest nodules do not fit into a patch of cubes."""
    return load_settings(run.profile).patch if kind_of(run.data) == CUBES else run.settings.patch


def build(run: Run) -> Path:
    """Train the synthesizer; returns the folder.

    encoder, generator, critic and cutouts.safetensors; cutouts.csv, a row of annotations for each cut-out; training.csv: the losses.
    quality.csv and spectrum.csv: against the nodules of the validation scans. gates.csv: what must hold, with the critic and without.
    requested.csv: what was requested of the generator, and what it drew.
    Raises InputError when the code says nothing.
    """
    grid, settings = cutout_grid(run), run.settings.synthesizer
    with stage_output(run, "synthesizer") as folder:
        data = load(run)
        *cutouts, table = cut_out_dataset(data, "train", grid.size, grid.spacing, settings.edge)
        held_out = cut_out_dataset(data, "validation", grid.size, grid.spacing, settings.edge)[:2]
        save_file({"nodules": cutouts[0].half(), "masks": cutouts[1].half()}, folder / "cutouts.safetensors")
        table.to_csv(folder / "cutouts.csv", index=False)
        gates = []
        for critic, terms in (("without", replace(settings, critic_weight=0.0)), ("with", settings)):
            generator = run.generator("synthesizer", "training")
            *networks, losses = train_synthesizer(*cutouts, encode_traits(table), grid.spacing, terms, generator)
            networks = [network.cpu() for network in networks]
            gates.append(_write_quality(run, folder, held_out, cutouts, table, *networks[:2]).assign(critic=critic))
        losses.to_csv(folder / "training.csv", index=False)
        pd.concat(gates).to_csv(folder / "gates.csv", index=False)
        for name, network in zip(PARTS, networks, strict=True):
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / f"{name}.safetensors")
    return run.path("synthesizer")


def _write_quality(run, folder, held_out, cutouts, table, encoder, generator_net):
    """quality.csv, spectrum.csv and requested.csv; returns the gates.

    The groups are held-out nodules, training nodules, the held-out ones rebuilt, samples, and samples of 6 mm and up.
    """
    spacing, draws = cutout_grid(run).spacing, run.generator("synthesizer", "samples")
    mean, log_variance = encode(encoder, to_cubes(*held_out, spacing, run.settings.synthesizer.edge))
    active = active_numbers(mean, log_variance)
    insist(active >= COLLAPSED, f"the synthesizer has collapsed, {active} numbers of its code say anything: raise synthesizer.updates")
    each = torch.arange(len(cutouts[0])).repeat(-(-SAMPLES // len(cutouts[0])))
    prior = generator_net.prior
    codes = prior.whiten(mean, draws), prior.draw(each, draws), draw_latents(generator_net, SAMPLES // 2, spacing, draws)
    names = ("held-out", "training", "rebuilt", "sampled", "sampled, 6 mm and up")
    groups = dict(zip(names, (held_out, cutouts, *(decode(generator_net, z) for z in codes)), strict=True))
    compare(groups, spacing).to_csv(folder / "quality.csv", index=False)
    power = pd.DataFrame({name: volume_spectrum(cubes).mean(0).numpy() for name, (cubes, _) in groups.items()})
    power.set_axis(pd.RangeIndex(1, len(power) + 1, name="waves")).to_csv(folder / "spectrum.csv")
    requested = _requested(run, generator_net, measure(*cutouts, spacing).assign(type=table["type"].to_numpy()))
    requested.to_csv(folder / "requested.csv", index=False)
    return quality_gates(groups, active, requested, spacing)


def _requested(run, generator_net, real):
    """Nodules to order, requested and measured, beside the median of the training nodules of that type."""
    requested = conditioning_grid(generator_net, run.settings.synthesizer.requested_sizes)
    pairs = draw_conditioned(generator_net, requested, run.generator("synthesizer", "requested"))
    measured = nodule_features(*pairs, cutout_grid(run).spacing).rename(columns={"diameter_mm": "measured_mm"})
    training = requested["type"].map(real.groupby("type")["mean_hu"].median())
    return requested.join(measured).assign(training_hu=training)


def load_networks(run: Run) -> tuple[Encoder, Generator, Critic]:
    """The trained encoder, generator and critic of a run, on the CPU, in eval mode and frozen."""
    folder, grid, settings = require(run, "synthesizer"), cutout_grid(run), run.settings.synthesizer
    weights = {name: load_file(folder / f"{name}.safetensors") for name in PARTS}
    remembered = weights["generator"]["prior.traits"].shape
    networks = {
        "encoder": Encoder(settings.latent_size - GRAINS, settings.width),
        "generator": Generator(grid.size, grid.spacing, settings.edge, settings.latent_size, settings.width, *remembered),
        "critic": Critic(grid.size, settings.width),
    }
    return tuple(_load(network, weights[name]) for name, network in networks.items())


def _load(network: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def load_generator(run: Run) -> Generator:
    """The trained generator of a run: code (N, latent_size) -> nodule and mask, each (N, 1, P, P, P) in [0, 1] of the run's patches."""
    generator = load_networks(run)[1]
    generator.size, generator.spacing = run.settings.patch.size, run.settings.patch.spacing
    return generator


def load_cutouts(run: Run) -> tuple[torch.Tensor, torch.Tensor, pd.DataFrame]:
    """The training cut-outs as `cut_out_dataset` gave them to `build`, rounded to half precision: nodules, masks, table."""
    folder = require(run, "synthesizer")
    tensors = load_file(folder / "cutouts.safetensors")
    return tensors["nodules"].float(), tensors["masks"].float(), pd.read_csv(folder / "cutouts.csv", dtype={"seriesuid": str})
