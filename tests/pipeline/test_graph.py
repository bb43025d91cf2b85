"""The graph of stages: its order, its modules, and the settings that each stage declares."""

import ast
import importlib.util
from pathlib import Path

import pytest

from lungadv.data.kinds import NODULE_CUBE
from lungadv.pipeline.graph import CUBE_STAGES, STAGES, stages_of
from lungadv.settings import PARTS
from lungadv.training.strategies import BASELINE, STRATEGIES


@pytest.mark.parametrize("stages", [STAGES, CUBE_STAGES])
def test_stages_need_only_stages_listed_before_them(stages):
    seen = set()
    for name, stage in stages.items():
        assert set(stage.needs) <= seen, name
        seen.add(name)


def test_every_strategy_is_a_stage_that_needs_what_it_starts_from_and_its_banks():
    for name, strategy in STRATEGIES.items():
        needs = STAGES[f"fpr/{name}"].needs
        assert any(need in (strategy.start, f"fpr/{strategy.start}") for need in needs)
        assert ("banks" in needs) == bool(strategy.banks and not strategy.oracle) and ("oracle" in needs) == strategy.oracle
    assert f"fpr/{BASELINE}" in STAGES["banks"].needs


def test_a_manifest_has_no_oracle_nor_what_reads_it():
    left_out = {"oracle", *(f"fpr/{name}" for name, strategy in STRATEGIES.items() if strategy.oracle)}
    stages = stages_of("scans.csv")
    assert set(STAGES) - set(stages) == left_out and stages_of("phantom") == STAGES
    assert not any(left_out & set(stage.needs) for stage in stages.values())


def test_a_manifest_of_nodule_cubes_has_a_graph_without_scans(tmp_path):
    (tmp_path / "cubes.csv").write_text(f"seriesuid,kind\n1.2,{NODULE_CUBE}\n")
    stages = stages_of(str(tmp_path / "cubes.csv"))
    rows = {f"fpr/{name}" for name, strategy in STRATEGIES.items() if not strategy.oracle}
    assert set(stages) == {"datasets", "synthesizer", "patches", "segmentation", "banks", "search", "stress", *rows}
    assert rows <= set(stages["search"].needs)


@pytest.mark.parametrize(("graph", "name"), [(STAGES, name) for name in STAGES] + [(CUBE_STAGES, name) for name in CUBE_STAGES])
def test_a_stage_declares_the_settings_that_its_module_reads(graph, name):
    """`run.settings.<part>` or `settings.<part>` in a stage's module: each part must be declared, for Snakemake looks at no other."""
    stage = graph[name]
    tree = ast.parse(Path(importlib.util.find_spec(stage.module).origin).read_text(encoding="utf-8"))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in PARTS and ast.unparse(node.value).endswith("settings")
    }
    declared = set().union(*(other.settings for other in graph.values() if other.module == stage.module))
    assert read <= declared <= set(PARTS)
