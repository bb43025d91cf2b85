"""The detector's networks as ONNX or TorchScript files, for programs that do without lungadv."""

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

import lungadv
from lungadv.data.scan import HU_MAX, HU_MIN
from lungadv.detection.weights import Detector, load_detector, read_provenance
from lungadv.utils.device import full_precision
from lungadv.utils.errors import InputError
from lungadv.utils.files import guard_disk

__all__ = ["export_networks", "new_folder"]

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}
VOLUME = "volume, float32 (1, 1, D, H, W), sides multiples of 4, voxels of candidates.spacing mm"
HEATMAP = {"logits": "(1, 1, D, H, W); the heatmap is their sigmoid"}
NETWORKS = {
    "blob": (VOLUME, HEATMAP),
    "blob-ggo": (VOLUME, HEATMAP),
    "rpn": (VOLUME, {
        "objectness": "logits (1, M) of M anchors: cubes with sides of candidates.anchors mm at each voxel of the half-resolution grid",
        "codes": "(1, M, 6) box codes as MONAI's BoxCoder has them, weights 1",
    }),
    "fpr": ("patches, float32 (N, 1, P, P, P), P = patch.size, voxels of patch.spacing mm", {
        "evidence": "(N, 2), for and against a nodule; the probability is (e0 + 1) / (e0 + e1 + 2), the uncertainty 2 / (e0 + e1 + 2)"
    }),
}  # fmt: skip


class _Heatmap(nn.Module):
    """A ResUNet without its second output, the maps that only the RPN needs."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, volume):
        return self.network(volume)[0]


def export_networks(weights: str | Path, out: str | Path, file_format: str) -> None:
    """Write the four networks of a folder of weights into a new folder, with detector.json, which says how they are used.

    file_format: "onnx" or "torchscript". The networks compute in float32. Beside them lie the calibration of the candidates' scores and
    the model card. Raises InputError without the packages that write ONNX, for weights that `load_detector` refuses, and where `out` is.
    """
    if file_format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise InputError("ONNX needs onnx and onnxscript: install them with `pip install 'lungadv[export]'`") from None
    detector, weights = load_detector(weights), Path(weights)
    write = _write_onnx if file_format == "onnx" else _write_torchscript
    with new_folder(out) as folder, full_precision():
        for name, (network, example, dynamic) in _exported_networks(detector).items():
            write(network, example, dynamic, folder / f"{name}{SUFFIXES[file_format]}", list(NETWORKS[name][1]))
        (folder / "detector.json").write_text(json.dumps(_describe(detector, weights), indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(weights / "candidates" / "calibration.safetensors", folder / "calibration.safetensors")
        if (weights / "MODEL_CARD.md").exists():
            shutil.copyfile(weights / "MODEL_CARD.md", folder / "MODEL_CARD.md")


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well. Raises InputError when `out` is there already."""
    out = Path(out)
    if out.exists():
        raise InputError(f"'{out}' is there already: name a new folder")
    temporary = out.with_name(f".{out.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with guard_disk(temporary):
            yield temporary
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exported_networks(detector: Detector):
    """{name: (network, an example of its input, how the sides of that may vary)}."""
    sides = {axis: 4 * torch.export.Dim(name, min=2, max=256) for axis, name in ((2, "d"), (3, "h"), (4, "w"))}
    volume = torch.zeros(1, 1, 16, 20, 24)  # sides differ, so that none is taken for another
    found = {name: network if name == "rpn" else _Heatmap(network).eval() for name, network in detector.candidate_networks.items()}
    networks = {name: (network, volume, sides) for name, network in found.items()}
    patches = torch.zeros(2, 1, *[detector.patch.size] * 3)
    return networks | {"fpr": (detector.fpr_network, patches, {0: torch.export.Dim("n")})}


def _write_onnx(network, example, dynamic, path, outputs):
    name = "patches" if 0 in dynamic else "volume"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own code
        torch.onnx.export(
            network, (example,), path, input_names=[name], output_names=outputs, dynamic_shapes=(dynamic,),
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def _write_torchscript(network, example, dynamic, path, outputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that torch.export will replace it
        torch.jit.trace(network, example).save(path)


def _describe(detector, weights):
    """The content of detector.json."""
    made = read_provenance(weights)[1]
    return {
        "not_for_clinical_use": True,
        "lungadv": lungadv.__version__,
        "weights": {key: made.get(key) for key in ("profile", "seed", "data", "commit")},
        "input": f"HU from {HU_MIN} to {HU_MAX} mapped to [0, 1], clipped; axes z, y, x along LPS",
        "networks": {name: {"input": taken, "outputs": given} for name, (taken, given) in NETWORKS.items()},
        "settings": {"candidates": asdict(detector.candidates), "patch": asdict(detector.patch)},
        "calibration": {"scans": detector.calibration.scans, "scores": "calibration.safetensors, ascending, of each source"},
    }
