"""The network of false-positive reduction: shapes, the meaning of its columns, and what its head looks at."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lungadv.models.dense_unet import FPR, fuse_batchnorm, new_network, predict
from lungadv.training.losses import classification_loss

SIZE = 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(count=5, seed=0):
    return torch.rand(count, 1, SIZE, SIZE, SIZE, generator=generator(seed))


def network(output, seed=0, width=4):
    torch.manual_seed(seed)
    return new_network(output, width).eval()


@pytest.mark.parametrize("size", [16, 32])
def test_outputs_have_their_shapes(size):
    x = torch.rand(2, 1, size, size, size, generator=generator())
    model = network("evidence")
    assert model(x).shape == (2, 2) and model.unet.segment(x).shape == x.shape


def test_evidence_is_the_softplus_of_the_logits_positive_first():
    evidence, logits = network("evidence"), network("logits")
    logits.load_state_dict(evidence.state_dict())
    with torch.no_grad():
        e, z = evidence(patches()), logits(patches())
    torch.testing.assert_close(e, torch.stack([F.softplus(z[:, 1]), F.softplus(z[:, 0])], dim=1))
    (sure, _), (odds, _) = predict(evidence, patches()), predict(logits, patches())
    assert torch.equal(sure > 0.5, odds > 0.5)


def test_an_unknown_output_is_an_error():
    with pytest.raises(ValueError, match="output 'sigmoid' is unknown"):
        FPR("sigmoid")


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_gradients_are_finite_on_the_smallest_patches(output):
    "The coarsest maps of 16 x 16 x 16 patches have 2 x 2 x 2 voxels: bfloat16 gradients of them were NaN on some processors."
    target = torch.arange(8) % 2
    for seed in range(12):
        model = network(output, seed, width=8).train()
        x = patches(8, seed).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        classification_loss(model, x, target).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"patches": x.grad}
        assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
        assert x.grad.abs().sum() > 0 and "unet.coarse.layers.2.0.weight" in gradients


class Fixed(nn.Module):
    """Gives the first two voxels of a patch as its output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return x.flatten(1)[:, :2]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_predictions_by_hand_in_batches(count):
    x = 5 * patches(count)
    first, second = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
    confidence, uncertainty = predict(Fixed("evidence"), x, batch_size=3)
    torch.testing.assert_close(confidence, (first + 1) / (first + second + 2))
    torch.testing.assert_close(uncertainty, 2 / (first + second + 2))
    confidence, uncertainty = predict(Fixed("logits"), x, batch_size=3)
    torch.testing.assert_close(confidence, (second - first).sigmoid())
    torch.testing.assert_close(uncertainty, 2 * torch.minimum(confidence, 1 - confidence))
    assert confidence.shape == uncertainty.shape == (count,) and not confidence.requires_grad


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_head_knows_what_is_at_the_centre_of_the_patch(size, monkeypatch):
    model, side = network("logits"), size // 4
    x, up = torch.rand(1, 1, size, size, size, generator=generator()), torch.zeros(1, 2 * model.unet.width, side, side, side)
    coarse, answers = torch.zeros(1, model.unet.coarse.channels, side // 2, side // 2, side // 2), {}
    for voxel in np.ndindex(side, side, side):
        maps = up.clone()
        maps[(0, slice(None), *voxel)] = 1.0
        monkeypatch.setattr(model.unet, "forward", lambda x, maps=maps: (coarse, maps))
        answers[voxel] = tuple(model(x)[0].tolist())
    middle = {voxel for voxel in answers if all(index in (side // 2 - 1, side // 2) for index in voxel)}
    assert len({answers[voxel] for voxel in middle}) == 1 and len({answers[voxel] for voxel in set(answers) - middle}) == 1
    assert answers[side // 2, side // 2, side // 2] != answers[0, 0, 0]


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_a_network_with_fused_normalisation_answers_as_before(output, monkeypatch):
    for module in ("lungadv.utils.device", "lungadv.models.dense_unet"):
        monkeypatch.setattr(f"{module}.fast_dtype", lambda device: torch.float32)
    torch.manual_seed(0)
    model, x = FPR(output, 4), torch.rand(6, 1, 16, 16, 16)
    for _ in range(5):
        model(x)  # running means away from 0
    model.eval()
    expected = model(x)
    fused = fuse_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fused.modules())
    assert torch.allclose(fused(x), expected, atol=1e-5) and not any(p.requires_grad for p in fused.parameters())
