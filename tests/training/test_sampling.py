"""Batches against pools of one grey value each, and every shift and symmetry of a cube."""

from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from lungadv.data.scan import to_unit
from lungadv.training.sampling import (
    UniformNoise,
    augmented_mask,
    batch_composition,
    classification_batches,
    sample_batch,
    segmentation_batches,
)
from lungadv.training.strategies import STRATEGIES
from lungadv.utils.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetries(cube, size):
    """Every shift, turn and flip of a cube (Q, Q, Q), as bytes."""
    found = set()
    for z, y, x in product(range(cube.shape[0] - size + 1), repeat=3):
        part = cube[z : z + size, y : y + size, x : x + size]
        for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
            found.add(np.ascontiguousarray(part.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]).tobytes())
    return found


def test_samples_are_shifted_turned_and_flipped_patches_of_the_pool():
    pool = torch.rand(2, 1, 3, 3, 3, generator=generator())
    expected = [symmetries(cube[0].numpy(), 2) for cube in pool]
    drawn = {cube[0].numpy().tobytes() for cube in sample_batch(pool, 3000, 2, generator())}
    assert drawn <= expected[0] | expected[1]
    assert min(len(drawn & part) for part in expected) > 0.8 * 8 * 48  # nearly all of them occur


def test_samples_keep_the_values_of_a_patch_and_follow_their_generator():
    pool = torch.rand(3, 1, 6, 6, 6, generator=generator())
    drawn = sample_batch(pool, 11, 6, generator(4))
    values = [tuple(cube.flatten().sort().values.tolist()) for cube in pool]
    assert drawn.shape == (11, 1, 6, 6, 6) and {tuple(cube.flatten().sort().values.tolist()) for cube in drawn} <= set(values)
    torch.manual_seed(1)
    assert torch.equal(drawn, sample_batch(pool, 11, 6, generator(4))) and not torch.equal(drawn, sample_batch(pool, 11, 6, generator(5)))


def test_samples_of_hu_are_in_the_unit_range():
    pool = torch.tensor([-2000, -1000, -300, 400, 3000], dtype=torch.int16).reshape(5, 1, 1, 1, 1).expand(-1, -1, 4, 4, 4)
    drawn = sample_batch(pool, 200, 4, generator())
    assert drawn.dtype == torch.float32 and np.allclose(sorted(set(drawn.flatten().tolist())), [0, 0.5, 1])


def test_what_an_attack_holds_on_is_neither_shifted_nor_turned():
    class Bank:
        fixed = True

        def __len__(self):
            return 5

        def __getitem__(self, rows):
            return torch.arange(8.0**3).reshape(1, 1, 8, 8, 8) + 1000 * rows.reshape(-1, 1, 1, 1, 1)

    drawn = sample_batch(Bank(), 6, 8, generator())
    assert len(drawn) == 6 and torch.equal(drawn % 1000, Bank()[torch.zeros(6)])


def test_noise_is_uniform_and_never_the_same():
    pool = UniformNoise(8)
    drawn = torch.cat([sample_batch(pool, 20, 8, generator(seed)) for seed in (0, 1)])
    assert drawn.shape == (40, 1, 8, 8, 8) and len(torch.unique(drawn.flatten(1), dim=0)) == 40
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("name", STRATEGIES)
def test_batches_are_composed_as_in_the_paper(name, size):
    "50 % real, 25 % synthetic, 25 % perturbed where there are both, else half of each, else all real; as many negatives as positives."
    strategy, half = STRATEGIES[name], size // 2
    expected = {0: [half], 1: [half // 2] * 2, 2: [half // 2, half // 4, half // 4]}
    for banks in (strategy.positives, strategy.negatives):
        shares = batch_composition("real", banks, half)
        assert [pool for pool, _ in shares] == ["real", *banks] and [share for _, share in shares] == expected[len(banks)]


def test_banks_that_are_added_come_beside_a_full_batch():
    assert [share for _, share in batch_composition("real", ["perturbed", "noise"], 16, added=True)] == [16, 4, 4]
    assert [share for _, share in batch_composition("real", [], 16, added=True)] == [16]


def test_banks_that_cannot_share_a_batch_evenly_are_an_input_error():
    for count in (3, 10):
        with pytest.raises(InputError, match="batch_size.*make it a multiple of 8"):
            batch_composition("real", ["synthetic-pgd", "perturbed"], count)


def test_the_mask_names_what_is_not_real():
    shares = batch_composition("real", ["noise"], 4), batch_composition("real", [], 2)
    assert augmented_mask(*shares).tolist() == [False, False, True, True, False, False]


def test_targets_belong_to_the_pools_of_their_patches():
    def pool(value):
        return torch.full((3, 1, 4, 4, 4), value)

    batches = classification_batches([(pool(0.9), 4), (pool(0.8), 2)], [(pool(0.1), 3), (pool(0.2), 3)], 4, generator())
    for _ in range(3):
        x, target = next(batches)
        grey = x[:, 0, 0, 0, 0]
        assert torch.equal(target, (grey > 0.5).long())
        assert Counter(np.round(grey.tolist(), 2).tolist()) == {0.9: 4, 0.8: 2, 0.1: 3, 0.2: 3}


def test_masks_move_with_their_patches():
    hu = torch.randint(-1000, 400, (4, 1, 10, 10, 10), dtype=torch.int16, generator=generator())
    batches = segmentation_batches(hu, (hu > 0).to(torch.uint8), 8, 6, generator())
    for _ in range(3):
        x, mask = next(batches)
        assert x.shape == mask.shape == (6, 1, 8, 8, 8) and torch.equal(mask, (x > to_unit(torch.tensor(0.5))).float())
