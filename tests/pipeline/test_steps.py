import dataclasses
from pathlib import Path

import lungadv
from lungadv.pipeline.accept import expected_figures
from lungadv.pipeline.graph import CUBE_STAGES, STAGES
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.steps import CUBE_STEPS, STEPS, manifest_files, priority, sources, step_settings, steps_of
from lungadv.settings import load_settings
from lungadv.training.strategies import STRATEGIES

FIGURES = [f"fig{number:02d}.png" for number in range(1, 15)]
TABLES = ["table1.csv", "table2.csv", "claims.csv"]


def test_the_steps_make_every_figure_and_table_of_the_paper_once():
    made = expected_figures()
    assert len(made) == len(set(made))
    assert {*FIGURES, *TABLES} <= set(made)
    assert {step.stage for step in STEPS if step.stage} == set(STAGES)


def test_sources_follow_imports_through_the_package():
    (step,) = [step for step in STEPS if step.stage == "patches"]
    package = Path(lungadv.__file__).parent
    found = {str(Path(path).relative_to(package)) for path in sources(step)}
    assert {"pipeline/stages/patches.py", "data/patches.py", "data/dataset.py", "pipeline/artefacts.py", "settings.py"} <= found
    assert not {"two_moons.py", "evaluation/claims.py"} & found


def test_sources_follow_relative_imports_of_exported_modules():
    (step,) = [step for step in STEPS if step.stage == "benchmarks"]
    found = {Path(path).name for path in sources(step)}
    assert {"froc.py", "table2.csv", "hits.py"} <= found and "11_benchmarks.ipynb" not in found  # its code is a parameter


def test_a_notebook_shows_one_strategy_that_comes_after_what_it_reads():
    notebooks = {step.stage: step.notebook for step in STEPS if step.stage}
    shown = {notebook: [name for name in STRATEGIES if notebooks[f"fpr/{name}"] == notebook] for notebook in ("07_fpr", "10_strategies")}
    assert [len(names) for names in shown.values()] == [1, 1] and not STRATEGIES[shown["07_fpr"][0]].banks
    assert notebooks["banks"] < "10_strategies" and STRATEGIES[shown["10_strategies"][0]].banks


def test_a_run_on_a_manifest_has_no_step_of_the_oracle(clone):
    (clone / "scans.csv").touch()
    stages = {step.stage for step in steps_of(open_run("quick", 0, "scans.csv"))}
    assert {step.stage for step in STEPS} - stages == {"oracle", *(f"fpr/{name}" for name, row in STRATEGIES.items() if row.oracle)}
    assert steps_of(open_run("quick")) == list(STEPS)


def test_a_run_on_cubes_has_the_steps_of_its_own_graph(clone):
    (clone / "cubes.csv").write_text("seriesuid,kind\n1.2,nodule-cube\n")
    steps = steps_of(open_run("quick", 0, "cubes.csv"))
    assert {step.stage for step in steps} == set(CUBE_STAGES) and len({step.name for step in steps}) == len(steps)
    (patches,) = [step for step in steps if step.stage == "patches"]
    found = {Path(path).name for path in sources(patches)}
    assert {"cube_patches.py", "nodule_cubes.py"} <= found and "simulate.py" not in found
    made = [name for step in steps for name in step.figures]
    assert {"fig04.png", "fig05.png", "fig08.png", "real_nodules.png"} <= set(made) and len(made) == len(set(made))
    waiting = {step.stage: priority(step) for step in CUBE_STEPS}
    assert waiting["datasets"] == max(waiting.values()) and waiting["search"] == 0


def test_a_setting_concerns_the_steps_that_declare_its_part_alone():
    settings = load_settings("tiny")
    concerned = {step.stage: step_settings(step, settings) for step in STEPS if step.stage in ("two_moons", "stress", None)}
    assert concerned["two_moons"] == {"two_moons": dataclasses.asdict(settings.two_moons)}
    assert "stress" in concerned["stress"] and "two_moons" not in concerned["stress"]
    assert concerned[None] == {}


def test_the_tables_beside_a_manifest_are_inputs_too(clone):
    for name in ("scans.csv", "annotations.csv", "mimics.csv", "not_nodules.csv"):
        (clone / name).touch()
    files = manifest_files(open_run("quick", 0, "scans.csv"))
    assert files == [str(clone / name) for name in ("scans.csv", "annotations.csv", "mimics.csv", "not_nodules.csv")]
    assert manifest_files(open_run("quick")) == []


def test_what_others_wait_for_goes_first():
    steps = {step.stage: step for step in STEPS if step.stage}
    for stage, step in steps.items():
        assert all(priority(steps[need]) > priority(step) for need in step.needs(open_run())), stage
    assert priority(steps["claims"]) == 0 and priority(steps["stress"]) == 1
