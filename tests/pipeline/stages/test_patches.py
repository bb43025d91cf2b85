"""Patches as their stage cuts them, and as they are read back from it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lungadv.data.scan import Scan
from lungadv.data.tables import XYZ
from lungadv.pipeline.stages.patches import _cut_patches, load_patches, real_patches
from lungadv.utils.errors import InputError


@pytest.fixture
def folder(run):
    """The folder of the run's finished stage."""
    folder = run.path("patches")
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text("{}")
    return folder


@pytest.mark.parametrize("margin", [0, 2])
def test_loaded_patches_are_the_middle_of_the_stored_ones(margin, folder, run):
    size = run.settings.patch.size
    hu = torch.randint(-1000, 400, (6, 1, *(size + 2 * margin,) * 3), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    kinds = ["nodule", "candidate", "background"] * 2
    pd.DataFrame({"seriesuid": "001", "kind": kinds, "type": "solid"}).to_csv(folder / "train.csv", index=False)
    save_file({"hu": hu}, folder / "train.safetensors")
    table, found = load_patches(run, "train", ("nodule", "background"))
    assert table["kind"].tolist() == ["nodule", "background"] * 2 and (table["seriesuid"] == "001").all()
    middle = slice(margin, margin + size)
    expected = (hu[[0, 2, 3, 5]][..., middle, middle, middle].float() + 1000) / 1400
    torch.testing.assert_close(found[:], expected, atol=1e-6, rtol=0)


def test_training_needs_both_classes(folder, run):
    hu = torch.arange(3, dtype=torch.int16).reshape(3, 1, 1, 1, 1).repeat(1, 1, 4, 4, 4)
    save_file({"hu": hu}, folder / "train.safetensors")
    pd.DataFrame({"seriesuid": "1", "type": "solid", "label": [1, 0, -1]}).to_csv(folder / "train.csv", index=False)
    assert {label: part[:][:, 0, 0, 0, 0].tolist() for label, part in real_patches(run).items()} == {0: [1], 1: [0]}
    pd.DataFrame({"seriesuid": "1", "type": "solid", "label": [0, 0, -1]}).to_csv(folder / "train.csv", index=False)
    with pytest.raises(InputError, match="0 training patches of nodules, 2 others"):
        real_patches(run)


def test_backgrounds_hold_no_nodule_even_in_the_margin_for_shifts(run):
    """One bright nodule in the middle of a lung of 80 mm: no training patch of the many positions around it has a trace of it."""
    labels = np.zeros((80, 80, 80), np.uint8)
    labels[34:46, 34:46, 34:46] = 1
    scan = Scan(np.where(labels, 400, -850).astype(np.int16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3), "1")
    nodules = pd.DataFrame([[39.5, 39.5, 39.5]], columns=XYZ).assign(seriesuid="1", type="solid", diameter_mm=12.0)
    data = SimpleNamespace(
        uids=["1"], annotations=nodules, excluded=nodules[:0],
        open_scan=lambda uid: scan, lungs=lambda uid: np.ones(labels.shape, bool), labels=lambda uid: labels,
    )  # fmt: skip
    many = replace(run, settings=replace(run.settings, fpr=replace(run.settings.fpr, backgrounds=500)))
    written = {"hu": [], "outline": []}
    table = _cut_patches(many, data, nodules[:0], "train", lambda name, rows: written[name].append(rows))
    hu = np.concatenate(written["hu"])
    brightest, background = hu.reshape(len(hu), -1).max(1), (table["kind"] == "background").to_numpy()
    assert brightest[~background].tolist() == [400] and background.sum() == 500
    assert (brightest[background] == -850).all()
    half = hu.shape[-1] * run.settings.patch.spacing / 2  # mm of a stored cube, with its margin
    assert (np.abs(table[background][XYZ] - 39.5).max(axis=1) >= half + 12.0 / 2).all()
