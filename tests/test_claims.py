"""Every rule of the ledger on made-up numbers: met, short of it, and the other way round."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lungadv import claims, runs
from lungadv.claims import BASE, CLAIMS, CONTROL, PERTURB, RANDOM, SAMPLES, SYN, Numbers

NET5 = (BASE, SYN, *PERTURB, CONTROL)


def rows(claim, measure, network, condition, values, items=None):
    items = range(len(values)) if items is None else items
    table = [[claim, measure, network, condition, str(item), value] for item, value in zip(items, values, strict=True)]
    return pd.DataFrame(table, columns=SAMPLES)


def samples(claim, *groups):
    """Numbers of groups (measure, network, condition, values[, items])."""
    return Numbers(pd.concat([rows(claim, *group) for group in groups], ignore_index=True), pd.DataFrame())


def around(mean, count=20, spread=0.01):
    """Numbers about a mean; the same pattern every time, so that two of them are paired without spread."""
    return mean + spread * np.linspace(-1, 1, count)


def noisy(mean, count=20, spread=1.0, seed=0):
    """Numbers of exactly this mean and a wide spread, so that the interval of a small mean includes zero."""
    draw = np.random.default_rng(seed).normal(size=count)
    return mean + spread * (draw - draw.mean())


def shares(share, count=100):
    """0/1 with this share of ones."""
    return (np.arange(count) < round(share * count)).astype(float)


def sure(share, count=100, high=0.9, low=0.1):
    """Confidences of which this share is high."""
    return np.where(shares(share, count) > 0, high, low)


# One builder a claim: its arguments are what the rule turns on; CASES names three settings and their verdicts.


def toy(*groups):
    """Numbers of groups (group, measure, name, values[, dimension]) of the two moons, by way of their own table."""
    table = []
    for group, measure, name, values, *dimension in groups:
        fixed = {"group": group, "name": name, "dimension": dimension[0] if dimension else 2, "measure": measure}
        table += [{"seed": seed, **fixed, "value": value} for seed, value in enumerate(values)]
    return Numbers(claims.toy_samples(pd.DataFrame(table)), pd.DataFrame())


def t1(accuracy):
    return toy(("panel", "accuracy", "a", around(accuracy, spread=0.001)))


def t2(change):
    return toy(("panel", "tail_recall", "a", around(0.9)), ("panel", "tail_recall", "b", around(0.9) + change))


def t3(change, far):
    tail = [("panel", "tail_recall", "b", around(0.5)), ("panel", "tail_recall", "c", around(0.5) + change)]
    return toy(*tail, ("panel", "confident_far_share", "c", around(far)))


def t4(far, loss):
    area = [("panel", "confident_far_share", "c", around(0.4)), ("panel", "confident_far_share", "d", around(far))]
    return toy(*area, ("panel", "recall", "c", around(0.9)), ("panel", "recall", "d", around(0.9 - loss)))


def t5(change, sparse):
    share = [("spots", "sparse_share", "random", around(0.3)), ("spots", "sparse_share", "hard", around(0.3) + change)]
    return toy(*share, ("spots", "sparse_share_of_arc", "hard", around(sparse)))


def t6(change):
    return toy(("spots", "nearest_positive", "uniform", around(1.0)), ("spots", "nearest_positive", "noise", around(1.0) + change))


def t7(change, loss):
    """In fewer dimensions it may be the other way round."""
    far = [
        ("dimension", "confident_far_share", name, around(0.4) + more, d)
        for d, change in ((2, 0.1), (10, 0.1), (50, change))
        for name, more in (("uniform", 0), ("pgd", change))
    ]
    return toy(*far, ("dimension", "recall", "uniform", around(0.9), 50), ("dimension", "recall", "pgd", around(0.9 - loss), 50))


def m1(blob_small, blob_large, scans=20):
    """The RPN finds half of every size; 10 nodules of each size a scan."""
    groups = []
    for size, blob in (("small", blob_small), ("large", blob_large)):
        items = [f"{size[0]}{scan}:{k}" for scan in range(scans) for k in range(10)]
        for per_scan in (4, 8):
            for network, share in (("blob", blob), ("rpn", 0.5)):
                groups.append((f"detected-{per_scan}", network, size, np.tile(shares(share, 10), scans), items))
    return samples("M1", *groups)


def m2(share, count=300, per_scan=90):
    groups = [("detected", "union", name, shares(share, count)) for name in ("in-house", "nlst")]
    return samples("M2", *groups, *(("candidates_per_scan", "union", name, [per_scan], [""]) for name in ("in-house", "nlst")))


def m3(pgd, random=0.9, ssim=0.95):
    """Undetected nodules, whose values must not matter, stand beside the detected ones."""
    parts = {"before": 0.9, "pgd": pgd, "random": random}
    confidence = [("confidence", BASE, name, [*around(value, 50), *[0.3] * 50]) for name, value in parts.items()]
    return samples("M3", *confidence, ("ssim", BASE, "pgd", [*around(ssim, 50), *[0.0] * 50]))


def m4(pgd, random):
    groups = {"clean": sure(0.8, 100), "pgd": sure(0.8 * (1 - pgd), 100), "random": sure(0.8 * (1 - random), 100)}
    return samples("M4", *(("confidence", BASE, name, values) for name, values in groups.items()))


def activation(claim, clean):
    def build(before, after):
        return samples(claim, ("confidence", BASE, clean, sure(before)), ("confidence", BASE, "pgd", sure(after)))

    return build


def m7(pgd, random):
    items = [f"s{k // 5}:{k % 5}" for k in range(100)]
    found = {"clean": 0.9, "pgd": pgd, "random": random}
    return samples("M7", *(("detected", "blob", name, shares(value), items) for name, value in found.items()))


def n1(share, change):
    hardest = [("hardest", BASE, "random-search", around(0.4)), ("hardest", BASE, "pgd", around(0.4) + change)]
    return samples("N1", ("confidence", BASE, "random", sure(share)), *hardest)


def s1(smaller, denser):
    """Shifts of PGD-searched against real nodules, in standard deviations."""
    real, draw = noisy(0, 300, seed=1), noisy(0, 300, seed=2)
    groups = [("diameter_mm", "", "real", 10 + real), ("diameter_mm", "", "pgd", 10 + draw - smaller)]
    groups += [("mean_hu", "", "real", real), ("mean_hu", "", "pgd", draw - denser)]
    groups += [(kind, "", name, shares(0.2)) for kind in ("non_solid", "part_solid") for name in ("real", "random", "pgd")]
    return samples("S1", *groups)


def s2(missed, unsure, count=1000, other=0.1):
    pgd = np.where(shares(unsure, count) > 0, 0.5, other)
    return samples("S2", ("confidence", BASE, "random", sure(1 - missed, count)), ("confidence", BASE, "pgd", pgd))


def s3(share, control, high=0.9):
    return samples("S3", ("confidence", SYN, "pgd", sure(share, high=high)), ("confidence", CONTROL, "pgd", sure(control)))


def with_thresholds(numbers, **bars):
    extra = [rows("all", "threshold", name, "", [bars.get(name, 0.5)], [""]) for name in NET5]
    return Numbers(pd.concat([numbers.samples, *extra], ignore_index=True), pd.DataFrame())


def s4(*medians):
    conditions = ("clean", *claims.UNIFORM)
    return samples("S5", *(("confidence", BASE, name, around(value)) for name, value in zip(conditions, medians, strict=True)))


def detection(claim, conditions, count=200, beside=()):
    """Shares detected by network, one for each condition; under those of `beside` as under the last."""

    def build(**networks):
        found = {BASE: networks["base"], CONTROL: networks["control"], SYN: networks["syn"], **dict.fromkeys(PERTURB, networks["perturb"])}
        return with_thresholds(
            samples(
                claim,
                *(
                    ("confidence", name, condition, sure(share, count))
                    for name, values in found.items()
                    for condition, share in [*zip(conditions, values, strict=True), *((name, values[-1]) for name in beside)]
                ),
            )
        )

    return build


s5 = detection("S5", claims.UNIFORM)
s6 = detection("S6", ("poisson-50", "poisson-1"))
BESIDE = ("white-box", "independent")
s7 = detection("S7", ("clean", "pgd"), beside=BESIDE)
s8 = detection("S8", ("noise", "pgd"), beside=BESIDE)
s9 = detection("S9", ("clean", "pgd"), beside=BESIDE)


def s10(kept):
    """All attacked images are answered wrongly; `kept` of them are as sure as clean ones."""
    clean, attacked = around(0.2, 100, 0.1), np.where(shares(kept) > 0, 0.2, 0.9)
    groups = [("uncertainty", BASE, f"clean-{kind}", clean) for kind in ("positive", "negative")]
    groups += [("uncertainty", BASE, f"pgd-{kind}", attacked) for kind in ("positive", "negative")]
    return samples("S10", *groups, ("confidence", BASE, "pgd-positive", sure(0)), ("confidence", BASE, "pgd-negative", sure(1)))


def s11(eps, ssim):
    groups = [("eps", name, "white-box", around(value, 50, 0.001)) for name, value in zip((BASE, *PERTURB), (0.01, eps, eps), strict=True)]
    groups += [("ssim", name, "white-box", around(value, 50)) for name, value in zip((BASE, *PERTURB), (0.95, ssim, ssim), strict=True)]
    return samples("S11", *groups)


HALF = (0.5,) * 4
CASES = {
    "T1": (t1, [(0.985,)], [(0.97,)], [(0.7,)]),
    "T2": (t2, [(-0.1,)], [(noisy(-0.1),)], [(0.1,), (0.0,)]),
    "T3": (t3, [(0.1, 0.2)], [(0.1, 0.05), (noisy(0.1), 0.2)], [(-0.1, 0.2)]),
    "T4": (t4, [(0.1, 0.02)], [(0.3, 0.02), (0.1, 0.1)], [(0.5, 0.0), (0.1, 0.3)]),
    "T5": (t5, [(0.2, 0.95)], [(0.2, 0.8), (noisy(0.1), 0.95)], [(-0.1, 0.95)]),
    "T6": (t6, [(-0.2,)], [(noisy(-0.2),)], [(0.2,)]),
    "T7": (t7, [(-0.1, 0.0)], [(-0.1, 0.1), (noisy(-0.1), 0.0)], [(0.1, 0.0)]),
    "M1": (m1, [(0.8, 0.5)], [], [(0.4, 0.5), (0.5, 0.5)]),
    "M2": (m2, [(0.98,)], [(0.95,), (0.99, 200), (0.99, 300, 101)], [(0.8,)]),
    "M3": (m3, [(0.5,)], [(0.7,), (0.5, 0.75), (0.5, 0.9, 0.8)], [(0.95,), (0.6, 0.4)]),
    "M4": (m4, [(0.9, 0.0)], [(0.5, 0.0), (1.0, 0.25)], [(0.1, 0.1), (0.1, 0.5)]),
    "M5": (activation("M5", "noise"), [(0.05, 0.9)], [(0.05, 0.5), (0.2, 0.9)], [(0.05, 0.0)]),
    "M6": (activation("M6", "clean"), [(0.05, 0.9)], [(0.05, 0.5), (0.2, 0.9)], [(0.05, 0.0)]),
    "M7": (m7, [(0.4, 0.9)], [(0.8, 0.9), (0.4, 0.8)], [(0.9, 0.9), (0.8, 0.5)]),
    "N1": (n1, [(0.7, -0.1)], [(0.4, -0.1), (0.7, noisy(-0.1))], [(0.7, 0.1)]),
    "S1": (s1, [(1.0, 1.0)], [(1.0, 0.15)], [(1.0, -0.5), (-1.0, 1.0)]),
    "S2": (s2, [(0.3, 0.6)], [(0.3, 0.4), (0.05, 0.6), (0.3, 0.6, 900)], [(0.05, 0.4, 1000, 0.95)]),
    "S3": (s3, [(0.8, 0.5)], [(0.6, 0.5), (0.8, 0.5, 0.65), (0.8, 0.79)], [(0.5, 0.8), (0.8, 0.8)]),
    "S4": (s4, [(0.9, 0.8, 0.7, 0.5, 0.2)], [(0.9, 0.89, 0.85, 0.8, 0.75), (0.9, 0.5, 0.6, 0.4, 0.2)], [(0.5, 0.6, 0.7, 0.8, 0.9)]),
    "S5": (
        lambda syn, perturb: s5(base=HALF, control=HALF, syn=syn, perturb=perturb),
        [((0.7, 0.7, 0.1, 0.1), (0.1, 0.1, 0.7, 0.7))],
        [((0.505, 0.505, 0.1, 0.1), (0.1, 0.1, 0.7, 0.7)), ((0.7, 0.7, 0.1, 0.1), (0.1, 0.1, 0.4, 0.7))],
        [(HALF, HALF), ((0.7, 0.7, 0.7, 0.7), (0.7, 0.7, 0.1, 0.1))],
    ),
    "S6": (
        lambda base, syn, perturb: s6(base=base, control=base, syn=syn, perturb=perturb),
        [((0.6, 0.3), (0.8, 0.0), (0.8, 0.5))],
        [((0.6, 0.3), (0.605, 0.0), (0.8, 0.5))],
        [((0.6, 0.55), (0.8, 0.8), (0.9, 0.9)), ((0.6, 0.3), (0.4, 0.5), (0.8, 0.5))],
    ),
    "S7": (
        lambda base, syn, perturb: s7(base=base, control=base, syn=syn, perturb=perturb),
        [((0.9, 0.1), (0.9, 0.2), (0.9, 0.8))],
        [((0.9, 0.5), (0.9, 0.5), (0.9, 0.8)), ((0.9, 0.1), (0.9, 0.2), (0.9, 0.6))],
        [((0.9, 0.1), (0.9, 0.8), (0.9, 0.7))],
    ),
    "S8": (
        lambda noise, base, syn, perturb: s8(base=(noise, base), control=(0, 0), syn=(0, syn), perturb=(0, perturb)),
        [(0.1, 0.9, 0.6, 0.1)],
        [(0.6, 0.9, 0.6, 0.1), (0.1, 0.9, 0.4, 0.1), (0.1, 0.9, 0.6, 0.3)],
        [(0.1, 0.9, 0.1, 0.1), (0.1, 0.1, 0.9, 0.9)],
    ),
    "S9": (
        lambda clean, base, perturb: s9(base=(clean, base), control=(0, 0), syn=(0, 0.9), perturb=(clean, perturb)),
        [(0.05, 0.9, 0.5)],
        [(0.2, 0.9, 0.5), (0.05, 0.9, 0.7)],
        [(0.05, 0.5, 0.5), (0.05, 0.5, 0.9)],
    ),
    "S10": (s10, [(0.6,)], [(0.3,)], [(0.0,)]),
    "S11": (s11, [(0.05, 0.8)], [(0.05, 0.97), (np.inf, np.nan)], [(0.005, 0.8)]),
}  # fmt: skip


def difference_rows(values, spread=0.001, seeds=range(5)):
    """differences.csv of some seeds: values {(a, b, measure, subset): mean}; the interval over scans is the mean -+ 0.02."""
    out = []
    for k, seed in enumerate(seeds):
        for (a, b, measure, subset), mean in values.items():
            value = mean + spread * (k - (len(seeds) - 1) / 2)
            row = {"subset": subset, "benchmark": "both", "a": a, "b": b, "measure": measure, "difference": value, "seed": seed}
            out.append(row | {"lower": value - 0.02, "upper": value + 0.02, "lower90": value - 0.01, "upper90": value + 0.01})
            out.append(row | {"benchmark": "nlst", "difference": 9.0, "lower": 9.0, "upper": 9.0})  # must not be read
    return pd.DataFrame(out)


def strategies(*pairs):
    """{(a, b, "cpm", "all"): mean} from (a, b, mean)."""
    return {(a, b, "cpm", "all"): mean for a, b, mean in pairs}


def b2(entropy, beta, trained_on=0.0):
    gains = {"baseline-ce": entropy, "baseline-beta": beta, "control-ce": trained_on, "control-beta": trained_on}
    return strategies(*((BASE, other, gain) for other, gain in gains.items()))


def b4(mean, ends):
    return {(SYN, RANDOM, "cpm", "all"): mean, (SYN, RANDOM, "low-minus-high", "all"): ends}


def b5(below, others):
    pairs = [(SYN, other, below) for other in ("baseline-ce", "baseline-beta", BASE, CONTROL)]
    return strategies(*pairs, *((SYN, other, others) for other in (RANDOM, *PERTURB)))


def b6(gain, excess):
    return strategies(*((name, other, value) for name in PERTURB for other, value in ((BASE, gain), (CONTROL, -1.0), (SYN, excess))))


STRATEGY_CASES = {  # (values, spread over seeds): reproduced, consistent, not reproduced
    "B1": (
        [(strategies(("baseline-beta", "baseline-ce", -0.03)), 0.001)],
        [(strategies(("baseline-beta", "baseline-ce", 0.03)), 0.03)],
        [(strategies(("baseline-beta", "baseline-ce", 0.08)), 0.001), (strategies(("baseline-beta", "baseline-ce", -0.08)), 0.001)],
    ),
    "B2": (
        [(b2(0.02, 0.01), 0.001), (b2(0.02, 0.01, trained_on=-0.01), 0.001)],
        [(b2(0.02, 0.01), 0.01)],
        [(b2(0.02, -0.01), 0.001), (b2(-0.01, 0.02), 0.001)],
    ),
    "B3": (
        [(strategies((RANDOM, BASE, 0.02), (RANDOM, CONTROL, 0.01)), 0.001)],
        [(strategies((RANDOM, BASE, 0.02), (RANDOM, CONTROL, 0.01)), 0.01)],
        [(strategies((RANDOM, BASE, 0.02), (RANDOM, CONTROL, -0.01)), 0.001)],
    ),
    "B4": ([(b4(0.02, 0.02), 0.001)], [(b4(0.02, 0.01), 0.02)], [(b4(0.02, -0.01), 0.001), (b4(-0.02, 0.01), 0.001)]),
    "B5": ([(b5(0.02, -0.001), 0.002)], [(b5(0.02, 0.01), 0.02)], [(b5(0.02, -0.05), 0.001), (b5(-0.02, 0.02), 0.001)]),
    "B6": (
        [(b6(0.02, 0.0), 0.001)],
        [(b6(0.02, 0.0), 0.02), (b6(0.02, 0.0095), 0.001)],
        [(b6(-0.02, 0.0), 0.001), (b6(0.02, 0.03), 0.001)],
    ),
    "B7": (
        [({(SYN, CONTROL, "cpm", "subsolid"): 0.02}, 0.001)],
        [({(SYN, CONTROL, "cpm", "subsolid"): 0.02}, 0.02)],
        [({(SYN, CONTROL, "cpm", "subsolid"): -0.02}, 0.001)],
    ),
}
VERDICTS = ("reproduced", "consistent", "not reproduced")
NOTHING = pd.DataFrame(columns=SAMPLES)


def test_every_claim_has_a_function_and_cases():
    identifiers = claims.rules()["id"].tolist()
    assert len(identifiers) == 33
    assert set(CLAIMS) == set(identifiers) == set(CASES) | set(STRATEGY_CASES)


@pytest.mark.parametrize(
    "claim, arguments, expected",
    [
        (claim, arguments, name)
        for claim, (_, *cases) in CASES.items()
        for name, group in zip(VERDICTS, cases, strict=True)
        for arguments in group
    ],
)
def test_rules_on_samples(claim, arguments, expected):
    found = CLAIMS[claim](CASES[claim][0](*arguments))
    assert found.verdict == expected, found
    assert found.text


@pytest.mark.parametrize(
    "claim, values, spread, expected",
    [
        (claim, values, spread, name)
        for claim, cases in STRATEGY_CASES.items()
        for name, group in zip(VERDICTS, cases, strict=True)
        for values, spread in group
    ],
)
def test_rules_on_strategies(claim, values, spread, expected):
    found = CLAIMS[claim](Numbers(NOTHING, difference_rows(values, spread)))
    assert (found.verdict, found.seeds) == (expected, 5), found


@pytest.mark.parametrize("claim", STRATEGY_CASES)
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_few_seeds_are_at_best_consistent(claim, seeds):
    """However sure the bootstrap over scans is: it compares two weight files."""
    values, _ = STRATEGY_CASES[claim][0][0]
    found = CLAIMS[claim](Numbers(NOTHING, difference_rows(values, 0.0, seeds), seed=0))
    assert (found.verdict, found.seeds) == ("consistent", 1)
    against, _ = STRATEGY_CASES[claim][2][0]
    assert CLAIMS[claim](Numbers(NOTHING, difference_rows(against, 0.0, seeds), seed=0)).verdict == "not reproduced"


def test_few_seeds_show_this_runs_own_interval():
    table = difference_rows(STRATEGY_CASES["B7"][0][0][0], 0.01, [4, 7])
    own = claims.strategy_difference(Numbers(NOTHING, table, seed=7), SYN, CONTROL, subset="subsolid")
    assert (own.mean, own.seeds) == (pytest.approx(0.025), 1)
    assert own.interval == pytest.approx((0.005, 0.045))
    narrower = claims.strategy_difference(Numbers(NOTHING, table, seed=7), SYN, CONTROL, subset="subsolid", level=0.9)
    assert narrower.interval == pytest.approx((0.015, 0.035))


def test_seed_intervals_are_students():
    table = difference_rows({(SYN, CONTROL, "cpm", "all"): 0.01}, 0.01, range(3))  # 0, 0.01, 0.02
    found = claims.strategy_difference(Numbers(NOTHING, table), SYN, CONTROL)
    assert found.interval == pytest.approx((0.01 - 4.3027 * 0.01 / 3**0.5, 0.01 + 4.3027 * 0.01 / 3**0.5), rel=1e-4)


def test_detection_uses_each_networks_own_threshold():
    """A network that says yes to everything has a threshold that takes the gain away."""
    numbers = s7(base=(0.9, 0.1), control=(0.9, 0.1), syn=(0.9, 0.1), perturb=(0.9, 0.9))
    keys = [(PERTURB[0], "clean"), (PERTURB[0], "pgd")]
    assert [found.mean() for found in numbers.detected("S7", *keys)] == [0.9, 0.9]
    high = numbers.samples.copy()
    high.loc[(high["measure"] == "threshold") & (high["network"] == PERTURB[0]), "value"] = 0.95
    assert not any(found.any() for found in Numbers(high, pd.DataFrame()).detected("S7", *keys))


def test_pairs_are_matched_by_item_not_by_order():
    pgd, random = ("hardest", BASE, "pgd", [1.0, 2.0, 3.0], ["a", "b", "c"]), ("hardest", BASE, "random-search", [3.5, 1.5], ["c", "a"])
    numbers = samples("N1", pgd, random)
    found = numbers.paired("N1", "hardest", (BASE, "pgd"), (BASE, "random-search"))
    assert [values.to_dict() for values in found] == [{"a": 1.0, "c": 3.0}, {"a": 1.5, "c": 3.5}]


def test_undetected_nodules_do_not_count_as_hidden():
    found = CLAIMS["M4"](samples("M4", *(("confidence", BASE, name, sure(0)) for name in ("clean", "pgd", "random"))))
    assert found.verdict == "not reproduced"


def test_the_bootstrap_draws_scans():
    """Ten scans of ten equal items are ten observations, not a hundred."""
    values = np.repeat(shares(0.5, 10), 10)
    in_scans = pd.Series(values, index=[f"{k // 10}:{k % 10}" for k in range(100)])
    low, high = claims.mean_interval(in_scans)
    for items in ([f"noise:{k}" for k in range(100)], [f"{k}" for k in range(100)]):  # of no scan: each for itself
        alone = claims.mean_interval(pd.Series(values, index=items))
        assert high - low > 2.5 * (alone[1] - alone[0])
        assert alone == pytest.approx((0.4, 0.6), abs=0.03)


@pytest.mark.parametrize("claim", ["M3", "M4", "M5", "M6", "N1", "S2", "S3", "S4", "S5", "S6", "S7", "S9"])
def test_intervals_widen_where_items_share_scans(claim):
    """The same outcomes, those alike put into one scan, are fewer observations."""
    wide = {count: np.sort(noisy(0, count, 0.1)) for count in (20, 50)}
    spread = {"M3": (0.5 + wide[50],), "N1": (0.7, wide[20]), "S4": (0.9, 0.8, 0.7, 0.5, 0.2 + wide[20])}
    numbers = CASES[claim][0](*spread.get(claim, CASES[claim][2][0]))
    table = numbers.samples.copy()
    shared = table["measure"] != "threshold"
    table.loc[shared, "item"] = [f"1.{int(item) // 5}:{item}" for item in table.loc[shared, "item"]]

    def widths(numbers):
        bounds = [[float(bound) for bound in part.strip("[]").split(", ")] for part in CLAIMS[claim](numbers).interval.split("; ")]
        return [high - low for low, high in bounds]

    assert sum(widths(Numbers(table, pd.DataFrame()))) > 1.5 * sum(widths(numbers))


def test_a_share_of_all_is_as_sure_as_there_are_scans():
    items = [f"{k // 10}:{k}" for k in range(50)]
    expected = stats.binomtest(5, 5).proportion_ci(method="wilson")
    assert claims.share_interval(pd.Series(True, index=items)) == pytest.approx(tuple(expected), abs=1e-4)


def test_the_weighted_median_is_that_of_what_was_drawn():
    draw = np.random.default_rng(0)
    values, weights = draw.normal(size=12), draw.multinomial(12, np.full(12, 1 / 12), size=50)
    np.testing.assert_allclose(claims.median(weights, values), [np.median(np.repeat(values, weight)) for weight in weights])


def test_what_is_never_flipped_has_no_ssim():
    """A perturb network that half of the nodules withstand, and whose flips look more like the clean ones than the baseline's."""
    eps, ssim = np.where(shares(0.4, 50) > 0, np.inf, 0.05), np.where(shares(0.4, 50) > 0, np.nan, 0.99)
    found = CLAIMS["S11"](s11(0.05, 0.8))
    assert found.verdict == "reproduced" and "(0% never flipped)" in found.text
    numbers = s11(0.05, 0.8).samples
    for name in PERTURB:
        for measure, values in (("eps", eps), ("ssim", ssim)):
            numbers.loc[(numbers["measure"] == measure) & (numbers["network"] == name), "value"] = values
    found = CLAIMS["S11"](Numbers(numbers, pd.DataFrame()))
    assert found.verdict == "consistent" and f"{PERTURB[0]} eps 0.050 SSIM 0.99 (40% never flipped)" in found.text


def test_auc_interval_is_delongs():
    draw = np.random.default_rng(0)
    trials = [claims.auc(draw.normal(0, 1, 40), draw.normal(1, 1, 60)) for _ in range(300)]
    covered = np.mean([low <= 0.7602 <= high for _, (low, high) in trials])  # Phi(1 / sqrt 2)
    assert 0.9 < covered < 0.99
    assert np.mean([value for value, _ in trials]) == pytest.approx(0.7602, abs=0.01)


def test_absent_numbers_are_not_measured():
    table = claims.ledger(Numbers(NOTHING, pd.DataFrame()))
    assert set(table["verdict"]) == {"not measured"}
    assert list(table) == ["id", "claim", "measured", "interval", "seeds", "verdict", "notebook"]


def test_a_missing_condition_is_named():
    with pytest.raises(claims.Absent, match="M4: no confidence of baseline-beta-finetune random"):
        CLAIMS["M4"](samples("M4", ("confidence", BASE, "clean", sure(1)), ("confidence", BASE, "pgd", sure(0))))


def test_markdown_links_each_row():
    table = claims.ledger(t1(0.99))
    lines = claims.ledger_markdown(table).splitlines()
    assert len(lines) == 2 + 33
    assert lines[2].startswith("| [T1](nbs/00_two_moons.ipynb) | With 500 spots") and lines[2].endswith("| 20 | **reproduced** |")
    assert all(line.count("|") - line.count("\\|") == 7 for line in lines)
    assert {notebook.split("_")[0] for notebook in table["notebook"]} == {"00", "08", "11", "12"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose earlier stages hold a few numbers."""
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    run = runs.open_run("tiny", 3)
    moons = pd.DataFrame({"seed": range(20), "group": "panel", "name": "a", "dimension": 2, "measure": "accuracy", "value": 0.99})
    tables = {"two_moons": moons, "candidates": m2(0.98).samples, "stress": s11(np.inf, np.nan).samples}
    for stage, table in tables.items():
        finish(run, stage)
        table.to_csv(run.path(stage, "numbers.csv"), index=False)
    return run


def finish(run, stage, settings=None):
    run.path(stage).mkdir(parents=True)
    run.path(stage, "provenance.json").write_text(json.dumps({"settings": settings or {}}))


def finish_benchmarks(run, mean, settings=None):
    finish(run, "benchmarks", settings)
    table = difference_rows({(SYN, CONTROL, "cpm", "subsolid"): mean}, seeds=[run.seed]).drop(columns="seed")
    table.to_csv(run.path("benchmarks", "differences.csv"), index=False)


def test_build_pools_the_seeds_of_the_same_terms(run):
    finish_benchmarks(run, 0.02)
    for seed, mean, settings in ((1, 0.021, None), (10, 0.022, None), (2, 9.0, {"fpr_updates": 1}), (103, 9.0, None)):
        finish_benchmarks(runs.open_run("tiny", seed), mean, settings)
    finish_benchmarks(runs.open_run("quick", 4), 9.0)
    assert sorted(claims.pooled_differences(run)["seed"].unique()) == [1, 3, 10]
    claims.build(run)
    ledger = pd.read_csv(run.path("claims", "claims.csv"), keep_default_na=False).set_index("id")
    assert ledger["verdict"][["T1", "M2", "B7", "S11", "M1"]].tolist() == ["reproduced"] * 3 + ["consistent", "not measured"]
    assert ledger["seeds"][["T1", "B7"]].tolist() == [20, 3]
    assert json.loads(run.path("claims", "provenance.json").read_text())["stage"] == "claims"


def test_infinite_eps_is_read_as_such(run):
    finish_benchmarks(run, 0.02)
    assert np.isinf(claims.gather(run).series("S11", "eps", PERTURB[0], "white-box")).all()
