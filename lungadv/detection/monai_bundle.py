"""The detector as a MONAI bundle, a folder that `python -m monai.bundle run` runs on a scan."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import lungadv
from lungadv.detection.network_export import new_folder
from lungadv.detection.weights import load_detector, read_provenance
from lungadv.training.strategies import BASELINE
from lungadv.utils.errors import InputError

__all__ = ["write_bundle"]

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
INFERENCE = {
    "imports": ["$from lungadv.detection.report import write_findings"],
    "bundle_root": ".",
    "scan": "scan.mhd",
    "out": "findings.csv",
    "models": "$@bundle_root + '/models'",
    "detector": {"_target_": "lungadv.detection.weights.load_detector", "folder": "@models"},
    "network_def": "$@detector.fpr_network",
    "image": {"_target_": "lungadv.read_scan", "path": "@scan"},
    "findings": {"_target_": "lungadv.detect", "scan": "@image", "weights": "@models"},
    "run": ["$write_findings(@findings, @out)"],
}
README = """# The nodule detector of lungadv as a MONAI bundle

**Not for clinical use.** Needs `pip install 'lungadv[export]'`. In this folder:

```sh
python -m monai.bundle run --config_file configs/inference.json --scan scan.mhd --out findings.csv
```

`--scan` is a scan file, the folder of a DICOM series, or a zip of one of these. `findings.csv` is what `lungadv detect` writes:
seriesuid, coordX, coordY, coordZ (LPS mm), probability, uncertainty, diameter_mm.
"""


def write_bundle(weights: str | Path, out: str | Path) -> None:
    """Write a folder of weights as a MONAI bundle into a new folder: configs/, models/ (safetensors), docs/README.md and LICENSE.

    Raises InputError for weights that `load_detector` refuses, and where `out` is.
    """
    weights, detector = Path(weights), load_detector(weights)
    card = weights / "MODEL_CARD.md"
    with new_folder(out) as folder:
        for stage in ("candidates", f"fpr/{BASELINE}"):
            for path in sorted((weights / stage).glob("*.safetensors")) + sorted((weights / stage).glob("*.json")):
                copy = folder / "models" / stage / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        (folder / "configs").mkdir()
        for name, content in (("inference", INFERENCE), ("metadata", _metadata(detector, read_provenance(weights)[1]))):
            (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        (folder / "docs").mkdir()
        if card.exists():
            shutil.copyfile(card, folder / "docs" / card.name)
        (folder / "docs" / "README.md").write_text(README, encoding="utf-8")
        (folder / "LICENSE").write_text(_license(), encoding="utf-8")


def _metadata(detector, provenance):
    """The content of metadata.json; its network is that of false-positive reduction, `network_def` of the configuration."""
    common = {"num_channels": 1, "spatial_shape": [detector.patch.size] * 3, "dtype": "float32", "is_patch_data": True}
    image = common | {"type": "image", "format": "hounsfield", "modality": "CT", "value_range": [0, 1], "channel_def": {"0": "CT"}}
    evidence = {"0": "evidence for a nodule", "1": "evidence against"}
    answer = {"type": "array", "format": "evidence", "num_channels": 2, "spatial_shape": [], "dtype": "float32", "value_range": []}
    return {
        "schema": SCHEMA,
        "version": lungadv.__version__,
        "changelog": {lungadv.__version__: f"weights of profile {provenance['profile']}, seed {provenance['seed']}"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": importlib.metadata.version("torch").split("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": {"lungadv": lungadv.__version__},
        "name": "lungadv nodule detector",
        "task": "Detection of lung nodules in chest CT, for research",
        "description": "Three candidate networks, then false-positive reduction with a Beta output. Not for clinical use.",
        "intended_use": "Research on detectors and attacks. Not for clinical use.",
        "authors": "lungadv contributors",
        "copyright": "lungadv contributors, Apache-2.0",
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": answer | {"is_patch_data": True, "channel_def": evidence}},
        },
    }


def _license():
    """The text of the licence, of the clone or of the installed package. Raises InputError where neither has it."""
    clone = Path(lungadv.__file__).parents[1] / "LICENSE"
    if clone.exists():
        return clone.read_text(encoding="utf-8")
    try:
        text = importlib.metadata.distribution("lungadv").read_text("licenses/LICENSE")
    except importlib.metadata.PackageNotFoundError:
        text = None
    if not text:
        raise InputError("the LICENSE of lungadv is missing: install the package again")
    return text
