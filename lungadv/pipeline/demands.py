"""What a step asks of a cluster: memory, minutes and an accelerator. Threads are the stage's own (`graph`)."""

import math

from lungadv.pipeline.steps import Step

__all__ = ["demands"]

# The most memory in MiB and the minutes of a stage in the quick profile, on two cores (figures/quick/provenance.json).
QUICK = {
    "two_moons": (1121, 0.4), "datasets": (626, 1.7), "synthesizer": (2974, 2.4), "candidates": (1869, 3.0), "patches": (1643, 0.8),
    "segmentation": (1134, 0.5), "fpr": (2043, 1.8), "banks": (1152, 1.2), "oracle": (617, 0.7), "benchmarks": (1893, 0.9),
    "search": (1900, 3.0), "stress": (2281, 1.8), "claims": (427, 0.1),
}  # fmt: skip
DRAWING = (1024, 1.0)  # of a step without a stage
# How many times the memory and the minutes of quick a profile takes. Those of full are an estimate, since it has not been run.
GROWTH = {"tiny": (1.0, 1.0), "quick": (1.0, 1.0), "standard": (1.2, 5.0), "full": (8.0, 120.0)}
RESERVE_MIB, RESERVE, LEAST_MINUTES = 1.5, 3.0, 20  # of memory and minutes: nodes differ, and the limit ends a job
ON_ACCELERATOR = ("synthesizer", "candidates", "segmentation", "fpr", "banks", "benchmarks", "search", "stress")  # train or attack


def demands(step: Step, profile: str) -> dict[str, int]:
    """The resources of a step as Snakemake names them: mem_mb (MiB), runtime (minutes), and gpu where `full` trains or attacks."""
    stage = (step.stage or "").split("/")[0]
    (memory, minutes), (more, longer) = QUICK.get(stage, DRAWING), GROWTH[profile]
    asked = {
        "mem_mb": 512 * math.ceil(RESERVE_MIB * more * memory / 512),
        "runtime": max(LEAST_MINUTES, math.ceil(RESERVE * longer * minutes)),
    }
    return asked | ({"gpu": 1} if profile == "full" and stage in ON_ACCELERATOR else {})
