import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lungadv.data.masks import diameter_mm, soft_edge, soft_mask
from lungadv.models.cubes import SIDE, SPAN, cube_spacing, relative_radius, resample, to_cubes, to_patches

DIAMETERS = (6.0, 8.0, 12.0, 20.0)


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def ball_distance(count=4):
    """The distance to a ball's outline in radii, on the cube."""
    steps = ((torch.arange(SIDE) + 0.5) / SIDE * 2 - 1) * SPAN
    return 1 - torch.cartesian_prod(steps, steps, steps).norm(dim=1).reshape(1, 1, *[SIDE] * 3).repeat(count, 1, 1, 1, 1)


def dice(a, b):
    a, b = (cubes > 0.5 for cubes in (a, b))
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_resample_is_trilinear_sampling_of_the_same_places():
    volumes, spacing, new = torch.rand(3, 2, 10, 10, 10), torch.tensor([0.5, 1.0, 3.0]), torch.tensor([0.9, 0.7, 1.3])
    theta = torch.eye(3, 4) * (12 * new / (10 * spacing)).reshape(3, 1, 1)
    grid = F.affine_grid(theta, [3, 2, 12, 12, 12], align_corners=False)
    oracle = F.grid_sample(volumes, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(resample(volumes, spacing, 12, new), oracle, atol=1e-5)


def test_resample_to_the_same_grid_changes_nothing():
    volumes, spacing = torch.rand(2, 1, 8, 8, 8), torch.tensor([1.0, 2.0])
    assert torch.allclose(resample(volumes, spacing, 8, spacing), volumes, atol=1e-6)


@pytest.mark.parametrize("size, spacing", [(32, 1.25), (64, 0.625), (30, 0.9)])
def test_a_sphere_gets_its_volume_in_a_patch_of_any_spacing(size, spacing):
    diameter = torch.tensor(DIAMETERS)
    distance, _ = to_patches(ball_distance(), ball_distance(), diameter, size, spacing)
    assert diameter_mm(soft_edge(distance, 3.0), spacing).numpy() == pytest.approx(diameter.numpy(), rel=0.02)
    exact = diameter[1] / 2 - torch.from_numpy(np.indices((size,) * 3) - (size - 1) / 2).float().norm(dim=0) * spacing
    near = exact.abs() < 2
    assert (distance[1, 0] - exact)[near].abs().max() < 0.15


def test_a_distance_of_any_unit_gives_the_requested_size_and_follows_it():
    diameter = torch.full((len(DIAMETERS),), 10.0, requires_grad=True)
    swollen = ball_distance() * 3 + torch.tensor([-0.6, 0.0, 0.5, 1.0]).reshape(-1, 1, 1, 1, 1)
    mask = soft_edge(to_patches(swollen, swollen, diameter, 32, 1.25)[0], 3.0)
    assert diameter_mm(mask, 1.25).numpy() == pytest.approx(10, rel=0.03)
    mask.sum().backward()
    assert (diameter.grad > 0).all()


def test_relative_radius_of_balls():
    distance = ball_distance(3) - torch.tensor([0.3, 0.0, -0.3]).reshape(-1, 1, 1, 1, 1)
    assert relative_radius(distance).numpy() == pytest.approx([0.7, 1.0, 1.3], rel=0.01)


def test_cutouts_come_back_from_their_cubes():
    masks = torch.from_numpy(np.stack([soft_mask(ball(d), 1.25, 3.0) for d in DIAMETERS]))[:, None]
    brightness = torch.tensor([0.2, 0.5, 0.7, 1.0]).reshape(-1, 1, 1, 1, 1)
    cubes = to_cubes(brightness * masks, masks, 1.25, 3.0)
    assert cubes.distance.shape == (len(DIAMETERS), 1, SIDE, SIDE, SIDE) and torch.equal(cubes.diameter, diameter_mm(masks, 1.25))
    assert torch.allclose(cubes.appearance[cubes.mask > 0.1], brightness.expand_as(cubes.mask)[cubes.mask > 0.1], atol=1e-4)
    distance, appearance = to_patches(cubes.distance, cubes.appearance, cubes.diameter, 32, 1.25)
    assert dice(soft_edge(distance, 3.0), masks) > 0.98
    assert torch.allclose(appearance[masks > 0.9], brightness.expand_as(masks)[masks > 0.9], atol=1e-3)


def test_the_rim_of_a_mask_says_where_its_outline_is():
    exact = 4.3 - torch.from_numpy(np.indices((32,) * 3) - 15.5).float().norm(dim=0)[None, None] * 1.25  # between the voxels
    cubes = to_cubes(soft_edge(exact, 3.0), soft_edge(exact, 3.0), 1.25, 3.0)
    oracle = resample(exact, torch.tensor([1.25]), SIDE, cube_spacing(cubes.diameter)) / (cubes.diameter / 2)
    assert (cubes.distance - oracle)[oracle.abs() < 0.3].abs().max() < 0.02
    assert (cubes.distance - oracle).abs().max() < 0.35


def test_nothing_is_drawn_beyond_the_cube():
    rod = torch.full((1, 1, SIDE, SIDE, SIDE), -1.0)
    rod[..., 7:9, 7:9, :] = 1.0  # to the faces of the cube
    diameter = torch.tensor([8.0])
    distance, _ = to_patches(rod, rod, diameter, 48, 1.0)
    reach = cube_spacing(diameter / relative_radius(rod))[0] * SIDE / 2
    places = (torch.arange(48) - 23.5).abs()
    inside = (distance[0, 0] > 0).any(0).any(0)
    assert places[inside].max() <= reach + 8 and inside.any() and not inside[places > reach + 8].any()
    assert (distance[0, 0, 24, 24, 1:4].diff() > 0).all()  # it falls outwards
