import os

import pytest
import torch

from lungadv.pipeline.runs import open_run
from lungadv.utils.errors import InputError


@pytest.mark.parametrize("seed", [-1, 0.5, "0"])
def test_bad_seed(seed):
    with pytest.raises(InputError, match="seed"):
        open_run("tiny", seed)


def test_unknown_settings_are_no_silent_override():
    with pytest.raises(InputError, match="attack_epsilon"):
        open_run("tiny", attack_epsilon={"eps": 0.1})


def test_missing_manifest():
    with pytest.raises(InputError, match="nowhere.csv"):
        open_run("tiny", 0, "nowhere.csv")


def test_runs_of_other_terms_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    folders = {open_run(profile, seed).folder for profile in ("tiny", "quick") for seed in (0, 1)}
    assert len(folders) == 4 and all(folder.parent == tmp_path for folder in folders)


def test_manifests_of_one_name_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    for name in ("a/scans.csv", "b/scans.csv", "phantom"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [open_run("quick", 0, str(tmp_path / name)).folder for name in ("a/scans.csv", "b/scans.csv", "phantom")]
    assert len({*folders, open_run("quick", 0).folder}) == 4
    assert open_run("quick", 0, str(tmp_path / "b" / ".." / "a" / "scans.csv")).folder == folders[0]
    assert folders[0].name.startswith("scans-") and open_run("quick", 0).folder.name == "phantom-quick-0"


def test_draws_depend_on_their_name_and_not_on_their_order(run):
    first = [run.rng("stage", item).random() for item in ("a", "b")]
    second = [run.rng("stage", item).random() for item in ("b", "a")]
    assert first == second[::-1]
    assert first[0] != first[1]
    assert run.rng("stage", "a").random() != open_run("tiny", 1).rng("stage", "a").random()
    draws = [torch.rand(3, generator=run.generator("stage", 7)) for _ in range(2)]
    assert torch.equal(*draws)


def test_a_manifest_whose_name_is_no_text_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    manifest = tmp_path / os.fsdecode(b"M\xfcller.csv")
    manifest.touch()
    with pytest.raises(InputError, match=r"manifest '.*M\\xfcller.csv': its name is not UTF-8 text: rename it"):
        open_run("tiny", 0, str(manifest))
