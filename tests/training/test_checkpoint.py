"""Saved networks come back as they were."""

import json

import pytest
import torch

from lungadv.models.dense_unet import new_network
from lungadv.training.checkpoint import load_network, save_network
from lungadv.utils.errors import InputError


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_stored_networks_answer_as_before(output, tmp_path):
    torch.manual_seed(0)
    model, x = new_network(output, 4).eval(), torch.rand(5, 1, 16, 16, 16)
    with torch.no_grad():
        model.unet.stem[1].running_mean += 0.1
    save_network(model, tmp_path)
    again = load_network(tmp_path)
    assert again.output == output and not again.training and not any(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_missing_weights_are_an_input_error(tmp_path):
    (tmp_path / "network.json").write_text(json.dumps({"output": "logits", "width": 4}))
    with pytest.raises(InputError, match="weights.safetensors is missing"):
        load_network(tmp_path)
