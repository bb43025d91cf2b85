"""The model card of exported weights: what they are, what they were trained on, and what was measured."""

from pathlib import Path

import pandas as pd

from lungadv.pipeline.runs import Run
from lungadv.training.strategies import BASELINE, STRATEGIES
from lungadv.utils.files import sha256

__all__ = ["model_card"]


def model_card(run: Run, folder: Path, provenance: dict, half: bool) -> str:
    """The model card of the weights in `folder`, which are of `run`, as markdown; its numbers are those of the run's own tables.

    provenance: of the FPR network; half: whether the weights are stored in bfloat16.
    """
    scans, nodules = (pd.read_csv(run.path("datasets", f"{name}.csv"), dtype=str) for name in ("scans", "annotations"))
    card = PHANTOM_CARD if provenance["data"] == "phantom" else DATA_CARD
    return CARD.format(
        strategy=BASELINE,
        results=_model_index_rows(run, card["kind"]),
        origin=card["origin"].format(**provenance),
        meaning=card["meaning"],
        benchmarks=card["benchmarks"],
        scans=(scans["dataset"] == "train").sum(),
        nodules=(nodules["dataset"] == "train").sum(),
        measured=_measured_rows(run),
        torch=provenance["versions"]["torch"],
        changed=" (with uncommitted changes)" if provenance["dirty"] else "",
        stored="bfloat16" if half else "float32",
        data="" if provenance["data"] == "phantom" else f" DATA={provenance['data']}",
        sums="\n".join(f"    {sha256(path)}  {path.relative_to(folder)}" for path in sorted(folder.rglob("*.safetensors"))),
        **{key: provenance[key] for key in ("profile", "seed", "commit", "device", "precision", "data_sha256")},
    )


def _measured_rows(run):
    """The rows of the model card's table, from the run's own."""
    numbers = pd.read_csv(run.path("candidates", "numbers.csv"))
    rows = []
    for row in _benchmark_rows(run):
        mine = numbers[(numbers["claim"] == "M2") & (numbers["condition"] == row.benchmark)].groupby("measure")["value"]
        found, per_scan = mine.get_group("detected"), mine.get_group("candidates_per_scan").iloc[0]
        share = f"{found.mean():.3f} of {len(found)}, at {per_scan:.0f} candidates a scan"
        rows.append(f"| {row.benchmark} | {share} | {row.cpm:.3f} ({row.lower:.3f} to {row.upper:.3f}) |")
    return "\n".join(rows)


def _benchmark_rows(run):
    """The rows of the run's Table II that are of the shipped network: benchmark, cpm, lower, upper."""
    table = pd.read_csv(run.path("benchmarks", "table2.csv"))
    return table[table["strategy"] == STRATEGIES[BASELINE].label].itertuples()


def _model_index_rows(run, kind):
    """The results of the front matter's model-index: the CPM on each benchmark, a data set of that kind."""
    return "\n".join(
        f"  - task: {{type: object-detection}}\n    dataset: {{type: {kind}, name: {row.benchmark}}}\n"
        f"    metrics:\n    - {{type: cpm, name: CPM, value: {row.cpm:.3f}}}"
        for row in _benchmark_rows(run)
    )


PHANTOM_CARD = {
    "kind": "simulated-ct",
    "origin": "simulated chests only (this project's phantom): no scan of a patient was used",
    "meaning": """What that means: the networks know the anatomy, the nodules and the noise that the simulator draws, and nothing else.
In patients they miss nodules, and mark what is none (vessels, the hilum, the edges of vertebrae and ribs, scars), more often than the
numbers below say, which are of simulated chests as well.""",
    "benchmarks": "simulated chests, with the kernels and doses that a part of the training scans has",
}
DATA_CARD = {
    "kind": "ct",
    "origin": "the data set {data}",
    "meaning": "What that means: on scans from other scanners, protocols or populations the numbers below need not hold.",
    "benchmarks": "the benchmark scans of the same data set",
}
# The front matter is that of model cards on Hugging Face.
CARD = """---
license: apache-2.0
library_name: lungadv
pipeline_tag: object-detection
tags:
- chest-ct
- lung-nodule-detection
- adversarial-robustness
- not-for-clinical-use
model-index:
- name: {strategy}
  results:
{results}
---

# Model card: the weights of `lungadv detect`

**Not for clinical use.** For research on detectors and attacks: no decision on a patient may rest on a finding, or on the absence of one.

## What it is

Three ResUNets that name candidates, and the DenseUNet `{strategy}` that weighs the evidence for and against a nodule in each. Input: a CT
of the chest in HU. Output: places in LPS mm, probability, uncertainty (high where there is little evidence). Diameters are measured in the
scan, not learnt.

## What it was trained on

{origin}; {scans} scans with {nodules} nodules (profile {profile}, seed {seed}; sha256 of the recipe or manifest: {data_sha256}).

{meaning}

## What was measured

On {benchmarks}, never used in training (one
look at each patch, where `lungadv detect` takes the mean over its eight mirror images):

| benchmark | nodules named as candidates | CPM (95 % interval) |
|---|---|---|
{measured}

## How it was made

Commit {commit}{changed}, torch {torch}, on {device} in {precision}; stored in {stored}. The settings are in the two provenance.json.
`git checkout {commit} && make reproduce weights PROFILE={profile} SEED={seed}{data}` makes this folder again. sha256:

{sums}
"""
