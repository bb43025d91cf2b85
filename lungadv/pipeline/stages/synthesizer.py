"""The stage "synthesizer": the paper's synthesizer, the conditioned one, and how good both are."""

import dataclasses
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lungadv.data.cutouts import cut_out_dataset
from lungadv.data.masks import diameter_mm
from lungadv.evaluation.synthesis import compare, nodule_features, volume_spectrum
from lungadv.models.conditioning import CONDITIONS, conditioning_grid, draw_conditioned, encode_condition
from lungadv.models.synthesizer import Critic, Encoder, Generator, decode, draw_latents
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import load
from lungadv.settings import Settings, SynthesizerSettings
from lungadv.training.synthesizer import train_synthesizer

__all__ = ["PARTS", "build", "load_conditioned_generator", "load_cutouts", "load_generator", "load_networks"]

PARTS = ("encoder", "generator", "critic")


def build(run: Run) -> Path:
    """Train both synthesizers; returns the folder.

    encoder, generator, critic, conditioned and cutouts.safetensors; cutouts.csv, a row of annotations for each cut-out.
    training.csv and training_conditioned.csv: the losses. quality.csv and spectrum.csv: against the nodules of the validation scans.
    conditioned.csv: what was requested of the conditioned generator, and what it drew.
    """
    patch, edge = run.settings.patch, run.settings.synthesizer.edge
    with stage_output(run, "synthesizer") as folder:
        data = load(run)
        nodules, masks, table = cut_out_dataset(data, "train", patch.size, patch.spacing, edge)
        held_out = cut_out_dataset(data, "validation", patch.size, patch.spacing, edge)[:2]
        cutouts = nodules, masks
        *networks, losses = train_synthesizer(*cutouts, patch.spacing, run.settings.synthesizer, run.generator("synthesizer", "training"))
        conditions = encode_condition(table.assign(diameter_mm=diameter_mm(masks, patch.spacing)))  # as it will be measured
        terms, generator = conditioned_settings(run.settings), run.generator("synthesizer", "conditioned")
        _, conditioned, _, conditioned_losses = train_synthesizer(*cutouts, patch.spacing, terms, generator, conditions)

        for name, network in zip((*PARTS, "conditioned"), (*networks, conditioned), strict=True):
            save_file({key: value.cpu().contiguous() for key, value in network.state_dict().items()}, folder / f"{name}.safetensors")
        save_file({"nodules": nodules.half(), "masks": masks.half()}, folder / "cutouts.safetensors")
        for name, rows in (("cutouts", table), ("training", losses), ("training_conditioned", conditioned_losses)):
            rows.to_csv(folder / f"{name}.csv", index=False)
        _write_quality(run, folder, held_out, cutouts, *(network.cpu() for network in networks[:2]))
        _write_conditioned(run, folder, conditioned.cpu())
    return run.path("synthesizer")


def conditioned_settings(settings: Settings) -> SynthesizerSettings:
    """The settings of the conditioned synthesizer's training: those of the paper's, where it has none of its own."""
    own = dataclasses.asdict(settings.conditioned_synthesizer)
    own.pop("requested_sizes")  # of conditioned.csv, not of the training
    return dataclasses.replace(settings.synthesizer, **own)


def _write_quality(run, folder, held_out, cutouts, encoder, generator_net):
    """quality.csv and spectrum.csv: held-out nodules, training nodules, the held-out ones rebuilt, samples, and samples of 6 mm and up."""
    spacing, generator = run.settings.patch.spacing, run.generator("synthesizer", "samples")
    with torch.no_grad():
        codes = torch.cat([encoder(*pair)[0] for pair in zip(*[cubes.split(64) for cubes in held_out], strict=True)])
    z = torch.randn(256, generator_net.latent_size, generator=generator)
    large = draw_latents(generator_net, 256, spacing, generator)
    rebuilt, sampled, banked = (decode(generator_net, each) for each in (codes, z, large))
    groups = {"held-out": held_out, "training": cutouts, "rebuilt": rebuilt, "sampled": sampled, "sampled, 6 mm and up": banked}
    compare(groups, spacing).to_csv(folder / "quality.csv", index=False)
    power = pd.DataFrame({name: volume_spectrum(cubes).mean(0).numpy() for name, (cubes, _) in groups.items()})
    power.set_axis(pd.RangeIndex(1, len(power) + 1, name="waves")).to_csv(folder / "spectrum.csv")


def _write_conditioned(run, folder, conditioned):
    """conditioned.csv: nodules to order, requested and measured."""
    requested = conditioning_grid(run.settings.conditioned_synthesizer.requested_sizes)
    pairs = draw_conditioned(conditioned, requested, run.generator("synthesizer", "orders"))
    measured = nodule_features(*pairs, run.settings.patch.spacing).rename(columns={"diameter_mm": "measured_mm"})
    requested.join(measured).to_csv(folder / "conditioned.csv", index=False)


def load_networks(run: Run) -> tuple[Encoder, Generator, Critic]:
    """The trained encoder, generator and critic of a run, on the CPU, in eval mode and frozen."""
    folder, size = require(run, "synthesizer"), run.settings.patch.size
    latent_size, width = run.settings.synthesizer.latent_size, run.settings.synthesizer.width
    networks = Encoder(size, latent_size, width), Generator(size, latent_size, 2 * width), Critic(size, width)
    return tuple(_load(network, folder / f"{name}.safetensors") for name, network in zip(PARTS, networks, strict=True))


def _load(network: nn.Module, path: Path) -> nn.Module:
    network.load_state_dict(load_file(path))
    return network.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)


def load_generator(run: Run) -> Generator:
    """The trained generator of a run: code (N, latent_size) -> nodule and mask, each (N, 1, P, P, P) in [0, 1]."""
    return load_networks(run)[1]


def load_conditioned_generator(run: Run) -> Generator:
    """The trained conditioned generator of a run, for `draw_conditioned`."""
    folder, settings = require(run, "synthesizer"), run.settings
    network = Generator(settings.patch.size, settings.synthesizer.latent_size, 2 * settings.synthesizer.width, CONDITIONS)
    return _load(network, folder / "conditioned.safetensors")


def load_cutouts(run: Run) -> tuple[torch.Tensor, torch.Tensor, pd.DataFrame]:
    """The training cut-outs as `cut_out_dataset` gave them to `build`, rounded to half precision: nodules, masks, table."""
    folder = require(run, "synthesizer")
    tensors = load_file(folder / "cutouts.safetensors")
    return tensors["nodules"].float(), tensors["masks"].float(), pd.read_csv(folder / "cutouts.csv", dtype={"seriesuid": str})
