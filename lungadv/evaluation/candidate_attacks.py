"""Attacks on the candidate networks (claim M7): which benchmark nodules plain and adversarially fine-tuned ones still detect."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from lungadv.attacks.pgd import pgd
from lungadv.data.dataset import Data
from lungadv.data.lung_grid import locate_nodules, lung_grid, unit_volume
from lungadv.detection.candidates import heatmap_candidates
from lungadv.evaluation.sensitivity import CANDIDATES_PER_SCAN, score_threshold, sensitivities
from lungadv.evaluation.stress import random_signs
from lungadv.models.resunet import heatmap_focal_loss, heatmap_targets
from lungadv.settings import CandidateSettings, Settings
from lungadv.training.candidate_crops import crop_with_nodules, nodule_spheres
from lungadv.utils.statistics import wilson_interval
from lungadv.utils.streams import RandomStreams

__all__ = [
    "CONDITIONS",
    "attack_crops",
    "attack_numbers",
    "compare_finetuned",
    "finetuned_numbers",
    "fused_logits",
    "is_detected",
    "nodule_crops",
]

CONDITIONS = ("clean", "random", "transfer", "pgd")  # "transfer": an attack on the plain networks; "pgd": on the network itself

Networks = Mapping[str, nn.Module]
Logits = Callable[[torch.Tensor], torch.Tensor]


def fused_logits(networks: Networks) -> Logits:
    """The element-wise maximum of both heatmap networks' logits, as a function of volumes: (N, 1, D, H, W) -> (N, 1, D, H, W)."""
    return lambda volumes: torch.maximum(networks["blob"](volumes)[0], networks["blob-ggo"](volumes)[0])


def attack_crops(
    logits: Logits, volumes: torch.Tensor, nodules: Sequence[np.ndarray], settings: Settings, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Crops (N, 1, S, S, S) in [0, 1] with nodules (n, 4) in each, under PGD ("pgd") and under random signs of the same eps ("random").

    PGD raises the focal loss of `logits`.
    """

    def loss(batch, target):
        return heatmap_focal_loss(logits(batch), target)

    target, eps = heatmap_targets(volumes.shape[2:], nodules, settings.candidates.sigma / settings.candidates.spacing), settings.attack.eps
    limits = {"eps": eps, "steps": settings.attack.steps, "bounds": (0.0, 1.0)}
    attack = pgd(loss, volumes, context=(target,), generator=generator, **limits)
    return {"pgd": attack.best, "random": random_signs(volumes, eps, generator)}


@torch.no_grad()
def is_detected(logits: Logits, volumes: torch.Tensor, nodules: Sequence[np.ndarray], score: float) -> np.ndarray:
    """Whether the heatmap reaches `score` in [0, 1] inside the first nodule of each crop (N, 1, S, S, S): bool (N,).

    nodules: (n, 4) of each crop, z, y, x, radius in voxels. A sphere has at least the voxels nearest to its centre.
    """
    voxels = torch.stack(torch.meshgrid(*map(torch.arange, volumes.shape[2:]), indexing="ij"))
    centre, radius = torch.tensor(np.stack([inside[0] for inside in nodules])).split([3, 1], dim=1)
    distance = (voxels - centre[..., None, None, None]).norm(dim=1, keepdim=True)
    near = distance <= radius.clamp(min=1)[..., None, None, None]
    return (torch.where(near, logits(volumes).sigmoid(), 0.0).flatten(1).amax(1) >= score).numpy()


def nodule_crops(data: Data, settings: CandidateSettings) -> Iterator[tuple[str, torch.Tensor, list[np.ndarray]]]:
    """Crops around each nodule of the first `attack_scans` scans that have any.

    Yields for each scan its uid, crops (n, 1, S, S, S) in [0, 1] and the nodules (n, 4) in each, the crop's own first.
    """
    with_nodules = set(data.annotations["seriesuid"])
    for uid in [uid for uid in data.uids if uid in with_nodules][: settings.attack_scans]:
        grid, _ = lung_grid(data.scan(uid), data.lungs(uid), settings.spacing)
        volume, spheres = unit_volume(grid), nodule_spheres(locate_nodules(grid, data.annotations))
        starts = np.round(spheres[:, :3]).astype(int) - settings.crop_size // 2
        first = [np.r_[spheres[i : i + 1], np.delete(spheres, i, axis=0)] for i in range(len(spheres))]
        parts = [crop_with_nodules(volume, order, start, settings.crop_size) for order, start in zip(first, starts, strict=True)]
        if parts:
            yield uid, torch.stack([part for part, _ in parts])[:, None], [inside for _, inside in parts]


def attack_table(
    networks: Mapping[str, Networks], scores: Mapping[str, float], data: Data, settings: Settings, generator: torch.Generator
) -> pd.DataFrame:
    """Which benchmark nodules heatmap networks detect under each of CONDITIONS: seriesuid, item, network, condition, value (1: detected).

    networks: {"plain": ..., "hardened": ...}; scores: the heatmap score of each that leaves as many candidates a validation scan.
    """
    frames, crops = [], nodule_crops(data, settings.candidates)
    for uid, volumes, nodules in tqdm(crops, total=settings.candidates.attack_scans, desc="attacking the candidate networks"):
        made = {name: attack_crops(fused_logits(pair), volumes, nodules, settings, generator) for name, pair in networks.items()}
        for name, pair in networks.items():
            plain = made["plain"]
            under = {"clean": volumes, "random": plain["random"], "transfer": plain["pgd"], "pgd": made[name]["pgd"]}
            for condition, inputs in under.items():
                value = is_detected(fused_logits(pair), inputs, nodules, scores[name]).astype(int)
                items = [f"{uid}:{i}" for i in range(len(value))]
                frame = {"seriesuid": uid, "item": items, "network": name, "condition": condition, "value": value}
                frames.append(pd.DataFrame(frame))
    columns = ["seriesuid", "item", "network", "condition", "value"]
    return pd.concat([pd.DataFrame(columns=columns), *frames], ignore_index=True)


def finetuned_numbers(
    table: pd.DataFrame, marks: Mapping[str, pd.DataFrame], nodules: pd.DataFrame, scans: int, per_scan: float
) -> pd.DataFrame:
    """Sensitivity of the plain and the fine-tuned networks, with 95 % intervals.

    table: an `attack_table` at `per_scan` candidates a validation scan; the intervals are Wilson's over nodules.
    marks: {network: validation candidates}, clean, at CANDIDATES_PER_SCAN; their intervals are those of `sensitivities`.
    Columns: dataset, network, condition, per_scan, nodules, sensitivity, lower, upper.
    """
    parts = []
    for (network, condition), values in table.groupby(["network", "condition"], sort=False)["value"]:
        lower, upper = wilson_interval(values.sum(), len(values))
        share = int(values.sum()) / len(values)
        row = {"per_scan": per_scan, "nodules": len(values), "sensitivity": share, "lower": lower, "upper": upper}
        parts.append(pd.DataFrame([{"dataset": "benchmarks", "network": network, "condition": condition} | row]))
    for network, found in marks.items():
        clean = {"dataset": "validation", "network": network, "condition": "clean"}
        parts.append(sensitivities(nodules, found, scans, CANDIDATES_PER_SCAN).assign(**clean))
    columns = ["dataset", "network", "condition", "per_scan", "nodules", "sensitivity", "lower", "upper"]
    return pd.concat(parts, ignore_index=True)[columns]


def compare_finetuned(
    networks: Networks, finetuned: Networks, data: Data, raw: pd.DataFrame, settings: Settings, streams: RandomStreams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `attack_table` of both benchmarks and `finetuned_numbers`, at scores that leave `per_scan` candidates a validation scan.

    raw: the validation candidates of the plain networks.
    """
    own, validation, found = settings.candidates, data.of("validation"), []
    for uid in tqdm(validation.uids, desc="candidates of the fine-tuned networks"):
        grid, inside = lung_grid(validation.scan(uid), validation.lungs(uid), own.spacing)
        found.append(heatmap_candidates(finetuned, grid, inside, own))
    marks = {"plain": raw, "hardened": pd.concat(found, ignore_index=True)}
    marks = {name: table[table["source"] == "blob"] for name, table in marks.items()}
    scans, per_scan = len(validation.uids), own.per_scan
    scores = {name: score_threshold(table, per_scan, scans) for name, table in marks.items()}
    pairs = {"plain": networks, "hardened": finetuned}
    tables = [
        attack_table(pairs, scores, data.of(name), settings, streams.generator("candidates", "attack")) for name in ("in-house", "nlst")
    ]
    table = pd.concat(tables, ignore_index=True)
    return table, finetuned_numbers(table, marks, validation.annotations, scans, per_scan)


def attack_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Claim M7 of an `attack_table`: the plain networks clean, attacked themselves, and under random noise.

    Columns: claim, measure, network, condition, item, value.
    """
    plain = table[(table["network"] == "plain") & table["condition"].isin(["clean", "pgd", "random"])]
    return plain.assign(claim="M7", measure="detected", network="blob")[["claim", "measure", "network", "condition", "item", "value"]]
