"""Patches of uniform noise that follow from a seed each, the same on every device."""

import torch

__all__ = ["noise_patches"]


def noise_patches(seeds: torch.Tensor, size: int) -> torch.Tensor:
    """Patches (N, 1, size, size, size) float32 of independent noise, uniform in [0, 1), of seeds (N,) int64, on their device.

    The noise of a voxel is a hash of its number and of the seed, so a whole batch is made at once.
    """
    voxel = torch.arange(size**3, dtype=torch.int32, device=seeds.device)
    low, high = (half.to(torch.int32)[:, None] for half in (seeds << 32 >> 32, seeds >> 32))
    bits = _murmur_finaliser(_murmur_finaliser(voxel + low) ^ high) >> 8 & 0xFFFFFF
    return (bits.float() * 2**-24).reshape(-1, 1, size, size, size)


def _murmur_finaliser(x):
    """The finaliser of MurmurHash3 (Appleby): a bijection of int32 whose output bits each depend on all input bits."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift & (1 << 32 - shift) - 1)) * (factor - 2**32)  # a logical shift; the product wraps
    return x ^ (x >> 16 & 0xFFFF)
