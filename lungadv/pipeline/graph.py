"""The graph of stages: where each is built, with how many threads, what it reads of settings and of other stages."""

from dataclasses import dataclass

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
    needs = ("patches", start, *(("banks",) if strategy.banks else ()))
    settings = ("patch", "fpr", *(("attack",) if strategy.online else ()), *(("synthesizer",) if strategy.banks else ()))
    return Stage("lungadv.pipeline.stages.fpr", 1, needs, settings)


FPR_STAGES = {f"fpr/{name}": _strategy_stage(strategy) for name, strategy in STRATEGIES.items()}
ON_BANKS = {name: stage for name, stage in FPR_STAGES.items() if "banks" in stage.needs}

STAGES = {  # each needs only stages above it
    "two_moons": Stage("lungadv.pipeline.stages.two_moons", 1, (), ("two_moons",)),
    "datasets": Stage("lungadv.pipeline.stages.datasets", 2),
    "synthesizer": Stage("lungadv.pipeline.stages.synthesizer", 1, ("datasets",), ("patch", "synthesizer")),
    "candidates": Stage(
        "lungadv.pipeline.stages.candidates",
        2,
        ("datasets",),
        ("candidates", "attack", "patch", "fpr"),  # the last two: Fig. 3
    ),
    "patches": Stage("lungadv.pipeline.stages.patches", 2, ("datasets", "candidates"), ("patch", "fpr")),
    SEGMENTATION: Stage("lungadv.pipeline.stages.segmentation", 2, ("patches",), ("patch", "fpr")),
    **{name: stage for name, stage in FPR_STAGES.items() if name not in ON_BANKS},
    "banks": Stage(
        "lungadv.pipeline.stages.banks",
        2,
        ("patches", "synthesizer", f"fpr/{BASELINE}"),
        ("patch", "attack", "latent", "banks", "fpr", "synthesizer"),
    ),
    **ON_BANKS,
    "benchmarks": Stage("lungadv.pipeline.stages.benchmarks", 2, ("candidates", *FPR_STAGES), ("patch", "fpr", "froc")),
    "stress": Stage(
        "lungadv.pipeline.stages.stress", 2, ("banks", *FPR_STAGES), ("patch", "attack", "latent", "stress", "synthesizer", "fpr")
    ),
    "claims": Stage("lungadv.pipeline.stages.claims", 1, ("two_moons", "candidates", "benchmarks", "stress"), ("attack", "stress")),
}
