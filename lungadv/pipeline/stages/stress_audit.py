"""The audit of a run's stress tests: whether the attacks deserve to be believed.

Columns: check, network, value, reference, holds and verdict ("pass", "fail" or "not measured"; `holds` is false for "fail" alone).
"""

from collections.abc import Mapping

import pandas as pd
import torch
from tqdm import tqdm

from lungadv.data.tables import UNSPECIFIED
from lungadv.evaluation.audit_checks import check_searches, check_stored
from lungadv.evaluation.audit_searches import search
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.stress import LABELS, is_wrong, select
from lungadv.evaluation.stress_synthetic import density
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.stress_samples import ALL_NETWORKS, INDEPENDENT, SOURCE
from lungadv.settings import AttackSettings, Settings

__all__ = ["audit_attacks", "audit_networks", "audit_types", "combine_audits"]

QUERIES = 50  # looks at a network that Square takes in `audit_networks`


def _check(check, network, value, reference, holds):
    return {"check": check, "network": network, "value": float(value), "reference": float(reference), "holds": bool(holds)}


def audit_attacks(
    settings: Settings,
    detectors: Mapping[str, StressedModel],
    answers: pd.DataFrame,
    curve: pd.DataFrame,
    steps: pd.DataFrame,
    examples: Mapping[str, torch.Tensor],
) -> pd.DataFrame:
    """Whether the attacks of the stress tests can be believed: a row a check, without the column verdict.

    `answers`, `curve` and `steps` are the tables of the stress tests. `examples` are those that were recorded, as they were read back
    from their file.
    """
    stored = _stored_checks(settings.attack, detectors[SOURCE], answers, examples)
    rows = [*_random_checks(answers), *_network_checks(settings, answers, curve), *_steps_checks(settings.attack, steps), *stored]
    return pd.DataFrame(rows)


def _share(answers, kind, test, network, source="", count=None):
    """The share of wrong answers of a network to the first `count` patches of a stimulus."""
    group = select(answers, kind=kind, test=test, network=network, source=source)
    return is_wrong(group["confidence"][:count], kind).mean()


def _random_checks(answers):
    """PGD against random signs of the same norm."""
    for kind in LABELS:
        attacked, random = _share(answers, kind, "pgd", SOURCE, SOURCE), _share(answers, kind, "random", SOURCE)
        yield _check(f"PGD on {kind} does more than random signs of the same norm", SOURCE, attacked, random, attacked > random)


def _network_checks(settings, answers, curve):
    """Success over eps, and white-box against transferred attacks."""
    transfer = select(curve, attack="transfer", network=SOURCE)["share_wrong"].to_numpy()
    fall = (transfer[:-1] - transfer[1:]).max(initial=0)
    yield _check("success falls nowhere as eps grows", SOURCE, fall, 0.05, fall <= 0.05)
    for name in ALL_NETWORKS:
        reached = select(curve, attack="white-box", network=name)["share_wrong"].max()
        yield _check("at the largest eps (almost) every decision falls", name, reached, 0.95, reached >= 0.95)
        count = settings.stress.whitebox_patches
        strongest = max(_share(answers, "positives", "pgd", name, source, count) for source in (SOURCE, INDEPENDENT))
        own = _share(answers, "positives", "pgd", name, name, count)
        yield _check("no transferred attack beats the white-box one", name, own, strongest, own >= strongest - 0.02)


def _steps_checks(attack: AttackSettings, steps: pd.DataFrame):
    """What more steps and restarts add."""
    for name, table in steps.groupby("network", sort=False):
        table = table.set_index(["steps", "restarts"])
        result, margin, plan = table["share_wrong"], table["margin"], (attack.steps, 1)
        check = "PGD goes as far as one step or further (log-odds)"
        yield _check(check, name, margin[plan], margin[1, 1], margin[plan] >= margin[1, 1] - 0.01)
        for change, more in (("twice the steps", (2 * attack.steps, 1)), ("a second restart", (attack.steps, 2))):
            holds = abs(result[more] - result[plan]) <= 0.1
            yield _check(f"{change} changes success by at most 0.1", name, result[more], result[plan], holds)


def _stored_checks(attack, detector, answers, examples):
    """Norm, range and answers of the attacked examples, as they lie in their file."""
    for kind in LABELS:
        eps = attack.radius(kind)
        found = select(answers, test="pgd", kind=kind, network=SOURCE, source=SOURCE).set_index("index")["confidence"]
        stored = examples[f"{kind}/clean-0"], examples[f"{kind}/pgd-{eps:g}"], found[examples[f"{kind}/picks"].tolist()]
        for row in check_stored(detector, *stored, eps=eps):
            check = row["check"].replace("examples", kind)
            yield _check(check, SOURCE, row["value"], row["reference"], row["verdict"] == "pass")


def audit_networks(run: Run, detectors: Mapping[str, StressedModel], clean: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """The rows of `check_searches` for each of the `detectors`, on the first positives and as many negatives of `clean`.

    Attacks are transferred from SOURCE, those on SOURCE from INDEPENDENT.
    """
    attack, tables = run.settings.attack, []
    patches = {kind: clean[kind][: run.settings.stress.audit_patches] for kind in ("positives", "negatives")}
    signs = torch.cat([torch.full((len(batch),), 1.0 - 2 * LABELS[kind]) for kind, batch in patches.items()])
    terms = {"eps": attack.eps, "steps": attack.steps, "queries": QUERIES, "threshold": 0.5}
    for name, detector in tqdm(detectors.items(), desc="audits"):
        other = detectors[INDEPENDENT if name == SOURCE else SOURCE]
        seed = run.generator("stress", "audit", name).initial_seed()
        found = search(detector, other, torch.cat(list(patches.values())), signs, seed=seed, **terms)
        tables.append(pd.DataFrame(check_searches(found)).assign(network=name))
    table = pd.concat(tables, ignore_index=True).assign(holds=lambda rows: rows["verdict"] != "fail")
    return table[["check", "network", "value", "reference", "holds", "verdict"]]


def audit_types(real: pd.DataFrame) -> pd.DataFrame:
    """One row: how often the HU rule gives a real nodule the type that it is known to have; none where no type is known.

    `real` has a row a nodule, with its solid_share and its known type.
    """
    real = real[real["type"] != UNSPECIFIED]
    if real.empty:
        return pd.DataFrame()
    known = real["type"].map({"ground_glass": "non_solid", "part_solid": "part_solid"}).fillna("solid")
    agree = (density(real["solid_share"]) == known).mean()
    return pd.DataFrame([_check("the HU rule agrees with the known type of real nodules", "-", agree, 0.7, agree >= 0.7)])


def combine_audits(*tables: pd.DataFrame) -> pd.DataFrame:
    """One table of audits; where one has no verdict, it is "pass" where the row holds, else "fail"."""
    table = pd.concat(tables, ignore_index=True)
    verdicts = table["holds"].astype(bool).map({True: "pass", False: "fail"})
    return table.assign(verdict=table["verdict"].fillna(verdicts))
