"""Training batches: random patches of pools of real and adversarial samples, in fixed shares (section III-C)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lungadv.data.noise import noise_patches
from lungadv.data.scan import to_unit
from lungadv.training.augment import crop, cube_symmetry, random_cube_symmetry
from lungadv.utils.device import get_device
from lungadv.utils.errors import InputError

__all__ = [
    "Shares", "UniformNoise", "augmented_mask", "batch_composition", "classification_batches", "sample_batch", "segmentation_batches",
]  # fmt: skip

Pool = Sequence  # len(pool), pool[rows] -> (n, C, Q, Q, Q): a tensor, or a bank that rebuilds its patches
Shares = list[tuple[Pool, int]]  # each pool of a batch and the number of samples that it gives


def sample_batch(pool: Pool, count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random patches of a pool, each shifted and under a random symmetry of the cube: (count, C, size, size, size) in [0, 1].

    pool: (N, C, Q, Q, Q), Q >= size, int16 HU or in [0, 1]; or a bank. A bank that is `fixed` gives patches as they are: what its
    attack found holds on its own grid alone. generator: on the CPU.
    """
    patches = pool[torch.randint(len(pool), (count,), generator=generator)]
    if getattr(pool, "fixed", False):
        return patches
    groups = []
    for group in patches.split(4):  # one symmetry for four is varied enough
        shift = torch.randint(patches.shape[-1] - size + 1, (3,), generator=generator).tolist()
        groups.append(cube_symmetry(crop(group, shift, size), *random_cube_symmetry(generator)))
    patches = torch.cat(groups)
    return to_unit(patches.float()) if patches.dtype == torch.int16 else patches.float()


def batch_composition(real: Pool, banks: Sequence[Pool], count: int, added: bool = False) -> Shares:
    """How many of `count` samples each pool gives (section III-C).

    Without banks all are real. With banks half are real, and the banks give the same number each. Banks that are `added` come on top:
    all `count` are real.
    Raises InputError when the banks' half cannot be divided among them evenly.
    """
    if not banks:
        return [(real, count)]
    half = count // 2
    if half < len(banks) or half % len(banks):
        uneven = f"{half} samples cannot be divided among {len(banks)} banks"
        raise InputError(f"settings [fpr]: batch_size: {uneven}: make it a multiple of {4 * len(banks)}")
    return [(real, count if added else count - half), *((bank, half // len(banks)) for bank in banks)]


def augmented_mask(positives: Shares, negatives: Shares) -> torch.Tensor:
    """Which samples of a batch are not of the first, real pool of their class: bool (N,)."""
    return torch.cat([torch.full((share,), number > 0) for pools in (positives, negatives) for number, (_, share) in enumerate(pools)])


def classification_batches(
    positives: Shares, negatives: Shares, size: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches: patches (N, 1, size, size, size) in [0, 1] on the accelerator if there is one, target (N,) of 1 and 0.

    The samples come in the order of the pools, positives first. generator: on the CPU.
    """
    device, pools = get_device(), [*positives, *negatives]
    target = torch.cat([torch.full((share,), label) for label, shares in ((1, positives), (0, negatives)) for _, share in shares])
    while True:
        patches = torch.cat([sample_batch(pool, share, size, generator).to(device) for pool, share in pools])
        yield patches.contiguous(memory_format=torch.channels_last_3d), target


def segmentation_batches(
    patches: Pool, masks: Pool, size: int, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches: patches and nodule masks, each (batch_size, 1, size, size, size) in [0, 1], under the same shift and symmetry.

    patches: int16 HU (N, 1, Q, Q, Q); masks: uint8 of 0 and 1, of the same shape; generator: on the CPU.
    """
    pool = _WithMasks(patches, masks)
    while True:
        both = sample_batch(pool, batch_size, size, generator)
        yield both[:, :1].contiguous(memory_format=torch.channels_last_3d), both[:, 1:]


@dataclass(frozen=True, eq=False)
class _WithMasks:
    """A pool of patches, int16 HU, and their masks: `pool[rows]` is (n, 2, Q, Q, Q) in [0, 1]."""

    patches: Pool
    masks: Pool

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([to_unit(self.patches[rows].float()), self.masks[rows].float()], dim=1)


@dataclass(frozen=True)
class UniformNoise:
    """A pool of patches of uniform noise in [0, 1): `pool[seeds]` of seeds (n,) int64 is (n, 1, size, size, size)."""

    size: int
    fixed = True

    def __len__(self) -> int:
        return 2**63 - 1

    def __getitem__(self, seeds: torch.Tensor) -> torch.Tensor:
        return noise_patches(seeds, self.size)
