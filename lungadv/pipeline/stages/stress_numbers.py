"""The tables of a run's stress tests: the numbers behind the claims, and summaries of the answers.

Numbers are one long table, a row a sample, with the columns of COLUMNS. The same item under two networks or conditions is the same sample.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from lungadv.data.tables import SMALLEST_MM
from lungadv.evaluation.stress import select, summarise
from lungadv.evaluation.stress_synthetic import density
from lungadv.evaluation.thresholds import rejection
from lungadv.pipeline.stages.stress_samples import ALL_NETWORKS, INDEPENDENT, SOURCE
from lungadv.settings import Settings
from lungadv.training.strategies import BEYOND

__all__ = [
    "image_numbers",
    "minimal_radius_numbers",
    "rejections",
    "search_numbers",
    "summaries",
    "synthetic_numbers",
    "threshold_numbers",
]

COLUMNS = ["claim", "measure", "network", "condition", "item", "value"]


def _numbers(table, claim, measure, column=None):
    """The rows of a claim from a table with network, condition and item; the values are those of `column`, else of `measure`."""
    return table.assign(claim=claim, measure=measure, value=table[column or measure].astype(float))[COLUMNS]


def threshold_numbers(thresholds: pd.DataFrame) -> pd.DataFrame:
    """The rows of every claim on detection: the threshold of each network of ALL_NETWORKS."""
    shown = thresholds[thresholds["network"].isin(ALL_NETWORKS)]
    return _numbers(shown.assign(condition="", item=""), "all", "threshold")


def image_numbers(answers: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The rows of M4-M6 and S5-S10 from all answers; "white-box" and "independent" stand beside what the claims read."""
    clean, attacks = ("clean", 0.0, ""), {"pgd": ("pgd", SOURCE), "independent": ("pgd", INDEPENDENT), "white-box": ("pgd", None)}
    attacked, random = ("pgd", SOURCE), ("random", "")  # at the radius of the kind
    uniform = {f"uniform-{k}": ("uniform", level, "") for k, level in enumerate(settings.stress.uniform_noise, 1)}
    poisson = {f"poisson-{scale}": ("poisson", float(scale), "") for scale in settings.stress.poisson_scales}
    plans = [
        ("M4", (SOURCE,), "positives", {"clean": clean, "pgd": attacked, "random": random}),
        ("M5", (SOURCE,), "noise", {"noise": clean, "pgd": attacked, "random": random}),
        ("M6", (SOURCE,), "negatives", {"clean": clean, "pgd": attacked, "random": random}),
        ("S5", ALL_NETWORKS, "positives", {"clean": clean} | uniform),
        ("S6", ALL_NETWORKS, "positives", {"clean": clean} | poisson),
        ("S7", ALL_NETWORKS, "positives", {"clean": clean} | attacks),
        ("S8", ALL_NETWORKS, "noise", {"noise": clean} | attacks),
        ("S9", ALL_NETWORKS, "negatives", {"clean": clean} | attacks),
        ("S10", (SOURCE,), "positives", {"clean-positive": clean, "pgd-positive": attacked}),
        ("S10", (SOURCE,), "negatives", {"clean-negative": clean, "pgd-negative": attacked}),
    ]
    return pd.concat([table for plan in plans for table in _plan_numbers(answers, settings.attack, *plan)], ignore_index=True)


def _plan_numbers(answers, attack, claim, networks, kind, conditions):
    """The tables of one claim; a condition is (test, [level,] network attacked), with None for the network itself."""
    for condition, (test, *levels, source) in conditions.items():
        (level,) = levels or (attack.radius(kind),)
        against = answers["network"] if source is None else source
        chosen = select(answers, test=test, level=level, kind=kind, source=against)
        chosen = chosen[chosen["network"].isin(networks)].assign(condition=condition)
        for measure in ("confidence", "uncertainty") if claim == "S10" else ("confidence",):
            yield _numbers(chosen, claim, measure)


def synthetic_numbers(synthetic: pd.DataFrame, real: pd.DataFrame) -> pd.DataFrame:
    """The rows of M3, N1 and S1-S3 from the table of synthetic nodules and that of real ones (diameter_mm, mean_hu, solid_share)."""
    base = synthetic[synthetic["network"] == SOURCE]
    large = synthetic[synthetic["diameter_mm"] >= SMALLEST_MM]
    step = {"random": "before", "pgd": "pgd", "random-step": "random"}
    fresh = large[large["condition"].isin(["random", "pgd"])]
    shapes = pd.concat([fresh[fresh["network"] == SOURCE], real[real["diameter_mm"] >= SMALLEST_MM].assign(condition="real")])
    kinds = density(shapes["solid_share"])
    shapes = shapes.assign(network="", non_solid=1.0 * (kinds == "non_solid"), part_solid=1.0 * (kinds == "part_solid"))
    tables = [
        _numbers(base.assign(condition=base["condition"].map(step)), "M3", "confidence"),
        _numbers(base[base["condition"] == "pgd"], "M3", "ssim"),
        search_numbers(base),
        *(_numbers(shapes, "S1", measure) for measure in ("diameter_mm", "mean_hu", "non_solid", "part_solid")),
        _numbers(fresh[fresh["network"] == SOURCE], "S2", "confidence"),
        _numbers(fresh, "S3", "confidence"),
    ]
    return pd.concat(tables, ignore_index=True)


def search_numbers(base: pd.DataFrame) -> pd.DataFrame:
    """The rows of N1 from the rows of one network: how sure it is of random nodules, and the lowest confidence that each search finds.

    Everything is judged on nodules of at least SMALLEST_MM: items whose start reaches it; neither search leaves it.
    """
    drawn = base[(base["condition"] == "random") & (base["diameter_mm"] >= SMALLEST_MM)].set_index("item")
    ends = base[base["condition"] == "pgd"].set_index("item")["confidence"]
    drawn = drawn.assign(pgd=ends.loc[drawn.index]).reset_index()
    searched = drawn.dropna(subset="random_search")
    tables = [
        _numbers(drawn, "N1", "confidence"),
        _numbers(searched.assign(condition="random-search"), "N1", "hardest", "random_search"),
        _numbers(searched.assign(condition="pgd"), "N1", "hardest", "pgd"),
    ]
    return pd.concat(tables, ignore_index=True)


def minimal_radius_numbers(falls: pd.DataFrame, items: Sequence[str]) -> pd.DataFrame:
    """The rows of S11, for the samples that every network of the paper, and the control, judge rightly when clean."""
    right = falls[~falls["network"].isin(BEYOND)].groupby("index")["eps"].min() > 0
    falls = falls[falls["index"].map(right)]
    falls = falls.assign(condition="white-box", item=[items[index] for index in falls["index"]])
    return pd.concat([_numbers(falls, "S11", "eps"), _numbers(falls, "S11", "ssim")], ignore_index=True)


def summaries(answers: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """`summarise` for every network and source of attack, at 0.5 and at the network's own threshold."""
    tables = [
        summarise(group, threshold).assign(network=network, source=source, rule=rule, threshold=threshold)
        for (source, network), group in answers.groupby(["source", "network"], sort=False)
        for rule, threshold in (("half", 0.5), ("equal rate", thresholds[network]))
    ]
    return pd.concat(tables, ignore_index=True)


def rejections(answers: pd.DataFrame) -> pd.DataFrame:
    """`rejection` by each network's uncertainty, for images attacked through the baseline (transfer) and through itself (white-box)."""
    images, rows = answers[answers["kind"] != "noise"], []
    for network in ALL_NETWORKS:
        clean = select(images, test="clean", network=network)["uncertainty"]
        for attack, source in (("transfer", SOURCE), ("white-box", network)):
            attacked = select(images, test="pgd", network=network, source=source)
            fooled = (attacked["confidence"] > 0.5) != (attacked["kind"] == "positives")
            rows.append({"network": network, "attack": attack} | rejection(clean, attacked["uncertainty"], fooled))
    return pd.DataFrame(rows)
