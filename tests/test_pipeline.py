"""The steps, their checks, and the whole chain at tiny size: that it makes everything, does nothing twice, and survives a hard kill."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import matplotlib.image
import numpy as np
import pandas as pd
import psutil
import pytest

from lungadv import pipeline, runs

FIGURES = [f"fig{number:02d}.png" for number in range(1, 15)]
TABLES = ["table1.csv", "table2.csv", "claims.csv"]


def notebook(path, *cells):
    """Write a notebook of code cells, given as (source, tags)."""
    shared = {"cell_type": "code", "outputs": [], "execution_count": None}
    content = [shared | {"id": f"c{k}", "source": source, "metadata": {"tags": tags}} for k, (source, tags) in enumerate(cells)]
    path.write_text(json.dumps({"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that stands for a clone: settings, recipe, an empty Snakefile, runs and figures of its own."""
    root = runs.repo_root()
    shutil.copy(root / "settings.ini", tmp_path)
    (tmp_path / "data_manifests").mkdir()
    shutil.copy(root / "data_manifests" / "phantom.json", tmp_path / "data_manifests")
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUNGADV_RUNS", raising=False)
    return tmp_path


def test_what_starts_a_notebook_waits_for_no_torch():
    code = "import sys, lungadv.pipeline; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def finish(seed, cpm, data="phantom"):
    """A finished run as the later commands see it."""
    run = runs.open_run("quick", seed, data)
    cost = {"wall_seconds": 1.0, "peak_memory_mib": 300}
    for name in runs.STAGES:
        run.path(name).mkdir(parents=True)
        (run.path(name) / "provenance.json").write_text(json.dumps(runs.describe(run, name, {}) | cost))
    for name in pipeline.expected_figures():
        (run.figures / name).write_bytes(b"picture")
    pd.DataFrame([{"benchmark": "nlst", "strategy": "beta+syn", "cpm": cpm}]).to_csv(run.figures / "table2.csv", index=False)
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_what_it_started_and_says_that_it_goes_on(clone, number):
    run, before = runs.open_run("tiny", 0), signal.getsignal(signal.SIGINT)
    run.folder.mkdir(parents=True)
    # the grandchild has a session of its own, as a notebook's kernel has
    deep = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    deep += "open('child', 'w').write(str(child.pid)); child.wait()"
    threading.Timer(2, os.kill, (os.getpid(), number)).start()
    with open(run.folder / ".lock", "w") as lock, pytest.raises(runs.InputError, match="stopped; the same command goes on"):
        pipeline._watched([sys.executable, "-c", deep], run, lock)
    assert signal.getsignal(signal.SIGINT) == before
    child = int((clone / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


# Steps and notebooks.


def test_the_steps_make_every_figure_and_table_of_the_paper_once():
    made = pipeline.expected_figures()
    assert len(made) == len(set(made))
    assert {*FIGURES, *TABLES} <= set(made)
    assert {step.stage for step in pipeline.STEPS if step.stage} == set(runs.STAGES)


def test_sources_follow_imports_through_the_package():
    (step,) = [step for step in pipeline.STEPS if step.stage == "patches"]
    names = {os.path.basename(path) for path in pipeline.sources(step)}
    assert {"fpr.py", "datasets.py", "ct.py", "runs.py"} <= names
    assert not {"two_moons.py", "claims.py"} & names


def test_a_setting_concerns_the_steps_that_mention_it_alone():
    settings = runs.load_settings("tiny")
    concerned = {step.stage: pipeline.settings_of(step, settings) for step in pipeline.STEPS if step.stage in ("two_moons", "stress")}
    assert concerned["two_moons"]["moons_steps"] == settings.moons_steps
    assert "stress_noise" in concerned["stress"] and "stress_noise" not in concerned["two_moons"]
    assert "moons_steps" not in concerned["stress"]


def test_parameters_are_checked_by_name_and_take_the_type_of_the_default(tmp_path):
    path = notebook(tmp_path / "n.ipynb", ('profile = "tiny"  # a section\nseed = 0', ["parameters"]), ("1 + 1", []))
    assert pipeline.notebook_parameters(path) == {"profile": "tiny", "seed": 0}
    assert pipeline.check_parameters(path, {"seed": "3", "profile": "7"}) == {"seed": 3, "profile": "7"}
    with pytest.raises(runs.InputError, match="no parameter 'sed': it has profile, seed"):
        pipeline.check_parameters(path, {"sed": "3"})
    with pytest.raises(runs.InputError, match="seed='x'.*not of type int"):
        pipeline.check_parameters(path, {"seed": "x"})


@pytest.mark.parametrize("tags", [[], ["parameters", "parameters"]])
def test_not_exactly_one_parameters_cell_is_an_error(tmp_path, tags):
    path = notebook(tmp_path / "n.ipynb", ("seed = 0", tags[:1]), ("seed = 1", tags[1:]))
    with pytest.raises(runs.InputError, match=f"has {len(tags)} cells tagged 'parameters'"):
        pipeline.notebook_parameters(path)


def test_a_notebook_runs_with_its_parameters_and_keeps_its_log_when_it_fails(tmp_path, capfd):
    code = 'import sys\nprint("seed is", seed, file=sys.stderr)\nprint("for the reader")\n1 / (seed - 3)'
    path = notebook(tmp_path / "n.ipynb", ("seed = 0", ["parameters"]), (code, []))
    pipeline.run_notebook(path, tmp_path / "log" / "good.ipynb", {"seed": "4"})
    shown = capfd.readouterr().err
    assert "[good] seed is 4" in shown and "for the reader" not in shown
    assert "for the reader" in (tmp_path / "log" / "good.ipynb").read_text()
    with pytest.raises(runs.InputError, match="n.ipynb stopped: ZeroDivisionError division by zero in cell"):
        pipeline.run_notebook(path, tmp_path / "log" / "bad.ipynb", {"seed": "3"})
    assert "ZeroDivisionError" in (tmp_path / "log" / "bad.ipynb").read_text()


def test_progress_bars_become_a_line_now_and_then():
    shown = io.StringIO()
    lines = pipeline.ProgressLines("name", shown, seconds=3600)
    lines.write("\rbar: 10%")
    lines.write("\rbar: 20%\rbar: 100%\ndone\nhalf a")
    lines.write(" line\n")
    assert shown.getvalue().splitlines() == ["[name] bar: 100%", "[name] done", "[name] half a line"]


# A finished run.


def test_results_outside_their_tolerance_are_found(clone):
    run = finish(0, 0.70)
    assert pipeline.compare_expected(run).empty
    pipeline.accept(run)
    assert pipeline.compare_expected(run).inside.tolist() == [True]
    pd.DataFrame([{"benchmark": "nlst", "strategy": "beta+syn", "cpm": 0.76}]).to_csv(run.figures / "table2.csv", index=False)
    assert pipeline.compare_expected(run).inside.tolist() == [False]


def test_a_number_that_is_gone_is_outside(clone):
    run = finish(0, 0.70)
    pipeline.accept(run)
    pd.DataFrame([{"benchmark": "nlst", "strategy": "other", "cpm": 0.70}]).to_csv(run.figures / "table2.csv", index=False)
    assert pipeline.compare_expected(run).inside.tolist() == [False]


def test_expected_results_are_the_mean_and_spread_over_the_seeds(clone):
    for seed, cpm in enumerate((0.6, 0.7, 0.8)):
        run = finish(seed, cpm)
    folder = pipeline.accept(run)
    assert folder == clone / "figures" / "quick"
    expected = json.loads((folder / "expected.json").read_text())["cpm/nlst/beta+syn"]
    assert expected == {"value": 0.7, "tolerance": 0.3, "seeds": 3}
    assert json.loads((folder / "provenance.json").read_text())["seeds"] == [0, 1, 2]
    assert {*FIGURES, *TABLES} <= {path.name for path in folder.iterdir()}


def test_seeds_of_other_data_are_not_pooled(clone):
    for folder in ("a", "b"):
        (clone / folder).mkdir()
        (clone / folder / "scans.csv").touch()
    first = finish(0, 0.6, "a/scans.csv")
    finish(1, 0.7, "b/scans.csv")
    finish(2, 0.8, "a/scans.csv")
    finish(3, 0.9)
    assert [run.seed for run in pipeline.finished_seeds(first)] == [0, 2]


def test_the_tables_beside_a_manifest_are_inputs_too(clone):
    for name in ("scans.csv", "annotations.csv", "mimics.csv"):
        (clone / name).touch()
    files = pipeline.manifest_files(runs.open_run("quick", 0, "scans.csv"))
    assert files == [str(clone / name) for name in ("scans.csv", "annotations.csv", "mimics.csv")]
    assert pipeline.manifest_files(runs.open_run("quick")) == []


def test_an_unfinished_run_is_not_accepted(clone):
    run = finish(0, 0.7)
    (run.figures / "fig08.png").unlink()
    with pytest.raises(runs.InputError, match="fig08.png is missing"):
        pipeline.accept(run)
    assert not (clone / "figures").exists()


def test_a_run_of_other_settings_is_not_accepted(clone):
    run = finish(0, 0.7)
    run.settings.patch_size += 1
    with pytest.raises(runs.InputError, match="made with other settings"):
        pipeline.accept(run)


def test_runs_of_another_recipe_are_neither_pooled_nor_accepted(clone):
    old = finish(0, 0.7)
    recipe = clone / "data_manifests" / "phantom.json"
    before = recipe.read_text()
    recipe.write_text(before.replace('"spacing": [1.25, 1.25, 1.25]', '"spacing": [1.25, 1.25, 1.5]'))
    assert recipe.read_text() != before
    new = finish(1, 0.5)
    assert [run.seed for run in pipeline.finished_seeds(new)] == [1]
    with pytest.raises(runs.InputError, match="other settings or data"):
        pipeline.accept(old)


def test_the_readme_is_filled_from_the_committed_results(clone):
    (clone / "nbs").mkdir()
    (clone / "figures" / "quick").mkdir(parents=True)
    text = "# T\n\n![](../figures/quick/fig07.png) [moons](00_two_moons.ipynb) [froc](10b_froc.ipynb)\n\n<!-- ledger -->\n\n<!-- table1 -->"
    content = {"cells": [{"cell_type": "markdown", "source": text, "metadata": {}}, {"cell_type": "code", "source": "1", "metadata": {}}]}
    (clone / "nbs" / "index.ipynb").write_text(json.dumps(content))
    row = {"id": "S8", "claim": "a | b", "measured": "1", "interval": "0 to 2", "seeds": "1", "verdict": "reproduced"}
    pd.DataFrame([row | {"notebook": "12_stress_tests.ipynb"}]).to_csv(clone / "figures" / "quick" / "claims.csv", index=False)
    pipeline.render_readme()
    readme = (clone / "README.md").read_text()
    assert "![](figures/quick/fig07.png) [moons](nbs/00_two_moons.ipynb) [froc](nbs/10b_froc.ipynb)" in readme
    assert "| [S8](nbs/12_stress_tests.ipynb) | a \\| b |" in readme and "**reproduced**" in readme
    assert "(table1.csv: not made yet;" in readme


def test_every_link_and_figure_of_the_readme_is_there():
    root = runs.repo_root()
    targets = set(re.findall(r"\]\(([^)#]+)", (root / "README.md").read_text(encoding="utf-8")))
    local = {target for target in targets if "://" not in target}
    assert "nbs/10b_froc.ipynb" in local and "figures/quick/fig07.png" in local
    if not (root / "figures" / "quick").exists():  # nothing has been accepted yet
        local = {target for target in local if not target.startswith("figures/quick/")}
    assert [target for target in sorted(local) if not (root / target).exists()] == []


def test_every_step_has_a_share_of_the_20_minutes():
    budgeted = [name for names in pipeline.BUDGET for name in names]
    assert sorted(budgeted) == sorted(step.name for step in pipeline.STEPS)
    assert sum(pipeline.BUDGET.values()) + pipeline.BUDGET_STARTING == pytest.approx(20)


def test_the_committed_run_kept_its_time_and_memory():
    made = json.loads((runs.repo_root() / "figures" / "quick" / "provenance.json").read_text())["run"]
    assert set(made["stages_built"]) == set(runs.STAGES) and made["cores"] == 2
    assert made["wall_seconds"] < 20 * 60 and made["peak_memory_mib"] < 6 * 1024


def test_the_cost_is_the_committed_runs_beside_its_budget(clone):
    folder = pipeline.accept(finish(0, 0.7))
    (row,) = [line for line in pipeline._cost(folder).splitlines() if line.startswith("| 06_datasets ")]
    assert [cell.strip() for cell in row.split("|")][2:4] == [f"{pipeline.BUDGET['06_datasets',]:.1f}", "0.0"]
    assert "| sum | 20.0 |" in pipeline._cost(clone / "nowhere")


def test_a_run_is_made_by_one_process_at_a_time(run):
    run.folder.mkdir(parents=True)
    with pipeline._locked(run):
        with pytest.raises(runs.InputError, match="being made by another process"):
            pipeline.reproduce(run, 1)


# The whole chain.


def made_at(folder):
    """When each table and each stage of the tiny run in `folder` was made."""
    base = folder / "phantom-tiny-0"
    files = [base / "figures" / name for name in (*FIGURES, *TABLES)] + [base / name / "provenance.json" for name in runs.STAGES]
    return {path: path.stat().st_mtime_ns for path in files}


def test_every_figure_and_table_appears_and_is_not_blank(chain):
    figures = chain[0] / "phantom-tiny-0" / "figures"
    for name in FIGURES:
        pixels = matplotlib.image.imread(figures / name)[..., :3]
        assert min(pixels.shape[:2]) > 100, f"{name} is {pixels.shape[:2]} pixels small"
        levels = (pixels * 255).round().astype(int).reshape(-1, 3)
        assert pixels.std() > 0.02 and len(np.unique(levels, axis=0)) > 30, f"{name} is blank"
        drawn, coloured = (levels < 250).any(1), np.ptp(levels, axis=1) > 40  # frames and text are thin and grey
        assert drawn.mean() > 0.2 or coloured.mean() > 0.002, f"{name} has axes and no data"
    for name in TABLES:
        assert len(pd.read_csv(figures / name)) > 0, f"{name} has no row"


def test_every_claim_of_the_paper_is_in_the_ledger(chain):
    ledger = pd.read_csv(chain[0] / "phantom-tiny-0" / "figures" / "claims.csv")
    paper = pd.read_csv(runs.repo_root() / "lungadv" / "data" / "claims.csv")
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
    assert len(parts) == 4 and sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(scans)
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
    base, allowed = chain[0] / "phantom-tiny-0", runs.load_settings("tiny").fpr_candidates
    for name in ("train", "validation", "in-house", "nlst"):
        found, patches = (pd.read_csv(base / stage / f"{name}.csv", dtype={"seriesuid": str}) for stage in ("candidates", "patches"))
        classified = patches[patches["kind"] == "candidate"].groupby("seriesuid").size()
        counts = found.groupby("seriesuid").size()
        assert classified.to_dict() == (counts.clip(upper=allowed) if name == "train" else counts).to_dict()


def test_the_end_says_how_long_how_much_and_where(chain):
    folder, printed = chain
    assert "minutes on 2 cores, at most" in printed and str(folder) in printed
    record = json.loads((folder / "phantom-tiny-0" / "run.json").read_text())
    assert record["wall_seconds"] > 0 and record["peak_memory_mib"] > 100


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


def test_what_others_wait_for_goes_first():
    steps = {step.stage: step for step in pipeline.STEPS if step.stage}
    for stage, step in steps.items():
        assert all(pipeline.waiting(steps[need]) > pipeline.waiting(step) for need in step.needs), stage
    assert pipeline.waiting(steps["claims"]) == 0 and pipeline.waiting(steps["stress"]) == 1


def test_development_seeds_and_those_of_the_ledger_are_never_pooled(clone):
    ledger, development = finish(0, 0.7), finish(100, 0.2)
    assert [run.seed for run in pipeline.finished_seeds(ledger)] == [0]
    assert [run.seed for run in pipeline.finished_seeds(development)] == [100]


def test_only_a_run_made_at_once_has_a_time(clone):
    run = finish(0, 0.7)
    record = {"wall_seconds": 60.0, "peak_memory_mib": 1024, "cores": 2, "stages_built": list(runs.STAGES)}
    (run.folder / "run.json").write_text(json.dumps(record))
    assert "Measured: 1.0 minutes" in pipeline._cost(pipeline.accept(run))
    (run.folder / "run.json").write_text(json.dumps(record | {"stages_built": ["claims"]}))
    assert "Measured:" not in pipeline._cost(pipeline.accept(run))


def test_the_readme_shows_gates_and_what_the_baseline_misses(tmp_path):
    for render in (pipeline._gates, pipeline._misses, pipeline._traps):
        assert "not made yet" in render(tmp_path)
    (tmp_path / "gates.csv").write_text("measure,value,spread,gate,holds\n  slope,-0.31,0.04,within 0.3,False\nAUC,0.9,,reported,\n")
    slope, auc = pipeline._gates(tmp_path).splitlines()[2:]
    assert slope == "| slope | -0.31 | 0.04 | within 0.3 | **no** |" and auc == "| AUC | 0.9 |  | reported |  |"
    head = "benchmark,strategy,type,size,attachment,nodules,missed,share\n"
    rows = ["both,baseline-ce,solid,12-20,all,4,1,0.25", "both,baseline-ce,solid,6-8,all,2,2,1", "both,baseline-ce,solid,all,all,6,3,0.5"]
    rows += ["both,baseline-ce,all,all,isolated,6,3,0.5", "nlst,baseline-ce,solid,6-8,all,9,9,1", "both,control,solid,6-8,all,9,9,1"]
    (tmp_path / "misses.csv").write_text(head + "\n".join(rows) + "\n")
    table = pipeline._misses(tmp_path).splitlines()
    assert table[0] == "| type | 6-8 | 12-20 | all |"
    assert table[2] == "| solid | 2 of 2 (100%) | 1 of 4 (25%) | 3 of 6 (50%) |"
    assert table[-1] == "By attachment: isolated 3 of 6 (50%)."
    lies_on = "benchmark,strategy,on,count,share\nboth,baseline-ce,vessel,3,0.75\nnlst,baseline-ce,scar,1,1\n"
    (tmp_path / "false_positives.csv").write_text(lies_on)
    assert pipeline._traps(tmp_path) == "vessel 3 (75%)."
