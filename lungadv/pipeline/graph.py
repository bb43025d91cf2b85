"""The graph of stages: where each is built, with how many threads, what it reads of settings and of other stages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lungadv.data.kinds import CUBES, PHANTOM, SCANS, kind_of
from lungadv.training.strategies import BASELINE, SEGMENTATION, STRATEGIES


@dataclass(frozen=True)
class Stage:
    """One node of the graph."""

    module: str  # its `build(run)` builds the stage; `build(run, strategy)` for one of Table II's rows
    threads: int  # it always computes with these, so that cores never change a result
    needs: tuple[str, ...] = ()  # stages that it reads
    settings: tuple[str, ...] = ()  # parts of the settings that it reads


def _strategy_stage(strategy):
    """The stage that trains a row of Table II."""
    start = SEGMENTATION if strategy.start == SEGMENTATION else f"fpr/{strategy.start}"
    banks = "oracle" if strategy.oracle else "banks"
    needs = ("patches", start, *((banks,) if strategy.banks else ()))
    more = ("attack",) if strategy.online else ("synthesizer",) if "banks" in needs else ()
    settings = ("patch", "fpr", *more)
    return Stage("lungadv.pipeline.stages.fpr", 1, needs, settings)


FPR_STAGES = {f"fpr/{name}": _strategy_stage(strategy) for name, strategy in STRATEGIES.items()}
ON_BANKS = {name: stage for name, stage in FPR_STAGES.items() if {"banks", "oracle"} & set(stage.needs)}

STAGES = {  # each needs only stages above it
    "two_moons": Stage("lungadv.pipeline.stages.two_moons", 1, (), ("two_moons",)),
    "datasets": Stage("lungadv.pipeline.stages.datasets", 2),
    "synthesizer": Stage("lungadv.pipeline.stages.synthesizer", 1, ("datasets",), ("patch", "synthesizer")),
    "candidates": Stage(
        "lungadv.pipeline.stages.candidates",
        1,
        ("datasets",),
        ("candidates", "attack", "patch", "fpr"),  # the last two: Fig. 3
    ),
    "patches": Stage("lungadv.pipeline.stages.patches", 2, ("datasets", "candidates"), ("patch", "fpr")),
    SEGMENTATION: Stage("lungadv.pipeline.stages.segmentation", 2, ("patches",), ("patch", "fpr")),
    **{name: stage for name, stage in FPR_STAGES.items() if name not in ON_BANKS},
    "banks": Stage(
        "lungadv.pipeline.stages.banks",
        2,
        ("datasets", "patches", "synthesizer", f"fpr/{BASELINE}"),
        ("patch", "attack", "latent", "banks", "fpr", "synthesizer"),
    ),
    "oracle": Stage("lungadv.pipeline.stages.oracle", 2, ("datasets", f"fpr/{BASELINE}"), ("patch", "banks")),
    **ON_BANKS,
    "benchmarks": Stage("lungadv.pipeline.stages.benchmarks", 2, ("candidates", *FPR_STAGES), ("patch", "fpr", "froc")),
    "stress": Stage(
        "lungadv.pipeline.stages.stress", 2, ("banks", *FPR_STAGES), ("patch", "attack", "latent", "stress", "synthesizer", "fpr")
    ),
    "claims": Stage("lungadv.pipeline.stages.claims", 1, ("two_moons", "candidates", "benchmarks", "stress"), ("attack", "stress")),
}




def _without(stages: Mapping[str, Stage], left_out: set[str]) -> dict[str, Stage]:
    """Stages but for some, which no other one needs any more."""
    return {
        name: replace(stage, needs=tuple(need for need in stage.needs if need not in left_out))
        for name, stage in stages.items()
        if name not in left_out
    }


ORACLES = {"oracle", *(name for name, stage in FPR_STAGES.items() if "oracle" in stage.needs)}
SEARCH = "search"  # of cubes, where scans have benchmarks
CUBE_STAGES = _without(  # of a run on nodule cubes: no toy, no candidate generation, no FROC, no claims
    STAGES
    | {
        "datasets": Stage("lungadv.pipeline.stages.cube_datasets", 1, (), ("patch",)),
        "patches": Stage("lungadv.pipeline.stages.cube_patches", 1, ("datasets",), ("patch", "fpr")),
        SEARCH: Stage("lungadv.pipeline.stages.search", 1, ("datasets", *FPR_STAGES), ("patch", "froc")),
        "stress": replace(STAGES["stress"], threads=1),  # beside the search
    },
    {"two_moons", "candidates", "benchmarks", "claims", *ORACLES},
)


STAGES_BY_KIND = {PHANTOM: STAGES, SCANS: _without(STAGES, ORACLES), CUBES: CUBE_STAGES}


def stages_of(data: str) -> dict[str, Stage]:
    """The stages of a run on `data`, "phantom" or a manifest; a manifest has no oracle, nor the rows that read it."""
    return STAGES_BY_KIND[kind_of(data)]
