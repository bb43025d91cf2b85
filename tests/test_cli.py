import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from lungadv.cli import app, one_line_errors
from lungadv.data.io import read
from lungadv.data.io.write import write_scan
from lungadv.data.scan import Scan
from lungadv.utils import files

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
    for command in ("reproduce", "phantom", "ingest", "detect", "export", "froc", "stress", "claims", "report"):
        assert call(command, "--help").exit_code == 0


def test_help_does_not_import_the_heavy_libraries():
    code = "import sys, lungadv.cli; sys.exit(bool({'torch', 'pandas', 'monai', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["reproduce", "--nonsense"],
        ["nonsense"],
        ["detect"],
        ["stress"],
        ["stress", "m:f", "--patches", "p.npz", "--output", "softmax", "--out", "o"],
        ["reproduce", "--cores", "none"],
    ],
)
def test_wrong_usage_exits_2(arguments):
    assert call(*arguments).exit_code == 2


def test_the_process_itself_says_one_line_and_exits_1():
    command = [sys.executable, "-m", "lungadv.cli", "reproduce", "--profile", "huge"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: unknown profile 'huge'") and result.stderr.count("\n") == 1


def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch):
    def read_scan(*given):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(read, "read_scan", read_scan)
    assert_one_line(call("detect", tmp_path / "a.mhd", "--out", tmp_path / "out.csv"), "memory ran out (Unable to allocate 9 GiB): close")


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
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "lungadv" / "utils" / "files.py"))
    assert_one_line(call("reproduce"), "git clone", "make reproduce")


def test_detect_names_a_scan_that_is_not_there_and_writes_nothing(tmp_path):
    out = tmp_path / "findings.csv"
    assert_one_line(call("detect", tmp_path / "none.mhd", "--out", out, "--weights", tmp_path), "none.mhd")
    assert_one_line(call("detect", tmp_path / "none.mhd", "--out", tmp_path / "missing" / "findings.csv"), "missing")
    assert list(tmp_path.iterdir()) == []


def test_detect_overwrites_no_scan_and_none_of_its_outputs(tmp_path):
    scan = tmp_path / "scan.zip"
    scan.write_bytes(b"a scan")
    other, table = tmp_path / "other.zip", tmp_path / "findings.csv"
    other.write_bytes(b"another scan")
    assert_one_line(call("detect", scan, "--out", scan), "scan.zip' is an input")
    assert_one_line(call("detect", scan, "--out", other), "other.zip' is there and is no .csv file")
    assert_one_line(call("detect", scan, "--out", table, "--sheet", other), "no .png file")
    assert_one_line(call("detect", scan, "--out", table, "--markups", other), "no .mrk.json file")
    assert_one_line(call("detect", scan, "--out", table, "--report", other), "no .html file")
    assert_one_line(call("detect", scan, "--out", table, "--json", tmp_path / "." / "findings.csv"), "named twice")
    assert scan.read_bytes() == b"a scan" and other.read_bytes() == b"another scan" and len(list(tmp_path.iterdir())) == 2


def test_detect_finds_before_its_search_what_cannot_be_written(tmp_path):
    common = ("detect", tmp_path / "none.mhd", "--out")
    assert_one_line(call(*common, "/proc/findings.csv"), "'/proc/findings.csv' cannot be written")
    assert_one_line(call(*common, tmp_path), f"'{tmp_path}' is a folder")
    assert_one_line(call(*common, tmp_path / "findings.csv", "--sheet", "/proc/sheet.png"), "'/proc/sheet.png' cannot be written")
    assert_one_line(call(*common, tmp_path / "findings.csv", "--sheet", tmp_path / "sheet.jpg"), "sheet.jpg' does not end in .png")
    assert_one_line(call(*common, tmp_path / "findings.csv", "--markups", tmp_path / "none.mhd"), "none.mhd' is an input")
    assert list(tmp_path.iterdir()) == []


def test_detect_takes_one_of_several_series(tmp_path, monkeypatch):
    from lungadv.data.io.write import write_series
    from lungadv.data.scan import Scan
    from lungadv.detection import detect
    from lungadv.detection import weights as weights_module

    for uid in ("1.2.1", "1.2.2"):
        scan = Scan(np.full((4, 8, 8), -900, np.int16), (1, 1, 2), (0, 0, 0), np.eye(3), uid)
        write_series(scan, tmp_path / "study" / uid)

    def refuse(scan):
        raise ValueError(f"read {scan.uid}")

    monkeypatch.setattr(weights_module, "load_detector", lambda weights: None)
    monkeypatch.setattr(detect, "find_lungs", refuse)
    common = ("detect", tmp_path / "study", "--out", tmp_path / "findings.csv", "--weights", tmp_path)
    assert_one_line(call(*common), "holds 2 series: 1.2.1", "--series")
    assert_one_line(call(*common, "--series", "1.2.3"), "no series 1.2.3")
    assert "error: read 1.2.2" in call(*common, "--series", "1.2.2").stderr


def test_detect_names_a_folder_without_weights(tmp_path):
    scan = tmp_path / "scan.mhd"
    write_scan(Scan(np.full((9, 9, 9), -900, np.int16), (2.0,) * 3, (0.0,) * 3, np.eye(3), "1"), scan)
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


def froc(tables, *more):
    return call("froc", tables / "marks.csv", "--annotations", tables / "nodules.csv", "--seriesuids", tables / "uids.csv", *more)


def test_froc_accounts_for_every_mark_in_table_and_json(tables):
    (tables / "marks.csv").write_text(MARKS + "scan,60,0,0,0.3\nother,0,0,0,0.9\n")
    (tables / "excluded.csv").write_text(NODULES.splitlines()[0] + "\nscan,60,0,0,-1\nscan,60,0,0,-1\nelsewhere,0,0,0,-1\n")
    result = froc(tables, "--excluded", tables / "excluded.csv", "--json", tables / "froc.json")
    assert result.exit_code == 0 and result.stderr == ""
    for words in ("of 4 marks given 3 marks count", "marks of scans that are not listed 1", "marks on excluded findings 1"):
        assert words in result.stdout
    assert "no excluded findings were given" not in result.stdout and "no excluded findings were given" in froc(tables).stdout
    counts = json.loads((tables / "froc.json").read_text())["counts"]
    assert (counts["unknown_scan"], counts["dropped_on_excluded"], counts["excluded_unknown_scan"]) == (1, 1, 1)


def test_froc_reads_tabs_and_scores_types_and_diameters(tables):
    header, row = NODULES.strip().replace(",", "\t").split("\n")
    (tables / "nodules.csv").write_text(f"{header}\ttype\n{row}\tsolid\nscan\t30\t0\t0\t20\tground_glass\n")
    result = froc(tables, "--json", tables / "froc.json")
    assert "ground_glass" in result.stdout and "20+" in result.stdout
    scored = json.loads((tables / "froc.json").read_text())
    assert {name: part["cpm"] for name, part in scored["by_type"].items()} == {"ground_glass": 0, "solid": 1}
    assert list(scored["by_diameter"]) == ["8-12", "20+"]


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_froc_draws_a_figure(tables, ending):
    assert froc(tables, "--figure", tables / f"froc.{ending}").exit_code == 0
    assert (tables / f"froc.{ending}").stat().st_size > 5000


def test_froc_without_a_nodule_draws_nothing_and_says_so(tables):
    (tables / "nodules.csv").write_text(NODULES.splitlines()[0] + "\n")
    result = froc(tables, "--figure", tables / "froc.png", "--json", tables / "froc.json")
    assert result.exit_code == 0 and "froc.png' is not drawn: without a nodule there is no curve" in result.stderr
    assert not (tables / "froc.png").exists() and json.loads((tables / "froc.json").read_text())["cpm"] is None


def test_froc_warns_of_an_empty_submission_and_of_a_diameter_of_zero(tables):
    (tables / "marks.csv").write_text(MARKS.splitlines()[0] + "\n")
    (tables / "nodules.csv").write_text(NODULES + "scan,50,0,0,0\n")
    result = froc(tables)
    assert result.exit_code == 0 and result.stderr.count("\n") == 2
    assert "warning: there is no mark at all" in result.stderr and "warning: nodules.csv, line 3: diameter_mm is 0" in result.stderr


def test_froc_names_nodules_without_a_type(tables):
    (tables / "nodules.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm,type\nscan,0,0,0,8,solid\nscan,50,0,0,8,\n")
    assert "\nunspecified " in froc(tables).stdout


def test_who_stops_reading_gets_no_error_and_the_files_all_the_same(tables):
    options = ["--annotations", "nodules.csv", "--seriesuids", "uids.csv", "--json", "froc.json"]
    command = [sys.executable, "-m", "lungadv.cli", "froc", "marks.csv", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    reader, writer = os.pipe()
    os.close(reader)  # a pipe that nobody reads
    result = subprocess.run(command, cwd=tables, stdout=writer, stderr=subprocess.PIPE, encoding="utf-8", env=environment)
    os.close(writer)
    assert result.stderr == "" and json.loads((tables / "froc.json").read_text())["cpm"] == 1


def test_groups_leave_out_marks_on_excluded_findings(tables):
    (tables / "excluded.csv").write_text(NODULES.splitlines()[0] + "\nscan,90,0,0,-1\n")
    for more, false in (((), 1), (("--excluded", tables / "excluded.csv"), 0)):
        froc(tables, *more, "--json", tables / "froc.json")
        scored = json.loads((tables / "froc.json").read_text())
        assert scored["counts"]["false_positives"] == scored["by_diameter"]["8-12"]["counts"]["false_positives"] == false


def test_froc_refuses_another_kind_of_figure_before_it_scores(tables):
    result = froc(tables, "--figure", tables / "froc.jpg")
    assert_one_line(result, "neither .png nor .pdf")
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["marks.csv", "nodules.csv", "uids.csv", "excluded.csv"])
def test_froc_overwrites_none_of_its_inputs(tables, name):
    (tables / "excluded.csv").write_text(NODULES.splitlines()[0] + "\n")
    kept = (tables / name).read_bytes()
    result = froc(tables, "--excluded", tables / "excluded.csv", "--json", tables / "." / name)
    assert_one_line(result, f"{name}' is an input")
    assert (tables / name).read_bytes() == kept


def test_froc_checks_its_outputs_before_it_reads(tables):
    (tables / "marks.csv").write_text("no table")
    assert_one_line(froc(tables, "--json", "/proc/froc.json"), "'/proc/froc.json' cannot be written")
    assert_one_line(froc(tables, "--json", tables / "none" / "froc.json"), "none' does not exist")
    (tables / "froc.png").write_bytes(b"a picture")
    assert_one_line(froc(tables, "--json", tables / "froc.png"), "is no .json file")
    assert_one_line(froc(tables, "--json", tables / "a.png", "--figure", tables / "a.png"), "named twice")


def test_froc_warns_of_flipped_axes_in_one_line(tables):
    places = [(40 * k + 5, 33 * k + 7, -21 * k - 90) for k in range(8)]
    (tables / "nodules.csv").write_text(NODULES.splitlines()[0] + "".join(f"\nscan,{x},{y},{z},8" for x, y, z in places))
    (tables / "marks.csv").write_text(MARKS.splitlines()[0] + "".join(f"\nscan,{-x},{-y},{z},0.5" for x, y, z in places))
    result = froc(tables)
    assert result.exit_code == 0 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("warning: the marks hit 0% of the nodules but would hit 100% with x and y negated")


def test_froc_names_a_header_padding_and_candidates(tables):
    (tables / "uids.csv").write_text("seriesuid\nscan\n")
    assert_one_line(froc(tables), "header line")
    (tables / "uids.csv").write_text("056\n")
    for name, text in {"marks.csv": MARKS, "nodules.csv": NODULES}.items():
        (tables / name).write_text(text.replace("scan", "56" if name == "marks.csv" else "056"))
    assert_one_line(froc(tables), "marks.csv, line 2: seriesuid '56'", "'056'", "leading zeros")
    (tables / "marks.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n056,0,0,0,1\n")
    assert_one_line(froc(tables), "marks.csv", "no column probability", "candidates")


@pytest.mark.parametrize("name", ["marks.csv", "nodules.csv", "excluded.csv"])
def test_froc_looks_for_lost_zeros_in_every_row_and_names_file_and_line(tables, name):
    (tables / "uids.csv").write_text("056\n")
    for file, text in {"marks.csv": MARKS, "nodules.csv": NODULES, "excluded.csv": NODULES}.items():
        (tables / file).write_text(text.replace("scan", "056"))
    with (tables / name).open("a") as file:
        file.write("elsewhere,50,0,0,0.9\n56,70,0,0,0.9\n")
    line = len((tables / name).read_text().splitlines())
    assert_one_line(froc(tables, "--excluded", tables / "excluded.csv"), f"{name}, line {line}: seriesuid '56'", "leading zeros")


@pytest.mark.parametrize("listed", ['"scan"\n', "scan,\n", "scan,,\n\n", "scan\t\n", "\ufeffscan\r\n"])
def test_froc_reads_lists_as_spreadsheets_write_them(tables, listed):
    (tables / "uids.csv").write_text(listed, encoding="utf-8")
    result = froc(tables)
    assert result.exit_code == 0 and "CPM         1.000" in result.stdout


@pytest.mark.parametrize("header", ["seriesuid", "seriesuid ", "SeriesInstanceUID", "Series UID", "uid", "series_uid,", '"SeriesUID"'])
def test_froc_takes_no_header_line_for_a_scan(tables, header):
    (tables / "uids.csv").write_text(f"{header}\nscan\n")
    assert_one_line(froc(tables), "uids.csv", "header line")


def test_froc_refuses_a_wrong_list_of_scans(tables):
    (tables / "uids.csv").write_text("other\n")
    ids = "the marks have 'scan', the annotations 'scan', the list 'other'"
    assert_one_line(froc(tables), "no mark and no nodule is of a listed scan", ids)
    (tables / "uids.csv").write_text(NODULES)
    assert_one_line(froc(tables), "uids.csv, line 1 has more than an id")


@pytest.mark.parametrize("name", ["marks.csv", "nodules.csv", "uids.csv"])
def test_froc_says_in_plain_words_how_excel_should_save(tables, name):
    text = (tables / name).read_text()
    (tables / name).write_text("sep=,\n" + text)
    assert_one_line(froc(tables), name, "begins with Excel's line 'sep=,': remove that line")
    (tables / name).write_text(text, encoding="utf-16")
    assert_one_line(froc(tables), name, "it is in UTF-16", "save it as 'CSV UTF-8'")


def test_scoring_does_not_wait_for_torch():
    code = """if True:
        import sys
        from lungadv.data import tables
        from lungadv.evaluation import froc
        from lungadv.pipeline import runs
        sys.exit(bool({"torch", "matplotlib"} & set(sys.modules)))"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_cannot_be_written_is_one_line(tables):
    terms = ["froc", tables / "marks.csv", "--annotations", tables / "nodules.csv", "--seriesuids", tables / "uids.csv"]
    assert_one_line(call(*terms, "--json", tables), str(tables))


def test_phantom_writes_scans_and_refuses_an_old_folder(tmp_path):
    out = tmp_path / "scans"
    assert_one_line(call("phantom", out, "--dose", "enormous"), "enormous")
    assert not out.exists()
    out.mkdir()
    assert_one_line(call("phantom", out), "exists")


def test_phantom_says_how_many_scans_it_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr("lungadv.phantom.dataset.write_phantom", lambda *_: None)
    assert call("phantom", tmp_path / "scans").stdout == f"1 scan and annotations.csv are in {tmp_path / 'scans'}\n"


MODELS = """
import torch

class Mean(torch.nn.Module):
    def forward(self, x):
        assert not self.training
        return 200 * (x.mean(dim=(1, 2, 3, 4)) - 0.5)

class Alone(Mean):
    def forward(self, x):
        if len(x) > 1:
            raise MemoryError("one patch at a time")
        return super().forward(x)

class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > 1:
            raise RuntimeError("no memory for gradients")
        return gradient

def mean(): return Mean().eval()
def training(): return Mean()
def asked(): return lambda x: Mean().eval()(x).detach()
def picky(): return torch.nn.Linear(9, 2).eval()
def alone(): return Alone().eval()
def backwards(): return lambda x: Mean().eval()(Backwards.apply(x))
def sick(): return lambda x: x.mean(dim=(1, 2, 3, 4)) * float("nan")
def wandering():
    import os
    os.chdir("/")
    return mean()
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "models_of_a_user.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    grey = 0.02 * np.random.default_rng(0).random((6, 1, 8, 8, 8), dtype=np.float32)
    np.savez("patches.npz", positives=0.5 + grey, negatives=0.48 + grey - 0.01)
    return tmp_path


def stress(function, *more, patches="patches.npz"):
    options = ("--output", "logit", "--steps", 5, "--queries", 20)
    return call("stress", f"models_of_a_user:{function}", "--patches", patches, "--out", "out", *options, *more)


def test_stress_writes_tables_figure_and_json(models):
    result = stress("mean", "--surrogate", "models_of_a_user:mean")
    assert result.exit_code == 0, result.stderr
    report = json.loads((models / "out" / "report.json").read_text())
    assert report["settings"]["steps"] == 5 and report["settings"]["surrogate"] == "given"
    assert "stress test" in result.stderr  # the bar
    assert f"{sum(row['verdict'] == 'pass' for row in report['audit'])} pass" in result.stdout
    assert {path.name for path in (models / "out").iterdir()} >= {"stress.csv", "audit.csv", "report.png"}


def test_stress_writes_where_it_was_told_though_the_factory_changed_directory(models):
    result = stress("wandering", "--surrogate", "models_of_a_user:wandering")
    assert result.exit_code == 0, result.stderr
    assert (models / "out" / "audit.csv").exists()


def test_stress_looks_at_its_folder_before_it_begins(models):
    for out in ("models_of_a_user.py", "models_of_a_user.py/out"):
        result = stress("mean", "--out", out)
        assert result.exit_code == 1 and "models_of_a_user.py' is a file" in result.stderr and "stress test" not in result.stderr  # no bar


def test_stress_says_that_a_model_has_no_gradients(models):
    result = stress("asked")
    assert result.exit_code == 0 and "note: the model has no gradients" in result.stderr and "not measured" in result.stdout


@pytest.mark.parametrize(
    "function, more, words",
    [
        ("absent", (), "has no function absent"),
        ("picky", (), "the model fails on patches of shape (1, 1, 8, 8, 8)"),
        ("alone", (), "the model fails on patches of shape (8, 1, 8, 8, 8): MemoryError: one patch at a time"),
        ("backwards", (), "the model fails under attack: RuntimeError: no memory for gradients"),
        ("training", (), "the model is in training mode"),
        ("mean", ("--surrogate", "models_of_a_user:training"), "the surrogate is in training mode"),
        ("sick", (), "the model returned NaN"),
        ("mean", ("--eps", 28), "radii are from 0 to 1"),
        ("mean", ("--eps", 0), "no attack to audit"),
        ("mean", ("--surrogate", "nowhere:function"), "nowhere:function"),
        ("mean", ("--patches", "none.npz"), "none.npz"),
        ("mean", ("--patches", "models_of_a_user.py"), "models_of_a_user.py"),
    ],
)
def test_stress_says_in_one_line_what_is_wrong(function, more, words, models):
    result = stress(function, *more)
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert result.exit_code == 1 and len(lines) == 1 and words in lines[0]
    assert not (models / "out").exists()


def test_a_scan_whose_name_is_not_utf8_is_named_by_its_bytes(tmp_path):
    path = tmp_path / os.fsdecode(b"M\xfcller.mhd")
    write_scan(Scan(np.zeros((4, 4, 4), np.int16), (1, 1, 1), (0, 0, 0), np.eye(3), "1.2"), tmp_path / "scan.mhd")
    (tmp_path / "scan.mhd").rename(path)
    assert_one_line(call("detect", path, "--out", tmp_path / "out.csv"), r"M\xfcller.mhd': has a name that is not UTF-8 text", "rename it")


def test_an_error_stands_on_a_line_of_its_own_below_a_progress_bar(capsys):
    """Bars are closed with the frames that hold them."""
    from tqdm import tqdm

    @one_line_errors
    def command():
        for _ in tqdm(range(3), desc="reading"):
            raise ValueError("wrong\n\tfile")

    with pytest.raises(typer.Exit):
        command()
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "error: wrong file" and "reading" in said[-2]


def test_an_error_that_quotes_a_whole_file_is_cut(capsys):
    @one_line_errors
    def command():
        raise ValueError("x" * 10**6)

    with pytest.raises(typer.Exit):
        command()
    assert len(capsys.readouterr().err) < 1100
