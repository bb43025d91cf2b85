import json

import pytest
import torch

from lungadv import runs


def test_unknown_profile_names_the_choices():
    with pytest.raises(runs.InputError, match="'huge'.*tiny, quick, full"):
        runs.open_run("huge")


def test_unknown_setting_is_no_silent_override():
    with pytest.raises(runs.InputError, match="attack_epsilon"):
        runs.open_run("tiny", attack_epsilon=0.1)


@pytest.mark.parametrize("seed", [-1, 0.5, "0"])
def test_bad_seed(seed):
    with pytest.raises(runs.InputError, match="seed"):
        runs.open_run("tiny", seed)


def test_missing_manifest():
    with pytest.raises(runs.InputError, match="nowhere.csv"):
        runs.open_run("tiny", 0, "nowhere.csv")


def test_profiles_share_the_defaults_and_override_them():
    tiny, _, full = (runs.load_settings(profile) for profile in ("tiny", "quick", "full"))  # each checks its keys against [DEFAULT]
    assert tiny.attack_eps == full.attack_eps == 0.02
    assert tiny.patch_size < full.patch_size == 64


def test_runs_of_other_terms_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    folders = {runs.open_run(profile, seed).folder for profile in ("tiny", "quick") for seed in (0, 1)}
    assert len(folders) == 4 and all(folder.parent == tmp_path for folder in folders)


def test_manifests_of_one_name_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    for name in ("a/scans.csv", "b/scans.csv", "phantom"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [runs.open_run("quick", 0, str(tmp_path / name)).folder for name in ("a/scans.csv", "b/scans.csv", "phantom")]
    assert len({*folders, runs.open_run("quick", 0).folder}) == 4
    assert runs.open_run("quick", 0, str(tmp_path / "b" / ".." / "a" / "scans.csv")).folder == folders[0]
    assert folders[0].name.startswith("scans-") and runs.open_run("quick", 0).folder.name == "phantom-quick-0"


def test_a_setting_that_the_defaults_lack_is_named(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nfpr_updates = 1\n[tiny]\n[quick]\nfpr_update = 2\n")
    monkeypatch.chdir(tmp_path)
    assert runs.load_settings("tiny").fpr_updates == 1
    with pytest.raises(runs.InputError, match=r"\[quick\]: 'fpr_update' is not in \[DEFAULT\]"):
        runs.load_settings("quick")


def test_draws_depend_on_their_name_and_not_on_their_order(run):
    first = [run.rng("stage", item).random() for item in ("a", "b")]
    second = [run.rng("stage", item).random() for item in ("b", "a")]
    assert first == second[::-1]
    assert first[0] != first[1]
    assert run.rng("stage", "a").random() != runs.open_run("tiny", 1).rng("stage", "a").random()
    draws = [torch.rand(3, generator=run.generator("stage", 7)) for _ in range(2)]
    assert torch.equal(*draws)


def test_a_stage_is_whole_and_says_who_made_it(run):
    with runs.writing(run, "two_moons") as folder:
        (folder / "numbers.csv").write_text("a\n1\n")
        assert not run.path("two_moons").exists(), "visible before it is whole"
    made = json.loads(run.path("two_moons", "provenance.json").read_text())
    assert made["stage"] == "two_moons" and made["profile"] == "tiny" and made["seed"] == 0
    assert made["settings"]["patch_size"] == run.settings.patch_size
    assert made["outputs"]["numbers.csv"] == runs.sha256(run.path("two_moons", "numbers.csv"))
    assert made["wall_seconds"] >= 0 and made["peak_memory_mib"] > 0 and made["versions"]["torch"]


def test_provenance_is_of_the_start_and_hashes_small_files_alone(run, monkeypatch):
    commit = "before"
    monkeypatch.setattr(runs, "git_state", lambda: {"commit": commit, "dirty": False})
    with runs.writing(run, "two_moons") as folder:
        commit = "after"
        (folder / "small.csv").write_text("a")
        (folder / "voxels.zraw").write_bytes(bytes(2**20))
    made = json.loads(run.path("two_moons", "provenance.json").read_text())
    assert made["commit"] == "before" and list(made["outputs"]) == ["small.csv"]


def test_a_failing_stage_leaves_nothing_and_keeps_the_old_one(run):
    with pytest.raises(RuntimeError), runs.writing(run, "two_moons") as folder:
        (folder / "half.csv").write_text("half")
        raise RuntimeError
    assert list(run.folder.iterdir()) == []

    with runs.writing(run, "two_moons") as folder:
        (folder / "old.csv").write_text("old")
    with pytest.raises(RuntimeError), runs.writing(run, "two_moons") as folder:
        raise RuntimeError
    assert run.path("two_moons", "old.csv").read_text() == "old"
    assert [path.name for path in run.folder.iterdir()] == ["two_moons"]


def test_threads_are_those_of_the_stage_whatever_was_set(run):
    before = torch.get_num_threads()
    with runs.writing(run, "two_moons"):
        assert torch.get_num_threads() == runs.STAGES["two_moons"].threads
    assert torch.get_num_threads() == before


def test_a_missing_stage_is_an_error_in_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    with pytest.raises(runs.InputError, match="datasets is missing: run `make reproduce PROFILE=quick SEED=3`"):
        runs.require(runs.open_run("quick", 3), "datasets")


def test_unknown_stage(run):
    with pytest.raises(runs.InputError, match="unknown stage 'bankz'"):
        runs.build(run, "bankz")


def test_stages_need_only_stages_listed_before_them():
    seen = set()
    for name, stage in runs.STAGES.items():
        assert set(stage.needs) <= seen, name
        seen.add(name)


def test_replacing_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), runs.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
