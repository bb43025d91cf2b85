"""The stage "stress": all stress tests of a run, the numbers of the claims, and the audit."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lungadv.evaluation.stress_synthetic import describe_nodules
from lungadv.pipeline.artefacts import require, stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.stress_answers import collect_answers, measure_eps, measure_steps, measure_synthetic
from lungadv.pipeline.stages.stress_audit import audit_attacks, audit_networks, audit_types, combine_audits
from lungadv.pipeline.stages.stress_numbers import (
    image_numbers,
    minimal_radius_numbers,
    rejections,
    summaries,
    synthetic_numbers,
    threshold_numbers,
)
from lungadv.pipeline.stages.stress_samples import (
    ALL_NETWORKS,
    INDEPENDENT,
    TABLE2_NETWORKS,
    benchmark_samples,
    load_detectors,
    validation_thresholds,
)
from lungadv.pipeline.stages.synthesizer import cutout_grid, load_cutouts

__all__ = ["build", "load_results"]


@dataclass(frozen=True)
class StressResults:
    """The tables of a finished stage, each also a CSV, and the example patches."""

    numbers: pd.DataFrame  # what the claims read: claim, measure, network, condition, item, value
    answers: pd.DataFrame  # every answer: test, level, kind, network, index, confidence, uncertainty, source, item
    synthetic: pd.DataFrame  # see `stress_synthetic.synthetic_nodules`
    thresholds: pd.DataFrame  # network, threshold, benchmark_rate
    summary: pd.DataFrame  # see `stress.summarise`
    curve: pd.DataFrame  # attack, network, eps, n, share_wrong
    falls: pd.DataFrame  # network, index, eps, ssim
    steps: pd.DataFrame  # network, steps, restarts, share_wrong, margin
    rejection: pd.DataFrame  # network, attack, threshold, kept, auroc, n_wrong
    audit: pd.DataFrame  # check, network, value, reference, holds, verdict
    examples: dict[str, torch.Tensor]  # "<kind>/<test>-<level>": patches (2, 1, P, P, P); "<kind>/picks": their indices


def build(run: Run) -> Path:
    """Run all stress tests and write stress/: numbers.csv for the claims, the tables behind it, audit.csv and examples.safetensors."""
    with stage_output(run, "stress") as folder:
        everyone = load_detectors(run)
        detectors = {name: everyone[name] for name in (*ALL_NETWORKS, INDEPENDENT)}
        audited = {name: everyone[name] for name in TABLE2_NETWORKS}
        clean, items = benchmark_samples(run)
        thresholds = validation_thresholds(run, detectors)
        answers, examples = collect_answers(run, detectors, clean)
        answers["item"] = [items[kind][index] for kind, index in zip(answers["kind"], answers["index"], strict=True)]
        few = clean["positives"][: run.settings.stress.curve_nodules]
        curve, falls = measure_eps(run, detectors, few)
        steps = measure_steps(run, detectors, few)
        save_file(examples, folder / "examples.safetensors")
        stored = load_file(folder / "examples.safetensors")
        synthetic, real = measure_synthetic(run, detectors), _real_nodules(run)
        numbers = [threshold_numbers(thresholds), image_numbers(answers, run.settings), synthetic_numbers(synthetic, real)]
        numbers.append(minimal_radius_numbers(falls, items["positives"]))
        attacks = audit_attacks(run.settings, detectors, answers, curve, steps, stored)
        tables = {
            "numbers": pd.concat(numbers, ignore_index=True),
            "answers": answers,
            "synthetic": synthetic,
            "thresholds": thresholds,
            "summary": summaries(answers, thresholds.set_index("network")["threshold"]),
            "curve": curve,
            "falls": falls,
            "steps": steps,
            "rejection": rejections(answers),
            "audit": combine_audits(attacks, audit_types(real), audit_networks(run, audited, clean)),
        }
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.7g")
    return run.path("stress")


def _real_nodules(run):
    """Diameter, mean HU and share of solid voxels of the training nodules as cut out for the synthesizer, with their known type."""
    nodules, masks, table = load_cutouts(run)
    shapes = describe_nodules(nodules, masks, cutout_grid(run).spacing)
    return shapes.assign(item=[f"real:{k}" for k in range(len(shapes))], type=table["type"].to_numpy())


def load_results(run: Run) -> StressResults:
    """The finished stage, read back."""
    folder = require(run, "stress")
    text = {name: str for name in ("item", "source", "condition")}
    tables = {path.stem: pd.read_csv(path, dtype=text) for path in folder.glob("*.csv")}
    tables["answers"]["source"] = tables["answers"]["source"].fillna("")  # clean and noisy patches were made against no network
    return StressResults(**tables, examples=load_file(folder / "examples.safetensors"))
