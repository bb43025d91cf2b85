"""The stage `candidates`: three networks trained, calibrated on validation and run over every scan."""

import shutil
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lungadv.data.dataset import BENCHMARKS
from lungadv.detection.candidates import calibrate, merge_sources, raw_candidates
from lungadv.detection.networks import save_networks, save_weights
from lungadv.evaluation.candidate_attacks import attack_numbers, compare_finetuned
from lungadv.evaluation.sensitivity import sensitivity_curve, sensitivity_numbers, sensitivity_table, threshold_table
from lungadv.pipeline.artefacts import stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import load
from lungadv.training.candidate_crops import training_grids
from lungadv.training.candidates import adversarial_finetune, train_networks
from lungadv.utils.errors import InputError

GRIDS = "grids"  # a folder for the time of training


def build(run: Run) -> Path:
    """Train the three networks, calibrate them on validation, and run them over every scan.

    Makes candidates/<dataset>.csv (seriesuid, coordX, coordY, coordZ, score, source, diameter_mm) and raw/<dataset>.csv (the sources
    apart). numbers.csv is for the claims M1, M2 and M7; curves.csv has the sensitivity against candidates a scan.
    sensitivity.csv is that of the benchmarks, by type and diameter; threshold.csv is `threshold_table`.
    hardening.csv compares the heatmap networks with their adversarially fine-tuned copies, clean and attacked.
    Further training.csv, the weights, and those of the copies in hardened/.
    """
    with stage_output(run, "candidates") as folder:
        data, settings = load(run), run.settings.candidates
        (folder / GRIDS).mkdir()
        grids = training_grids(data.of("train"), settings.spacing, folder / GRIDS)
        networks, losses = train_networks(grids, settings, run)
        raw = {name: _search(networks, data.of(name), settings, name) for name in data.datasets}
        calibration = calibrate(raw["validation"], len(data.of("validation").uids))
        save_networks(networks, calibration, folder)
        finetuned, more = adversarial_finetune(networks, grids, run.settings, run)
        attacks, numbers = compare_finetuned(networks, finetuned, data, raw["validation"], run.settings, run)
        shutil.rmtree(folder / GRIDS)
        (folder / "hardened").mkdir()
        for name, network in finetuned.items():
            save_weights(network, folder / "hardened" / f"{name}.safetensors")
        pd.concat([losses, more]).to_csv(folder / "training.csv", index=False)
        numbers.to_csv(folder / "hardening.csv", index=False)
        merged = {name: _merge_scans(table, calibration, settings) for name, table in raw.items()}
        threshold_table(data, merged, settings.per_scan).to_csv(folder / "threshold.csv", index=False)
        found = {name: table.groupby("seriesuid").head(settings.per_scan) for name, table in merged.items()}
        _write_candidates(found, raw, folder)
        _write_sensitivities(data, found, raw, attack_numbers(attacks), folder)
    return run.path("candidates")


def _search(networks, data, settings, name):
    """The candidates of every source in the scans of `data`, which are called `name`."""
    found = [raw_candidates(networks, data.scan(uid), data.lungs(uid), settings) for uid in tqdm(data.uids, desc=f"candidates of {name}")]
    found = pd.concat(found, ignore_index=True)
    if found.empty:
        raise InputError(f"the candidate networks find nothing in the scans of '{name}': are they chest CT in HU, with lungs?")
    return found


def _merge_scans(raw, calibration, settings):
    """All merged candidates of each scan."""
    return pd.concat([merge_sources(table, calibration, settings) for _, table in raw.groupby("seriesuid")], ignore_index=True)


def _write_candidates(found, raw, folder):
    """<dataset>.csv and raw/<dataset>.csv."""
    (folder / "raw").mkdir()
    for name in found:
        found[name].to_csv(folder / f"{name}.csv", index=False)
        raw[name].to_csv(folder / "raw" / f"{name}.csv", index=False)


def _write_sensitivities(data, found, raw, attack_rows, folder):
    """curves.csv of all data sets, sensitivity.csv of the benchmarks, and numbers.csv with the rows of the attacks first."""
    numbers, curves, tables = [attack_rows], [], []
    for name in found:
        part = data.of(name)
        benchmark = name in BENCHMARKS
        if benchmark:
            rows = sensitivity_numbers(part.annotations, raw[name], found[name], len(part.uids))
            numbers.append(rows.assign(condition=rows["condition"].fillna(name)))
        for network, marks in (*raw[name].groupby("source"), ("union", found[name])):
            terms = part.annotations, marks, len(part.uids)
            curves.append(sensitivity_curve(*terms).assign(dataset=name, network=network))
            if benchmark:
                tables.append(sensitivity_table(*terms).assign(dataset=name, network=network))
    pd.concat(tables).to_csv(folder / "sensitivity.csv", index=False)
    pd.concat(numbers).to_csv(folder / "numbers.csv", index=False)
    pd.concat(curves).to_csv(folder / "curves.csv", index=False)
