"""The model card of exported weights: what they are, what they were trained on, and what was measured."""

from pathlib import Path

import pandas as pd

from lungadv.detection.seen import read_seen
from lungadv.evaluation.cube_detection import markdown_table
from lungadv.pipeline.runs import REAL, Run
from lungadv.training.strategies import BASELINE, STRATEGIES
from lungadv.utils.files import read_json, sha256

__all__ = ["model_card", "real_card"]


def model_card(run: Run, folder: Path, provenance: dict, half: bool) -> str:
    """The model card of the weights in `folder`, which are of `run`, as markdown; its numbers are those of the run's own tables.

    provenance: of the FPR network; half: whether the weights are stored in bfloat16.
    """
    card = PHANTOM_CARD if provenance["data"] == "phantom" else DATA_CARD
    table = pd.read_csv(run.path("benchmarks", "table2.csv"))
    table = table[table["strategy"] == STRATEGIES[BASELINE].label]
    return _fill(run, folder, provenance, half, card, table, measured=_measured_rows(run, table), command="", start="", real="")


def real_card(run: Run, folder: Path, provenance: dict, half: bool) -> str:
    """`model_card` of weights that `real_weights.train_on_cubes` made; its numbers are those of the run's folder REAL."""
    table, nodules, operating = (pd.read_csv(run.path(REAL, f"{name}.csv")) for name in ("benchmarks", "nodules", "operating"))
    rows = [f"| {row.benchmark} | {row.found:.3f} of {row.nodules}, at 100 candidates a scan | {_cpm(row)} |" for row in table.itertuples()]
    seen = read_seen(folder)
    held = REAL_CARD["meaning"].format(sources="\n".join(f"- {source}" for source in seen.sources))
    card = REAL_CARD | {"meaning": held}
    texts = {
        "measured": "\n".join(rows),
        "command": " CUBES=cubes.csv",
        "start": f", from the networks of a run of commit {read_json(run.path(f'fpr/{BASELINE}', 'provenance.json'))['commit']}",
        "real": REAL_SECTION.format(table=markdown_table(nodules), **operating.iloc[0].to_dict()),
    }
    return _fill(run, folder, provenance, half, card, table, **texts)


def _fill(run, folder, provenance, half, card, table, **texts):
    """The model card from its parts; table: benchmark, cpm, lower, upper; texts: measured, command, start and real, as CARD has them."""
    scans, nodules = (pd.read_csv(run.path("datasets", f"{name}.csv"), dtype=str) for name in ("scans", "annotations"))
    return CARD.format(
        strategy=BASELINE,
        results=_model_index_rows(table, card["kind"]),
        origin=card["origin"].format(**provenance),
        meaning=card["meaning"],
        benchmarks=card["benchmarks"],
        scans=(scans["dataset"] == "train").sum(),
        nodules=(nodules["dataset"] == "train").sum(),
        **texts,
        torch=provenance["versions"]["torch"],
        changed=" (with uncommitted changes)" if provenance["dirty"] else "",
        stored="bfloat16" if half else "float32",
        data="" if provenance["data"] == "phantom" else f" DATA={provenance['data']}",
        sums="\n".join(f"    {sha256(path)}  {path.relative_to(folder)}" for path in sorted(folder.rglob("*.safetensors"))),
        **{key: provenance[key] for key in ("profile", "seed", "commit", "device", "precision", "data_sha256")},
    )


def _measured_rows(run, table):
    """The rows of the model card's table, from the run's own."""
    numbers = pd.read_csv(run.path("candidates", "numbers.csv"))
    rows = []
    for row in table.itertuples():
        mine = numbers[(numbers["claim"] == "M2") & (numbers["condition"] == row.benchmark)].groupby("measure")["value"]
        found, per_scan = mine.get_group("detected"), mine.get_group("candidates_per_scan").iloc[0]
        share = f"{found.mean():.3f} of {len(found)}, at {per_scan:.0f} candidates a scan"
        rows.append(f"| {row.benchmark} | {share} | {_cpm(row)} |")
    return "\n".join(rows)


def _cpm(row):
    """A row's CPM and its interval."""
    return f"{row.cpm:.3f} ({row.lower:.3f} to {row.upper:.3f})"


def _model_index_rows(table, kind):
    """The results of the front matter's model-index: the CPM on each benchmark, a data set of that kind."""
    return "\n".join(
        f"  - task: {{type: object-detection}}\n    dataset: {{type: {kind}, name: {row.benchmark}}}\n"
        f"    metrics:\n    - {{type: cpm, name: CPM, value: {row.cpm:.3f}}}"
        for row in table.itertuples()
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
REAL_CARD = PHANTOM_CARD | {
    "origin": "simulated chests (this project's phantom) and real nodules",
    "meaning": """What the weights have seen, as seen.json beside them says:

{sources}

The cubes are of 50 mm around a nodule: what lies in them beside it is all that the networks know of real anatomy. No whole real scan was
trained on. Cubes of the patient LIDC-IDRI-0001 are left out, since its whole scan is a test of this project. The cubes come from NODE21,
LUNA16 (CC BY 4.0) and LIDC-IDRI (CC BY 3.0, The Cancer Imaging Archive); no voxel of them is in this folder.
`lungadv detect` warns when a scan's series is among those seen.""",
}
REAL_SECTION = """
On real nodules of {patients:.0f} patients whom no network was trained on, in cubes of 50 mm with {litres:.1f} litres of lung. Shares with
95 % intervals over patients; sizes are those of the mask. The answers were shifted until one false positive a litre of these cubes lay
above a probability of 0.5: now {above_half:.2f} a litre do. One a litre is at {threshold_at_one:.2f}. Sensitivity is that of false-positive
reduction at the middle of the mask. "Named a candidate" is one among 20 of its cube. "End to end" is one of them above the threshold.

{table}

What these numbers do not say: recipe and threshold were chosen by these patients, the number of updates
by the simulated benchmarks above, so new ones may fare worse; perf/README.md has a table of
test patients. A cube has a nodule in its middle and is a small part of a lung. So a litre of cubes is not a litre of a whole scan, and this
is not LUNA16's FROC. All are nodules that three of four readers of LIDC-IDRI marked. Nothing is said of other scanners, of thick slices,
of contrast agent or of children.
"""
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
{real}
## How it was made

Commit {commit}{changed}{start}, torch {torch}, on {device} in {precision}; stored in {stored}. The settings are in the two provenance.json.
`git checkout {commit} && make reproduce weights PROFILE={profile} SEED={seed}{data}{command}` makes this folder again. sha256:

{sums}
"""
