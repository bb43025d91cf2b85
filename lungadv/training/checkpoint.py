"""Networks of false-positive reduction in a folder: weights.safetensors, and network.json with output and width."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lungadv.models.dense_unet import FPR
from lungadv.utils.errors import InputError

__all__ = ["load_network", "save_network"]


WIDEST = 256  # channels; what a file promises is not taken on trust


def save_network(network: FPR, folder: Path) -> None:
    """Write weights.safetensors and network.json into `folder`."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "weights.safetensors")
    (folder / "network.json").write_text(json.dumps({"output": network.output, "width": network.unet.width}))


def load_network(folder: Path) -> FPR:
    """The network saved in `folder`, in evaluation mode, its parameters frozen. Raises InputError if there is none."""
    if not (folder / "weights.safetensors").exists():
        raise InputError(f"no network in {folder}: weights.safetensors is missing; give a folder that `make reproduce` has filled")
    facts = json.loads((folder / "network.json").read_text())
    if set(facts) != {"output", "width"} or not 1 <= facts["width"] <= WIDEST:
        raise InputError(f"{folder / 'network.json'} is not of a network that this reads: give a folder that `make reproduce` has filled")
    network = FPR(**facts)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)
