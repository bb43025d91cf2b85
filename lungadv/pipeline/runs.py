"""Runs: one pass of the pipeline with a profile, a seed and a data set; its folder and its random streams."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungadv.data.kinds import CUBES, kind_of
from lungadv.settings import Settings, load_settings
from lungadv.utils.errors import InputError, check_name
from lungadv.utils.files import repo_root, runs_folder, sha256

if TYPE_CHECKING:
    import torch

REAL = "real"  # the folder of a run with its networks trained on with real nodules, see `real_weights`
DEVELOPMENT_SEEDS = 100  # seeds from here on are for development; the ledger counts those below


@dataclass(frozen=True)
class Run:
    """One pass of the pipeline."""

    profile: str
    seed: int
    data: str  # "phantom", or the path of a manifest
    settings: Settings
    folder: Path

    def path(self, stage: str, *names: str) -> Path:
        """A file of a stage's folder."""
        return self.folder.joinpath(stage, *names)

    @property
    def figures(self) -> Path:
        """The folder of figures and the numbers behind them; made if need be."""
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _entropy(self, items):
        key = json.dumps([self.seed, *map(str, items)]).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "little")

    def rng(self, *items: object) -> np.random.Generator:
        """A numpy generator derived from the run's seed and `items`, such as a stage and a scan."""
        return np.random.default_rng(self._entropy(items))

    def generator(self, *items: object, device: "str | torch.device" = "cpu") -> "torch.Generator":
        """A torch generator derived from the run's seed and `items`."""
        import torch

        return torch.Generator(device=device).manual_seed(self._entropy(items) >> 1)


def open_run(profile: str = "tiny", seed: int = 0, data: str = "phantom", **overrides: dict) -> Run:
    """The run of these terms, in runs/<data>-<profile>-<seed>; LUNGADV_RUNS moves `runs`.

    `data` is "phantom" or the path of a manifest. A manifest's folder is named after it and a hash of its whole path, so that two
    manifests of one name do not share it. `overrides` gives a part of the settings other values: `fpr={"updates": 5}`.
    Raises InputError for terms that make no run.
    """
    settings = load_settings(profile, cubes=kind_of(data) == CUBES, **overrides)
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r} is not a whole number from 0 up")
    if data != "phantom" and not Path(data).exists():
        raise InputError(f"manifest '{data}' does not exist: give the path of a CSV manifest, or 'phantom'")
    folder, name = runs_folder(), "phantom"
    check_name(folder, "folder of runs")
    if data != "phantom":
        data = str(Path(data).resolve())
        check_name(data, "manifest")
        name = f"{Path(data).stem}-{hashlib.sha256(data.encode()).hexdigest()[:8]}"
    return Run(profile, seed, data, settings, folder / f"{name}-{profile}-{seed}")


def data_sha256(run: Run) -> str:
    """The hash of what says which scans a run has: the phantom's recipe, or the manifest."""
    return sha256(repo_root() / "data_manifests" / "phantom.json" if run.data == "phantom" else run.data)
