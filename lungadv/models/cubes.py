"""The cube that the synthesizer works on: centred on a nodule and SPAN of its diameters wide.

Small and large nodules have as many voxels there, so that shape and size come apart. `resample` leads from patch to cube and back.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from lungadv.data.masks import diameter_mm, signed_distance, soft_edge

__all__ = ["SIDE", "SPAN", "Cubes", "cube_spacing", "relative_radius", "resample", "to_cubes", "to_patches"]

SIDE = 16  # voxels
SPAN = 1.7  # diameters
STEP = 2 * SPAN / SIDE  # of the cube's voxels, in radii


def cube_spacing(diameter: torch.Tensor) -> torch.Tensor:
    """mm between the voxels of the cubes around nodules of `diameter` mm, any shape."""
    return SPAN * diameter / SIDE


def _positions(source, spacing, size, new_spacing):
    """Where each of `size` voxels of new_spacing mm lies on a row of `source` voxels of `spacing` mm about the same centre: (N, size)."""
    steps = torch.arange(size, device=new_spacing.device) - (size - 1) / 2
    return steps * (new_spacing / spacing)[:, None] + (source - 1) / 2


def resample(volumes: torch.Tensor, spacing: torch.Tensor, size: int, new_spacing: torch.Tensor) -> torch.Tensor:
    """Volumes (N, C, Q, Q, Q) with voxels of `spacing` mm as (N, C, size, size, size) with voxels of new_spacing mm, both (N,).

    The centre stays. Trilinear, and differentiable in volumes and spacings; beyond the outermost voxels it is as on them.
    The same as `grid_sample` with padding_mode "border". It is separable: one matrix along each axis, which is cheaper.
    """
    source = volumes.shape[-1]
    places = _positions(source, spacing, size, new_spacing).clamp(0, source - 1)
    weights = (1 - (places[:, None] - torch.arange(source, device=places.device)[:, None]).abs()).relu()  # (N, source, size)
    for _ in range(3):
        volumes = volumes.movedim(2, -1)
        volumes = (volumes.flatten(1, -2) @ weights).unflatten(1, volumes.shape[1:-1])
    return volumes


def _way_outside(source, spacing, size, new_spacing):
    """How far beyond the outermost voxels the new ones lie, summed over the axes, in mm: (N, 1, size, size, size)."""
    places = _positions(source, spacing, size, new_spacing)
    way = (places - places.clamp(0, source - 1)).abs() * spacing[:, None]
    return (way[:, :, None, None] + way[:, None, :, None] + way[:, None, None, :])[:, None]


@dataclass(frozen=True)
class Cubes:
    """N nodules as the synthesizer sees them: of each a cube (1, SIDE, SIDE, SIDE), or a number."""

    distance: torch.Tensor  # (N, 1, ...): to the outline, in radii, positive inside
    appearance: torch.Tensor  # (N, 1, ...) in [0, 1], where the mask is not 0
    mask: torch.Tensor  # (N, 1, ...) in [0, 1]: how much the appearance says
    diameter: torch.Tensor  # (N,) in mm


def _distances(masks, spacing, edge):
    """Signed distance (N, 1, P, P, P) in mm to the outlines of soft masks: within their rim what it says, beyond it from voxel to voxel."""
    far = torch.from_numpy(np.stack([signed_distance(mask, spacing) for mask in (masks[:, 0] > 0.5).numpy()])).float()[:, None]
    rim = (masks - 0.5) * edge
    return torch.where(masks == 1, far.clamp_min(edge / 2), torch.where(masks == 0, far.clamp_max(-edge / 2), rim))


def to_cubes(nodules: torch.Tensor, masks: torch.Tensor, spacing: float, edge: float) -> Cubes:
    """Cut-outs (N, 1, P, P, P) in [0, 1], nodule = mask * appearance, with voxels of `spacing` mm, on the CPU, as cubes.

    edge: mm over which the masks fade, see `soft_edge`.
    """
    diameter = diameter_mm(masks, spacing)
    grids = torch.full_like(diameter, spacing), SIDE, cube_spacing(diameter)
    distance, nodule, mask = resample(torch.cat([_distances(masks, spacing, edge), nodules, masks], dim=1), *grids).split(1, dim=1)
    distance = distance - _way_outside(masks.shape[-1], *grids)
    return Cubes(distance / (diameter / 2).reshape(-1, 1, 1, 1, 1), nodule / mask.clamp_min(1e-3), mask, diameter)


def relative_radius(distance: torch.Tensor) -> torch.Tensor:
    """Radius (N,) of the sphere that has the volume inside, of cubes (N, 1, SIDE, SIDE, SIDE) of distances in radii; in radii.

    The volume counts voxels by their coverage, so that the radius has a gradient.
    """
    volume = soft_edge(distance, STEP).flatten(1).sum(1) * STEP**3
    return (3 / (4 * math.pi) * volume).clamp_min(1e-3) ** (1 / 3)


def to_patches(
    distance: torch.Tensor, appearance: torch.Tensor, diameter: torch.Tensor, size: int, spacing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cubes (N, 1, SIDE, SIDE, SIDE) as patches (N, 1, size, size, size) with voxels of `spacing` mm: distance in mm, and appearance.

    The distance may have any unit. A nodule whose outline is where it is 0 gets the volume of a sphere of `diameter` (N,) mm.
    """
    radius = diameter / 2 / relative_radius(distance)  # in mm, of one unit of distance
    grids = cube_spacing(2 * radius), size, torch.full_like(radius, spacing)
    distance, appearance = resample(torch.cat([distance, appearance], dim=1), *grids).split(1, dim=1)
    return distance * radius.reshape(-1, 1, 1, 1, 1) - _way_outside(SIDE, *grids), appearance
