"""What a detector makes of real nodules in cubes: sensitivity by size and type against false positives a litre of lung.

Cubes have a nodule in their middle, and neighbouring ones overlap. So this is not LUNA16's FROC, nor what a user meets in whole scans.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from lungadv.data.hits import hits
from lungadv.data.patches import extract_patches
from lungadv.data.scan import to_unit
from lungadv.data.tables import SMALLEST_MM, SUBSOLID, XYZ
from lungadv.detection.cube_candidates import LUNG_HU, cube_candidates
from lungadv.detection.detect import classify
from lungadv.detection.weights import Detector
from lungadv.evaluation.stats import share_interval
from lungadv.training.cube_crops import NoduleCube

__all__ = ["markdown_table", "nodule_table", "operating_point", "score_cubes"]

CANDIDATES = 20  # of a cube
LITRE = 1e6  # mm3
FREE_MM = 4.0  # a candidate nearer to a nodule is neither it nor a false positive
SIZES = {"6 mm and more": (6, 99), "6 to 8 mm": (6, 8), "8 to 12 mm": (8, 12), "over 12 mm": (12, 99), "8 mm and more": (8, 99)}
TYPES = {"solid": ("solid",), "fully calcified": ("fully_calcified",), "sub-solid": SUBSOLID, "unspecified": ("unspecified",)}


def score_cubes(detector: Detector, cubes: Sequence[NoduleCube], table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """The nodules in the middle of cubes, the false positives beside them, and the litres of lung in all cubes.

    table: the cubes' rows of `Cubes.table`, in the same order. Nodules: its columns, probability at the mask's middle, rank and
    `found`, the probability of the first candidate inside the nodule (rank and found are -1 without one). False positives: path, XYZ,
    probability of every candidate that lies in no nodule, nor near one, nor in what counts neither way.
    """
    nodules, others, litres = [], [], 0.0
    for cube in tqdm(cubes, desc="detecting in cubes"):
        litres += float((cube.scan.hu < LUNG_HU).sum() * np.prod(cube.scan.spacing) / LITRE)
        found = cube_candidates(detector.candidate_networks, detector.calibration, cube.scan, detector.candidates, CANDIDATES)
        places = found[XYZ].to_numpy(float).reshape(-1, 3)
        patches = to_unit(extract_patches(cube.scan, np.r_[cube.nodules[:1, :3], places], detector.patch.size, detector.patch.spacing))
        probability = classify(detector.fpr_network, patches)[0]
        own = hits(places, cube.nodules[:1, :3], cube.nodules[:1, 3])[:, 0]
        rank = int(own.argmax()) if own.any() else -1
        nodules.append({"probability": probability[0], "rank": rank, "found": probability[1 + rank] if own.any() else -1.0})
        free = ~hits(places, cube.nodules[:, :3], cube.nodules[:, 3] + 2 * FREE_MM).any(axis=1)
        free &= ~hits(places, cube.ignored[:, :3], cube.ignored[:, 3]).any(axis=1)
        others.append(found.loc[free, XYZ].assign(path=cube.name, probability=probability[1:][free]))
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(nodules)], axis=1), pd.concat(others, ignore_index=True), litres


def operating_point(probability: np.ndarray, litres: float, per_litre: float = 1.0) -> float:
    """The lowest threshold above which at most `per_litre` false positives a litre lie, from their probabilities (N,)."""
    falling, allowed = np.sort(probability)[::-1], int(per_litre * litres)
    return float(falling[allowed]) if allowed < len(falling) else 0.0


def nodule_table(nodules: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Sensitivity by size and, from 6 mm up, by type: a row a group, with columns group, nodules and, each with its interval, shares.

    nodules: of `score_cubes`. at_half: probability above 0.5; at_one: above `threshold`, that of one false positive a litre; both at
    the mask's middle. proposed: a candidate of the cube lies in the nodule; end_to_end: and its probability is above `threshold`.
    Intervals (95 %) are over patients.
    """
    size, kind = nodules["diameter_mm"].astype(float), nodules["type"]
    groups = {name: (size >= low) & (size < high) for name, (low, high) in SIZES.items()}
    groups |= {f"{name}, 6 mm and more": kind.isin(types) & (size >= SMALLEST_MM) for name, types in TYPES.items()}
    answers = pd.DataFrame(
        {
            "at_half": nodules["probability"] > 0.5,
            "at_one": nodules["probability"] > threshold,
            "proposed": nodules["rank"] >= 0,
            "end_to_end": nodules["found"] > threshold,
        }
    ).set_index(nodules["patient"] + ":" + nodules["path"].str.replace(":", "_"))
    rows = []
    for name, chosen in groups.items():
        part = answers[chosen.to_numpy()]
        row = {"group": name, "nodules": len(part)}
        for column in answers if len(part) else ():
            low, high = share_interval(part[column])
            row |= {column: part[column].mean(), f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def markdown_table(table: pd.DataFrame) -> str:
    """A `nodule_table` as Markdown, shares with their intervals."""
    columns = {"at_half": "above 0.5", "at_one": "one false positive a litre", "proposed": "named a candidate", "end_to_end": "end to end"}
    lines = ["| nodules | number | " + " | ".join(columns.values()) + " |", "|---" * (2 + len(columns)) + "|"]
    for row in table.to_dict("records"):
        shares = [f"{row[name]:.2f} ({row[name + '_low']:.2f} to {row[name + '_high']:.2f})" if row["nodules"] else "" for name in columns]
        lines.append(f"| {row['group']} | {row['nodules']} | " + " | ".join(shares) + " |")
    return "\n".join(lines)
