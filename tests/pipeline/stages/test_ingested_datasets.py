"""The stage `datasets` on a manifest that was ingested."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungadv.data.dataset import DATASETS, left_out
from lungadv.data.io.write import write_scan
from lungadv.data.manifest import companion
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages.datasets import build, load
from lungadv.pipeline.steps import manifest_files
from tests.data.ingest.folders import HEADER, luna16, report_of, scan_of, take


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "manifest.csv"


def test_luna16_folds_are_data_sets_and_the_stage_runs_on_them(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 20)
    (src / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.3,-5,-5,-290,-1\n1.2.3,-5,-5,290,-1\n")
    found = take(src, "luna16", out)
    assert (found["taken"], found["refused"], found["nodules"], found["by_type"]) == (20, 0, 20, {"unspecified": 20})
    table = pd.read_csv(out, dtype=str)
    assert table["fold"].astype(int).tolist() == [int(uid.split(".")[2]) % 10 for uid in table["seriesuid"]]
    assert [table["dataset"].eq(name).sum() for name in DATASETS] == [14, 2, 2, 2]
    first = table.iloc[0]
    assert first["shape"] == "20 30 30" and first["spacing"] == "1.0 1.0 2.0" and Path(first["path"]).parts[0] == "subset0"
    left = report_of(out).query("status == 'left out'")
    assert left["path"].tolist() == ["annotations_excluded.csv"] and "line 3: lies outside" in left["reason"].iloc[0]

    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    run = open_run("tiny", 0, str(out))
    build(run)
    data = load(run)
    assert (data.scan("1.2.7").hu == scan_of("1.2.7", 7).hu).all() and len(data.excluded) == 1
    counted = pd.read_csv(run.path("datasets", "table1.csv")).query("source == 'this run'").set_index("benchmark")
    assert counted["images"].tolist() == [2, 2] and counted["total_nodules_ge_6mm"].tolist() == [2, 2] and counted["solid"].sum() == 0
    labels = data.labels("1.2.7")  # a ball of 8 mm
    assert labels.sum() * 2 == pytest.approx(np.pi / 6 * 8**3, rel=0.2)
    said = " ".join(left_out(data))
    for part in ("for 20 of 20 nodules", "Outlines are missing for 20 of 20 scans", "No mimics", "Lungs are missing for 20"):
        assert part in said and any(part in sentence for sentence in found["left_out"])


def test_a_change_of_root_makes_the_pipeline_read_the_data_again(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 20)
    take(src, "luna16", out)
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    run = open_run("tiny", 0, str(out))
    assert str(companion(out)) in manifest_files(run)
    build(run)
    assert (load(run).scan("1.2.0").hu == scan_of("1.2.0", 0).hu).all()
    shutil.copytree(src, tmp_path / "moved")
    write_scan(scan_of("1.2.0", 77), tmp_path / "moved" / "subset0" / "1.2.0.mhd")
    shutil.rmtree(out.parent)
    take(tmp_path / "moved", "luna16", out)
    build(run)
    assert (load(run).scan("1.2.0").hu == scan_of("1.2.0", 77).hu).all()
