"""Folders of trained weights: those that come with the package, and loading them.

A folder of weights holds `candidates/` and `fpr/<strategy>/` as a finished run does, so a run's folder is one.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from lungadv.detection.candidates import Calibration
from lungadv.detection.networks import load_networks
from lungadv.models.dense_unet import predict
from lungadv.settings import PARTS, CandidateSettings, PatchSettings, settings_from
from lungadv.training.checkpoint import load_network
from lungadv.training.strategies import BASELINE
from lungadv.utils.errors import InputError
from lungadv.utils.files import read_json, runs_folder, sha256

__all__ = ["Detector", "default_weights", "is_weights", "load_detector", "read_provenance", "shipped_folder", "weights_digest"]

NEEDED_SETTINGS = ("patch", "candidates")  # parts that `detect` reads


@dataclass(frozen=True, eq=False)
class Detector:
    """Trained networks, and the settings that they were trained with."""

    candidate_networks: dict[str, nn.Module]  # "blob", "blob-ggo", "rpn"
    calibration: Calibration
    fpr_network: nn.Module  # of false-positive reduction, in evaluation mode
    candidates: CandidateSettings
    patch: PatchSettings


def shipped_folder() -> Path:
    """Where the weights lie that come with the package."""
    return Path(__file__).parents[1] / "weights"


def default_weights() -> Path:
    """The shipped weights, else those of the latest finished quick run. Raises InputError when there are none."""
    shipped = shipped_folder()
    if is_weights(shipped):
        return shipped
    try:
        found = [folder for folder in runs_folder().glob("phantom-quick-*") if is_weights(folder)]
    except InputError:  # not in a clone
        found = []
    if not found:
        raise InputError("no trained weights here: run `make reproduce` in a clone first, or give a folder of weights with --weights")
    return max(found, key=lambda folder: _fpr_weights(folder).stat().st_mtime)


def weights_digest(folder: str | Path) -> str:
    """The SHA-256 of all files that `load_detector` reads in a folder of weights."""
    folder, digest = Path(folder), hashlib.sha256()
    for part in (folder / "candidates", _fpr_weights(folder).parent):
        for file in sorted([*part.glob("*.safetensors"), *part.glob("*.json")]):
            digest.update(f"{file.relative_to(folder)} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _fpr_weights(folder):
    return Path(folder) / "fpr" / BASELINE / "weights.safetensors"


def is_weights(folder: str | Path) -> bool:
    """Whether a folder holds the networks of both stages."""
    return _fpr_weights(folder).exists() and (Path(folder) / "candidates" / "networks.json").exists()


def read_provenance(folder: str | Path) -> tuple[dict, dict]:
    """The provenance of both stages of the weights in a folder: candidates, FPR.

    Candidates go on to the FPR network as the run's settings say, so networks of two runs do not fit together.
    Raises InputError when there are none, or of two runs, or of a version with other settings.
    """
    if not is_weights(folder):
        raise InputError(f"{folder} holds no weights: give a finished run's folder, or one with its candidates/ and fpr/{BASELINE}/")
    files = [Path(folder) / "candidates" / "provenance.json", _fpr_weights(folder).parent / "provenance.json"]
    first, second = map(_read_stage_provenance, files)
    others = [f"{key} {first[key]} and {second[key]}" for key in ("profile", "seed") if first[key] != second[key]]
    others += [f"other settings of {part}" for part in NEEDED_SETTINGS if first["settings"][part] != second["settings"][part]]
    if others:
        raise InputError(f"{folder} mixes the networks of two runs ({others[0]}): give candidates/ and fpr/ of one run")
    return first, second


def _read_stage_provenance(file):
    """What a provenance.json says. Raises InputError when it is none, or of a version with other settings."""
    try:
        made = read_json(file)
        _in_mm(made.get("settings", {}).get("candidates", {}))
        missing = [key for key in ("profile", "seed", "settings") if key not in made]
        if not missing:
            needed = {part: [field.name for field in dataclasses.fields(PARTS[part])] for part in NEEDED_SETTINGS}
            missing = [f"{part}.{name}" for part, names in needed.items() for name in names if name not in made["settings"].get(part, {})]
    except (InputError, TypeError, AttributeError, KeyError):
        raise InputError(f"'{file}' is no provenance: give the weights of a finished run") from None
    if missing:
        raise InputError(f"'{file}' lacks {missing[0]}, as of another version: give the weights of a finished run of this version")
    return made


def _in_mm(candidates):
    """Change settings of candidates, as earlier versions kept them, to those of this one: the crop was in voxels."""
    if "crop_size" in candidates:
        candidates["crop"] = candidates.pop("crop_size") * candidates["spacing"]


def load_detector(folder: str | Path) -> Detector:
    """The networks of both stages, and the settings they were trained with.

    Raises InputError when the folder holds none, or broken ones, those of another architecture, or of two runs.
    """
    folder = Path(folder)
    try:
        parts = read_provenance(folder)[1]["settings"]
        candidates, patch = settings_from("candidates", parts["candidates"]), settings_from("patch", parts["patch"])
        networks, calibration = load_networks(folder / "candidates")
        network = load_network(_fpr_weights(folder).parent)
        predict(network, torch.zeros(1, 1, *[patch.size] * 3))  # whether the network takes patches of that size
        return Detector(networks, calibration, network, candidates, patch)
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the weights in {folder} cannot be loaded ({reason}): give those of a finished run") from None
