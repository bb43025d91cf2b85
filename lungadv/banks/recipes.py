"""A bank of hard patches kept as what rebuilds them, not as voxels.

A synthetic nodule is its code, the change of the code, and its background. A perturbed patch is the place and view of a training patch,
or the seed of a noise patch, and the change of each voxel, rounded to 2 bits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import nn

from lungadv.data.noise import noise_patches
from lungadv.data.scan import to_unit
from lungadv.models.synthesizer import blend
from lungadv.training.augment import crop, cube_symmetry
from lungadv.utils.errors import InputError

__all__ = [
    "COLUMNS",
    "REMEDY",
    "Perturbed",
    "Synthetic",
    "apply_views",
    "dequantize_delta",
    "draw_views",
    "load_bank",
    "quantize_delta",
    "training_patches",
]

COLUMNS = {  # what a bank of each kind is rebuilt from
    "synthetic": ("place", "code", "delta"),
    "perturbed": ("place", "view", "delta", "eps"),
    "noise": ("seed", "delta", "eps"),
}
REMEDY = "make the banks again"
AXES = tuple(permutations(range(3)))


def quantize_delta(delta: torch.Tensor, eps: float, start: torch.Tensor | None = None) -> torch.Tensor:
    """Changes (N, ...) within +-eps as bytes (N, voxels / 4) uint8: of each the nearest of -eps, -eps/3, eps/3 and eps.

    With the patches `start` (N, ...) in [0, 1] that are changed, it is the level that comes nearest once the sum is clipped to [0, 1].
    The voxels of a sample are a multiple of four.
    """
    landed = [torch.full_like(delta, level) for level in _levels(eps)]
    if start is not None:
        landed = [change.clamp(-start, 1 - start) for change in landed]
    wanted = _alternate_zeros(delta, eps)
    level = torch.stack([(change - wanted).abs() for change in landed]).argmin(0).to(torch.uint8).flatten(1).unflatten(1, (-1, 4))
    return level[..., 0] | level[..., 1] << 2 | level[..., 2] << 4 | level[..., 3] << 6


def _levels(eps):
    return -eps, -eps / 3, eps / 3, eps


def _alternate_zeros(delta, eps):
    """The changes, of which none is zero: zero lies between two levels, and neighbours fall to one side and the other."""
    odd = torch.stack(torch.meshgrid(*(torch.arange(n, device=delta.device) for n in delta.shape[1:]), indexing="ij")).sum(0) % 2
    return torch.where(delta == 0, 1e-3 * eps * (2 * odd - 1), delta)


def dequantize_delta(levels: torch.Tensor, eps: float, size: int) -> torch.Tensor:
    """The changes (N, 1, size, size, size) float32 of bytes (N, size^3 / 4) uint8 as of `quantize_delta`, on their device."""
    values = torch.tensor(_levels(eps), device=levels.device)
    byte = torch.arange(256, device=levels.device)
    table = torch.stack([values[byte >> shift & 3] for shift in (0, 2, 4, 6)], dim=1)  # four changes a byte
    return F.embedding(levels.int(), table).reshape(-1, 1, size, size, size)


def draw_views(count: int, margin: int, generator: torch.Generator) -> torch.Tensor:
    """Random views (count, 4) int8: a shift of 0 to 2 margin voxels along z, y, x, and one of the 48 symmetries of the cube."""
    shifts = torch.randint(2 * margin + 1, (count, 3), generator=generator, device=generator.device)
    symmetries = torch.randint(48, (count, 1), generator=generator, device=generator.device)
    return torch.cat([shifts, symmetries], dim=1).to(torch.int8).cpu()


def apply_views(patches: torch.Tensor, views: torch.Tensor, size: int) -> torch.Tensor:
    """Patches (N, 1, Q, Q, Q) cropped to `size` voxels a side, turned and flipped, as `views` (N, 4) of `draw_views` says."""
    return torch.stack([_apply_view(patch, view, size) for patch, view in zip(patches, views.tolist(), strict=True)])


def _apply_view(patch, view, size):
    *shift, symmetry = view
    flips = [bool(symmetry % 8 >> axis & 1) for axis in range(3)]
    return cube_symmetry(crop(patch, shift, size), AXES[symmetry // 8], flips)


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Synthetic nodules on training backgrounds, `bank[rows]`; a new view of each can be drawn in training (not `fixed`).

    hu (M, 1, Q, Q, Q) int16: training patches; patch_index (N,): the background of each nodule; codes (N, L), on the generator's device.
    """

    hu: torch.Tensor
    patch_index: torch.Tensor
    codes: torch.Tensor
    generator: nn.Module
    fixed = False

    def __len__(self) -> int:
        return len(self.codes)

    @torch.no_grad()
    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Patches (n, 1, Q, Q, Q) float32 in [0, 1] of rows (n,); a nodule is in the middle."""
        backgrounds = to_unit(self.hu[self.patch_index[rows]].to(self.codes.device).float())
        nodules, masks = self.generator(self.codes[rows])
        margin = (backgrounds.shape[-1] - nodules.shape[-1]) // 2
        return blend(backgrounds, *(F.pad(cubes, (margin,) * 6) for cubes in (nodules, masks)))


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Patches after image PGD, `bank[rows]`; they are shown as they were searched (`fixed`).

    start(rows) -> (n, 1, P, P, P) in [0, 1] gives the patches before; deltas (N, P^3 / 4): the changes as of `quantize_delta`.
    """

    start: Callable[[torch.Tensor], torch.Tensor]
    deltas: torch.Tensor
    eps: float
    fixed = True

    def __len__(self) -> int:
        return len(self.deltas)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Patches (n, 1, P, P, P) float32 in [0, 1] of rows (n,)."""
        start = self.start(rows)
        return start.add(dequantize_delta(self.deltas[rows], self.eps, start.shape[-1])).clamp(0, 1)


def load_bank(
    kind: str,
    recipe: Mapping[str, torch.Tensor],
    hu: torch.Tensor,
    generator: nn.Module | None,
    size: int,
    device: torch.device,
) -> Synthetic | Perturbed:
    """The bank of a recipe {column: tensor}, see COLUMNS, on `device`; kind: "synthetic", "perturbed" or "noise".

    hu (M, 1, Q, Q, Q) int16: the training patches that it refers to; generator: the synthesizer's, for synthetic nodules.
    Raises InputError when it refers to other training patches.
    """
    _check_references(kind, recipe, hu, size)
    if kind == "synthetic":
        return Synthetic(hu, recipe["place"].long(), (recipe["code"] + recipe["delta"]).to(device), generator)
    deltas, eps = recipe["delta"].to(device), float(recipe["eps"][0])
    if kind == "perturbed":
        return Perturbed(training_patches(hu, recipe["place"].long(), recipe["view"], size, device), deltas, eps)
    seeds = recipe["seed"].to(device)
    return Perturbed(lambda rows: noise_patches(seeds[rows], size), deltas, eps)


def _check_references(kind, recipe, hu, size):
    """Raise InputError when a recipe refers to a training patch, or a shift of one, that there is not."""
    if kind != "noise" and len(recipe["place"]) and not 0 <= recipe["place"].min() <= recipe["place"].max() < len(hu):
        place = recipe["place"]
        outside = place[(place < 0) | (place >= len(hu))][0].item()
        raise InputError(f"a bank asks for training patch {outside} of {len(hu)}: {REMEDY}")
    if kind == "perturbed" and len(recipe["view"]) and recipe["view"][:, :3].max() > hu.shape[-1] - size:
        raise InputError(f"a bank shifts a patch by {recipe['view'][:, :3].max()} of {hu.shape[-1] - size} voxels: {REMEDY}")


def training_patches(
    hu: torch.Tensor, patch_index: torch.Tensor, views: torch.Tensor, size: int, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function rows -> patches (n, 1, size, size, size) in [0, 1] on `device`: views (N, 4) of rows patch_index (N,) of int16 HU."""
    return lambda rows: to_unit(apply_views(hu[patch_index[rows]].to(device).float(), views[rows], size))
