"""What the segmentation network trains on and what it is judged on."""

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.positions import shift_margin
from lungadv.pipeline.stages import segmentation as stages_segmentation
from lungadv.training.stored_patches import StoredPatches


@pytest.mark.parametrize("scans", [1, 2, 12])
def test_the_dice_is_of_whole_scans_that_the_network_has_not_seen(scans, run, monkeypatch):
    kinds = ["nodule", "candidate", "nodule", "nodule"] * scans
    table = pd.DataFrame({"seriesuid": np.repeat([f"1.{k}" for k in range(scans)], 4), "kind": kinds})
    side, scan, trained = run.settings.patch.size + 2 * shift_margin(run.settings.patch.spacing), torch.arange(4 * scans) // 4, []
    hu = scan.reshape(-1, 1, 1, 1, 1).expand(-1, 1, side, side, side)
    content = {"hu": hu.numpy(), "outline": np.ones((3 * scans, 1, side, side, side), np.float32)}
    content = {key: StoredPatches(values, np.arange(len(values))) for key, values in content.items()}
    for stage in ("datasets", "candidates", "patches"):
        folder = run.path(stage)
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text("{}")
    monkeypatch.setattr(stages_segmentation, "read_patches", lambda run, dataset, key="hu": (table, content[key]))
    monkeypatch.setattr(
        stages_segmentation, "segmentation_batches", lambda nodules, masks, *rest: trained.extend(nodules[:][:, 0, 0, 0, 0].tolist())
    )
    monkeypatch.setattr(stages_segmentation, "fit", lambda *given, **named: pd.DataFrame({"update": [0], "loss": [0.5]}))
    found = pd.read_csv(stages_segmentation.build(run) / "numbers.csv").iloc[0]
    held = {1: [], 2: [0], 12: [0, 10]}[scans]
    assert trained == [k for k in range(scans) for _ in range(3) if k not in held] and found["nodules"] == 3 * len(held)
