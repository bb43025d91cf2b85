"""Non-maximum suppression of 20,000 boxes, by `lungadv.detection.nms` and by MONAI, with equal results."""

import statistics
import time

import numpy as np
import torch
import typer
from monai.data.box_utils import non_max_suppression

from lungadv.detection.nms import nms

SHAPE = (240, 280, 320)  # voxels of 1.25 mm: a chest
LIMIT = 30  # times MONAI's speed


def scattered(count, rng):
    """Boxes (count, 6) of 3 to 24 voxels anywhere."""
    centres = rng.uniform(0, SHAPE, (count, 3))
    sides = np.exp(rng.uniform(np.log(3), np.log(24), (count, 1))) * rng.uniform(0.8, 1.25, (count, 3))
    return np.hstack([centres - sides / 2, centres + sides / 2]).astype(np.float32)


def clustered(count, rng):
    """Boxes around a thousand others, as a network puts them around what it sees."""
    boxes = scattered(1000, rng)[rng.integers(1000, size=count)]
    return (boxes + np.tile(rng.normal(0, 0.25, (count, 3)) * (boxes[:, 3:] - boxes[:, :3]), 2)).astype(np.float32)


def seconds(function, *arguments):
    """Seconds of this process's own computing, and the result."""
    started = time.process_time()
    result = function(*arguments)
    return time.process_time() - started, np.asarray(result)


def main(boxes: int = 20000, pairs: int = 5):
    """Print medians of `pairs` runs of both, in random order, on one core."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print("boxes      threshold    kept   MONAI, s   nms, s   ratio")
    for make in (scattered, clustered):
        for threshold in (0.1, 0.3):
            times = {"monai": [], "nms": []}
            for _ in range(pairs):
                place, score = make(boxes, rng), rng.random(boxes).round(3).astype(np.float32)  # many ties
                found = {}
                for name in rng.permutation(list(times)):
                    terms = (torch.tensor(place), torch.tensor(score)) if name == "monai" else (place, score)
                    taken, found[name] = seconds(non_max_suppression if name == "monai" else nms, *terms, threshold)
                    times[name].append(taken)
                assert np.array_equal(found["monai"], found["nms"]), f"{make.__name__}, {threshold}: the results differ"
            slow, quick = (statistics.median(times[name]) for name in ("monai", "nms"))
            ratio = statistics.median(np.divide(times["monai"], times["nms"]))
            verdict = "held" if ratio >= LIMIT else "NOT held"
            print(f"{make.__name__:<10} {threshold:>9g} {len(found['nms']):>7} {slow:>10.2f} {quick:>8.3f} {ratio:>7.0f}   {verdict}")


if __name__ == "__main__":
    typer.run(main)
