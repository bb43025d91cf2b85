"""Candidate networks stored and loaded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.detection.candidates import calibrate, predict_heatmap, top_candidates
from lungadv.detection.networks import load_networks, save_networks
from lungadv.models.resunet import ResUNet
from lungadv.models.rpn import RPN
from lungadv.settings import load_settings
from lungadv.utils.errors import InputError

SETTINGS = replace(load_settings("tiny").candidates, merge_distance=6.0, per_scan=5)


def test_stored_networks_answer_as_before(random_raw, tmp_path):
    torch.manual_seed(0)
    networks = {"blob": ResUNet(2), "blob-ggo": ResUNet(2), "rpn": RPN(2, 2)}
    for network in networks.values():
        network.to(memory_format=torch.channels_last_3d).eval()
    calibration = calibrate(random_raw(3, 10), 3)
    save_networks(networks, calibration, tmp_path)
    again, stored = load_networks(tmp_path)
    volume = torch.rand(16, 12, 12, generator=torch.Generator().manual_seed(0))
    for name in ("blob", "blob-ggo"):
        assert torch.equal(predict_heatmap(again[name], volume), predict_heatmap(networks[name], volume))
    with torch.no_grad():
        for new, old in zip(again["rpn"](volume[None, None]), networks["rpn"](volume[None, None]), strict=True):
            assert torch.equal(new, old)
    assert not any(parameter.requires_grad for network in again.values() for parameter in network.parameters())
    assert stored.scans == 3
    assert all(np.array_equal(stored.scores[source], calibration.scores[source]) for source in ("blob", "rpn"))
    raw = random_raw(1, 10, seed=1)
    pd.testing.assert_frame_equal(*(top_candidates(raw, each, SETTINGS) for each in (stored, calibration)))


def test_a_folder_without_networks_is_an_input_error(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="no candidate networks in"):
            load_networks(folder)
