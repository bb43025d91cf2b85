"""The whole chain at tiny size: that it makes everything, does nothing twice, and survives a hard kill."""

import json
import os
import shutil
import signal
import time

import matplotlib.image
import numpy as np
import pandas as pd

from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.result_tables import VERDICTS
from lungadv.pipeline.steps import STEPS
from lungadv.settings import load_settings
from lungadv.utils.files import repo_root
from tests.web_pages import assert_sound

FIGURES = [f"fig{number:02d}.png" for number in range(1, 15)]
TABLES = ["table1.csv", "table2.csv", "claims.csv"]


def made_at(folder):
    """When each table and each stage of the tiny run in `folder` was made."""
    base = folder / "phantom-tiny-0"
    files = [base / "figures" / name for name in (*FIGURES, *TABLES)] + [base / name / "provenance.json" for name in STAGES]
    return {path: path.stat().st_mtime_ns for path in files}


def test_the_report_is_made_at_the_end(chain):
    path = chain[0] / "phantom-tiny-0" / "report.html"
    assert f"report: {path}" in chain[1] and path.stat().st_size < 15e6
    assert_sound(path)
    assert "not finished" not in path.read_text(encoding="utf-8")


def test_every_figure_and_table_appears_and_is_not_blank(chain):
    figures = chain[0] / "phantom-tiny-0" / "figures"
    for name in FIGURES:
        pixels = matplotlib.image.imread(figures / name)[..., :3]
        assert min(pixels.shape[:2]) > 100, f"{name} is {pixels.shape[:2]} pixels small"
        levels = (pixels * 255).round().astype(int).reshape(-1, 3)
        assert pixels.std() > 0.02 and len(np.unique(levels, axis=0)) > 30, f"{name} is blank"
        drawn, coloured = (levels < 250).any(1), np.ptp(levels, axis=1) > 40  # frames and text are thin and grey
        # tiny networks call no noise and no lung a nodule, before and after: bars of no height beside thin violins
        least = 0.0004 if name in ("fig13.png", "fig14.png") else 0.002
        assert drawn.mean() > 0.2 or coloured.mean() > least, f"{name} has axes and no data"
    for name in TABLES:
        assert len(pd.read_csv(figures / name)) > 0, f"{name} has no row"


def test_every_claim_of_the_paper_is_in_the_ledger(chain):
    ledger = pd.read_csv(chain[0] / "phantom-tiny-0" / "figures" / "claims.csv")
    paper = pd.read_csv(repo_root() / "lungadv" / "paper" / "claims.csv")
    assert ledger.id.tolist() == paper.id.tolist()
    assert set(ledger.verdict) <= {"reproduced", "consistent", "not reproduced", "not measured"}
    # Networks of twenty updates may detect nothing, which leaves nothing to make undetected.
    assert set(ledger.id[ledger.verdict == "not measured"]) <= {"M3", "M4", "N1", "S10", "S11"}


def test_nothing_is_trained_on_a_benchmark_and_all_is_tested_on_them(chain):
    base = chain[0] / "phantom-tiny-0"

    def uids(path):
        return set(pd.read_csv(path, dtype=str).get("seriesuid", pd.Series(dtype=str)))

    scans = pd.read_csv(base / "datasets" / "scans.csv", dtype=str)
    parts = {name: set(part.seriesuid) for name, part in scans.groupby("dataset")}
    assert len(parts) == 5 and sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(scans)
    trained_on = {path.stem: uids(path) for path in (base / "banks").glob("bank_*.csv")}
    trained_on |= {"cutouts": uids(base / "synthesizer" / "cutouts.csv"), "patches": uids(base / "patches" / "train.csv")}
    for name, found in trained_on.items():
        assert found <= parts["train"] and (found or name == "bank_noise"), name
    benchmarks = parts["in-house"] | parts["nlst"]
    for name in ("answers.csv", "numbers.csv"):
        items = pd.read_csv(base / "stress" / name, dtype=str)["item"].dropna()
        tested = {item.rpartition(":")[0] for item in items if not item.startswith(("noise:", "real:"))}
        assert tested and tested <= benchmarks, name


def test_every_candidate_of_validation_and_benchmarks_is_classified(chain):
    base, allowed = chain[0] / "phantom-tiny-0", load_settings("tiny").fpr.candidates
    for name in ("train", "validation", "in-house", "nlst"):
        found, patches = (pd.read_csv(base / stage / f"{name}.csv", dtype={"seriesuid": str}) for stage in ("candidates", "patches"))
        classified = patches[patches["kind"] == "candidate"].groupby("seriesuid").size()
        counts = found.groupby("seriesuid").size()
        assert classified.to_dict() == (counts.clip(upper=allowed) if name == "train" else counts).to_dict()


def test_the_end_says_how_long_how_much_and_where(chain):
    folder, printed = chain
    assert "minutes on 2 cores, at most" in printed and str(folder) in printed
    ledger = pd.read_csv(folder / "phantom-tiny-0" / "figures" / "claims.csv")
    counts = [f"{(ledger.verdict == verdict).sum()} {verdict}" for verdict in VERDICTS]
    assert f"claims of the paper: {', '.join(counts)}" in printed
    names = [step.name for step in STEPS]
    shown = printed.splitlines()
    assert sorted(line.removesuffix(" starts") for line in shown if line.endswith(" starts")) == sorted(names)
    assert sum(" done in " in line for line in shown) == len(names) and not [line for line in shown if line.startswith("Select jobs")]
    record = json.loads((folder / "phantom-tiny-0" / "run.json").read_text())
    assert record["wall_seconds"] > 0 and record["peak_memory_mib"] > 100


def test_every_figure_can_be_read_in_print(chain):
    log = (chain[0] / "phantom-tiny-0" / "reproduce.log").read_text(encoding="utf-8")
    assert "12_stress_tests] starts" in log  # what the notebooks warn of is there
    assert not [line for line in log.splitlines() if "in print under" in line]


def test_a_second_run_does_nothing(chain, reproduce):
    folder, _ = chain
    before = made_at(folder)
    process = reproduce(folder)
    printed, _ = process.communicate()
    assert process.returncode == 0 and "nothing to do" in printed
    assert made_at(folder) == before


def test_renewing_the_ledger_leaves_the_time_of_the_run(chain, reproduce, tmp_path):
    base = tmp_path / "phantom-tiny-0"
    shutil.copytree(chain[0] / base.name, base)
    before = (base / "run.json").read_bytes()
    shutil.rmtree(base / "claims")
    process = reproduce(tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0 and "took" in printed and (base / "claims" / "provenance.json").exists(), printed[-5000:]
    assert (base / "run.json").read_bytes() == before


def test_a_killed_run_goes_on_to_the_same_tables(chain, reproduce, tmp_path):
    finished = chain[0] / "phantom-tiny-0"
    base = tmp_path / finished.name
    shutil.copytree(finished, base)
    shutil.rmtree(base / "banks")
    for name in ("fig02.png", *TABLES[1:]):
        (base / "figures" / name).unlink()

    process = reproduce(tmp_path, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(base.glob(".banks.*")):
        assert process.poll() is None and time.monotonic() < deadline, "the banks were never begun"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = {path.name for path in (base / "banks").glob("*")}
    assert not made or "provenance.json" in made, "a killed stage is half-made"

    process = reproduce(tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed[-5000:]
    for name in TABLES:
        assert (base / "figures" / name).read_bytes() == (finished / "figures" / name).read_bytes(), name
    assert not list(base.glob(".banks.*"))
