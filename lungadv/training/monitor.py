"""Validation during training: the loss, AUC and Brier score of the network that would be kept."""

from dataclasses import dataclass, field

import numpy as np
import torch

from lungadv.models.dense_unet import FPR, predict
from lungadv.training.early_stopping import EarlyStopping
from lungadv.training.stored_patches import StoredPatches
from lungadv.utils.statistics import auc

__all__ = ["ValidationMonitor", "balanced_nll"]

SURE = 1e-6  # confidences nearer to 0 or 1 count as this near


def balanced_nll(confidence: np.ndarray, labels: np.ndarray) -> float:
    """The negative log-likelihood of labels (N,), 1 or 0, under confidences (N,): the mean over both classes of the class's mean."""
    right = np.where(labels == 1, confidence, 1 - confidence).astype(float).clip(SURE)
    return float(np.mean([-np.log(right[labels == label]).mean() for label in (0, 1)]))


@dataclass(eq=False)
class ValidationMonitor:
    """Scores all validation patches (N, 1, P, P, P) in [0, 1] of labels (N,) every so often; called as `monitor(update, network)`.

    `rows` collects {update, nll, auc, brier}, see `balanced_nll`; each loss is told to `stopping`.
    The Brier score mean((p - y)^2) compares networks whose losses do not.
    """

    patches: torch.Tensor | StoredPatches
    labels: np.ndarray  # 1 is a nodule, else 0
    every: int  # updates between two checks
    stopping: EarlyStopping
    rows: list[dict] = field(default_factory=list)

    def __call__(self, update: int, network: FPR) -> None:
        if update % self.every and update < self.stopping.end:
            return
        confidence = predict(network, self.patches)[0].numpy()
        nll, brier = balanced_nll(confidence, self.labels), float(np.mean((confidence - self.labels) ** 2))
        self.rows.append({"update": update, "nll": nll, "auc": auc(confidence, self.labels == 1), "brier": brier})
        self.stopping.check(update, nll)
