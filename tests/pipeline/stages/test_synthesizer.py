import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import soft_mask
from lungadv.evaluation.synthesis import measure
from lungadv.models.conditioning import draw_conditioned
from lungadv.pipeline.graph import STAGES, Stage
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages import synthesizer as stages_synthesizer
from lungadv.pipeline.stages.synthesizer import build, load_cutouts, load_generator, load_networks
from lungadv.utils.errors import InputError

TABLE = pd.DataFrame({"seriesuid": "1.2", "diameter_mm": 10.0, "type": np.resize(["solid", "ground_glass"], 24), "spiculated": False})


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    distance = np.linalg.norm((np.indices((16,) * 3) - 7.5) * 2.5, axis=0)
    masks = torch.from_numpy(np.stack([soft_mask(distance < 4 + k % 8 / 2, 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """The function (updates) -> a run, and the data sets that its stage cuts nodules out of."""
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    monkeypatch.setitem(STAGES, "synthesizer", Stage("lungadv.pipeline.stages.synthesizer", 1))
    monkeypatch.setattr(stages_synthesizer, "load", lambda run: None)
    datasets = []
    monkeypatch.setattr(stages_synthesizer, "cut_out_dataset", lambda data, name, *patch: datasets.append(name) or (*pairs(), TABLE))
    return lambda updates: (open_run("tiny", 100, synthesizer={"updates": updates}), datasets)


@pytest.fixture
def built(make_run, monkeypatch):
    """A run of a few updates, whatever it has learned, and the data sets."""
    monkeypatch.setattr(stages_synthesizer, "COLLAPSED", 0)
    run, datasets = make_run(6)
    build(run)
    return run, datasets


def test_a_built_synthesizer_loads_as_it_was(built):
    run, datasets = built
    generator, again = load_generator(run), load_generator(run)
    z = generator.draw(2, torch.Generator().manual_seed(0))
    assert torch.equal(generator(z)[0], again(z)[0]) and generator(z)[1].shape == (2, 1, 16, 16, 16)
    assert generator.prior.traits.sum(0).tolist() == [12, 0, 0, 12, 0] and generator.sigma[[0, 2]].min() > 0
    assert [type(network).__name__ for network in load_networks(run)] == ["Encoder", "Generator", "Critic"]
    nodules, masks, stored = load_cutouts(run)
    assert datasets == ["train", "validation"]
    assert stored["seriesuid"].tolist() == ["1.2"] * 24 and torch.allclose(masks, pairs()[1], atol=1e-3)


def test_the_tables_of_a_built_synthesizer(built):
    run, _ = built
    table = {name: pd.read_csv(run.path("synthesizer", f"{name}.csv")) for name in ("quality", "spectrum", "training", "gates")}
    quality = table["quality"].set_index("group")
    assert quality.index.tolist() == ["held-out", "training", "rebuilt", "sampled", "sampled, 6 mm and up"]
    assert quality.loc["training", "precision"] == quality.loc["training", "recall"] == 1
    assert table["spectrum"]["waves"].tolist() == list(range(1, 9))
    assert table["training"].columns.tolist() == ["step", "distance", "appearance", "rim", "tone", "size", "kl", "critic", "penalty"]
    gates = table["gates"]
    assert gates.columns.tolist() == ["gate", "measured", "training", "noise", "bound", "passed", "critic"]
    without, with_critic = (gates[gates["critic"] == name]["gate"].tolist() for name in ("without", "with"))
    assert without == with_critic and "Dice of rebuilt nodules" in without


def test_a_built_generator_draws_to_order(built):
    run, _ = built
    made, count = pd.read_csv(run.path("synthesizer", "requested.csv")), run.settings.synthesizer.requested_sizes
    assert made["type"].tolist() == ["solid"] * count + ["ground_glass"] * count
    real = measure(*pairs(), 2.5).groupby(TABLE["type"])["mean_hu"].median()
    assert made.groupby("type")["training_hu"].first().to_dict() == pytest.approx(real.to_dict())
    generator = load_generator(run)
    once, twice = (draw_conditioned(generator, made, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once[0], twice[0]) and once[1].shape == (len(made), 1, 16, 16, 16)


def test_a_collapsed_synthesizer_is_an_input_error(make_run, monkeypatch):
    monkeypatch.setattr(stages_synthesizer, "active_numbers", lambda mean, log_variance: 3)
    run, _ = make_run(1)
    said = "the synthesizer has collapsed, 3 numbers of its code say anything: raise synthesizer.updates; or go on as it is with --allow"
    with pytest.raises(InputError, match=said):
        build(run)
    assert not run.path("synthesizer").exists()
