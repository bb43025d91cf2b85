import json
import re

import pandas as pd
import pytest

from lungadv.pipeline.accept import accept
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.readme import BUDGET, BUDGET_STARTING, _cost, _gates, _misses, _traps, render_readme
from lungadv.pipeline.steps import STEPS
from lungadv.utils.files import repo_root


def test_the_readme_is_filled_from_the_committed_results(clone):
    (clone / "nbs").mkdir()
    (clone / "figures" / "quick").mkdir(parents=True)
    links = "![](../figures/quick/fig07.png) [moons](00_two_moons.ipynb) [froc](11_benchmarks.ipynb)"
    text = f"# T\n\n{links}\n\n<!-- ledger -->\n\n<!-- table1 -->"
    content = {"cells": [{"cell_type": "markdown", "source": text, "metadata": {}}, {"cell_type": "code", "source": "1", "metadata": {}}]}
    (clone / "nbs" / "index.ipynb").write_text(json.dumps(content))
    row = {"id": "S8", "claim": "a | b", "measured": "1", "interval": "0 to 2", "seeds": "1", "verdict": "reproduced"}
    pd.DataFrame([row | {"notebook": "12_stress_tests.ipynb"}]).to_csv(clone / "figures" / "quick" / "claims.csv", index=False)
    render_readme()
    readme = (clone / "README.md").read_text()
    assert "![](figures/quick/fig07.png) [moons](nbs/00_two_moons.ipynb) [froc](nbs/11_benchmarks.ipynb)" in readme
    assert "| [S8](nbs/12_stress_tests.ipynb) | a \\| b |" in readme and "**reproduced**" in readme
    assert "(table1.csv: not made yet;" in readme


def test_every_link_and_figure_of_the_readme_is_there():
    root = repo_root()
    targets = set(re.findall(r"\]\(([^)#]+)", (root / "README.md").read_text(encoding="utf-8")))
    local = {target for target in targets if "://" not in target}
    assert "nbs/11_benchmarks.ipynb" in local and "figures/quick/fig07.png" in local
    if not (root / "figures" / "quick").exists():  # nothing has been accepted yet
        local = {target for target in local if not target.startswith("figures/quick/")}
    assert [target for target in sorted(local) if not (root / target).exists()] == []


def test_every_step_has_a_share_of_the_20_minutes():
    budgeted = [name for names in BUDGET for name in names]
    assert sorted(budgeted) == sorted(step.name for step in STEPS)
    assert sum(BUDGET.values()) + BUDGET_STARTING == pytest.approx(20)


def test_the_committed_run_kept_its_time_and_memory():
    made = json.loads((repo_root() / "figures" / "quick" / "provenance.json").read_text())["run"]
    assert set(made["stages_built"]) == set(STAGES) and made["cores"] == 2
    assert made["wall_seconds"] < 20 * 60 and made["peak_memory_mib"] < 6 * 1024


def test_the_cost_is_the_committed_runs_beside_its_budget(clone, finish):
    folder = accept(finish(0, 0.7))
    (row,) = [line for line in _cost(folder).splitlines() if line.startswith("| 05_datasets ")]
    assert [cell.strip() for cell in row.split("|")][2:4] == [f"{BUDGET['05_datasets',]:.1f}", "0.0"]
    assert "| sum | 20.0 |" in _cost(clone / "nowhere")


def test_only_a_run_made_at_once_has_a_time(clone, finish):
    run = finish(0, 0.7)
    record = {"wall_seconds": 60.0, "peak_memory_mib": 1024, "cores": 2, "stages_built": list(STAGES)}
    (run.folder / "run.json").write_text(json.dumps(record))
    assert "Measured: 1.0 minutes" in _cost(accept(run))
    (run.folder / "run.json").write_text(json.dumps(record | {"stages_built": ["claims"]}))
    assert "Measured:" not in _cost(accept(run))


def test_the_readme_shows_gates_and_what_the_baseline_misses(tmp_path):
    for render in (_gates, _misses, _traps):
        assert "not made yet" in render(tmp_path)
    (tmp_path / "gates.csv").write_text("measure,value,spread,gate,holds\n  slope,-0.31,0.04,within 0.3,False\nAUC,0.9,,reported,\n")
    slope, auc = _gates(tmp_path).splitlines()[2:]
    assert slope == "| slope | -0.31 | 0.04 | within 0.3 | **no** |" and auc == "| AUC | 0.9 |  | reported |  |"
    head = "benchmark,strategy,type,size,attachment,nodules,missed,share\n"
    rows = ["both,baseline-ce,solid,12-20,all,4,1,0.25", "both,baseline-ce,solid,6-8,all,2,2,1", "both,baseline-ce,solid,all,all,6,3,0.5"]
    rows += ["both,baseline-ce,all,all,isolated,6,3,0.5", "nlst,baseline-ce,solid,6-8,all,9,9,1", "both,control,solid,6-8,all,9,9,1"]
    (tmp_path / "misses.csv").write_text(head + "\n".join(rows) + "\n")
    table = _misses(tmp_path).splitlines()
    assert table[0] == "| type | 6-8 | 12-20 | all |"
    assert table[2] == "| solid | 2 of 2 (100%) | 1 of 4 (25%) | 3 of 6 (50%) |"
    assert table[-1] == "By attachment: isolated 3 of 6 (50%)."
    lies_on = "benchmark,strategy,on,count,share\nboth,baseline-ce,vessel,3,0.75\nnlst,baseline-ce,scar,1,1\n"
    (tmp_path / "false_positives.csv").write_text(lies_on)
    assert _traps(tmp_path) == "vessel 3 (75%)."
