"""Patches on disk, drawn from as from a tensor."""

import numpy as np
import torch
from safetensors.torch import save_file

from lungadv.data.scan import to_unit
from lungadv.models.dense_unet import new_network, predict
from lungadv.training.augment import center_crop
from lungadv.training.sampling import sample_batch
from lungadv.training.stored_patches import open_patches


def both(tmp_path, count=9, side=12):
    hu = torch.randint(-1000, 400, (count, 1, side, side, side), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    save_file({"hu": hu}, tmp_path / "a.safetensors")
    return hu, open_patches(tmp_path / "a.safetensors", "hu")


def test_batches_are_those_of_a_tensor(tmp_path):
    hu, stored = both(tmp_path)
    drawn = [sample_batch(pool, 16, 8, torch.Generator().manual_seed(3)) for pool in (hu, stored)]
    assert torch.equal(*drawn)
    odd = np.arange(9) % 2 == 1
    drawn = [sample_batch(pool, 16, 8, torch.Generator().manual_seed(3)) for pool in (hu[torch.from_numpy(odd)], stored.subset(odd))]
    assert torch.equal(*drawn) and stored.subset(odd).shape == (4, 1, 12, 12, 12)


def test_a_network_answers_as_to_a_tensor(tmp_path):
    from dataclasses import replace

    hu, stored = both(tmp_path, side=24)
    middle, network = to_unit(center_crop(hu, 16).float()), new_network("evidence", 4).eval()
    stored = replace(stored, size=16)
    assert torch.equal(stored[:], middle) and stored.shape == middle.shape
    for given in (stored, stored.subset(np.zeros(9, bool))):
        expected = predict(network, given[:], batch_size=4)
        assert all(torch.equal(*pair) for pair in zip(predict(network, given, batch_size=4), expected, strict=True))
