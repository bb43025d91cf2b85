import pytest
import torch

from lungadv.banks.recipes import apply_views, dequantize_delta, draw_views, quantize_delta
from lungadv.settings import load_settings
from lungadv.training.augment import center_crop
from lungadv.utils.errors import InputError

SIZE, EPS = 16, 0.02


def test_quantized_changes_stay_in_the_ball_and_are_off_by_a_third_at_most(patches):
    delta = EPS * (2 * patches() - 1)
    again = dequantize_delta(quantize_delta(delta, EPS), EPS, SIZE)
    assert again.abs().max() <= EPS and (again - delta).abs().max() <= EPS / 3 + 1e-7
    levels = torch.tensor([-1, -1 / 3, 1 / 3, 1]) * EPS
    nearest = levels[(delta[..., None] - levels).abs().argmin(-1)]
    assert torch.allclose(again, nearest, atol=1e-8)


def test_a_voxel_is_stored_as_the_level_that_comes_nearest_to_the_searched_patch(patches):
    start = (1.2 * patches() - 0.1).clamp(0, 1)  # a sixth of the voxels on a bound
    searched = (start + EPS * (2 * patches(seed=1) - 1)).clamp(0, 1)
    rebuilt = (start + dequantize_delta(quantize_delta(searched - start, EPS, start), EPS, SIZE)).clamp(0, 1)
    levels = torch.tensor([-1, -1 / 3, 1 / 3, 1]) * EPS
    nearest = ((start[..., None] + levels).clamp(0, 1) - searched[..., None]).abs().amin(-1)
    assert torch.allclose((rebuilt - searched).abs(), nearest, atol=1e-7)
    on_bound = (start == 0) & (searched == 0) | (start == 1) & (searched == 1)
    assert on_bound.sum() > 500 and torch.equal(rebuilt[on_bound], searched[on_bound])


def test_what_a_search_left_as_it_was_gets_neither_brighter_nor_darker():
    still = dequantize_delta(quantize_delta(torch.zeros(2, 1, SIZE, SIZE, SIZE), EPS), EPS, SIZE)
    assert still.mean().abs() < 1e-9 and torch.allclose(still.abs(), torch.tensor(EPS / 3))
    for axis in (2, 3, 4):
        assert torch.equal(still.roll(1, axis), -still)


def test_views_shift_within_the_margin_and_reach_every_symmetry():
    cube = torch.arange(5**3).reshape(1, 1, 5, 5, 5)
    every = torch.tensor([[1, 1, 1, symmetry] for symmetry in range(48)])
    assert len(apply_views(cube.expand(48, -1, -1, -1, -1), every, 3).flatten(1).unique(dim=0)) == 48
    assert torch.equal(apply_views(cube, every[:1], 3), center_crop(cube, 3))
    assert apply_views(cube, torch.tensor([[2, 0, 1, 0]]), 3)[0, 0, 0, 0, 0] == 2 * 25 + 1
    views = draw_views(500, 2, torch.Generator().manual_seed(0))
    assert views[:, :3].unique().tolist() == [0, 1, 2, 3, 4] and len(views[:, 3].unique()) == 48


def test_recipes_of_other_patches_are_an_input_error(context):
    recipe = {"place": torch.tensor([0, 99]), "view": torch.zeros(2, 4, dtype=torch.int8), "delta": torch.zeros(2, 1024), "eps": [EPS]}
    with pytest.raises(InputError, match="training patch 99 of 5"):
        context.load_bank("perturbed", recipe)
    recipe |= {"place": torch.tensor([0, 1]), "view": torch.tensor([[0, 0, 0, 0], [9, 0, 0, 0]])}
    with pytest.raises(InputError, match="shifts a patch by 9 of 4 voxels"):
        context.load_bank("perturbed", recipe)


def test_the_bank_of_the_paper_fits_in_ten_gigabytes(context, make_shard):
    full = load_settings("full")
    voxels = full.patch.size**3
    stored = {kind: make_shard(context, kind, 0) for kind in context.items}
    images, synthetic = 22_169 + 100_000, 2 * 389_280
    assert quantize_delta(torch.zeros(1, 1, *(full.patch.size,) * 3), EPS).nbytes * 8 == 2 * voxels
    rest = {kind: table.drop_columns(["delta"]).nbytes / len(table) for kind, table in stored.items()}  # bytes a row beside the change
    tables = 400  # bytes of a row of bank_<name>.csv, at most
    total = images * (voxels / 4 + max(rest["perturbed"], rest["noise"]) + tables)
    total += synthetic * (rest["synthetic"] + (2 * full.synthesizer.latent_size) * 4 + tables)
    assert 8.0e9 < total < 10e9
