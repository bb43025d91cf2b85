"""What is missed and what is mistaken at one false positive per scan: nodules by type and size, and what false positives lie on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lungadv.data.dataset import Data
from lungadv.data.hits import match_by_scan
from lungadv.data.scan import Scan
from lungadv.data.tables import SMALLEST_MM, XYZ, check_scans
from lungadv.evaluation.froc import match_events
from lungadv.evaluation.marks import SIZE_GROUPS, cap_marks, select_listed, size_group
from lungadv.utils.statistics import wilson_interval

__all__ = [
    "FP_PER_SCAN", "LUNG", "SIZES", "VESSEL", "WALL", "classify_structure", "classify_tissue", "detection_outcomes",
    "difficulty_tables", "false_positive_table", "miss_table", "values_in_balls",
]  # fmt: skip

FP_PER_SCAN = 1.0  # where misses and false positives are looked at
MIMIC_MM = 4.0  # from a mimic's centre, at least: a mark on it
WALL_MM = 3.0  # from the lungs' border, at most: a mark on the wall
VESSEL_MM, VESSEL_HU = 2.0, -600.0  # radius of a ball whose mean HU is above that of lung alone
WALL, VESSEL, LUNG = "pleura or mediastinum", "vessel", "parenchyma or noise"
SIZES = {name: least for name, least in SIZE_GROUPS.items() if least >= SMALLEST_MM}  # mm: the least diameter of each


@dataclass(frozen=True)
class Outcome:
    """What a detector does with the nodules and the rest of some scans when its marks above a threshold count."""

    threshold: float  # on the probability; NaN where several were used
    scans: int
    nodules: pd.DataFrame  # the annotations, with bool `found`
    false: pd.DataFrame  # the false positives: the marks' columns and `on`, what lies there


def _outcome(marks: pd.DataFrame, data: Data) -> Outcome:
    """The Outcome of marks on `data` at FP_PER_SCAN, its false positives without `on` yet.

    The threshold is the lowest probability above which at most FP_PER_SCAN false positives a scan lie; -inf where all marks are so few.
    """
    scans = check_scans(data.uids)
    nodules, excluded = select_listed(data.annotations, scans, "annotations"), select_listed(data.excluded, scans, "excluded")
    marks = cap_marks(select_listed(marks, scans, "marks"), 100)  # as `froc` does
    events, _ = match_events(marks, nodules, excluded, len(scans))
    false, allowed = events.probability[~events.true], int(FP_PER_SCAN * len(scans))
    threshold = false[allowed] if len(false) > allowed else -np.inf
    above = marks[marks["probability"] > threshold].reset_index(drop=True)
    mark, nodule = match_by_scan(above, nodules)
    beside = match_by_scan(above, excluded)[0]
    return Outcome(threshold, len(scans), nodules.assign(found=nodules.index.isin(nodule)), above.drop(index=np.union1d(mark, beside)))


def detection_outcomes(marks: Mapping[str, pd.DataFrame], data: Data) -> dict[str, Outcome]:
    """{strategy: Outcome} of {strategy: marks} on `data` at FP_PER_SCAN; each scan with a false positive is read once.

    marks: tables seriesuid, coordX, coordY, coordZ (mm), probability, and more columns, which are kept.
    """
    by_name = {name: _outcome(table, data) for name, table in marks.items()}
    false = pd.concat([result.false.assign(strategy=name) for name, result in by_name.items()], ignore_index=True)
    false["on"] = classify_structure(false, data)
    return {name: replace(result, false=false[false["strategy"] == name]) for name, result in by_name.items()}


def pool_outcomes(results: Sequence[Outcome]) -> Outcome:
    """Outcomes on several data sets as one, with threshold NaN."""
    tables = [pd.concat([getattr(result, name) for result in results], ignore_index=True) for name in ("nodules", "false")]
    return Outcome(np.nan, sum(result.scans for result in results), *tables)


# What lies at a mark


def values_in_balls(volume: np.ndarray, scan: Scan, points: np.ndarray, radius: float) -> np.ndarray:
    """Values (N, M) of an array (z, y, x) on the grid of `scan` in balls of `radius` mm around world points (N, 3) in x, y, z mm.

    Every 0.5 mm, from the nearest voxel: also a ball between two thick slices holds some. The volume's edge stands for what is outside.
    """
    steps = np.arange(-radius, radius + 0.25, 0.5)
    offsets = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    offsets = offsets[np.linalg.norm(offsets, axis=1) <= radius]
    voxels = scan.to_voxel((points[:, None] + offsets).reshape(-1, 3)).round().astype(int)
    return volume[tuple(voxels.clip(0, np.array(volume.shape) - 1).T)].reshape(len(points), len(offsets))


def classify_tissue(scan: Scan, lungs: np.ndarray, points: np.ndarray) -> np.ndarray:
    """WALL, VESSEL or LUNG at each world point (N, 3) in mm, texts (N,).

    WALL: near the border of `lungs` (bool, z y x) or outside; VESSEL: else dense; LUNG: neither.
    """
    wall = ~values_in_balls(lungs, scan, points, WALL_MM).all(axis=1)
    dense = values_in_balls(scan.hu, scan, points, VESSEL_MM).mean(axis=1) > VESSEL_HU
    return np.select([wall, dense], [WALL, VESSEL], LUNG)


def classify_structure(marks: pd.DataFrame, data: Data) -> np.ndarray:
    """What lies at each mark: the kind of the mimic there, or else its tissue (`classify_tissue`); texts (N,).

    marks: with column `scan`, the position in `data.uids`, as of `select_listed`. The nearest of several mimics counts. Scans are
    read where no mimic of a known kind is at a mark.
    """
    points, on = marks[XYZ].to_numpy(), np.full(len(marks), "", dtype=object)
    mimics = select_listed(data.mimics, check_scans(data.uids), "mimics")
    mark, mimic = match_by_scan(marks, mimics.assign(diameter_mm=mimics["diameter_mm"].clip(lower=2 * MIMIC_MM)))
    distance = np.linalg.norm(points[mark] - mimics[XYZ].to_numpy()[mimic], axis=1)
    order = np.argsort(-distance)  # the nearest is written last and stays
    on[mark[order]] = mimics["kind"].to_numpy()[mimic[order]]
    for uid, rows in marks.groupby("seriesuid").indices.items():
        unknown = rows[on[rows] == ""]
        if len(unknown):
            on[unknown] = classify_tissue(data.scan(uid), data.lungs(uid), points[unknown])
    return on


# Tables


def miss_table(result: Outcome) -> pd.DataFrame:
    """How many nodules an Outcome leaves out: type, size, attachment ("all" where not split), nodules, missed, share, lower, upper.

    Rows for all nodules, each type, each size (a key of SIZES, mm), each type and size, and each attachment that is known, where there is
    any nodule. lower, upper: the Wilson interval (95 %) of the share.
    """
    table = result.nodules.assign(size=size_group(result.nodules["diameter_mm"])).sort_values(["type", "diameter_mm"])
    attached = table[table["attachment"] != ""].sort_values("attachment")
    views = [(table, ["type", "size", "attachment"]), (table, ["size", "attachment"]), (table, ["type", "attachment"])]
    views += [(table, ["attachment"]), (attached, ["type", "size"])]
    split = pd.concat([view.assign(**dict.fromkeys(whole, "all")) for view, whole in views])
    found = split.groupby(["type", "size", "attachment"], sort=False)["found"].agg(nodules="size", found="sum").reset_index()
    counts = found.assign(missed=found["nodules"] - found["found"]).drop(columns="found")
    bounds = [wilson_interval(row.missed, row.nodules) for row in counts.itertuples()]
    return counts.assign(share=counts["missed"] / counts["nodules"], lower=[low for low, _ in bounds], upper=[high for _, high in bounds])


def false_positive_table(result: Outcome) -> pd.DataFrame:
    """What an Outcome's false positives lie on, the most frequent first: on, count, per_scan, share (of all false positives)."""
    count = result.false["on"].value_counts().rename("count").reset_index()
    return count.assign(per_scan=count["count"] / result.scans, share=count["count"] / len(result.false))


def difficulty_tables(results: Mapping[str, Mapping[str, Outcome]]) -> dict[str, pd.DataFrame]:
    """The tables `misses` and `false_positives` of {benchmark: {strategy: Outcome}}, for each benchmark and for "both", which pools them.

    Columns beside those of `miss_table` and `false_positive_table`: benchmark, strategy, and last threshold (empty for "both": each
    benchmark keeps its own).
    """
    named = {(benchmark, name): result for benchmark, by_name in results.items() for name, result in by_name.items()}
    strategies = dict.fromkeys(name for by_name in results.values() for name in by_name)
    named |= {("both", name): pool_outcomes([by_name[name] for by_name in results.values()]) for name in strategies}

    def stack(function):
        parts = {key: function(result).assign(threshold=result.threshold) for key, result in named.items()}
        return pd.concat(parts, names=["benchmark", "strategy"]).reset_index(level=[0, 1])

    return {"misses": stack(miss_table), "false_positives": stack(false_positive_table)}
