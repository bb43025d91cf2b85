"""Validation during training: AUC and Brier score of the network that would be kept."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from lungadv.models.dense_unet import FPR, predict
from lungadv.settings import FprSettings
from lungadv.utils.statistics import auc

__all__ = ["ValidationMonitor", "validation_monitor"]


@dataclass(frozen=True, eq=False)
class ValidationMonitor:
    """Scores patches (N, 1, P, P, P) in [0, 1] of labels (N,) at some updates; called as `monitor(update, network)`.

    `rows` collects {update, auc, brier}. The Brier score mean((p - y)^2) compares networks whose losses do not.
    """

    patches: torch.Tensor
    labels: np.ndarray  # 1 is a nodule, else 0
    checks: frozenset[int]  # update numbers
    rows: list[dict] = field(default_factory=list)

    def __call__(self, update: int, network: FPR) -> None:
        if update in self.checks:
            confidence = predict(network, self.patches)[0].numpy()
            brier = float(np.mean((confidence - self.labels) ** 2))
            self.rows.append({"update": update, "auc": auc(confidence, self.labels == 1), "brier": brier})


def validation_monitor(
    table: pd.DataFrame, patches: torch.Tensor, updates: int, settings: FprSettings, rng: np.random.Generator
) -> ValidationMonitor:
    """A monitor of up to `settings.validation_patches` validation patches, half of them nodules.

    It looks before training and `settings.validation_checks` times at equal distances in `updates`.
    table: one row a patch with `label` (1, 0, or -1 for what is left out); patches: (N, 1, P, P, P) in [0, 1].
    """
    half = settings.validation_patches // 2
    rows = np.concatenate([rng.permutation(np.flatnonzero(table["label"] == label))[:half] for label in (0, 1)])
    checks = frozenset(np.linspace(0, updates, settings.validation_checks + 1).round().astype(int).tolist())
    return ValidationMonitor(patches[torch.from_numpy(rows)], table["label"].to_numpy()[rows], checks)
