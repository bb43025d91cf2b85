import numpy as np
import pandas as pd
import pytest
import torch

from lungadv.data.masks import soft_mask
from lungadv.models.conditioning import draw_conditioned
from lungadv.pipeline.graph import STAGES, Stage
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages import synthesizer as stages_synthesizer
from lungadv.pipeline.stages.synthesizer import build, conditioned_settings, load_conditioned_generator, load_cutouts, load_generator
from lungadv.settings import load_settings

TABLE = pd.DataFrame({"seriesuid": "1.2", "diameter_mm": 10.0, "type": np.resize(["solid", "ground_glass"], 24), "spiculated": False})


def pairs(count=24):
    """Balls of 8 to 15 mm and growing brightness, at 16 voxels of 2.5 mm."""
    distance = np.linalg.norm((np.indices((16,) * 3) - 7.5) * 2.5, axis=0)
    masks = torch.from_numpy(np.stack([soft_mask(distance < 4 + k % 8 / 2, 2.5, 5.0) for k in range(count)])).unsqueeze(1)
    return masks * torch.linspace(0.3, 1, count).reshape(-1, 1, 1, 1, 1), masks


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A run of a few updates, and the data sets that its stage cuts nodules out of."""
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    few = {"updates": 5}
    run, datasets = open_run("tiny", 100, synthesizer=few, conditioned_synthesizer=few), []
    monkeypatch.setitem(STAGES, "synthesizer", Stage("lungadv.pipeline.stages.synthesizer", 1))
    monkeypatch.setattr(stages_synthesizer, "load", lambda run: None)
    monkeypatch.setattr(stages_synthesizer, "cut_out_dataset", lambda data, name, *patch: datasets.append(name) or (*pairs(), TABLE))
    build(run)
    return run, datasets


def test_a_built_synthesizer_loads_as_it_was(built):
    run, datasets = built
    generator, again = load_generator(run), load_generator(run)
    z = torch.randn(2, generator.latent_size)
    assert torch.equal(generator(z)[0], again(z)[0]) and generator(z)[1].shape == (2, 1, 16, 16, 16)
    nodules, masks, stored = load_cutouts(run)
    assert datasets == ["train", "validation"]
    assert stored["seriesuid"].tolist() == ["1.2"] * 24 and torch.allclose(masks, pairs()[1], atol=1e-3)


def test_the_tables_of_a_built_synthesizer(built):
    run, _ = built
    table = {
        name: pd.read_csv(run.path("synthesizer", f"{name}.csv")) for name in ("quality", "spectrum", "training", "training_conditioned")
    }
    quality = table["quality"].set_index("group")
    assert quality.index.tolist() == ["held-out", "training", "rebuilt", "sampled", "sampled, 6 mm and up"]
    assert quality.loc["training", "precision"] == quality.loc["training", "recall"] == 1
    assert table["spectrum"]["waves"].tolist() == list(range(1, 9))
    assert table["training"].columns.tolist() == ["step", "reconstruction", "kl", "critic", "penalty"] and len(table["training"]) == 5
    assert "size" in table["training_conditioned"]


def test_a_built_conditioned_generator_draws_to_order(built):
    run, _ = built
    made, count = pd.read_csv(run.path("synthesizer", "conditioned.csv")), run.settings.conditioned_synthesizer.requested_sizes
    assert len(made) == 5 * count and made["spiculated"].sum() == count
    generator = load_conditioned_generator(run)
    once, twice = (draw_conditioned(generator, made, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once[0], twice[0]) and once[1].shape == (len(made), 1, 16, 16, 16)


def test_the_conditioned_synthesizer_has_settings_of_its_own_and_shares_the_rest():
    settings = load_settings("quick")
    merged, shared, own = conditioned_settings(settings), settings.synthesizer, settings.conditioned_synthesizer
    assert (merged.updates, merged.critic_every, merged.kl_weight) == (own.updates, own.critic_every, own.kl_weight)
    assert merged.critic_weight == own.critic_weight != shared.critic_weight
    assert (merged.width, merged.batch_size, merged.size_weight) == (shared.width, shared.batch_size, shared.size_weight)
