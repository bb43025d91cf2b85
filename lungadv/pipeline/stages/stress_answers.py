"""The stress tests of a run: every network's answers to noise and attack, over eps, over steps, and to synthetic nodules."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lungadv.banks.sites import CROWDED, crowding
from lungadv.data.similarity import ssim
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.stress import Stimulus, evaluate, is_wrong, minimal_radius, noise_stimuli, pgd_stimuli
from lungadv.evaluation.stress_synthetic import synthetic_nodules
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.stress_samples import ALL_NETWORKS, INDEPENDENT, SOURCE, benchmark_patches
from lungadv.pipeline.stages.synthesizer import load_generator
from lungadv.training.strategies import BEYOND

__all__ = ["collect_answers", "measure_eps", "measure_steps", "measure_synthetic"]

CHUNK = 64  # synthetic nodules at a time


def _generator(run, detector, *items):
    return run.generator("stress", *items, device=detector.device)


def example_picks(detector: StressedModel, clean: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two indices of each kind to be shown: the first positives that `detector` finds, the first negatives and noise patches."""
    found = detector.predict(clean["positives"])[0] > 0.5
    first = torch.argsort(~found, stable=True)[:2]
    return {"positives": first, "negatives": torch.arange(2), "noise": torch.arange(2)}


def record_examples(
    stimuli: Iterable[Stimulus], picks: Mapping[str, torch.Tensor], examples: dict[str, torch.Tensor]
) -> Iterator[Stimulus]:
    """The stimuli unchanged; the picked patches of each are put into `examples` under "<kind>/<test>-<level>"."""
    for test, level, kind, patches in stimuli:
        examples[f"{kind}/{test}-{level:g}"] = patches[picks[kind]].contiguous()
        yield test, level, kind, patches


def collect_answers(
    run: Run, detectors: Mapping[str, StressedModel], clean: Mapping[str, torch.Tensor]
) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """Every network's answers to clean, noisy and attacked patches (`source`: the network attacked), and the example patches.

    Attacks on SOURCE and INDEPENDENT are shown to all networks. Those on any other are shown to itself alone, on fewer patches.
    """
    stress, attack, picks = run.settings.stress, run.settings.attack, example_picks(detectors[SOURCE], clean)
    examples = {f"{kind}/picks": indices for kind, indices in picks.items()}
    shown = {name: detectors[name] for name in ALL_NETWORKS}
    draws, answers = run.generator("stress", "noise"), []
    for kind, patches in clean.items():
        noises = noise_stimuli({kind: patches}, attack.radius(kind), stress.uniform_noise, stress.poisson_scales, draws)
        answers.append(evaluate(shown, record_examples(noises, picks, examples)).assign(source=""))
    for source, detector in tqdm(detectors.items(), desc="attacks"):
        transferred = source in (SOURCE, INDEPENDENT)
        inputs = clean if transferred else {kind: patches[: stress.whitebox_patches] for kind, patches in clean.items()}
        generator = _generator(run, detector, "pgd", source)
        each = (pgd_stimuli(detector, {kind: batch}, attack.radius(kind), attack.steps, generator) for kind, batch in inputs.items())
        attacks = chain.from_iterable(each)
        attacks = record_examples(attacks, picks, examples) if source == SOURCE else attacks
        answers.append(evaluate(shown if transferred else {source: detector}, attacks).assign(source=source))
    return pd.concat(answers, ignore_index=True), examples


def measure_eps(run: Run, detectors: Mapping[str, StressedModel], positives: torch.Tensor) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables over eps: the curves (attack, network, eps, n, share_wrong), and each network's smallest eps with the SSIM there.

    The second has network, index, eps and ssim: inf and NaN where no eps of the grid flips the decision.
    """
    grid, steps = sorted(run.settings.stress.curve_eps), run.settings.attack.steps
    shown = {name: detectors[name] for name in ALL_NETWORKS}
    curve, falls = [], []
    for eps in tqdm(grid, desc="radii"):
        generator = _generator(run, detectors[SOURCE], "radius", eps)
        answers = evaluate(shown, pgd_stimuli(detectors[SOURCE], {"positives": positives}, eps, steps, generator))
        shares = answers.groupby("network", sort=False)["confidence"].agg(lambda confidence: is_wrong(confidence, "positives").mean())
        curve.append(_curve("transfer", shares.index, eps, len(positives), shares.values))
    for name, detector in tqdm(shown.items(), desc="smallest radius"):
        generator = _generator(run, detector, "smallest", name)
        eps, flipped = minimal_radius(detector, positives, 1, grid, steps=steps, generator=generator)
        likeness = torch.where(eps.isinf(), torch.nan, ssim(positives, flipped))
        falls.append(pd.DataFrame({"network": name, "index": range(len(eps)), "eps": eps.numpy(), "ssim": likeness.numpy()}))
        shares = [(eps <= radius).float().mean().item() for radius in (0.0, *grid)]
        curve.append(_curve("white-box", name, [0.0, *grid], len(positives), shares))
    return pd.concat(curve, ignore_index=True), pd.concat(falls, ignore_index=True)


def _curve(attack, network, eps, count, shares):
    return pd.DataFrame({"attack": attack, "network": network, "eps": eps, "n": count, "share_wrong": shares})


def measure_steps(run: Run, detectors: Mapping[str, StressedModel], positives: torch.Tensor) -> pd.DataFrame:
    """What more steps and restarts add: network, steps, restarts, share_wrong, margin (mean log-odds against the truth)."""
    attack, rows = run.settings.attack, []
    plans = sorted({(steps, 1) for steps in (1, 2, 5, attack.steps, 2 * attack.steps)}) + [(attack.steps, 2)]
    for name in (SOURCE, "beta+perturb+syn", *BEYOND):
        for steps, restarts in plans:
            generator = _generator(run, detectors[name], "steps", name)
            attacked = detectors[name].attack(positives, 1, eps=attack.eps, steps=steps, restarts=restarts, generator=generator)
            confidence = detectors[name].predict(attacked)[0].double()
            share, margin = is_wrong(confidence, "positives").mean(), -torch.logit(confidence, 1e-9).mean().item()
            rows.append({"network": name, "steps": steps, "restarts": restarts, "share_wrong": share, "margin": margin})
    return pd.DataFrame(rows)


def measure_synthetic(run: Run, detectors: Mapping[str, StressedModel]) -> pd.DataFrame:
    """The table of `synthetic_nodules` on lung positions of the benchmarks that no vessels crowd.

    Some of the first are also searched at random. Items are `<seriesuid>:<k>`: the scan of the background and the number of the nodule.
    """
    settings, device = run.settings, detectors[SOURCE].device
    synthesizer, generator = load_generator(run).to(device), run.generator("stress", "synthetic", device=device)
    sites, read = benchmark_patches(run, ("background",))
    shown, tables = {name: detectors[name] for name in ALL_NETWORKS}, []
    order = run.rng("stress", "backgrounds").permutation(len(sites))
    crowded = crowding(read(order), sites["depth_mm"].to_numpy()[order], settings.patch.spacing) > CROWDED
    order = order[~crowded] if not crowded.all() else order
    order = torch.from_numpy(np.resize(order, settings.stress.synthetic_nodules))
    for number, rows in enumerate(tqdm(order.split(CHUNK), desc="synthetic nodules")):
        searched = max(0, min(len(rows), settings.stress.random_search_nodules - number * CHUNK))
        table = synthetic_nodules(shown, SOURCE, synthesizer, read(rows).to(device), settings, generator, searched)
        items = [f"{sites['seriesuid'][row]}:{number * CHUNK + k}" for k, row in enumerate(rows.tolist())]
        tables.append(table.assign(item=[items[k] for k in table["index"]]).drop(columns="index"))
    return pd.concat(tables, ignore_index=True)
