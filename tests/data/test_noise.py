import numpy as np
import torch
from scipy import stats

from lungadv.data.noise import noise_patches


def test_noise_is_uniform_and_a_seed_says_which():
    one = noise_patches(torch.tensor([3, 4, 3 + 2**32, 2**62 + 1]), 24)
    assert torch.equal(noise_patches(torch.tensor([2**62 + 1]), 24)[0], one[3]) and 0 <= one.min() and one.max() < 1
    assert all(stats.kstest(row, "uniform").pvalue > 1e-3 for row in one.flatten(1).numpy())
    assert np.abs(np.corrcoef(one.flatten(1)) - np.eye(4)).max() < 0.03


def mixed(x):
    """The finaliser of MurmurHash3 in numpy's unsigned numbers, which wrap by themselves."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return x ^ x >> np.uint32(16)


def test_noise_is_the_hash_of_voxel_and_seed():
    seed = 0x7234567890ABCDEF
    bits = mixed(mixed(np.arange(8**3, dtype=np.uint32) + np.uint32(seed & 0xFFFFFFFF)) ^ np.uint32(seed >> 32)) >> np.uint32(8)
    assert np.array_equal(noise_patches(torch.tensor([seed]), 8).flatten().numpy(), bits.astype(np.float32) / 2**24)
