"""What the stress tests compare: the networks, the benchmark patches that they are shown, and their thresholds."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd
import torch

from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.thresholds import threshold_at_rate
from lungadv.pipeline.artefacts import require
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import benchmarks_of
from lungadv.pipeline.stages.fpr import load_strategy
from lungadv.pipeline.stages.patches import load_patches
from lungadv.training.strategies import BASELINE, BEYOND, STRATEGIES
from lungadv.utils.device import get_device

__all__ = [
    "ALL_NETWORKS",
    "FIGURE_NETWORKS",
    "INDEPENDENT",
    "SOURCE",
    "TABLE2_NETWORKS",
    "benchmark_patches",
    "benchmark_samples",
    "load_detectors",
    "validation_thresholds",
]

SOURCE = BASELINE  # the paper's threat model: inputs are made against this network
INDEPENDENT = "baseline-beta"  # fine-tuned from no other row: an attack made against it shares no trained head with them
TABLE2_NETWORKS = tuple(name for name, strategy in STRATEGIES.items() if strategy.in_paper)
AUGMENTED = tuple(name for name in TABLE2_NETWORKS if STRATEGIES[name].start == BASELINE)
FIGURE_NETWORKS = (SOURCE, *(name for name in AUGMENTED if "synthetic-random" not in STRATEGIES[name].banks))  # of Figures 9 to 14
CONTROLS = tuple(name for name, strategy in STRATEGIES.items() if strategy.control and strategy.start == BASELINE)
ALL_NETWORKS = (*FIGURE_NETWORKS, *CONTROLS, *BEYOND)  # those that every stimulus is shown to


def load_detectors(run: Run) -> dict[str, StressedModel]:
    """Every network that is stressed or audited, by strategy, on the device of the run."""
    networks = {name: load_strategy(run, name).to(get_device()) for name in dict.fromkeys((*ALL_NETWORKS, *TABLE2_NETWORKS))}
    return {name: StressedModel(network, network.output) for name, network in networks.items()}


def benchmark_patches(run: Run, kinds: Collection[str]) -> tuple[pd.DataFrame, Callable[[np.ndarray], torch.Tensor]]:
    """The table of the patches of these kinds ("nodule", "candidate", "background") of the `benchmarks_of` a run, and what reads its rows.

    It gives (n, 1, P, P, P) in [0, 1] of rows (n,).
    """
    tables, patches = zip(*(load_patches(run, dataset, kinds) for dataset in benchmarks_of(run)), strict=True)
    starts = np.cumsum([0, *map(len, tables)])

    def read(rows):
        rows = np.asarray(rows)
        part = np.searchsorted(starts, rows, side="right") - 1
        found = [patches[k][[row - starts[k]]] for k, row in zip(part, rows.tolist(), strict=True)]
        return torch.cat(found) if found else patches[0][:0]

    return pd.concat(tables, ignore_index=True), read


def benchmark_samples(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """Clean patches by kind, of benchmark scans and of uniform noise, and their items, `<seriesuid>:<row>` or `noise:<k>`."""
    settings, size = run.settings.stress, run.settings.patch.size
    clean, items = {}, {}
    for kind, patch_kind, count in (("positives", "nodule", settings.positives), ("negatives", "background", settings.negatives)):
        table, read = benchmark_patches(run, (patch_kind,))
        rows = run.rng("stress", kind).permutation(len(table))[:count]
        clean[kind], items[kind] = read(rows), [f"{table['seriesuid'][row]}:{row}" for row in rows]
    clean["noise"] = torch.rand(settings.noise_patches, 1, size, size, size, generator=run.generator("stress", "noise patches"))
    items["noise"] = [f"noise:{k}" for k in range(settings.noise_patches)]
    return clean, items


def _clean_negatives(run):
    """Patches of candidates labelled 0 and random lung positions of the benchmarks, as many as the settings say."""
    table, read = benchmark_patches(run, ("candidate", "background"))
    negatives = np.flatnonzero(table["label"] == 0)
    rows = run.rng("stress", "clean negatives").permutation(negatives)[: run.settings.stress.calibration_patches]
    return read(rows)


def validation_thresholds(run: Run, detectors: Mapping[str, StressedModel]) -> pd.DataFrame:
    """A row a network: its threshold at 5 % of all clean validation negatives, and benchmark_rate.

    The rate is that of false positives at the threshold on clean negatives of the benchmarks. The answers on validation are those that
    training left beside the weights.
    """
    benchmarks, rows = _clean_negatives(run), []
    for name, detector in detectors.items():
        validation = pd.read_csv(require(run, f"fpr/{name}") / "validation.csv")
        threshold = threshold_at_rate(validation.loc[validation["label"] == 0, "confidence"])
        rate = (detector.predict(benchmarks)[0].numpy() > threshold).mean()
        rows.append({"network": name, "threshold": threshold, "benchmark_rate": rate})
    return pd.DataFrame(rows)
