import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import soft_mask
from lungadv.evaluation.synthesis import (
    active_numbers,
    compare,
    dice,
    hu_types,
    measure,
    nodule_features,
    precision_recall,
    quality_gates,
    solid_share,
    two_sample_auc,
    volume_spectrum,
)


def ball(diameter, size=32, spacing=1.25):
    """A ball of `diameter` mm in the middle of a cube, bool."""
    return (((np.indices((size,) * 3) - (size - 1) / 2) * spacing) ** 2).sum(0) < (diameter / 2) ** 2


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    masks = torch.from_numpy(np.stack([soft_mask(ball(8 + k % 8, 16, 2.5), 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


def test_a_forest_and_neighbours_judge_two_sets():
    rng = np.random.default_rng(0)
    one, same, far = rng.normal(size=(100, 4)), rng.normal(size=(120, 4)), rng.normal(size=(120, 4)) + 8
    narrow = 0.1 * rng.normal(size=(120, 4))
    assert two_sample_auc(one, same) == pytest.approx(0.5, abs=0.12) and two_sample_auc(one, far) > 0.99
    assert precision_recall(one, one) == (1, 1) and precision_recall(one, far) == (0, 0)
    assert min(precision_recall(one, same)) > 0.6
    precision, recall = precision_recall(one, narrow)
    assert precision > 0.9 and recall < 0.3  # all of them likely, but few of the others covered
    units = np.array([1, 1000, 1e-3, 1])
    assert precision_recall(one * units, same * units) == pytest.approx(precision_recall(one, same))


def test_volume_spectrum_of_a_wave_is_one_line():
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(2, 1, 16, 16, 16)
    power = volume_spectrum(wave)
    assert power.shape == (2, 8) and power[:, 2].min() > 0 and power.sum(1).allclose(power[:, 2], rtol=1e-4)
    shells = (np.rint(np.sqrt((np.stack(np.meshgrid(*[np.fft.fftfreq(16, 1 / 16)] * 3)) ** 2).sum(0))) == 3).sum()
    assert power[0, 2].item() == pytest.approx(2 * 0.25 / shells, rel=1e-4)  # two lines of amplitude 1/2


def test_nodule_features_of_balls_and_rods():
    masks = torch.zeros(3, 1, 32, 32, 32)
    masks[0, 0] = torch.from_numpy(ball(16.0).astype(np.float32))
    masks[1, 0, 6:26, 14:18, 14:18] = 1  # 20 x 4 x 4 voxels
    table = nodule_features(masks * 0.5, masks, 1.25)
    assert table["mean_hu"].tolist() == pytest.approx([-300, -300, -1000]) and (table["diameter_mm"].iloc[2] == 0)
    assert table["sd_hu"].tolist() == pytest.approx([0, 0, 0], abs=1e-3) == table["step_hu"].tolist()
    for column in ("length", "breadth"):
        assert table[column].tolist() == pytest.approx([1, 5, 1], rel=0.02)
    assert table["area"].iloc[1] == pytest.approx((2 * 16 + 4 * 80) / 320 ** (2 / 3))
    assert table["offset_mm"].tolist() == pytest.approx([0, 0, 0], abs=1e-4)


def test_compare_measures_against_the_first_group():
    nodules, masks = pairs()
    table = compare({"a": (nodules, masks), "b": (nodules, masks), "c": (nodules * 0.5, masks)}, 2.5).set_index("group")
    assert table.loc["b", ["diameter_w1", "hu_w1", "diameter_ks", "hu_ks"]].tolist() == [0, 0, 0, 0] and np.isnan(table.loc["a", "auc"])
    means = measure(nodules, masks, 2.5)["mean_hu"] + 1000
    assert table.loc["c", "hu_w1"] == pytest.approx(means.mean() / 2, rel=1e-4) and table.loc["c", "diameter_w1"] == 0


def test_dice_of_boxes():
    masks = torch.zeros(2, 1, 8, 8, 8)
    masks[:, :, 2:6, 2:6, 2:6] = 1
    moved = masks.roll(1, -1)
    assert dice(masks, masks).tolist() == [1, 1] and dice(masks, moved).tolist() == [0.75, 0.75]
    assert dice(masks, torch.zeros_like(masks)).tolist() == [0, 0]


def test_active_numbers_are_those_that_differ_from_the_prior():
    mean, log_variance = torch.zeros(100, 4), torch.zeros(100, 4)
    mean[:, 0] = torch.linspace(-1, 1, 100)  # the means vary
    log_variance[:, 1] = -2.0  # they do not, but it is narrow: KL 0.57
    log_variance[:, 2] = -0.2  # KL 0.009
    assert active_numbers(mean, log_variance) == 2


def test_types_by_the_hu_rule():
    masks = torch.zeros(4, 1, 16, 16, 16)
    masks[:, :, 4:12, 4:12, 4:12] = 1.0
    hu = torch.tensor([30.0, 350.0, -600.0, -650.0]).reshape(4, 1, 1, 1, 1).repeat(1, 1, 16, 16, 16)
    hu[2, :, 4:7] = 20.0  # three eighths of it are solid
    nodules = masks * (hu + 1000) / 1400
    share = solid_share(nodules, masks)
    assert share.tolist() == [1, 1, 0.375, 0] and solid_share(nodules[:1], 0 * masks[:1]).tolist() == [0]
    assert hu_types(measure(nodules, masks, 1.0)["mean_hu"], share).tolist() == ["solid", "fully_calcified", "part_solid", "ground_glass"]


REQUESTED = pd.DataFrame({"type": ["solid"] * 10, "spiculated": False, "diameter_mm": 10.0, "measured_mm": 10.5}).assign(
    mean_hu=20.0, training_hu=0.0
)


def test_the_gates_open_for_the_real_nodules_themselves():
    real = pairs()
    table = quality_gates(dict.fromkeys(("held-out", "rebuilt", "sampled", "training"), real), 8, REQUESTED, 2.5).set_index("gate")
    assert table["passed"].drop("AUC of the forest").all() and table.loc["Dice of rebuilt nodules", "measured"] == 1
    assert table["bound"].loc[["precision", "mean HU: error of the 50 % quantile"]].tolist() == [">= 0.6", "<= 60"]


def test_the_noise_of_a_gate_is_that_of_a_sample_as_large():
    nodules, masks = pairs()
    real, many = (nodules, masks), (nodules.repeat(16, 1, 1, 1, 1), masks.repeat(16, 1, 1, 1, 1))
    few, more = (
        quality_gates(dict.fromkeys(("held-out", "rebuilt", "sampled", "training"), each), 8, REQUESTED, 2.5).set_index("gate")["noise"]
        for each in (real, many)
    )
    name = "mean HU: error of the 50 % quantile"
    assert few[name] > 2 * more[name] > 0 and np.isnan(few["Dice of rebuilt nodules"])


def test_the_gates_name_what_is_wrong():
    nodules, masks = pairs()
    real, moved, dark = (nodules, masks), (nodules, masks.roll(6, -1)), (0.5 * nodules, masks)
    wrong = {"held-out": real, "rebuilt": moved, "sampled": dark, "training": real}
    requested = REQUESTED.assign(measured_mm=[12.0] * 2 + [10.0] * 8, mean_hu=60.0)
    table = quality_gates(wrong, 7, requested, 2.5).set_index("gate")
    failed = set(table.index[~table["passed"]])
    assert {"Dice of rebuilt nodules", "mean HU: error of the 95 % quantile", "active code numbers"} < failed
    assert {"requested diameters within 15 %", "requested solid: error of the median of mean HU"} < failed
    assert not {"diameter (mm): error of the 50 % quantile", "share of part_solid: wrong by the factor"} & failed
    assert table.loc["requested diameters within 15 %", "measured"] == 0.8
    assert table.loc["mean HU: error of the 95 % quantile", "training"] == 0 and np.isnan(table.loc["active code numbers", "training"])
