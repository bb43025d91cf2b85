"""Synthetic nodules against balls whose size and brightness are known."""

import numpy as np
import torch

from lungadv.data.masks import diameter_mm
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.stress_synthetic import density, describe_nodules, random_search
from lungadv.models.synthesizer import draw_latents
from tests.evaluation.toy_models import Balls


def test_random_search_draws_no_nodule_that_is_too_small():
    class Small(Balls):
        def forward(self, z):
            seen.append(super().forward(z))
            return seen[-1]

    seen, judged = [], []
    detector = StressedModel(lambda patches: judged.append(patches) or torch.zeros(len(patches)), "logit")
    generator = torch.Generator().manual_seed(0)
    z = draw_latents(Balls(), 30, 1.25, generator)
    random_search(detector, Small(), torch.zeros(30, 1, 16, 16, 16), z, 4, 1.25, generator)
    shown = [masks for nodules, masks in seen if any(torch.equal(nodules, patches) for patches in judged)]
    assert len(judged) == 4 and all((diameter_mm(masks, 1.25) >= 6).all() for masks in shown)
    assert any((diameter_mm(masks, 1.25) < 6).any() for _, masks in seen)  # some were drawn and left


def test_describe_nodules_measures_what_was_drawn():
    masks = torch.zeros(3, 1, 16, 16, 16)
    masks[:, :, 4:12, 4:12, 4:12] = 1.0
    hu = torch.tensor([-600.0, 0.0, -600.0]).reshape(3, 1, 1, 1, 1).repeat(1, 1, 16, 16, 16)
    hu[2, :, 4:8] = 40.0  # half of it solid
    shapes = describe_nodules(masks * (hu + 1000) / 1400, masks, 1.0)
    np.testing.assert_allclose(shapes["diameter_mm"], (6 / np.pi * 512) ** (1 / 3), rtol=1e-5)
    np.testing.assert_allclose(shapes["mean_hu"], [-600, 0, -280], atol=0.01)
    assert density(shapes["solid_share"]).tolist() == ["non_solid", "solid", "part_solid"]
