"""Patches that are read back from their stage."""

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lungadv.pipeline.stages.patches import load_patches, real_patches
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
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_training_needs_both_classes(folder, run):
    hu = torch.arange(3, dtype=torch.int16).reshape(3, 1, 1, 1, 1).repeat(1, 1, 4, 4, 4)
    save_file({"hu": hu}, folder / "train.safetensors")
    pd.DataFrame({"seriesuid": "1", "type": "solid", "label": [1, 0, -1]}).to_csv(folder / "train.csv", index=False)
    assert {label: part[:, 0, 0, 0, 0].tolist() for label, part in real_patches(run).items()} == {0: [1], 1: [0]}
    pd.DataFrame({"seriesuid": "1", "type": "solid", "label": [0, 0, -1]}).to_csv(folder / "train.csv", index=False)
    with pytest.raises(InputError, match="0 training patches of nodules, 2 others"):
        real_patches(run)
