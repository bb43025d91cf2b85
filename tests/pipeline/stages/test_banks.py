import errno
import fcntl
import json
import os
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from lungadv.banks.recipes import COLUMNS
from lungadv.banks.shards import lock
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages import banks as stages_banks
from lungadv.pipeline.stages.banks import READ, build, check_stored, make_shards, search_context, shard_folder
from lungadv.pipeline.stages.fpr import read_bank
from lungadv.settings import load_settings
from lungadv.utils.errors import InputError


def context_of(counts):
    """A stand-in for a SearchContext: so many searches of each kind."""

    class Context:
        device = torch.device("cpu")
        items = {kind: range(count) for kind, count in counts.items()}

    return Context()


@pytest.fixture
def stage(run, tmp_path, monkeypatch):
    """A run whose banks are built from two shards of each kind, in bank-shards/key, that hold a row each."""

    @contextmanager
    def writing(run, stage):
        (tmp_path / stage).mkdir()
        yield tmp_path / stage

    def make_missing_shards(context, folder, new_generator):
        folder.mkdir(parents=True, exist_ok=True)
        for kind in COLUMNS:
            for number in range(2):
                numbers = {"item": [number], "confidence_before": [0.2], "confidence_after": [0.8]}
                names = [f"{kind}-random", f"{kind}-pgd"] if kind == "synthetic" else [kind]
                table = pa.concat_tables([pa.table({**numbers, "bank": [name]}) for name in names])
                omitted = {name: {"redrawn": 0, "under_6mm": 0, "changed": 0} for name in names}
                table = table.replace_schema_metadata({"left_out": json.dumps(omitted)})
                pq.write_table(table, folder / f"{kind}-{number:06d}.parquet")

    class Run:
        data = "phantom"
        settings = load_settings("tiny")

        def path(self, *names):
            return tmp_path.joinpath(*names)

    monkeypatch.setattr(stages_banks, "stage_output", writing)
    monkeypatch.setattr(stages_banks, "make_missing_shards", make_missing_shards)
    monkeypatch.setattr(stages_banks, "write_fusion", lambda run, folder: None)
    monkeypatch.setattr(stages_banks, "search_context", lambda run: context_of(dict.fromkeys(COLUMNS, 2)))
    monkeypatch.setattr(stages_banks, "shard_folder", lambda run: tmp_path / "bank-shards" / "key")
    return Run()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[a-z]*.parquet")}


def test_building_removes_old_shards_but_none_that_another_job_is_at(stage, tmp_path):
    busy, old = (tmp_path / "bank-shards" / name for name in ("busy", "old"))
    for folder in (busy, old):
        folder.mkdir(parents=True)
        (folder / "noise-000000.parquet").write_bytes(b"x")
    (tmp_path / "bank-shards" / ".DS_Store").write_text("stray")
    with lock(busy, shared=True, wait=True):
        build(stage)
    assert busy.exists() and not old.exists() and (tmp_path / "bank-shards" / ".DS_Store").exists()


def test_counts_are_of_the_files_that_are_gathered(stage, tmp_path):
    build(stage)
    counts = pd.read_csv(tmp_path / "banks" / "counts.csv")
    assert (counts["drawn"] == counts["stored"] + counts["under_6mm"] + counts["changed"]).all() and (counts["drawn"] == 2).all()
    assert (counts["positive_before"] == 0).all() and (counts["positive_after"] == 2).all()


def test_building_copies_where_files_cannot_be_linked(stage, tmp_path, monkeypatch):
    def refused(*given):
        raise OSError(errno.EXDEV, "not on this file system")

    monkeypatch.setattr(os, "link", refused)
    build(stage)
    assert contents(tmp_path / "banks") == contents(tmp_path / "bank-shards" / "key") and len(contents(tmp_path / "banks")) == 6


def test_the_threads_are_those_of_the_stage_while_shards_are_made(stage, run, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(stages_banks, "make_missing_shards", lambda *given: seen.append(torch.get_num_threads()))
    make_shards(stage)
    assert seen == [STAGES["banks"].threads] and torch.get_num_threads() == before


def test_shards_outlive_a_rerun_to_the_same_files_and_no_other(run):
    for stage, names in READ.items():
        run.path(stage).mkdir(parents=True)
        for name in (*names, "provenance.json"):
            run.path(stage, name).write_text(name)
    first = shard_folder(run)
    for stage in READ:
        run.path(stage, "provenance.json").write_text(json.dumps({"wall_seconds": 3.4}))
    assert shard_folder(run) == first
    run.path("patches", "train.safetensors").write_text("others")
    assert shard_folder(run) != first


def test_an_empty_bank_is_an_input_error():
    counts = pd.DataFrame({"bank": ["synthetic-pgd"], "drawn": [4], "stored": [0], "under_6mm": [4]})
    with pytest.raises(InputError, match="no synthetic nodule reaches 6 mm"):
        check_stored(counts)
    with pytest.raises(InputError, match="bank synthetic-pgd: no rebuilt patch is judged as the searched one"):
        check_stored(counts.assign(under_6mm=0))
    check_stored(counts.assign(stored=1))


def test_more_backgrounds_than_are_cut_are_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    greedy = open_run("tiny", banks={"backgrounds": 9}, fpr={"backgrounds": 4})
    with pytest.raises(InputError, match=r"banks.backgrounds 9 is above fpr.backgrounds 4"):
        search_context(greedy)


def test_the_first_backgrounds_of_a_scan_are_taken_but_crowded_ones_last(tmp_path, monkeypatch):
    """A patch's HU is that of its whole middle: soft tissue far from any wall is a crowd of vessels."""
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    soft = {"a": [0, 1, 0, 0], "b": [1, 1, 0, 1]}  # of scan a the second is crowded, of b all but the third
    rows = [{"seriesuid": uid, "kind": "background", "depth_mm": 16.0} for uid in soft for _ in soft[uid]]
    table = pd.DataFrame(rows).assign(coordX=0.0, coordY=0.0, coordZ=0.0, type="", diameter_mm=np.nan)
    hu = torch.tensor(sum(soft.values(), [])).mul(900).sub(850).to(torch.int16).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 20, 20, 20)
    monkeypatch.setattr(stages_banks, "read_patches", lambda run, dataset: (table, hu))
    for name in ("load_strategy", "load_generator"):
        monkeypatch.setattr(stages_banks, name, lambda *_: torch.nn.Identity())
    items = search_context(open_run("tiny", banks={"backgrounds": 2, "samples": 1})).items["synthetic"]
    assert items["place"].tolist() == [0, 2, 4, 6]


def test_a_bank_that_lacks_a_shard_is_an_input_error(run):
    banks, patches = run.path("banks"), run.path("patches")
    for folder in (banks, patches):
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text("{}")
    pd.DataFrame({"seriesuid": ["1.2"], "kind": ["background"], "label": [0], "type": [""]}).to_csv(patches / "train.csv", index=False)
    save_file({"hu": torch.zeros(1, 1, 20, 20, 20, dtype=torch.int16)}, patches / "train.safetensors")
    for number, count in enumerate((4, 8)):
        columns = {"bank": ["noise"] * count, "seed": range(count), "delta": [bytes(16**3 // 4)] * count, "eps": [0.02] * count}
        pq.write_table(pa.table(columns), banks / f"noise-{number:06d}.parquet")
    pd.DataFrame({"item": range(12), "seriesuid": "1.2", "type": ""}).to_csv(banks / "bank_noise.csv", index=False)
    assert len(read_bank(run, "noise")[1]) == 12
    (banks / "noise-000001.parquet").unlink()
    with pytest.raises(InputError, match="4 recipes of noise, its table 12: a file is missing"):
        read_bank(run, "noise")


def test_on_a_disk_without_locks_the_banks_are_made_and_no_old_shards_removed(stage, tmp_path, monkeypatch):
    def flock(*given):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "bank-shards" / "old").mkdir(parents=True)
    with pytest.warns(UserWarning, match="bank-shards' knows no locks"):
        build(stage)
    assert (tmp_path / "banks" / "counts.csv").exists() and (tmp_path / "bank-shards" / "old").exists()
