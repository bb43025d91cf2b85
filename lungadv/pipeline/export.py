"""A finished run's networks as a folder of weights, with a model card: what comes with the package."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lungadv.detection.seen import SEEN
from lungadv.detection.weights import load_detector, read_provenance
from lungadv.pipeline.model_card import model_card, real_card
from lungadv.pipeline.runs import REAL, Run
from lungadv.training.strategies import BASELINE
from lungadv.utils.errors import InputError
from lungadv.utils.files import replace_folder

__all__ = ["export_weights"]

MAX_EXPORT_MIB = 10.0  # all networks together; what would be larger is exported in bfloat16


def export_weights(run: Run, target: str | Path, real: bool = False) -> Path:
    """Copy what `detect` needs of a finished run into the folder `target`, with a model card: the weights that come with the package.

    real: take the networks that `real_weights.train_on_cubes` made of the run's, and say which series they have seen.

    That is candidates/ (three networks, their calibration) and fpr/<BASELINE>/, each with its provenance. They are stored in float32,
    or in bfloat16 where that would take more than MAX_EXPORT_MIB. An older folder is replaced as a whole. Returns `target`.
    Raises InputError when the run is not finished, or when the weights are larger than MAX_EXPORT_MIB even so.
    """
    stages = {"candidates": "networks.json", f"fpr/{BASELINE}": "network.json"}
    source = run.path(REAL) if real else run.folder
    for stage in (*(source / name for name in stages), run.path("datasets"), *([] if real else [run.path("benchmarks")])):
        if not (stage / "provenance.json").exists():
            raise InputError(f"{stage} is missing: finish `make reproduce PROFILE={run.profile} SEED={run.seed}` first")
    target = Path(target)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        half = _copy_stages(source, stages, temporary)
        if real:
            shutil.copyfile(source / SEEN, temporary / SEEN)
        size = sum(path.stat().st_size for path in temporary.rglob("*")) / 2**20
        if size > MAX_EXPORT_MIB:
            raise InputError(f"the weights of {run.folder.name} take {size:.1f} MiB, over {MAX_EXPORT_MIB:g}: ship a smaller profile")
        load_detector(temporary)
        card = real_card if real else model_card
        (temporary / "MODEL_CARD.md").write_text(card(run, temporary, read_provenance(temporary)[1], half), encoding="utf-8")
        replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _copy_stages(source, stages, target):
    """Copy weights, provenance and the file of the architecture of {stage: that file}; returns whether they are in bfloat16."""
    files = [path for stage in stages for path in sorted((source / stage).glob("*.safetensors"))]
    half = sum(path.stat().st_size for path in files) > MAX_EXPORT_MIB * 2**20
    for stage, architecture in stages.items():
        (target / stage).mkdir(parents=True)
        for name in (architecture, "provenance.json"):
            shutil.copyfile(source / stage / name, target / stage / name)
    for path in files:
        _copy_tensors(path, target / path.relative_to(source), half)
    return half


def _copy_tensors(source, target, half):
    """Copy a file of weights, in bfloat16 if asked; the calibration of scores and counts of batches stay as they are."""
    if half:
        tensors = load_file(source)
        save_file({name: value.bfloat16() if value.dtype == torch.float32 else value for name, value in tensors.items()}, target)
    else:
        shutil.copyfile(source, target)
