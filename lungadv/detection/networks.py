"""The candidate networks and their calibration in a folder: safetensors, and JSON for what says how they are built."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lungadv.detection.candidates import SOURCES, Calibration
from lungadv.models.resunet import ResUNet
from lungadv.models.rpn import RPN
from lungadv.training.checkpoint import WIDEST, load_weights, read_facts
from lungadv.utils.errors import InputError

MOST_ANCHORS = 64
MOST_SCANS = 10**6  # validation scans of a calibration

__all__ = ["load_networks", "save_networks", "save_weights"]


def save_networks(networks: Mapping[str, nn.Module], calibration: Calibration, folder: Path) -> None:
    """Write <name>.safetensors of the networks "blob", "blob-ggo" and "rpn", calibration.safetensors and networks.json into `folder`."""
    for name, network in networks.items():
        save_weights(network, folder / f"{name}.safetensors")
    scores = {source: torch.from_numpy(calibration.scores[source]) for source in SOURCES}
    save_file(scores, folder / "calibration.safetensors")
    width, anchors = networks["blob"].heat.in_channels, networks["rpn"].objectness.out_channels
    (folder / "networks.json").write_text(json.dumps({"width": width, "anchors": anchors, "scans": calibration.scans}))


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers as safetensors."""
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)


def load_networks(folder: Path) -> tuple[dict[str, nn.Module], Calibration]:
    """The networks "blob", "blob-ggo" and "rpn" in eval mode, frozen, and their calibration.

    Raises InputError if they are not in `folder`.
    """
    if not (folder / "networks.json").exists():
        raise InputError(f"no candidate networks in {folder}: networks.json is missing; give one that `make reproduce` filled")
    facts = read_facts(folder / "networks.json", {"width": WIDEST, "anchors": MOST_ANCHORS, "scans": MOST_SCANS})
    networks = {"blob": ResUNet(facts["width"]), "blob-ggo": ResUNet(facts["width"]), "rpn": RPN(facts["width"], facts["anchors"])}
    for name, network in networks.items():
        load_weights(network, folder / f"{name}.safetensors")
        network.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)
    scores = {name: value.numpy() for name, value in load_file(folder / "calibration.safetensors").items()}
    if set(scores) != set(SOURCES) or not all(values.ndim == 1 and np.isfinite(values).all() for values in scores.values()):
        raise InputError(f"'{folder / 'calibration.safetensors'}' holds no scores of {', '.join(SOURCES)}: give those of a finished run")
    return networks, Calibration(scores, facts["scans"])
