"""Training of the three candidate networks (section III-A), and adversarial fine-tuning of the two that make heatmaps."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from lungadv.attacks.pgd import frozen, pgd
from lungadv.models.resunet import ResUNet, heatmap_focal_loss, heatmap_targets, inside_any
from lungadv.models.rpn import IGNORED_MARGIN, RPN, RPNLoss, anchor_sides
from lungadv.settings import CandidateSettings, Settings
from lungadv.training.candidate_crops import TrainingGrid, candidate_crops
from lungadv.training.cube_crops import CubeGrid, cube_crops, vary_thickness
from lungadv.training.loop import fit
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError
from lungadv.utils.streams import RandomStreams

__all__ = ["adversarial_finetune", "adversarial_heatmap_loss", "heatmap_loss", "train_networks"]

CROP_OPTIONS = {"blob": {}, "blob-ggo": {"faded": 0.75, "rare": 0.5}}  # of the crops that each heatmap network learns from
THICK_SHARE = 0.4  # of the crops of simulated scans that get thick slices where real cubes are learnt from

BatchLoss = Callable[[nn.Module, torch.Tensor, Sequence[np.ndarray]], torch.Tensor]


def heatmap_loss(sigma: float) -> BatchLoss:
    """The mean focal loss as a function of (network, volumes (N, 1, D, H, W), nodules (n, 4) of each); sigma in voxels.

    It also takes what counts neither way, (n, 4) of each.
    """

    def loss(network, volumes, nodules, ignored=None):
        target = heatmap_targets(volumes.shape[2:], nodules, sigma).to(volumes.device)
        nowhere = None if ignored is None else _ignored_voxels(volumes, ignored)
        return heatmap_focal_loss(network(volumes)[0], target, nowhere).mean()

    return loss


def _ignored_voxels(volumes, ignored):
    """Which voxels of volumes (N, 1, D, H, W) lie in or near spheres (n, 4) of each, bool of the same shape."""
    axes = [torch.arange(side, dtype=torch.float32, device=volumes.device) for side in volumes.shape[2:]]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return torch.stack([inside_any(points, spheres, IGNORED_MARGIN) for spheres in ignored])[:, None]


def train_networks(
    grids: Sequence[TrainingGrid],
    settings: CandidateSettings,
    streams: RandomStreams,
    cubes: Sequence[CubeGrid] = (),
    start: nn.Module | None = None,
) -> tuple[dict[str, nn.Module], pd.DataFrame]:
    """The three networks "blob", "blob-ggo" and "rpn", frozen, and their losses: network, update, loss.

    The first learns from all nodules; the other two start from it, at half the learning rate.
    cubes: with them half of every batch is crops of real cubes, and the crops of scans get thick slices.
    start: the network "blob" whose weights the first begins with.
    Raises InputError when the training scans hold no nodule.
    """
    if all(grid.nodules.empty for grid in grids):
        raise InputError("the training scans hold no nodule to learn from: check annotations.csv and the manifest's dataset column")

    def train(name, network, loss, updates, learning_rate, desc) -> None:
        network.to(memory_format=torch.channels_last_3d)
        crops = _crops_for(name, grids, settings, streams.rng("candidates", name), cubes)
        losses.append(_named(name, fit(network, loss, crops, updates, learning_rate=learning_rate, desc=desc)))

    torch.manual_seed(streams.generator("candidates", "weights").initial_seed())
    loss, losses = heatmap_loss(settings.sigma / settings.spacing), []
    blob = ResUNet(settings.width)
    if start is not None:
        blob.load_state_dict(start.state_dict())
    train("blob", blob, loss, settings.updates, settings.learning_rate, "blob network")

    ground_glass = ResUNet(settings.width)
    ground_glass.load_state_dict(blob.state_dict())
    train("blob-ggo", ground_glass, loss, settings.finetune_updates, settings.learning_rate / 2, "ground-glass network")

    rpn = RPN(settings.width, len(settings.anchors))
    rpn.backbone.load_state_dict(blob.state_dict())
    rpn_loss = RPNLoss(anchor_sides(settings.anchors, settings.spacing), streams.generator("candidates", "sampler"))
    train("rpn", rpn, rpn_loss, settings.finetune_updates, settings.learning_rate / 2, "RPN network")
    networks = {"blob": blob, "blob-ggo": ground_glass, "rpn": rpn}
    return {name: network.requires_grad_(False) for name, network in networks.items()}, pd.concat(losses)


def _named(name, losses):
    """A table of losses with the network's name before them."""
    return losses.assign(network=name)[["network", "update", "loss"]]


def _crops_for(name, grids, settings: CandidateSettings, rng, cubes=()):
    """The crops that a network learns from."""
    crops = candidate_crops(grids, settings.crop_size, settings.batch_size, rng, settings.max_scale, **CROP_OPTIONS.get(name, {}))
    return _with_cubes(crops, cubes, settings, rng) if cubes else crops


def _with_cubes(crops, cubes, settings, rng):
    """Batches of crops of scans, some with thick slices, and as many crops of real cubes; what counts neither way comes last."""
    for volumes, nodules in crops:
        thick = torch.stack([vary_thickness(volume, settings.spacing, THICK_SHARE, rng) for volume in volumes])
        real, inside, ignored = cube_crops(cubes, settings.crop_size, len(volumes), rng)
        both = torch.cat([thick, real]).to(memory_format=torch.channels_last_3d)
        yield both, nodules + inside, [np.empty((0, 4))] * len(volumes) + ignored


def adversarial_finetune(
    networks: dict[str, nn.Module], grids: Sequence[TrainingGrid], settings: Settings, streams: RandomStreams
) -> tuple[dict[str, nn.Module], pd.DataFrame]:
    """Copies of both heatmap networks fine-tuned on crops half of which are under attack, frozen, and their losses.

    The losses have columns network, update, loss. `networks` stay as they are. See `adversarial_heatmap_loss`.
    """
    own, tuned, losses = settings.candidates, {}, []
    loss = adversarial_heatmap_loss(settings, streams.generator("candidates", "harden", device=get_device()))
    for name in CROP_OPTIONS:
        network = copy.deepcopy(networks[name]).requires_grad_(True)
        crops = _crops_for(name, grids, own, streams.rng("candidates", "harden", name))
        terms = {"learning_rate": own.learning_rate / 2, "desc": f"adversarial fine-tuning of {name}"}
        losses.append(_named(f"{name}, hardened", fit(network, loss, crops, own.adversarial_updates, **terms)))
        tuned[name] = network.requires_grad_(False)
    return tuned, pd.concat(losses)


def adversarial_heatmap_loss(settings: Settings, generator: torch.Generator) -> BatchLoss:
    """The focal loss as a function of (network, volumes, nodules (n, 4) of each), the first half of the volumes under PGD.

    Half real, half adversarial, as the paper mixes for the FPR. The attack is on the network as it stands (Madry et al. 2018), not on
    the one that it was made from. The radius is that of all attacks, the steps are `candidates.adversarial_steps`.
    """
    limits = {"eps": settings.attack.eps, "steps": settings.candidates.adversarial_steps, "bounds": (0.0, 1.0)}
    sigma = settings.candidates.sigma / settings.candidates.spacing

    def loss(network, volumes, nodules):
        def sample_losses(batch, target):
            return heatmap_focal_loss(network(batch)[0], target)

        target = heatmap_targets(volumes.shape[2:], nodules, sigma).to(volumes.device)
        half = len(volumes) // 2
        with frozen(network):
            attack = pgd(sample_losses, volumes[:half], context=(target[:half],), generator=generator, **limits)
        return sample_losses(torch.cat([attack.best, volumes[half:]]), target).mean()

    return loss
