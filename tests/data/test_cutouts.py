import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.cutouts import cut_out, cut_out_dataset
from lungadv.data.masks import diameter_mm
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, to_hu, to_unit
from lungadv.models.synthesizer import blend
from lungadv.phantom.scanner import blur
from lungadv.utils.errors import InputError


def ball(diameter, size, spacing, centre):
    """A ball of `diameter` mm, bool, around `centre` (voxels z, y, x)."""
    return (((np.indices((size,) * 3) - np.reshape(centre, (3, 1, 1, 1))) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def test_cut_out_takes_each_nodule_with_its_own_label_and_position():
    labels = np.zeros((40, 40, 40), np.uint8)
    centres = [[10, 12, 11], [27, 26, 28]]  # voxels z, y, x
    labels[ball(10, 40, 1.25, centres[0])] = 1
    labels[ball(16, 40, 1.25, centres[1])] = 2
    hu = np.select([labels == 1, labels == 2], [40, -600], -850).astype(np.int16)
    scan = Scan(hu, (1.25,) * 3, (-30, 5, 100), np.eye(3), "toy")
    nodules, masks = cut_out(scan, labels, scan.to_world(centres), 16, 1.25, 3.0)
    assert nodules.shape == masks.shape == (2, 1, 16, 16, 16)
    assert diameter_mm(masks, 1.25).numpy() == pytest.approx([10, 16], rel=0.06)
    for nodule, mask, value in zip(nodules, masks, (40, -600), strict=True):
        assert to_hu(nodule[mask == 1]).numpy() == pytest.approx(value, abs=1)
        assert (nodule <= mask).all() and (nodule[mask == 0] == 0).all()


def test_cut_out_without_segmentation_is_an_input_error():
    scan = Scan(np.zeros((20, 20, 20), np.int16), (1.25,) * 3, (0, 0, 0), np.eye(3), "toy")
    with pytest.raises(InputError, match="scan toy: nodule 1 has no voxel"):
        cut_out(scan, np.zeros((20, 20, 20), np.uint8), [[10, 10, 10]], 16, 1.25, 3.0)


def test_cut_out_dataset_keeps_tensors_and_table_in_step():
    sizes = {"a": (8, 12), "b": (), "c": (16,)}

    class Data:
        uids = list(sizes)
        annotations = pd.DataFrame(
            [
                {"seriesuid": u, "coordX": 20.0 + 30 * k, "coordY": 25.0, "coordZ": 25.0, "diameter_mm": d}
                for u in "ca"
                for k, d in enumerate(sizes[u])
            ]  # fmt: skip
        )

        def of(self, dataset):
            assert dataset == "train"
            return self

        def open_scan(self, uid):
            return Scan(np.full((40, 40, 60), 40, np.int16), (1.25,) * 3, (0, 0, 0), np.eye(3), uid)

        def lungs(self, uid):
            return np.ones((40, 40, 60), bool)

        def labels(self, uid):
            labels = np.zeros((40, 40, 60), np.uint8)
            for k, d in enumerate(sizes[uid]):
                grid = np.indices(labels.shape) * 1.25 - np.array([25.0, 25.0, 20.0 + 30 * k])[:, None, None, None]
                labels[(grid**2).sum(0) < (d / 2) ** 2] = k + 1
            return labels

    nodules, masks, table = cut_out_dataset(Data(), "train", 24, 1.25, 3.0)
    assert table["seriesuid"].tolist() == ["a", "a", "c"]
    assert diameter_mm(masks, 1.25).numpy() == pytest.approx(table["diameter_mm"].to_numpy(), rel=0.1)


def test_a_nodule_thinner_than_a_voxel_still_has_a_mask():
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[6, 5:8, 5:8] = 1  # between the voxels of the cube, none of them is half covered
    scan = Scan(np.full(labels.shape, -800, np.int16), (2.5, 2.5, 2.5), (0.0, 0.0, 0.0), np.eye(3), "a")
    centre = scan.to_world([[6.0, 6.0, 6.0]])
    _, masks = cut_out(scan, labels, centre, 8, 2.5, edge=3.0)
    assert masks.max() > 0.5
    with pytest.raises(InputError, match="no voxel"):
        cut_out(scan, np.zeros_like(labels), centre, 8, 2.5, edge=3.0)


def test_a_data_set_without_nodules_is_an_input_error():
    class Empty:
        uids, annotations = ["a"], pd.DataFrame({"seriesuid": []})

        def of(self, dataset):
            return self

    with pytest.raises(InputError, match="data set 'train' has no annotated nodule"):
        cut_out_dataset(Empty(), "train", 24, 1.25, 3.0)


SIDE, SPACING, EDGE = 48, 1.25, 2.5


def rendered(diameter, nodule, lung, centre):
    """The scan of a ball of `nodule` HU in `lung` HU as the phantom's scanner would blur it, and the ball's mask.

    centre: voxels z, y, x. The share of a voxel in the ball is that of 4^3 points.
    """
    points = (np.indices((4 * SIDE,) * 3, dtype=np.float32) + 0.5) / 4 - 0.5
    inside = ((points - np.asarray(centre, np.float32)[:, None, None, None]) ** 2).sum(0) < (diameter / 2 / SPACING) ** 2
    share = inside.reshape([SIDE, 4] * 3).mean((1, 3, 5))
    hu = blur(lung + share * (nodule - lung), (SPACING,) * 3, "soft")
    return Scan(hu.round().astype(np.int16), (SPACING,) * 3, (0, 0, 0), np.eye(3), "ball"), (share > 0.5).astype(np.uint8)


@pytest.fixture(scope="module")
def fused():
    """The function (diameter, nodule HU, lung HU, other HU) -> mean error in HU of a ball fused, and absolute and of its outer rim."""

    def fused(diameter, nodule, lung, other):
        centre = np.array([23.3, 24.1, 23.8])
        scan, labels = rendered(diameter, nodule, lung, centre)
        world = scan.to_world([centre])
        nodules, masks = cut_out(scan, labels, world, 32, SPACING, EDGE)
        true = to_unit(extract_patches(rendered(diameter, nodule, other, centre)[0], world, 32, SPACING))
        even = torch.full_like(nodules, to_unit(torch.tensor(other)).item())
        error = to_hu(blend(even, nodules, masks)) - to_hu(true)
        assert error[masks == 0].abs().mean() < 1
        rim = (masks > 0) & (masks < 1)
        return error[masks > 0].mean().item(), error[rim].abs().mean().item(), error[rim & (masks < 0.5)].mean().item()

    return fused


@pytest.mark.parametrize("diameter", [7.0, 12.0, 20.0])
@pytest.mark.parametrize("nodule", [40.0, -600.0])
def test_a_ball_fused_on_another_lung_is_the_ball_rendered_there(fused, diameter, nodule):
    mean, rim, outer = fused(diameter, nodule, -850.0, -900.0)
    assert abs(mean) < 5 and rim < 7 and abs(outer) < 5


@pytest.mark.parametrize("diameter", [7.0, 12.0, 20.0])
def test_a_ball_fused_on_soft_tissue_has_no_halo(fused, diameter):
    mean, _, outer = fused(diameter, 40.0, -850.0, 40.0)
    assert abs(mean) < 25 and abs(outer) < 50  # of a step of 890 HU


def test_a_ball_brighter_than_the_window_stays_white_inside_and_within_its_mask():
    scan, labels = rendered(12.0, 800.0, -850.0, np.full(3, 23.5))
    nodule, mask = cut_out(scan, labels, scan.to_world([[23.5] * 3]), 32, SPACING, EDGE)
    assert (nodule[mask == 1] == 1).all() and (nodule <= mask).all() and (nodule >= 0).all()


def test_times_the_mask_the_rim_would_be_faded_twice():
    centre = np.array([23.3, 24.1, 23.8])
    scan, labels = rendered(12.0, 40.0, -850.0, centre)
    world = scan.to_world([centre])
    patch, (nodule, mask) = to_unit(extract_patches(scan, world, 32, SPACING)), cut_out(scan, labels, world, 32, SPACING, EDGE)
    rim, even = (mask > 0.3) & (mask < 0.7), torch.full_like(patch, to_unit(torch.tensor(-850.0)).item())
    lost = [to_hu(blend(even, each, mask))[rim].mean() - to_hu(patch)[rim].mean() for each in (mask * patch, nodule)]
    assert lost[0] < -150 and abs(lost[1]) < 5


def test_a_nodule_on_the_wall_takes_half_of_the_wall_in_its_rim_along():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[ball(12, 40, 1.25, [20, 20, 20])] = 1
    lungs = np.ones(labels.shape, bool)
    lungs[:, :, :18] = labels[:, :, :18] = 0  # the wall cuts the ball
    hu = np.where(lungs & (labels == 0), -850, 40).astype(np.int16)
    scan = Scan(hu, (1.25,) * 3, (0, 0, 0), np.eye(3), "toy")
    terms = scan, labels, scan.to_world([[20.0, 20, 20]]), 17, 1.25, EDGE  # an odd size has the voxels of the scan
    (_, plain), (nodule, mask) = cut_out(*terms), cut_out(*terms, lungs)
    assert torch.equal(plain[..., 8:], mask[..., 8:]) and torch.equal(plain > 0.5, mask > 0.5) and (mask >= plain).all()
    # distances are kept to 0.01 mm, so that masks are right to 0.004
    assert plain[0, 0, 8, 8, 5].item() == pytest.approx(0.25, abs=0.004) and mask[0, 0, 8, 8, 5].item() == pytest.approx(0.5)
    assert (mask[..., :4] == 0).all()  # no more than the rim
    assert to_hu(nodule / mask.clamp(min=1e-6))[mask == 0.5].amax().item() == pytest.approx(40, abs=1)  # as bright as the wall
