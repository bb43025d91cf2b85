import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lungadv import ct, runs
from lungadv.cli import app

MARKS = "seriesuid,coordX,coordY,coordZ,probability\nscan,1,0,0,0.9\nscan,90,0,0,0.2\n"
NODULES = "seriesuid,coordX,coordY,coordZ,diameter_mm\nscan,0,0,0,8\n"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result, *words):
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


@pytest.fixture
def tables(tmp_path):
    for name, text in {"marks.csv": MARKS, "nodules.csv": NODULES, "uids.csv": "scan\n"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_command_explains_itself():
    for command in ("reproduce", "phantom", "ingest", "detect", "froc", "claims"):
        assert call(command, "--help").exit_code == 0


def test_help_does_not_import_the_heavy_libraries():
    code = "import sys, lungadv.cli; sys.exit(bool({'torch', 'pandas', 'monai', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("arguments", [["reproduce", "--nonsense"], ["nonsense"], ["detect"], ["reproduce", "--cores", "none"]])
def test_wrong_usage_exits_2(arguments):
    assert call(*arguments).exit_code == 2


def test_the_process_itself_says_one_line_and_exits_1():
    command = [sys.executable, "-m", "lungadv.cli", "reproduce", "--profile", "huge"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: unknown profile 'huge'") and result.stderr.count("\n") == 1


def test_reproduce_checks_its_terms_before_anything_runs():
    assert_one_line(call("reproduce", "--seed", "-1"), "seed")
    assert_one_line(call("reproduce", "--data", "nowhere.csv"), "nowhere.csv")


def test_reproduce_refuses_a_bad_manifest_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path / "runs"))
    (tmp_path / "scans.csv").write_text("seriesuid,path\n1.2,1.2.mhd\n")
    assert_one_line(call("reproduce", "--profile", "tiny", "--data", tmp_path / "scans.csv"), "scans.csv", "no column dataset")
    assert not (tmp_path / "runs").exists()


def test_reproduce_outside_a_clone_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "site-packages" / "lungadv" / "runs.py"))
    assert_one_line(call("reproduce"), "git clone", "make reproduce")


def test_detect_names_a_scan_that_is_not_there_and_writes_nothing(tmp_path):
    out = tmp_path / "findings.csv"
    assert_one_line(call("detect", tmp_path / "none.mhd", "--out", out, "--weights", tmp_path), "none.mhd")
    assert_one_line(call("detect", tmp_path / "none.mhd", "--out", tmp_path / "missing" / "findings.csv"), "missing")
    assert list(tmp_path.iterdir()) == []


def test_detect_names_a_folder_without_weights(tmp_path):
    scan = tmp_path / "scan.mhd"
    ct.write_scan(ct.Scan(np.full((9, 9, 9), -900, np.int16), (2.0,) * 3, (0.0,) * 3, np.eye(3), "1"), scan)
    assert_one_line(call("detect", scan, "--out", tmp_path / "findings.csv", "--weights", tmp_path), f"{tmp_path} holds no weights")


def test_claims_before_a_run_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    assert_one_line(call("claims", "--seed", "4"), "make reproduce PROFILE=quick SEED=4")


def test_claims_prints_the_ledger(run):
    folder = run.path("claims")
    folder.mkdir(parents=True)
    ledger = {"id": "T1", "claim": "Two moons part.", "measured": "0.99", "interval": "0.98 to 1.00", "seeds": "1", "verdict": "reproduced"}
    pd.DataFrame([ledger]).to_csv(folder / "claims.csv", index=False)
    result = call("claims", "--profile", "tiny")
    assert result.exit_code == 0
    assert "T1" in result.stdout and "0.98 to 1.00" in result.stdout and "1 reproduced" in result.stdout


def test_froc_scores_and_writes_json(tables):
    out = tables / "froc.json"
    result = call("froc", tables / "marks.csv", "--annotations", tables / "nodules.csv", "--seriesuids", tables / "uids.csv", "--json", out)
    assert result.exit_code == 0, result.output
    scored = pd.read_json(out, typ="series")
    assert scored.cpm == 1.0 and scored.sensitivity["0.125"] == 1.0


def test_froc_names_the_missing_column(tables):
    (tables / "marks.csv").write_text(MARKS.replace("probability", "score"))
    assert_one_line(
        call("froc", tables / "marks.csv", "--annotations", tables / "nodules.csv", "--seriesuids", tables / "uids.csv"), "probability"
    )


def test_froc_of_no_mark_is_zero(tables):
    (tables / "marks.csv").write_text(MARKS.splitlines()[0] + "\n")
    result = call("froc", tables / "marks.csv", "--annotations", tables / "nodules.csv", "--seriesuids", tables / "uids.csv")
    assert result.exit_code == 0 and "CPM         0.000" in result.stdout


def test_what_cannot_be_written_is_one_line(tables):
    terms = ["froc", tables / "marks.csv", "--annotations", tables / "nodules.csv", "--seriesuids", tables / "uids.csv"]
    assert_one_line(call(*terms, "--json", tables), str(tables))


def test_phantom_writes_scans_and_refuses_an_old_folder(tmp_path):
    out = tmp_path / "scans"
    assert_one_line(call("phantom", out, "--dose", "enormous"), "enormous")
    assert not out.exists()
    out.mkdir()
    assert_one_line(call("phantom", out), "exists")
