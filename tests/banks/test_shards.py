import errno
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lungadv.attacks.pgd import Attack
from lungadv.banks import search, shards
from lungadv.banks.recipes import COLUMNS, quantize_delta
from lungadv.banks.search import confidences
from lungadv.banks.shards import is_valid_shard, make_missing_shards, omitted_counts, read_recipes, shard_files, summarise
from lungadv.data.noise import noise_patches
from lungadv.training.augment import center_crop
from lungadv.training.strategies import BANKS
from lungadv.utils.errors import InputError

SIZE = 16


def write_shards(make_shard, context, folder, kinds=tuple(COLUMNS)):
    """All shards of these kinds in `folder`."""
    for kind in kinds:
        for number in range(2):
            pq.write_table(make_shard(context, kind, number), folder / f"{kind}-{number}.parquet")


def search_keeps_the_start(loss, synthesizer, backgrounds, codes, *given):
    """A latent search that finds nothing."""
    return Attack(codes, *torch.zeros(3, len(codes)), 1)


def test_small_nodules_are_left_out_of_the_banks(context, make_shard, monkeypatch):
    small = torch.tensor([[0.5, 0.0], [-1.9, 0.0]])
    monkeypatch.setattr(shards, "BATCH", 8)
    monkeypatch.setattr(search, "draw_latents", lambda net, count, *given: small.repeat(5, 1)[:count])
    monkeypatch.setattr(search, "search_latent", search_keeps_the_start)
    shard = make_shard(context, "synthetic", 0)
    table = shard.to_pandas()
    for name in BANKS[:2]:
        assert table["item"][table["bank"] == name].tolist() == [0, 2, 4, 6]
        assert omitted_counts(shard.schema)[name] == {"redrawn": 0, "under_6mm": 4, "changed": 0}
    assert (table["diameter_mm"] >= 6).all()


def test_a_synthesizer_of_specks_is_an_input_error(make_context, make_shard, ball):
    class Speck(ball):
        def forward(self, z):
            nodule, mask = super().forward(z)
            return nodule * 0, mask * 0

    with pytest.raises(InputError, match="no synthetic nodule reaches 6 mm"):
        make_shard(make_context(synthesizer=Speck()), "synthetic", 0)


def test_what_a_file_holds_rebuilds_the_patches_that_the_network_was_shown(context, make_shard, tmp_path):
    write_shards(make_shard, context, tmp_path)
    for name in BANKS:
        kind = name.split("-")[0]
        bank = context.load_bank(kind, read_recipes(tmp_path, kind, COLUMNS[kind], name))
        shown = pd.concat([pq.read_table(path).to_pandas() for path in shard_files(tmp_path, kind)])
        shown = shown[shown["bank"] == name]
        assert len(bank) == len(shown) == 12
        patches = center_crop(bank[torch.arange(12)], SIZE)
        assert patches.min() >= 0 and patches.max() <= 1
        confidence = confidences(context.network, patches)
        assert np.allclose(confidence, shown["confidence_after"], atol=1e-6)
        assert ((confidence > 0.5) == (shown["confidence_searched"] > 0.5)).all()
        some = torch.tensor([7, 2])
        assert torch.allclose(center_crop(bank[some], SIZE), patches[some], atol=1e-6)
        if kind != "synthetic":
            assert (patches - bank.start(torch.arange(12))).abs().max() <= context.settings.attack.radius(kind) + 1e-6
            assert ((confidence < shown["confidence_before"]) == (kind == "perturbed")).all()


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_shards
test_shards.fill_in_a_child(Path({folder!r}), {die})
"""


def fill_in_a_child(folder, die):
    """Fill `folder` with the shards of toys; with `die`, be killed halfway through writing the third."""
    import conftest

    torch.set_num_threads(1)
    conftest.on_cpu_in_small_shards(setattr)
    write, count = pq.write_table, []

    def interrupted(table, path, **options):
        count.append(path)
        write(table, path, **options)
        if len(count) == 3:
            path.write_bytes(path.read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)

    if die:
        pq.write_table = interrupted
    make_missing_shards(conftest.new_context(), folder, conftest.new_generator)


def start(folder, die=False):
    code = CHILD.format(here=str(Path(__file__).parent), folder=str(folder), die=die)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, encoding="utf-8")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[a-z]*.parquet")}


def test_a_killed_bank_goes_on_to_the_same_bytes_whoever_makes_them(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    first = start(killed, die=True)
    assert first.communicate() and first.returncode == -signal.SIGKILL
    before = contents(killed)
    assert len(before) == 2 and list(killed.glob(".*.parquet"))  # the third is half-written, under another name
    made = {name: (killed / name).stat().st_mtime_ns for name in before}
    jobs = [start(killed), start(killed), start(whole)]  # two share the rest
    for job in jobs:
        assert job.communicate()[1] is not None and job.returncode == 0
    assert len(contents(whole)) == 6 and contents(killed) == contents(whole)
    assert made == {name: (killed / name).stat().st_mtime_ns for name in before}
    assert not list(killed.glob(".*.parquet"))


def test_patches_whose_rebuilt_decision_differs_are_left_out_and_counted(make_context, make_shard, tmp_path, monkeypatch):
    context = make_context()
    context = replace(context, settings=replace(context.settings, attack=replace(context.settings.attack, eps=0.1)))
    whole = make_shard(context, "noise", 0).to_pandas()
    moved = (whole["confidence_before"] > 0.5) != (whole["confidence_searched"] > 0.5)
    assert 0 < moved.sum()
    still = quantize_delta(torch.zeros(1, 1, SIZE, SIZE, SIZE), 0.1)
    monkeypatch.setattr(search, "quantize_delta", lambda delta, *given: still.repeat(len(delta), 1))
    shard = make_shard(context, "noise", 0)
    assert shard["item"].to_pylist() == whole["item"][~moved].tolist()
    assert omitted_counts(shard.schema) == {"noise": {"redrawn": 0, "under_6mm": 0, "changed": moved.sum()}}
    pq.write_table(shard, tmp_path / "noise-0.parquet")
    counts = summarise(tmp_path).set_index("bank").loc["noise"]
    assert counts["changed"] == moved.sum() and counts["stored"] == 8 - moved.sum()
    assert is_valid_shard(tmp_path / "noise-0.parquet", 8) and not is_valid_shard(tmp_path / "noise-0.parquet", 9)


def test_draws_of_small_nodules_are_counted(make_context, make_shard, ball, tmp_path):
    class Smaller(ball):
        def forward(self, z):
            return super().forward(z - torch.tensor([1.0, 0.0]))

    write_shards(make_shard, make_context(synthesizer=Smaller()), tmp_path, ["synthetic"])
    counts = summarise(tmp_path).set_index("bank").loc[list(BANKS[:2])]
    tables = [pd.read_csv(tmp_path / f"bank_{name}.csv") for name in BANKS[:2]]
    assert counts["redrawn"].tolist() == [table["redraws"].sum() for table in tables] and counts["redrawn"].min() > 0
    assert (counts["stored"] + counts["under_6mm"] + counts["changed"] == 12).all()


def test_a_short_shard_may_be_without_a_large_nodule(context, make_shard, tmp_path, monkeypatch):
    small = torch.tensor([[-1.9, 0.0]])
    monkeypatch.setattr(search, "draw_latents", lambda net, count, *given: small.repeat(count, 1))
    monkeypatch.setattr(search, "search_latent", search_keeps_the_start)
    with pytest.raises(InputError, match="no synthetic nodule reaches 6 mm"):
        make_shard(context, "synthetic", 0)
    shard = make_shard(context, "synthetic", 1)  # of four searches
    assert len(shard) == 0
    pq.write_table(shard, tmp_path / "synthetic-1.parquet")
    assert is_valid_shard(tmp_path / "synthetic-1.parquet", 4)
    assert read_recipes(tmp_path, "synthetic", COLUMNS["synthetic"], "synthetic-pgd") == {}
    counts = summarise(tmp_path).set_index("bank").loc[list(BANKS[:2])]
    assert (counts["under_6mm"] == 4).all() and (counts["stored"] == 0).all()


def test_an_answer_that_is_no_number_names_shard_and_item(make_context, make_shard, shard_generator, detector):
    class Broken(detector):
        def forward(self, shown):
            out = super().forward(shown)
            return torch.where((shown[:, 0, 0, 0, 0] > 0.9)[:, None], torch.nan, out)

    first = noise_patches(torch.randint(2**63 - 1, (5,), generator=shard_generator("noise", 0)), SIZE)[:, 0, 0, 0, 0]
    wrong = (first > 0.9).nonzero().flatten().tolist()
    assert wrong
    context = make_context(network=Broken())
    context = replace(context, settings=replace(context.settings, attack=replace(context.settings.attack, eps=1e-6)))
    with pytest.raises(InputError, match=rf"noise shard 0, item {wrong[0]}: the answer of baseline"):
        make_shard(context, "noise", 0)


def spoil(path, damage):
    """Damage a shard in one of several ways."""
    raw, table = path.read_bytes(), pq.read_table(path).to_pandas()
    if damage == "short":
        return path.write_bytes(raw[:200])
    if damage == "empty":
        return path.write_bytes(b"")
    if damage == "flipped":
        at = pq.read_metadata(path).row_group(0)
        column = next(at.column(k) for k in range(at.num_columns) if at.column(k).path_in_schema == "delta")
        at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2  # data, not a page's head
        return path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
    if damage == "another eps":
        table.loc[1, "eps"] = 0.2
    if damage == "place":
        table.loc[0, "place"] = -1
    if damage == "view":
        table.at[0, "view"] = np.array([0, 0, 0, 48], np.int8)
    if damage == "column":
        table = table.drop(columns="delta")
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)


@pytest.mark.parametrize("damage", ["short", "empty", "flipped", "another eps", "place", "view", "column"])
def test_a_damaged_shard_is_named(context, make_shard, tmp_path, damage):
    for number in range(2):
        path = tmp_path / f"perturbed-{number:06d}.parquet"
        pq.write_table(make_shard(context, "perturbed", number), path, compression="zstd", write_page_checksum=True)
    spoil(path, damage)
    with pytest.raises(InputError, match=r"^\S*perturbed-000001\.parquet.* delete it and make the banks again"):
        read_recipes(tmp_path, "perturbed", COLUMNS["perturbed"], "perturbed")


@pytest.mark.parametrize("damage", ["short", "empty", "flipped"])
def test_a_damaged_shard_is_made_again_and_no_other(context, shard_generator, tmp_path, damage):
    folder = tmp_path / "key"
    make_missing_shards(context, folder, shard_generator)
    before = contents(folder)
    made = {name: (folder / name).stat().st_mtime_ns for name in before}
    spoil(folder / "noise-000001.parquet", damage)
    make_missing_shards(context, folder, shard_generator)
    assert contents(folder) == before
    assert [name for name in before if (folder / name).stat().st_mtime_ns != made[name]] == ["noise-000001.parquet"]


def test_columns_come_back_as_tensors_in_the_order_of_the_files(tmp_path):
    for k in (1, 0):
        columns = {"bank": ["a", "b"], "seed": [k, 9], "code": [[0.5, k], [0, 0]], "delta": [bytes([k, 255]), bytes(2)]}
        pq.write_table(pa.table(columns), tmp_path / f"toy-{k}.parquet")
    again = read_recipes(tmp_path, "toy", ["seed", "code", "delta"], "a")
    assert again["seed"].tolist() == [0, 1] and again["code"].tolist() == [[0.5, 0], [0.5, 1]]
    assert again["delta"].tolist() == [[0, 255], [1, 255]]


MEMORY = """
import resource, sys
from pathlib import Path
from lungadv.banks.recipes import COLUMNS
from lungadv.banks.shards import read_recipes
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
marks = []
for folder in sys.argv[1:]:
    found = read_recipes(Path(folder), "noise", COLUMNS["noise"], "noise")
    del found
    marks.append(peak())
print(*marks)
"""


def test_reading_a_bank_takes_little_more_memory_than_the_bank(tmp_path):
    rng, shard = np.random.default_rng(0), 128
    for name, count in (("small", 4), ("large", 20)):  # 32 and 160 MiB
        (tmp_path / name).mkdir()
        for k in range(count):
            columns = {"bank": ["noise"] * shard, "seed": range(shard), "eps": [0.02] * shard}
            columns["delta"] = [rng.bytes(65536) for _ in range(shard)]
            pq.write_table(pa.table(columns), tmp_path / name / f"noise-{k:06d}.parquet")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "large")]
    small, large = map(float, subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split())
    assert large - small < 1.4 * 128


def test_on_a_disk_without_locks_shards_are_made_and_what_another_job_writes_is_left(context, shard_generator, tmp_path, monkeypatch):
    def flock(*given):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = tmp_path / "key"
    folder.mkdir()
    others = folder / ".99999.noise-000000.parquet"
    others.write_bytes(b"half")
    with pytest.warns(UserWarning, match="key' knows no locks"):
        make_missing_shards(context, folder, shard_generator)
    assert len(contents(folder)) == 6 and others.exists()
