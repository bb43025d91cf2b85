"""Networks that answer together: the mean of what each says, stored and loaded as one."""

import json

import pytest
import torch

from lungadv.models.dense_unet import new_network, predict
from lungadv.models.ensemble import Ensemble, members_of
from lungadv.training.checkpoint import load_network, save_network
from lungadv.utils.errors import InputError


def networks(count, output="evidence", width=4):
    torch.manual_seed(0)
    return [new_network(output, width).eval().requires_grad_(False) for _ in range(count)]


@pytest.mark.parametrize("output", ["evidence", "logits"])
def test_an_ensemble_is_stored_and_answers_the_mean_of_its_members(output, tmp_path):
    members, x = networks(3, output), torch.rand(5, 1, 16, 16, 16)
    save_network(Ensemble(members), tmp_path)
    again = load_network(tmp_path)
    torch.testing.assert_close(again(x), sum(member(x) for member in members) / 3)
    assert again.output == output and not again.training and not any(p.requires_grad for p in again.parameters())
    assert len(members_of(again)) == 3 and len(members_of(members[0])) == 1


def test_evidence_for_and_against_adds_up_to_the_probability_of_the_mean():
    members, x = networks(2), torch.rand(5, 1, 16, 16, 16)
    mean = sum(member(x) for member in members) / 2
    torch.testing.assert_close(predict(Ensemble(members), x)[0], (mean[:, 0] + 1) / (mean.sum(dim=1) + 2))


def test_one_network_or_two_kinds_make_no_ensemble():
    for members in (networks(1), [*networks(1), *networks(1, "logits")], [*networks(1), *networks(1, width=8)]):
        with pytest.raises(ValueError, match="make no ensemble"):
            Ensemble(members)


@pytest.mark.parametrize("members", [0, 17, 10**9, "3", True])
def test_a_number_of_members_that_no_file_can_hold_is_refused(members, tmp_path):
    save_network(networks(1)[0], tmp_path)
    facts = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps(facts | {"members": members}))
    with pytest.raises(InputError, match="not of a network that this reads"):
        load_network(tmp_path)
