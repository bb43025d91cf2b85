"""The stage `two_moons`: six panels of Fig. 7, the spots that were searched, and the moons in more dimensions, over many repetitions."""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lungadv.pipeline.artefacts import stage_output
from lungadv.pipeline.runs import Run
from lungadv.two_moons import (
    CENTRE,
    FAR,
    NEAR,
    WIDTH,
    Classifier,
    embed,
    evaluate,
    evaluate_samples,
    far_points,
    fit_synthesizer,
    long_tail,
    sample_moons,
    search_codes,
    search_noise,
    train_classifiers,
    training_set,
    uniform_points,
)

PANELS = "abcdef"
DIMENSIONS = (2, 10, 50)
FAR_POINTS = 4000  # points away from the data, at which confidence is measured


def build(run: Run) -> None:
    """Train all networks of all repetitions and write the stage's folder.

    numbers.csv: one row a measurement; columns seed (the repetition), group, name, dimension, measure, value.
        group panel, name a ... f: accuracy (both classes, 2000 fresh spots), recall, tail_recall, confident_far_share (claims T1 to T4)
        group spots, name random, hard, uniform or noise: arc_share, sparse_share (sparse and on the arc), sparse_share_of_arc and
            nearest_positive (mean distance) (claims T5: hard against random; T6: noise against uniform)
        group dimension, name none, uniform or pgd (the negatives added), dimension 2, 10, 50: the measures of the panels (claim T7)
    maps.npz: a_near ... f_near, a_far ... f_far: confidence (241, 241) of repetition 0 over boxes of NEAR and FAR data widths
    samples.csv: kind (positive, negative, few, random, hard, uniform, noise), x, y of repetition 0
    """
    with stage_output(run, "two_moons") as folder:
        data = draw_data(run)
        networks, spots = fit_panels(run, data)
        far = far_points(len(data["few"]), FAR_POINTS, _tensor(CENTRE), _tensor(WIDTH), run.generator("two_moons", "far"))
        tests = data["test_positives"], data["test_negatives"], far
        panels = {(name, measure): value for name in PANELS for measure, value in evaluate(networks[name], *tests).items()}
        rows = [*_rows("panel", panels), *_rows("spots", evaluate_samples(spots, data))]
        for dimension in DIMENSIONS:
            rows += _rows("dimension", fit_dimension(run, data, dimension), dimension)
        pd.DataFrame(rows).to_csv(folder / "numbers.csv", index=False, float_format="%.6g")

        sides = {"near": NEAR, "far": FAR}
        maps = {f"{name}_{box}": confidence_map(networks[name], side) for name in PANELS for box, side in sides.items()}
        np.savez_compressed(folder / "maps.npz", **maps)
        kinds = {"positive": data["positives"], "negative": data["negatives"], "few": data["few"], **spots}
        tables = [pd.DataFrame(group[0].numpy(), columns=["x", "y"]).assign(kind=kind) for kind, group in kinds.items()]
        pd.concat(tables).to_csv(folder / "samples.csv", index=False, float_format="%.6g")


def draw_data(run: Run) -> dict[str, Tensor]:
    """The spots of every repetition by name, (repetitions, n, 2): positives, negatives, few, and 1000 fresh spots a class to test on."""
    drawn = []
    for repetition in range(run.settings.two_moons.seeds):
        rng = run.rng("two_moons", repetition)
        positives, position, negatives = sample_moons(500, rng)
        few = long_tail(positives, position, 20, run.settings.two_moons.tail, rng)
        test_positives, _, test_negatives = sample_moons(1000, rng)
        drawn.append((positives, negatives, few, test_positives, test_negatives))
    names = ("positives", "negatives", "few", "test_positives", "test_negatives")
    return {name: _tensor(np.stack(group)) for name, group in zip(names, zip(*drawn, strict=True), strict=True)}


def _tensor(arrays):
    return torch.tensor(np.ascontiguousarray(arrays), dtype=torch.float32)


def fit(run: Run, sets: tuple, name: str) -> Classifier:
    """A batch of classifiers on `training_set(*sets)`. All start from the same weights: their data alone make the difference."""
    settings = run.settings.two_moons
    points, targets, weights = training_set(*sets)
    network = Classifier(len(points), points.shape[2], settings.width, run.generator("two_moons", "weights"))
    return train_classifiers(
        network,
        points,
        targets,
        weights,
        updates=settings.updates,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        generator=run.generator("two_moons", "batches"),
        name=name,
    )


def fit_panels(run: Run, data: dict[str, Tensor]) -> tuple[dict[str, Classifier], dict[str, Tensor]]:
    """The six networks by panel, and the groups of added spots (repetitions, n, 2): random, hard, uniform, noise."""
    settings, generator = run.settings.two_moons, run.generator("two_moons", "spots")
    real = data["few"], data["negatives"]
    networks = {"a": fit(run, (data["positives"], data["negatives"]), "panel a"), "b": fit(run, real, "panel b")}
    spots = _positive_spots(settings, data["few"], networks["b"], generator)
    count, box = len(data["few"]), (_tensor(CENTRE), NEAR * _tensor(WIDTH))
    spots["uniform"] = uniform_points(count, 20, *box, generator)
    networks["c"] = fit(run, (*real, [spots["random"]]), "panel c")
    networks["d"] = fit(run, (*real, [spots["random"]], [spots["uniform"]]), "panel d")
    networks["e"] = fit(run, (*real, [spots["hard"]], [spots["uniform"]]), "panel e")
    starts, eps = uniform_points(count, 20, *box, generator), settings.noise_eps * math.sqrt(2)
    spots["noise"] = search_noise(networks["e"], starts, eps=eps, steps=settings.search_steps, generator=generator)
    networks["f"] = fit(run, (*real, [spots["hard"]], [spots["uniform"], spots["noise"]]), "panel f")
    return networks, spots


def _positive_spots(settings, few, network, generator):
    """Random samples of a generator of the 20 positives, and samples searched against `network`."""
    synthesizer = fit_synthesizer(
        few,
        latent_size=settings.latent_size,
        width=32,
        updates=settings.vae_updates,
        learning_rate=settings.learning_rate,
        generator=generator,
    )
    codes = torch.randn(2, len(few), settings.samples, settings.latent_size, generator=generator)
    spread = torch.randn(2, len(few), settings.samples, 2, generator=generator)
    radius = {"eps": settings.latent_eps, "steps": settings.search_steps, "restarts": settings.restarts}
    hard = search_codes(network, synthesizer, codes[1], spread[1], **radius, generator=generator)
    return {"random": synthesizer(codes[0], spread[0]), "hard": synthesizer(hard, spread[1])}


def fit_dimension(run: Run, data: dict[str, Tensor], dimension: int) -> dict[tuple[str, str], Tensor]:
    """Measures in d dimensions, (negatives, measure) -> (count,), with no, 20 uniform and 20 PGD-searched negatives."""
    settings, count, generator = run.settings.two_moons, len(data["few"]), run.generator("two_moons", f"dimension {dimension}")
    rotation = torch.linalg.qr(torch.randn(count, dimension, dimension, generator=generator)).Q
    names = ("positives", "negatives", "test_positives", "test_negatives")
    moon = {name: embed(data[name], rotation, generator) for name in names}
    centre, width = torch.zeros(dimension), torch.full((dimension,), float(WIDTH.max()))
    real, far = (moon["positives"], moon["negatives"]), far_points(count, FAR_POINTS, centre, width, generator)

    networks = {"none": fit(run, real, f"{dimension} dimensions")}
    starts, eps = uniform_points(count, 20, centre, NEAR * width, generator), settings.noise_eps * math.sqrt(dimension)
    noise = search_noise(networks["none"], starts, eps=eps, steps=settings.search_steps, generator=generator)
    for name, added in {"uniform": starts, "pgd": noise}.items():
        networks[name] = fit(run, (*real, (), [added]), f"{dimension} dimensions, {name}")
    return {
        (name, measure): values
        for name, network in networks.items()
        for measure, values in evaluate(network, moon["test_positives"], moon["test_negatives"], far).items()
    }


def _rows(group, measures, dimension=2):
    """Long rows of (name, measure) -> (count,)."""
    for (name, measure), values in measures.items():
        for repetition, value in enumerate(values.tolist()):
            yield {"seed": repetition, "group": group, "name": name, "dimension": dimension, "measure": measure, "value": value}


def confidence_map(network: Classifier, side: float, pixels: int = 241) -> np.ndarray:
    """Confidence (pixels, pixels) of the first repetition over the box of `side` data widths, row by row from below."""
    steps = np.linspace(-0.5, 0.5, pixels)
    x, y = np.meshgrid(CENTRE[0] + steps * side * WIDTH[0], CENTRE[1] + steps * side * WIDTH[1])
    grid = _tensor(np.stack([x, y], -1)).reshape(1, -1, 2).expand(len(network.biases[0]), -1, -1)
    return network.confidence(grid)[0].reshape(pixels, pixels).numpy()
