import json
import re
import shutil

import pandas as pd
import pytest

from lungadv.pipeline.accept import accept
from lungadv.pipeline.cost import BUDGET, BUDGET_STARTING, cost_markdown
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.outputs import SHOWN_PROFILE
from lungadv.pipeline.readme import PARTS, fill, render
from lungadv.pipeline.result_tables import gates, headlines, misses, real_scan, seed, table2, table2_of_the_paper, traps
from lungadv.pipeline.steps import STEPS
from lungadv.training.strategies import STRATEGIES
from lungadv.utils.files import repo_root

ROOT = repo_root()
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


LEDGER = {"id": "S8", "claim": "a | b", "measured": "1", "interval": "0 to 2", "seeds": "1", "verdict": "reproduced"}


def write_sources(clone):
    """A README's notebook and a page of docs, with tables to fill."""
    (clone / "nbs").mkdir()
    (clone / "docs" / "how-to").mkdir(parents=True)
    (clone / "figures" / SHOWN_PROFILE).mkdir(parents=True)
    links = "![](../figures/standard/fig07.png) [moons](00_two_moons.ipynb) [froc](11_benchmarks.ipynb)"
    text = f"# T\n\n{links}\n\n<!-- ledger -->\n\n<!-- table1 -->"
    content = {"cells": [{"cell_type": "markdown", "source": text, "metadata": {}}, {"cell_type": "code", "source": "1", "metadata": {}}]}
    (clone / "nbs" / "index.ipynb").write_text(json.dumps(content))
    (clone / "docs" / "how-to" / "a.md").write_text("# A\n\n<!-- ledger -->\n\nEnd, <!-- a remark -->.\n")
    pd.DataFrame([LEDGER | {"notebook": "12_stress_tests.ipynb"}]).to_csv(clone / "figures" / SHOWN_PROFILE / "claims.csv", index=False)


def test_the_readme_is_filled_from_the_committed_results(clone):
    write_sources(clone)
    render()
    readme = (clone / "README.md").read_text()
    assert "![](figures/standard/fig07.png) [moons](nbs/00_two_moons.ipynb) [froc](nbs/11_benchmarks.ipynb)" in readme
    assert "| [S8](nbs/12_stress_tests.ipynb) | a \\| b |" in readme and "**reproduced**" in readme
    assert "(table1.csv: not made yet;" in readme


def test_pages_of_docs_are_filled_in_place_and_again(clone):
    write_sources(clone)
    render()
    page = clone / "docs" / "how-to" / "a.md"
    first = page.read_text()
    assert "| [S8](../../nbs/12_stress_tests.ipynb) |" in first and first.endswith("\n<!-- end of ledger -->\n\nEnd, <!-- a remark -->.\n")
    render()
    assert page.read_text() == first
    pd.DataFrame([LEDGER | {"notebook": "n.ipynb", "measured": "7"}]).to_csv(clone / "figures" / SHOWN_PROFILE / "claims.csv", index=False)
    render()
    assert "| 7 |" in page.read_text() and page.read_text().count("end of ledger") == 1


def test_readme_and_docs_are_in_step(tmp_path):
    """What `make readme` would write is what is committed."""
    root = repo_root()
    for folder in ("nbs/index.ipynb", "docs", "figures"):
        (tmp_path / "nbs").mkdir(exist_ok=True)
        source = root / folder
        shutil.copytree(source, tmp_path / folder, ignore=shutil.ignore_patterns("_build", "*.png", "*.pdf")) if source.is_dir() else (
            shutil.copy(source, tmp_path / folder)
        )
    render(tmp_path)
    for path in [tmp_path / "README.md", *(tmp_path / "docs").rglob("*.md")]:
        committed = root / path.relative_to(tmp_path)
        assert path.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), f"{committed}: make readme"


def test_the_readme_is_short():
    text = (repo_root() / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200 and len(text.split()) < 1200


def test_quick_starts_have_at_most_four_lines():
    text = (repo_root() / "README.md").read_text(encoding="utf-8")
    starts = re.findall(r"```\w+\n(.*?)```", text.split("## Three quick starts")[1].split("\n## ")[0], re.DOTALL)
    assert len(starts) == 3 and all(len(start.splitlines()) <= 4 for start in starts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_figure_is_there(page):
    targets = set(re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")))
    local = {target for target in targets if "://" not in target}
    if not (ROOT / "figures" / SHOWN_PROFILE).exists():  # nothing has been accepted yet
        local = {target for target in local if f"figures/{SHOWN_PROFILE}/" not in target}
    assert [target for target in sorted(local) if not (page.parent / target).exists()] == []


def test_every_notebook_has_its_row_among_the_tutorials():
    text = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")) if f"| [{path.stem}](../nbs/{path.name}) |" not in text] == []


def test_every_part_has_its_place():
    """No table is made that neither README nor docs shows."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in PARTS if f"<!-- {name} -->" not in text] == []
    assert fill("<!-- nothing -->", ROOT) == "<!-- nothing -->"


def test_the_sentence_on_the_real_scan_is_computed(tmp_path):
    folder = tmp_path / "quick"
    assert "not made yet" in real_scan(folder)
    (tmp_path / "detect").mkdir()
    (tmp_path / "detect" / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\na,0,0,0,20\n")
    head = "seriesuid,coordX,coordY,coordZ,probability,uncertainty,diameter_mm\n"
    (tmp_path / "detect" / "findings.csv").write_text(head + "a,50,0,0,0.9,0.1,8\na,3,0,0,0.7,0.1,19\na,0,60,0,0.2,0.1,7\n")
    assert "20 mm nodule that its readers marked is number 2 of 3" in real_scan(folder) and "(0.70)" in real_scan(folder)
    assert "1 other finding above 0.5" in real_scan(folder)
    (tmp_path / "detect" / "findings.csv").write_text(head + "a,50,0,0,0.9,0.1,8\n")
    assert real_scan(folder).startswith("None of its 1 findings is the 20 mm nodule")


def test_the_seed_of_the_tables_is_that_of_their_provenance(tmp_path):
    assert "not made yet" in seed(tmp_path)
    whole = {"wall_seconds": 3300.0, "cores": 2, "peak_memory_mib": 5120, "stages_built": ["datasets", "claims"]}
    made = {"profile": "standard", "seed": 3, "commit": "61f7e02fef314fb4", "dirty": False, "seeds": [0, 3], "run": whole}
    made |= {"stages": {"datasets": {}, "claims": {}}}
    (tmp_path / "provenance.json").write_text(json.dumps(made))
    command = "`make reproduce PROFILE=standard SEED=3`, 55 minutes on 2 cores and 5.0 GiB."
    assert f"**seed 3**, commit 61f7e02: {command}" in seed(tmp_path) and "pool seeds 0, 3." in seed(tmp_path)
    for more in ({"run": None}, {"run": whole | {"stages_built": ["claims"]}}):
        (tmp_path / "provenance.json").write_text(json.dumps(made | {"commit": None, "dirty": None} | more))
        assert ", no commit:" in seed(tmp_path) and "SEED=3`. Claims" in seed(tmp_path)


def test_a_headline_says_what_white_box_attacks_do(tmp_path):
    measured = "drop: beta+perturb 0.04; beside the rule: control by transfer 0.54, beta+perturb white-box 0.31, beta+syn independent 0.49"
    rows = [{"id": "M4"}, {"id": "S7", "measured": measured}, {"id": "B5", "measured": "-0.1"}]
    pd.DataFrame([LEDGER | row for row in rows]).to_csv(tmp_path / "claims.csv", index=False)
    attack, trained, best = headlines(tmp_path).splitlines()
    assert trained.endswith("White-box, the share detected drops by: beta+perturb 0.31.") and "White-box" not in attack + best


def test_the_short_table_has_the_rows_of_the_paper_and_its_controls():
    folder = ROOT / "figures" / SHOWN_PROFILE
    assert "beyond the paper" in table2(folder) and "beyond the paper" not in table2_of_the_paper(folder)


def test_every_step_has_a_share_of_the_22_minutes():
    budgeted = [name for names in BUDGET for name in names]
    assert sorted(budgeted) == sorted(step.name for step in STEPS)
    assert sum(BUDGET.values()) + BUDGET_STARTING == pytest.approx(22)


def test_the_committed_run_kept_its_time_and_memory():
    whole = json.loads((repo_root() / "figures" / "quick" / "provenance.json").read_text())
    made = whole["run"]
    assert set(made["stages_built"]) == set(whole["stages"]) and made["cores"] == 2
    assert made["wall_seconds"] < 22 * 60 and made["peak_memory_mib"] < 6 * 1024


def test_the_budget_has_a_share_for_each_group_of_strategies():
    shares = [{STRATEGIES[name].group for name in STRATEGIES for step in names if step.endswith(f"-{name}")} for names in BUDGET]
    assert sorted(group for share in shares for group in share) == ["augmented", "baselines", "controls"]


def test_the_cost_is_the_committed_runs_beside_its_budget(clone, finish):
    folder = accept(finish(0, 0.7))
    (row,) = [line for line in cost_markdown(folder).splitlines() if line.startswith("| 05_datasets ")]
    assert [cell.strip() for cell in row.split("|")][2:4] == [f"{BUDGET['05_datasets',]:.1f}", "0.0"]
    assert "| sum | 22.0 |" in cost_markdown(clone / "nowhere")


def test_a_strategy_that_was_not_trained_yet_changes_no_committed_table(clone, finish):
    folder = accept(finish(0, 0.7))
    made = json.loads((folder / "provenance.json").read_text())
    del made["stages"]["fpr/beta+syn"]
    (folder / "provenance.json").write_text(json.dumps(made))
    assert "fpr-beta+syn," not in cost_markdown(folder) and "fpr-beta+syn-random" in cost_markdown(folder)


def test_only_a_run_made_at_once_has_a_time(clone, finish):
    run = finish(0, 0.7)
    record = {"wall_seconds": 60.0, "peak_memory_mib": 1024, "cores": 2, "stages_built": list(STAGES)}
    (run.folder / "run.json").write_text(json.dumps(record))
    assert "Measured: 1.0 minutes" in cost_markdown(accept(run))
    (run.folder / "run.json").write_text(json.dumps(record | {"stages_built": ["claims"]}))
    assert "Measured:" not in cost_markdown(accept(run))


def test_the_readme_shows_gates_and_what_the_baseline_misses(tmp_path):
    for part in (gates, misses, traps):
        assert "not made yet" in part(tmp_path)
    (tmp_path / "gates.csv").write_text("measure,value,spread,gate,holds\n  slope,-0.31,0.04,within 0.3,False\nAUC,0.9,,reported,\n")
    slope, auc = gates(tmp_path).splitlines()[2:]
    assert slope == "| slope | -0.31 | 0.04 | within 0.3 | **no** |" and auc == "| AUC | 0.9 |  | reported |  |"
    head = "benchmark,strategy,type,size,attachment,nodules,missed,share\n"
    rows = ["both,baseline-ce,solid,12-20,all,4,1,0.25", "both,baseline-ce,solid,6-8,all,2,2,1", "both,baseline-ce,solid,all,all,6,3,0.5"]
    rows += ["both,baseline-ce,all,all,isolated,6,3,0.5", "nlst,baseline-ce,solid,6-8,all,9,9,1", "both,control,solid,6-8,all,9,9,1"]
    (tmp_path / "misses.csv").write_text(head + "\n".join(rows) + "\n")
    table = misses(tmp_path).splitlines()
    assert table[0] == "| type | 6-8 | 12-20 | all |"
    assert table[2] == "| solid | 2 of 2 (100%) | 1 of 4 (25%) | 3 of 6 (50%) |"
    assert table[-1] == "By attachment: isolated 3 of 6 (50%)."
    lies_on = "benchmark,strategy,on,count,share\nboth,baseline-ce,vessel,3,0.75\nnlst,baseline-ce,scar,1,1\n"
    (tmp_path / "false_positives.csv").write_text(lies_on)
    assert traps(tmp_path) == "vessel 3 (75%)."


def test_the_readmes_real_nodules_are_those_of_the_table():
    table, card = ((ROOT / path).read_text(encoding="utf-8") for path in ("perf/README.md", "lungadv/weights/MODEL_CARD.md"))
    (row,) = [line.split("|") for line in table.splitlines() if line.startswith("| 6 mm and more |")]
    (cubes,) = re.findall(r"NODE21 gives them: (\d+) cubes", card)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    middle, whole = (100 * float(row[column].split()[0]) for column in (4, 6))
    assert f"{cubes} cubes" in readme and f"Of {row[2].strip()} nodules of 6 mm and more" in readme
    assert f"mark {middle:.0f} % at the middle and {whole:.0f} % end to end, at one false positive a litre" in readme
