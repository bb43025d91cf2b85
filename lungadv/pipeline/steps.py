"""The steps that Snakemake runs: one a notebook, one a stage without one, one a strategy; and what each is made from."""

import ast
import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lungadv.data.kinds import CUBES, PHANTOM, SCANS, kind_of
from lungadv.pipeline.graph import CUBE_STAGES, SEARCH, STAGES, STAGES_BY_KIND, Stage, stages_of
from lungadv.pipeline.runs import Run
from lungadv.settings import Settings
from lungadv.training.strategies import BASELINE, STRATEGIES
from lungadv.utils.files import repo_root


@dataclass(frozen=True)
class Step:
    """One rule of the pipeline: a notebook (or a stage without one), the stage it builds and the figures it draws."""

    name: str
    notebook: str | None = None
    stage: str | None = None
    figures: tuple[str, ...] = ()  # file names in the run's figures
    parameters: dict = field(default_factory=dict)  # of the notebook
    reads: tuple[str, ...] = ()  # data files, as patterns from the repository's root
    graph: Mapping[str, Stage] = field(default_factory=lambda: STAGES, repr=False)  # where its stage stands

    @property
    def node(self) -> Stage | None:
        """The stage in the graph, None without one."""
        return self.graph[self.stage] if self.stage else None

    @property
    def threads(self) -> int:
        """Threads that the step computes with."""
        return self.node.threads if self.node else 1

    def needs(self, run: Run) -> tuple[str, ...]:
        """Stages of a run that the step reads."""
        return stages_of(run.data)[self.stage].needs if self.stage else ()


def _figures(*numbers):
    return tuple(f"fig{number:02d}.png" for number in numbers)


def _notebook_step(notebook, stage=None, figures=(), **more):
    return Step(notebook, notebook, stage, figures, **more)


SHOWN_STRATEGIES = {"07_fpr": BASELINE, "10_strategies": "beta+perturb+syn"}  # of Table II's rows, those that a notebook trains and shows


def _strategy_step(notebook, name):
    """The step of a row of Table II that a notebook shows; the others are trained by their stage alone."""
    return Step(f"{notebook}-{name}", notebook, f"fpr/{name}", (f"training-{name}.png",), parameters={"strategy": name})


NOTEBOOK_STEPS = (
    _notebook_step("00_two_moons", "two_moons", _figures(1, 7)),
    _notebook_step("04_phantom", figures=("phantom_layers.png", "phantom.png", "gates.csv", "scanner.png", "artefacts.png")),
    _notebook_step("05_datasets", "datasets", ("table1.csv",), reads=("data_manifests/*",)),
    _notebook_step("06_candidates", "candidates", _figures(3)),
    *(_strategy_step(notebook, name) for notebook, name in SHOWN_STRATEGIES.items()),
    _notebook_step("08_synthesizer", "synthesizer", _figures(4)),
    _notebook_step("09_banks", "banks", _figures(2, 5, 6, 8)),
    _notebook_step(
        "11_benchmarks",
        "benchmarks",
        ("table2.csv", "froc.png", "difficulty.png", "learning.png", "calibration.png", "uncertainty.png"),
        reads=("lungadv/paper/table2.csv",),
    ),
    _notebook_step("12_stress_tests", "stress", _figures(*range(9, 15))),
    _notebook_step("13_claims", "claims", ("claims.csv",), reads=("lungadv/paper/*.csv",)),
)


def _with_others(notebook_steps, graph):
    """Steps with notebooks, and those of the other stages: a stage that no notebook tells of is built by its module alone."""
    shown = {step.stage for step in notebook_steps}
    others = [Step(name.replace("/", "-"), stage=name) for name in graph if name not in shown]
    return tuple(replace(step, graph=graph) for step in (*notebook_steps, *others))


STEPS = _with_others(NOTEBOOK_STEPS, STAGES)
CUBE_STEPS = _with_others(
    (
        *(step for step in NOTEBOOK_STEPS if step.stage in set(CUBE_STAGES) - {"datasets"}),
        _notebook_step("16_real_nodules", SEARCH, ("table1.csv", "real_nodules.png", "real_groups.png", "real_misses.png")),
    ),
    CUBE_STAGES,
)
STEPS_BY_KIND = {
    PHANTOM: STEPS,
    SCANS: tuple(step for step in STEPS if step.stage is None or step.stage in STAGES_BY_KIND[SCANS]),
    CUBES: CUBE_STEPS,
}


def steps_of(run: Run) -> list[Step]:
    """The steps of a run: those of its stages, and on scans those without one."""
    return list(STEPS_BY_KIND[kind_of(run.data)])


def priority(step: Step) -> int:
    """How many stages wait for this step, directly or not: of the steps that could start, the one with most goes first.

    A step without a stage goes before the controls: while steps of one thread run, there is a core for it.
    """
    if not step.stage:
        return 1 + max(len(_descendants(f"fpr/{name}", step.graph)) for name, strategy in STRATEGIES.items() if strategy.control)
    return len(_descendants(step.stage, step.graph))


def _descendants(stage, graph):
    """The stages that need this one, directly or not."""
    direct = {name for name, other in graph.items() if stage in other.needs}
    return direct.union(*(_descendants(name, graph) for name in direct))


def outputs(step: Step) -> list[str]:
    """What a step makes, as paths in the run's folder."""
    stage = [f"{step.stage}/provenance.json"] if step.stage else []
    return stage + [f"figures/{name}" for name in step.figures]


def notebook_path(step: Step) -> Path | None:
    """The notebook of a step, or None."""
    return step.notebook and repo_root() / "nbs" / f"{step.notebook}.ipynb"


def step_settings(step: Step, settings: Settings) -> dict:
    """The parts of the settings that a step's stage declares: a change of another one does not concern it."""
    return {part: asdict(getattr(settings, part)) for part in step.node.settings} if step.node else {}


def sources(step: Step) -> list[str]:
    """The files that a step's results follow from beside its notebook: every module of the package that it imports, and its data."""
    root = repo_root()
    code = f"import {step.node.module}\n" if step.node else ""
    found = set()
    if step.notebook:
        code += notebook_code(notebook_path(step))
    unread = set(_imported(code))
    while unread:
        module = unread.pop()
        if module not in found:
            found.add(module)
            unread |= _imported(module.read_text(encoding="utf-8"), module)
    return sorted(map(str, found | {path for pattern in step.reads for path in root.glob(pattern) if path.is_file()}))


def notebook_code(path: Path) -> str:
    """The code cells of a notebook as one text, without lines for IPython alone (%, !)."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


@functools.cache  # most modules are imported by most steps
def _imported(code, module=None):
    """The files of the lungadv modules that some code imports, absolutely or (in a module) relatively."""
    package = Path(__file__).resolve().parents[1]
    here = ("lungadv", *module.relative_to(package).parts) if module else ()
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, (*(here[: -node.level] if node.level else ()), node.module)))
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    places = [package.joinpath(*name.split(".")[1:]) for name in names if name.split(".")[0] == "lungadv"]
    return frozenset(path for place in places for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists())


def manifest_files(run: Run) -> list[str]:
    """The manifest of a run and the tables that lie beside it; none for the phantom."""
    if run.data == "phantom":
        return []
    from lungadv.data import manifest

    tables = ("annotations.csv", "annotations_excluded.csv", "mimics.csv", "not_nodules.csv")
    beside = [manifest.companion(run.data), *(Path(run.data).with_name(name) for name in tables)]
    return [run.data, *(str(path) for path in beside if path.exists())]
