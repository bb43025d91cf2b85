"""FROC of a made-up challenge of LUNA16's size: seconds of froc() and of the command, and of a bootstrap that scores each resample anew."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import typer

from lungadv.evaluation.froc import OPERATING_POINTS, froc
from lungadv.evaluation.marks import FINDING_COLUMNS, MARK_COLUMNS
from lungadv.utils.statistics import resample_weights

NODULES_OF_SCANS = {
    0: 287,
    1: 310,
    2: 159,
    3: 63,
    4: 24,
    6: 42,
    7: 3,
}  # LUNA16's 888 scans: 1186; of those with 5 and more only the sum is its
DIAMETERS = [3.2, 4.1, 5.1, 6.4, 9.7, 19.0, 32.3]  # mm, at the quantiles
QUANTILES = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
EXCLUDED, SUBMITTED, RESAMPLES, LIMIT = 35192, 55677, 1000, 3.0  # LIMIT: seconds


def places(rng, count):
    """Points in a chest, mm."""
    return rng.uniform([-160, -120, -300], [160, 120, 0], (count, 3))


def table(columns, uids, scans, xyz, last):
    return pd.DataFrame({"seriesuid": uids[scans], **dict(zip(columns[1:4], xyz.T, strict=True)), columns[4]: last})


def challenge(seed=0):
    """Marks, nodules, scans and excluded findings: 96 % of the nodules hit, 15 % of the other marks on excluded ones."""
    rng = np.random.default_rng(seed)
    scans = sum(NODULES_OF_SCANS.values())
    uids = np.array([f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{10**38 + int(k)}" for k in rng.permutation(scans)], dtype=object)
    of = np.repeat(np.arange(scans), np.repeat(list(NODULES_OF_SCANS), list(NODULES_OF_SCANS.values())))
    diameter = np.interp(rng.random(len(of)), QUANTILES, DIAMETERS)
    centres = places(rng, len(of))
    beside = rng.choice(scans, EXCLUDED, p=rng.dirichlet(np.full(scans, 2.0)))  # median 33 a scan
    excluded = table(FINDING_COLUMNS, uids, beside, places(rng, EXCLUDED), -1.0)
    hit = np.flatnonzero(rng.random(len(of)) < 0.96)
    hit = np.concatenate([hit, rng.choice(hit, len(hit) // 10)])
    rest = SUBMITTED - len(hit)
    where, xyz = rng.choice(scans, rest), places(rng, rest)
    near = np.flatnonzero(rng.random(rest) < 0.15)
    row = rng.integers(EXCLUDED, size=len(near))
    where[near], xyz[near] = beside[row], excluded[list(FINDING_COLUMNS[1:4])].to_numpy()[row]
    xyz = np.vstack([centres[hit] + rng.normal(0, 0.1 * diameter[hit, None], (len(hit), 3)), xyz])
    probability = np.concatenate([rng.beta(6, 1.5, len(hit)), rng.beta(0.3, 4, rest)])
    marks = table(MARK_COLUMNS, uids, np.concatenate([of[hit], where]), xyz, probability).sample(frac=1, random_state=seed)
    return marks.reset_index(drop=True), table(FINDING_COLUMNS, uids, of, centres, diameter), uids.tolist(), excluded


def plain(marks, nodules, scans, excluded, weights):
    """What a bootstrap of the official kind costs: match once, then for each resample gather its scans, sort, and interpolate the curve.

    A loop over scans and nodules in plain Python; sensitivities (B, points).
    """
    true, false, count = {}, {}, {}
    by_scan = [{uid: part.to_numpy() for uid, part in table.groupby("seriesuid")} for table in (marks, nodules, excluded)]
    for uid in scans:
        candidates, included, beside = (tables.get(uid, np.empty((0, 5))) for tables in by_scan)
        candidates = sorted(candidates.tolist(), key=lambda row: -row[4])
        if len(candidates) > 100:
            candidates = [row for row in candidates if row[4] > candidates[100][4]]
        true[uid], used = [], set()
        for finding, counts in [*((row, True) for row in included), *((row, False) for row in beside)]:
            _, x, y, z, diameter = finding
            squared = ((10.0 if diameter < 0 else diameter) / 2) ** 2
            hits = [k for k, (_, a, b, c, _) in enumerate(candidates) if (a - x) ** 2 + (b - y) ** 2 + (c - z) ** 2 < squared]
            used.update(hits)
            if counts and hits:
                true[uid].append(max(candidates[k][4] for k in hits))
        false[uid] = [row[4] for k, row in enumerate(candidates) if k not in used]
        count[uid] = len(included)
    rows = []
    for weight in weights:
        drawn = np.repeat(scans, weight)
        hits = [probability for uid in drawn for probability in true[uid]]
        probability = np.array(hits + [p for uid in drawn for p in false[uid]])
        order = np.argsort(-probability, kind="stable")
        hit, ends = order < len(hits), np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
        found, wrong = np.cumsum(hit)[ends], np.cumsum(~hit)[ends]
        total = sum(count[uid] for uid in drawn)
        rows.append(np.interp(OPERATING_POINTS, np.append(0, wrong) / len(scans), np.append(0, found) / total))
    return np.array(rows)


def seconds(function, *arguments, **options):
    """Seconds of this process's own computing, and the result."""
    started = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - started, result


def command(tables, folder):
    """Seconds of the whole command on one core, import and files included: of its own computing and on the clock."""
    paths = {name: Path(folder, f"{name}.csv") for name in ("marks", "annotations", "seriesuids", "excluded")}
    marks, nodules, scans, excluded = tables
    for name, table in {"marks": marks, "annotations": nodules, "excluded": excluded}.items():
        table.to_csv(paths[name], index=False)
    paths["seriesuids"].write_text("\n".join(scans) + "\n")
    options = [text for name in ("annotations", "seriesuids", "excluded") for text in (f"--{name}", str(paths[name]))]
    line = [sys.executable, "-m", "lungadv.cli", "froc", str(paths["marks"]), *options, "--json", str(Path(folder, "froc.json"))]
    before, started = os.times(), time.perf_counter()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    after, clock = os.times(), time.perf_counter() - started
    own = after.children_user + after.children_system - before.children_user - before.children_system
    return own, clock, json.loads(Path(folder, "froc.json").read_text())["cpm"]


def verdict(value):
    return "held" if value <= LIMIT else "NOT held"


def main(pairs: int = 5, few: int = 20):
    """Print the numbers: medians of `pairs` runs; the plain bootstrap does `few` resamples and none, the rest is multiplied."""
    tables = challenge()
    marks, nodules, scans, excluded = tables
    print(f"{len(scans)} scans, {len(nodules)} nodules, {len(excluded)} excluded findings, {len(marks)} marks, {RESAMPLES} resamples")
    times, rng = {"froc": [], "plain": []}, np.random.default_rng(1)
    weights = resample_weights(len(scans), RESAMPLES, 0)
    for _ in range(pairs):
        for name in rng.permutation(list(times)):
            if name == "froc":
                taken, result = seconds(froc, *tables, bootstraps=RESAMPLES, seed=0)
            else:
                once, _ = seconds(plain, *tables, weights[:0])
                several, samples = seconds(plain, *tables, weights[:few])
                taken = once + max(several - once, 0) * RESAMPLES / few
            times[name].append(taken)
        assert np.allclose(samples, result.samples[:few]), "the two do not agree"
    alone, slow = (statistics.median(times[name]) for name in ("froc", "plain"))
    print(f"froc() {alone:.2f} s of computing ({verdict(alone)}: <= {LIMIT:g} s)")
    with tempfile.TemporaryDirectory() as folder:
        runs = [command(tables, folder) for _ in range(3)]
    assert all(abs(cpm - result.cpm) < 1e-9 for _, _, cpm in runs), "the command's CPM differs"
    own, clock = (statistics.median(run[k] for run in runs) for k in (0, 1))
    print(f"lungadv froc, with import, files and the tables by diameter: {own:.2f} s ({verdict(own)}), {clock:.2f} s on the clock")
    ratio = statistics.median(np.divide(times["plain"], times["froc"]))
    print(f"scoring each resample anew {slow:.0f} s ({few} resamples, scaled): {ratio:.0f} times froc()")


if __name__ == "__main__":
    typer.run(main)
