"""Sensitivity of candidate generation at numbers of candidates a scan, with intervals, by type and by diameter."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lungadv.data.dataset import Data
from lungadv.data.hits import hits
from lungadv.data.tables import SMALLEST_MM, XYZ
from lungadv.evaluation.marks import SIZE_GROUPS
from lungadv.utils.statistics import resample_weights, wilson_interval

__all__ = [
    "CANDIDATES_PER_SCAN",
    "DIAMETER_GROUPS",
    "hit_scores",
    "is_hit",
    "score_threshold",
    "sensitivities",
    "sensitivity_curve",
    "sensitivity_numbers",
    "sensitivity_table",
    "threshold_table",
]

CANDIDATES_PER_SCAN = (1, 2, 4, 8, 16, 32, 64, 100)  # on average
DIAMETER_GROUPS = {f"{name} mm": least for name, least in SIZE_GROUPS.items() if least >= SMALLEST_MM}  # the least of each group


def hit_scores(nodules: pd.DataFrame, marks: pd.DataFrame) -> np.ndarray:
    """The best score of the marks that hit each nodule (`lungadv.data.hits`), -inf for a nodule that none hits: (number of nodules,).

    Both tables have seriesuid, coordX, coordY, coordZ in mm; nodules have diameter_mm, marks score.
    """
    best = np.full(len(nodules), -np.inf)
    for uid, rows in nodules.reset_index(drop=True).groupby("seriesuid"):
        mine = marks[marks["seriesuid"] == uid]
        if len(mine):
            hit = hits(mine[XYZ].to_numpy(float), rows[XYZ].to_numpy(float), rows["diameter_mm"].to_numpy())
            best[rows.index] = np.where(hit.T, mine["score"].to_numpy(), -np.inf).max(1)
    return best


def score_threshold(marks: pd.DataFrame, per_scan: float, scans: int) -> float:
    """The score that leaves at most `per_scan` marks a scan on average, equal scores all or none.

    -inf when there are no more, inf when none is allowed.
    """
    ordered = np.sort(marks["score"].to_numpy())[::-1]
    allowed = int(per_scan * scans)
    if allowed >= len(ordered):
        return -np.inf
    return ordered[ordered > ordered[allowed]].min(initial=np.inf)


def is_hit(nodules: pd.DataFrame, marks: pd.DataFrame, per_scan: float, scans: int) -> np.ndarray:
    """Whether each nodule is hit when at most `per_scan` marks a scan are kept on average, bool (number of nodules,)."""
    best = hit_scores(nodules, marks)
    return (best > -np.inf) & (best >= score_threshold(marks, per_scan, scans))


def sensitivities(nodules: pd.DataFrame, marks: pd.DataFrame, scans: int, per_scan: Sequence[float]) -> pd.DataFrame:
    """Sensitivity at numbers of candidates a scan, with its 95 % interval: nodules, per_scan, sensitivity, lower, upper.

    The interval is a bootstrap over the scans of the nodules; where all or none are found it is Wilson's for the number of those scans.
    """
    best = hit_scores(nodules, marks)
    found = np.array([(best > -np.inf) & (best >= score_threshold(marks, n, scans)) for n in per_scan])
    scan, uids = pd.factorize(nodules["seriesuid"])
    drawn = resample_weights(len(uids), 1000, 0)[:, scan]
    share = found.mean(axis=1)
    lower, upper = np.quantile(drawn @ found.T / drawn.sum(axis=1, keepdims=True), [0.025, 0.975], axis=0)
    for k in np.flatnonzero((share == 0) | (share == 1)):
        lower[k], upper[k] = wilson_interval(int(share[k] * len(uids)), len(uids))
    return pd.DataFrame({"nodules": len(nodules), "per_scan": per_scan, "sensitivity": share, "lower": lower, "upper": upper})


def sensitivity_curve(nodules: pd.DataFrame, marks: pd.DataFrame, scans: int) -> pd.DataFrame:
    """Sensitivity against candidates a scan, from 0.5 to 100; see `sensitivities`."""
    return sensitivities(nodules, marks, scans, np.geomspace(0.5, 100, 40))


def sensitivity_table(nodules: pd.DataFrame, marks: pd.DataFrame, scans: int) -> pd.DataFrame:
    """Sensitivity at CANDIDATES_PER_SCAN of all nodules, of each type and of each group of DIAMETER_GROUPS.

    Columns: group, and those of `sensitivities`.
    """
    size = pd.cut(nodules["diameter_mm"], [*DIAMETER_GROUPS.values(), np.inf], right=False, labels=list(DIAMETER_GROUPS))
    groups = {"all": nodules}
    groups |= {name: nodules[nodules["type"] == name] for name in sorted(set(nodules["type"].dropna()) - {""})}
    groups |= {name: nodules[size == name] for name in DIAMETER_GROUPS}
    columns = ["group", "nodules", "per_scan", "sensitivity", "lower", "upper"]
    tables = [
        sensitivities(part, marks, scans, CANDIDATES_PER_SCAN).assign(group=name)[columns] for name, part in groups.items() if len(part)
    ]
    return pd.concat(tables, ignore_index=True)


def threshold_table(data: Data, found: dict[str, pd.DataFrame], per_scan: float) -> pd.DataFrame:
    """Sensitivity at one global score threshold, chosen to keep `per_scan` candidates per validation scan on average.

    found: {dataset: all merged candidates of its scans}, see `merge_sources`. Columns: dataset, threshold, candidates_per_scan, most (in
    a scan), nodules, sensitivity, lower and upper as of `sensitivities`.
    """
    threshold, rows = score_threshold(found["validation"], per_scan, len(data.of("validation").uids)), []
    for name in ("validation", "in-house", "nlst"):
        part, kept = data.of(name), found[name][found[name]["score"] >= threshold]
        columns = {"candidates_per_scan": len(kept) / len(part.uids), "most": kept.groupby("seriesuid").size().max()}
        shares = sensitivities(part.annotations, kept, len(part.uids), (len(kept),))  # of all that is kept
        rows.append(shares.assign(dataset=name, threshold=threshold, **columns))
    columns = ["dataset", "threshold", "candidates_per_scan", "most", "nodules", "sensitivity", "lower", "upper"]
    return pd.concat(rows, ignore_index=True)[columns]


def sensitivity_numbers(nodules: pd.DataFrame, raw: pd.DataFrame, found: pd.DataFrame, scans: int) -> pd.DataFrame:
    """What claims M1 and M2 need of one benchmark: per nodule, whether each stage hits it at a number of candidates a scan.

    raw: the candidates of each source apart; found: those of the union. Columns: claim, measure, network, condition, item, value.
    """
    items = nodules["seriesuid"] + ":" + nodules.groupby("seriesuid").cumcount().astype(str)
    size = np.where(nodules["diameter_mm"] < nodules["diameter_mm"].median(), "small", "large")
    frames = []
    for network in ("blob", "rpn"):
        marks = raw[raw["source"] == network]
        for per_scan in (4, 8):
            detected = is_hit(nodules, marks, per_scan, scans)
            frame = {"claim": "M1", "measure": f"detected-{per_scan}", "network": network, "condition": size, "item": items}
            frames.append(pd.DataFrame(frame | {"value": detected.astype(int)}))
    detected = is_hit(nodules, found, 100, scans)
    kept = (found["score"] >= score_threshold(found, 100, scans)).sum() / scans
    frames.append(pd.DataFrame({"claim": "M2", "measure": "detected", "network": "union", "item": items, "value": detected.astype(int)}))
    frames.append(pd.DataFrame({"claim": ["M2"], "measure": "candidates_per_scan", "network": "union", "item": "", "value": kept}))
    return pd.concat(frames, ignore_index=True)
