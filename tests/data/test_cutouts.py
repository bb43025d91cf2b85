import numpy as np
import pandas as pd
import pytest

from lungadv.data.cutouts import cut_out, cut_out_dataset
from lungadv.data.masks import diameter_mm
from lungadv.data.scan import Scan, to_hu
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
