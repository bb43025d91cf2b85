"""Networks of false-positive reduction in a folder: weights.safetensors, and network.json with output, width and middle.

A network.json without middle is of one that looks at two voxels, the most common by far.

What a file promises is not taken on trust: no network is made before its width is known to be one of ours, none is used with weights that
are no numbers.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lungadv.models.dense_unet import FPR, MIDDLE
from lungadv.utils.errors import InputError
from lungadv.utils.files import read_json

__all__ = ["load_network", "load_weights", "read_facts", "save_network"]


WIDEST = 256  # channels


def save_network(network: FPR, folder: Path) -> None:
    """Write weights.safetensors and network.json into `folder`."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "weights.safetensors")
    facts = {"output": network.output, "width": network.unet.width} | ({} if network.middle == MIDDLE else {"middle": network.middle})
    (folder / "network.json").write_text(json.dumps(facts))


def load_network(folder: Path) -> FPR:
    """The network saved in `folder`, in evaluation mode, its parameters frozen. Raises InputError if there is none."""
    if not (folder / "weights.safetensors").exists():
        raise InputError(f"no network in {folder}: weights.safetensors is missing; give a folder that `make reproduce` has filled")
    network = FPR(**read_facts(folder / "network.json", {"width": WIDEST, "middle": WIDEST}, texts=("output",), assumed={"middle": MIDDLE}))
    load_weights(network, folder / "weights.safetensors")
    return network.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)


def read_facts(path: Path, most: dict[str, int], texts: tuple[str, ...] = (), assumed: dict[str, int] | None = None) -> dict:
    """How a network is built, from JSON: whole numbers from 1 to `most` of each name, and `texts`. Raises InputError without them.

    assumed: values of names that the file may leave out.
    """
    facts = (assumed or {}) | read_json(path)
    sound = all(isinstance(facts.get(name), str) for name in texts)
    if not sound or not all(type(facts.get(name)) is int and 1 <= facts[name] <= limit for name, limit in most.items()):
        raise InputError(f"'{path}' is not of a network that this reads: give a folder that `make reproduce` has filled")
    return {name: facts[name] for name in (*texts, *most)}


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a safetensors file. Raises InputError for weights that are not finite: all answers would be NaN."""
    weights = load_file(path)
    for name, values in weights.items():
        if not torch.isfinite(values).all():
            raise InputError(f"'{path}' holds values of '{name}' that are not finite: give the weights of a finished run")
    network.load_state_dict(weights)
