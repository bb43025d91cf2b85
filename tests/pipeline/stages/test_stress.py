"""The whole stage of stress tests, with small fakes for the stages before it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv.evaluation.audit_checks import check_searches
from lungadv.evaluation.audit_searches import search
from lungadv.evaluation.claims_stress import judge_rejection
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.stress import select
from lungadv.evaluation.thresholds import threshold_at_rate
from lungadv.evaluation.verdicts import Numbers
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages import stress, stress_answers, stress_samples
from lungadv.pipeline.stages.stress_answers import collect_answers, measure_eps
from lungadv.pipeline.stages.stress_audit import audit_attacks
from lungadv.pipeline.stages.stress_numbers import minimal_radius_numbers, search_numbers
from lungadv.pipeline.stages.stress_samples import (
    ALL_NETWORKS,
    INDEPENDENT,
    SOURCE,
    TABLE2_NETWORKS,
    benchmark_samples,
    validation_thresholds,
)
from lungadv.training.strategies import BEYOND, SEGMENTATION, STRATEGIES
from tests.evaluation.toy_models import Balls, random


def test_the_networks_follow_from_the_registry():
    assert (SOURCE, INDEPENDENT) == ("baseline-beta-finetune", "baseline-beta")
    assert ALL_NETWORKS == (SOURCE, "beta+syn", "beta+perturb", "beta+perturb+syn", "control", *BEYOND) and "beta+online" in BEYOND
    augmented = ("beta+syn-random", "beta+syn", "beta+perturb", "beta+perturb+syn")
    assert TABLE2_NETWORKS == ("baseline-ce", "baseline-beta", SOURCE, *augmented)


def test_another_evidence_network_from_scratch_leaves_the_independent_one():
    row = STRATEGIES[INDEPENDENT]
    assert row.in_paper and row.start == SEGMENTATION and row.output == "evidence"
    code = (
        "from dataclasses import replace; from lungadv.training.strategies import STRATEGIES; "
        "STRATEGIES['from-scratch'] = replace(STRATEGIES['baseline-beta'], in_paper=False); "
        "from lungadv.pipeline.stages.stress_samples import INDEPENDENT; assert INDEPENDENT == 'baseline-beta'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Bright(nn.Module):
    """Evidence from the brightness of the patch's middle."""

    output = "evidence"

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        odds = self.gain * (x[..., 6:10, 6:10, 6:10].mean(dim=(1, 2, 3, 4)) - 0.45)
        return torch.stack([odds.clamp(min=0).expm1(), (-odds).clamp(min=0).expm1()], 1)


def detector(gain):
    return StressedModel(Bright(gain).eval(), "evidence")


SCANS = {"in-house": "1.2", "nlst": "1.3", "validation": "1.4"}


def load_patches(run, dataset, kinds):
    generator = torch.Generator().manual_seed(len(dataset))
    levels = {"nodule": 0.41, "background": 0.1, "candidate": 0.2}
    kind = [name for name in kinds for _ in range(9)]
    level = torch.tensor([levels[name] for name in kind]).reshape(-1, 1, 1, 1, 1)
    label = [1 * (name == "nodule") for name in kind]
    table = pd.DataFrame({"seriesuid": SCANS[dataset], "kind": kind, "label": label, "depth_mm": 16.0})
    return table, (level + 0.1 * torch.rand(len(kind), 1, 16, 16, 16, generator=generator)).clamp(0, 1)


def write_validation(run, name, gain):
    """What training leaves beside the weights: the answers to the validation patches, nodules among them."""
    table, patches = load_patches(run, "validation", ("nodule", "candidate", "background"))
    confidence = detector(gain).predict(patches)[0]
    folder = run.path("fpr", name)
    folder.mkdir(parents=True)
    table.assign(confidence=confidence.numpy()).to_csv(folder / "validation.csv", index=False)
    (folder / "provenance.json").write_text("{}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    gains = {name: 10.0 + k for k, name in enumerate(("baseline-beta", *ALL_NETWORKS, "baseline-ce", "beta+syn-random"))}
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    types = pd.DataFrame({"type": ["solid", "ground_glass", "part_solid", "fully_calcified"] * 5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stress_samples, "load_patches", load_patches)
        patch.setattr(stress, "load_detectors", lambda run: {name: detector(gain) for name, gain in gains.items()})
        patch.setattr(stress, "load_cutouts", lambda run: (*Balls()(z), types))
        patch.setattr(stress_answers, "load_generator", lambda run: Balls())
        patch.setitem(STAGES, "stress", replace(STAGES["stress"], needs=()))
        patch.setenv("LUNGADV_RUNS", str(tmp_path_factory.mktemp("runs")))
        run = open_run("tiny", 7)
        for name, gain in gains.items():
            write_validation(run, name, gain)
        stress.build(run)
        yield run


@pytest.fixture(scope="module")
def results(run):
    return stress.load_results(run)


def test_build_writes_every_number_that_the_claims_read(run, results):
    numbers = pd.read_csv(run.path("stress", "numbers.csv"), dtype={"item": str}, keep_default_na=False)
    assert numbers.columns.tolist() == ["claim", "measure", "network", "condition", "item", "value"]
    base, shown = {SOURCE}, set(ALL_NETWORKS)
    assert "beta+online" in shown
    expected = {
        ("all", "threshold"): (shown, {""}),
        ("M3", "confidence"): (base, {"before", "pgd", "random"}),
        ("M3", "ssim"): (base, {"pgd"}),
        ("M4", "confidence"): (base, {"clean", "pgd", "random"}),
        ("M5", "confidence"): (base, {"noise", "pgd"}),
        ("M6", "confidence"): (base, {"clean", "pgd"}),
        ("N1", "confidence"): (base, {"random"}),
        ("N1", "hardest"): (base, {"random-search", "pgd"}),
        **{("S1", measure): ({""}, {"real", "random", "pgd"}) for measure in ("diameter_mm", "mean_hu", "non_solid", "part_solid")},
        ("S2", "confidence"): (base, {"random", "pgd"}),
        ("S3", "confidence"): ({"beta+syn", "control", SOURCE}, {"pgd"}),
        ("S5", "confidence"): (shown, {"clean", "uniform-1", "uniform-2", "uniform-3", "uniform-4"}),
        ("S6", "confidence"): (shown, {"clean", "poisson-50", "poisson-1"}),
        ("S7", "confidence"): (shown, {"clean", "pgd", "white-box", "independent"}),
        ("S8", "confidence"): (shown, {"noise", "pgd", "white-box", "independent"}),
        ("S9", "confidence"): (shown, {"clean", "pgd", "white-box", "independent"}),
        ("S10", "confidence"): (base, {"clean-positive", "clean-negative", "pgd-positive", "pgd-negative"}),
        ("S10", "uncertainty"): (base, {"clean-positive", "clean-negative", "pgd-positive", "pgd-negative"}),
        ("S11", "eps"): (shown, {"white-box"}),
        ("S11", "ssim"): (shown, {"white-box"}),
    }
    for (claim, measure), (networks, conditions) in expected.items():
        rows = select(numbers, claim=claim, measure=measure)
        for network in networks:
            assert conditions <= set(rows[rows["network"] == network]["condition"]), (claim, measure, network)
    assert not numbers.duplicated(["claim", "measure", "network", "condition", "item"]).any()
    values = pd.to_numeric(numbers["value"], errors="coerce")
    assert set(numbers[values.isna()]["measure"]) <= {"ssim"}
    assert set(numbers[np.isinf(values)]["measure"]) <= {"eps"}


def test_items_pair_and_positives_come_from_benchmark_scans(results):
    numbers = results.numbers
    for claim in ("S5", "S6", "S11"):
        rows = select(numbers, claim=claim)
        assert rows.groupby(["measure", "network", "condition"])["item"].agg(lambda items: tuple(sorted(items))).nunique() == 1
    scans = {item.rsplit(":", 1)[0] for item in select(numbers, claim="S7")["item"]}
    assert scans == {"1.2", "1.3"}
    assert (select(numbers, claim="S1", measure="diameter_mm")["value"] >= 6).all()
    for claim in ("M3", "N1", "S2", "S3"):  # a synthetic nodule carries the scan of its background
        assert {item.rsplit(":", 1)[0] for item in select(numbers, claim=claim)["item"]} == {"1.2", "1.3"}


def test_attacks_are_those_of_the_threat_model(results, run):
    answers = results.answers
    own = select(answers, test="pgd", network=SOURCE, source=SOURCE)
    numbers = select(results.numbers, claim="S7", network=SOURCE)
    expected = select(own, kind="positives")["confidence"].to_numpy()
    for condition in ("pgd", "white-box"):  # for the network attacked they are one and the same
        np.testing.assert_allclose(select(numbers, condition=condition)["value"], expected)
    assert set(answers[answers["source"] == "control"]["network"]) == {"control"}
    assert len(select(answers, source="control", kind="positives")) == run.settings.stress.whitebox_patches
    assert set(answers[answers["source"] == INDEPENDENT]["network"]) == set(ALL_NETWORKS)


def test_thresholds_come_from_clean_validation_negatives(results):
    table, patches = load_patches(None, "validation", ("nodule", "candidate", "background"))
    confidence = detector(11.0).predict(patches)[0][table["kind"] != "nodule"]
    limits = results.thresholds.set_index("network")["threshold"]
    assert limits[SOURCE] == pytest.approx(threshold_at_rate(confidence), abs=1e-6)


def test_the_false_positive_rate_is_measured_on_the_benchmarks_at_the_validation_threshold(run, monkeypatch):
    def brighter_benchmarks(run, dataset, kinds):
        table, patches = load_patches(run, dataset, kinds)
        return table, patches + 0.3 * (torch.arange(len(patches)) % 3 == 0).reshape(-1, 1, 1, 1, 1) * (dataset != "validation")

    monkeypatch.setattr(stress_samples, "load_patches", brighter_benchmarks)
    row = validation_thresholds(run, {SOURCE: detector(11.0)}).iloc[0]
    assert row["benchmark_rate"] == pytest.approx(1 / 3)


def test_latent_search_is_harder_than_its_start_and_random_search_is_scored(results):
    base = select(results.synthetic, network=SOURCE)
    before, after = (select(base, condition=condition).set_index("item") for condition in ("random", "pgd"))
    assert (after["confidence"] <= before["confidence"] + 1e-6).all() and (after["diameter_mm"] >= 6).all()
    assert (before["random_search"].dropna() <= before["confidence"][before["random_search"].notna()] + 1e-6).all()
    assert before["random_search"].notna().sum() == 6 and (before["diameter_mm"] >= 6).all()
    np.testing.assert_allclose(before["ssim"], 1, atol=1e-6)


def test_both_searches_of_n1_are_judged_on_nodules_that_count():
    rows = [("random", "1.2:0", 8, 0.9, 0.5), ("pgd", "1.2:0", 7, 0.2, 0.5), ("random", "1.2:1", 8, 0.8, 0.6)]
    rows += [("pgd", "1.2:1", 7, 0.1, 0.6), ("random", "1.2:2", 5, 0.3, 0.3), ("pgd", "1.2:2", 9, 0.0, 0.3)]
    rows += [("random", "1.2:3", 8, 0.7, np.nan), ("pgd", "1.2:3", 8, 0.1, np.nan)]
    base = pd.DataFrame(rows, columns=["condition", "item", "diameter_mm", "confidence", "random_search"]).assign(network=SOURCE)
    found = search_numbers(base)
    values = {name: group.set_index("item")["value"].to_dict() for name, group in found.groupby(["measure", "condition"])}
    assert values == {
        ("confidence", "random"): {"1.2:0": 0.9, "1.2:1": 0.8, "1.2:3": 0.7},
        ("hardest", "random-search"): {"1.2:0": 0.5, "1.2:1": 0.6},
        ("hardest", "pgd"): {"1.2:0": 0.2, "1.2:1": 0.1},
    }


def test_the_samples_of_s11_do_not_hang_on_a_network_beyond_the_paper():
    rows = [(name, index, eps) for index, eps in enumerate((0.01, 0.0, 0.02)) for name in ("beta+syn", "control")]
    rows += [("beta+online", index, eps) for index, eps in enumerate((0.01, 0.01, 0.0))]
    falls = pd.DataFrame(rows, columns=["network", "index", "eps"]).assign(ssim=0.9)
    found = minimal_radius_numbers(falls, ["1.2:0", "1.2:1", "1.2:2"])
    assert found.groupby("network")["item"].unique().map(list).to_dict() == dict.fromkeys(
        ("beta+syn", "control", "beta+online"), ["1.2:0", "1.2:2"]
    )


def test_the_ledger_rejects_as_the_stage_does(results):
    own = select(results.rejection, network=SOURCE, attack="transfer").iloc[0]
    text = judge_rejection(Numbers(results.numbers, pd.DataFrame())).text
    assert text == f"{own['kept']:.1%} of {own['n_wrong']} wrong answers kept; AUROC of uncertainty {own['auroc']:.2f}"


def test_the_curve_rises_and_the_audit_holds_for_a_monotone_model(results):
    white_box = results.curve[results.curve["attack"] == "white-box"]
    assert all(line["share_wrong"].is_monotonic_increasing for _, line in white_box.groupby("network"))
    checks = results.audit[~results.audit["check"].str.contains("HU rule|noise does more|negatives does more")]
    checks = checks[~checks["check"].str.contains("levelled off")]  # three steps are few
    assert checks["holds"].all(), checks[~checks["holds"]]


def test_every_network_of_the_paper_goes_through_the_whole_checklist(results, run):
    table = results.audit
    found = search(
        detector(11.0),
        detector(10.0),
        random(4, 1, 16, 16, 16),
        torch.tensor([-1.0, -1, 1, 1]),
        eps=0.02,
        steps=2,
        queries=2,
        threshold=0.5,
        seed=0,
    )
    checks = {row["check"] for row in check_searches(found)}
    assert "the gradient predicts the loss (median ratio, 0.5 to 1.5)" in checks
    seven = {"baseline-ce", "baseline-beta", "baseline-beta-finetune", "beta+syn-random", "beta+syn", "beta+perturb", "beta+perturb+syn"}
    for network in seven:
        assert checks <= set(table[table["network"] == network]["check"]), network
    assert not table.duplicated(["check", "network"]).any()
    assert set(table["verdict"]) <= {"pass", "fail", "not measured"} and (table["holds"] == (table["verdict"] != "fail")).all()


def test_the_audit_catches_a_network_whose_gradient_is_hidden(run, results):
    class Masked(Bright):
        def forward(self, x):
            return super().forward(x.detach() + 0 * x)

    networks = {name: Bright(11.0) for name in (*ALL_NETWORKS, INDEPENDENT)} | {"beta+perturb": Masked(11.0)}
    detectors = {name: StressedModel(network, "evidence") for name, network in networks.items()}
    clean, _ = benchmark_samples(run)
    few = clean["positives"][:6]
    answers, _ = collect_answers(run, detectors, clean)
    curve, _ = measure_eps(run, detectors, few)
    audit = audit_attacks(run.settings, detectors, answers, curve, results.steps, results.examples).set_index(["check", "network"])["holds"]
    assert not audit["no transferred attack beats the white-box one", "beta+perturb"]
    assert not audit["at the largest eps (almost) every decision falls", "beta+perturb"]
    assert audit["at the largest eps (almost) every decision falls", "beta+syn"]


@pytest.mark.parametrize(
    "spoil, check",
    [
        (lambda patches: patches + 0.01, "the largest change is within eps"),
        (lambda patches: patches - 0.5, "voxels outside"),
        (lambda patches: torch.where(patches == patches.max(), torch.nan, patches), "voxels outside"),
        (lambda patches: torch.full_like(patches, 0.9), "answered as when they were found"),
    ],
)
def test_the_audit_looks_at_the_examples_as_they_were_stored(spoil, check, run, results):
    detectors = {name: detector(11.0) for name in (*ALL_NETWORKS, INDEPENDENT)}
    name = f"positives/pgd-{run.settings.attack.eps:g}"
    spoilt = results.examples | {name: spoil(results.examples[name])}
    audit = audit_attacks(run.settings, detectors, results.answers, results.curve, results.steps, spoilt)
    holds = audit[audit["check"].str.contains(check)]["holds"]
    assert (~holds).sum() == 1  # the other kinds are as they were


def test_build_is_deterministic(run, results):
    stress.build(run)
    for name, table in vars(stress.load_results(run)).items():
        if name != "examples":
            pd.testing.assert_frame_equal(table, getattr(results, name))
