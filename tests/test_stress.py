"""The stress tests against oracles: linear models whose worst input is known, noise whose moments are known, scikit-image's SSIM."""

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from lungadv import claims, fpr, runs, stress, synthesizer

SIZE = 8


def random(*shape, seed=0, **options):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), **options)


class Template(nn.Module):
    """One logit: <x - 0.5, template> + `bias`."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = bias
        self.template = nn.Parameter(torch.randn(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return ((x - 0.5) * self.template).sum(dim=(1, 2, 3, 4)) + self.bias


@pytest.fixture
def patches():
    return 0.5 + 0.02 * (random(12, 1, SIZE, SIZE, SIZE) - 0.5)


@pytest.mark.parametrize("count", [40, 1000, 1001])
def test_the_threshold_lets_five_percent_of_negatives_through(count):
    confidence = np.random.default_rng(count).random(count)
    threshold = stress.equal_rate_threshold(confidence)
    assert (confidence > threshold).sum() == count // 20
    assert (np.repeat([0.2, 0.9], [90, 10]) > stress.equal_rate_threshold(np.repeat([0.2, 0.9], [90, 10]))).mean() == 0


def test_ssim_agrees_with_scikit_image():
    a = random(3, 1, 16, 16, 16)
    b = (a + 0.2 * random(3, 1, 16, 16, 16, seed=1)).clamp(0, 1)
    expected = [structural_similarity(x[0].numpy(), y[0].numpy(), data_range=1.0) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(stress.ssim(a, b), expected, atol=1e-5)


def test_ssim_in_a_region_averages_the_map_there():
    a = random(1, 1, 16, 16, 16)
    b = (a + 0.2 * random(1, 1, 16, 16, 16, seed=1)).clamp(0, 1)
    region = torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    region[..., 5:9, 4:12, 6:10] = True
    _, full = structural_similarity(a[0, 0].numpy(), b[0, 0].numpy(), data_range=1.0, full=True)
    assert stress.ssim(a, b, region).item() == pytest.approx(full[region[0, 0].numpy()].mean(), abs=1e-5)


def test_the_smallest_radius_is_the_first_radius_that_suffices(patches):
    model = Template(bias=2.0)
    detector, odds = stress.Detector(model, "logit"), model(patches).detach()
    grid = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
    reach = model.template.abs().sum().item()
    expected = [next((radius for radius in (0, *grid) if radius * reach >= margin), np.inf) for margin in odds.tolist()]
    eps, flipped = stress.smallest_radius(detector, patches, 1, grid, steps=20, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(eps, expected, rtol=1e-6)
    assert (detector.respond(flipped)[0][eps.isfinite()] <= 0.5).all()
    never, untouched = stress.smallest_radius(
        stress.Detector(Template(bias=100.0), "logit"), patches, 1, grid, steps=5, generator=torch.Generator().manual_seed(0)
    )
    assert never.isinf().all() and torch.equal(untouched, patches)


def test_uncertainty_rejection_by_hand():
    clean = np.arange(1, 101) / 100
    attacked, fooled = np.array([0.1, 0.5, 0.97, 0.99]), np.array([True, True, True, False])
    result = stress.rejection(clean, attacked, fooled)
    assert (clean <= result["threshold"]).sum() == 95
    assert result["kept"] == pytest.approx(2 / 3) and result["n_wrong"] == 3
    assert stress.rejection(clean, clean + 2, np.ones(100, bool))["auroc"] == 1


# The whole stage, with small fakes for the stages before it -------------------------------------------------------------------


class Balls(nn.Module):
    """A synthesizer of balls: code 0 moves the radius, code 1 the brightness."""

    latent_size = 3

    def forward(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(16.0) - 7.5] * 3, indexing="ij")).norm(dim=0)
        radius, brightness = 2.5 + 0.8 * z[:, 0], torch.sigmoid(z[:, 1])
        mask = torch.sigmoid(3 * (radius.reshape(-1, 1, 1, 1, 1) - grid))
        return mask * brightness.reshape(-1, 1, 1, 1, 1), mask


class Bright(nn.Module):
    """Evidence from the brightness of the patch's middle."""

    output = "evidence"

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        odds = self.gain * (x[..., 6:10, 6:10, 6:10].mean(dim=(1, 2, 3, 4)) - 0.45)
        return torch.stack([odds.clamp(min=0).expm1(), (-odds).clamp(min=0).expm1()], 1)


SCANS = {"in-house": "1.2", "nlst": "1.3", "validation": "1.4"}


def load_patches(run, dataset, kinds):
    generator = torch.Generator().manual_seed(len(dataset))
    levels = {"nodule": 0.41, "background": 0.1, "candidate": 0.2}
    kind = [name for name in kinds for _ in range(9)]
    level = torch.tensor([levels[name] for name in kind]).reshape(-1, 1, 1, 1, 1)
    table = pd.DataFrame({"seriesuid": SCANS[dataset], "kind": kind, "label": [1 * (name == "nodule") for name in kind]})
    return table, (level + 0.1 * torch.rand(len(kind), 1, 16, 16, 16, generator=generator)).clamp(0, 1)


def write_validation(run, name, gain):
    """What training leaves beside the weights: the answers to the validation patches, nodules among them."""
    table, patches = load_patches(run, "validation", ("nodule", "candidate", "background"))
    confidence = stress.Detector(Bright(gain), "evidence").respond(patches)[0]
    folder = run.path("fpr", name)
    folder.mkdir(parents=True)
    table.assign(confidence=confidence.numpy()).to_csv(folder / "validation.csv", index=False)
    (folder / "provenance.json").write_text("{}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    gains = {name: 10.0 + k for k, name in enumerate(("baseline-beta", *stress.SHOWN, "baseline-ce", "beta+syn-random"))}
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    types = pd.DataFrame({"type": ["solid", "ground_glass", "part_solid", "fully_calcified"] * 5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fpr, "load_patches", load_patches)
        patch.setattr(fpr, "load_network", lambda run, name: Bright(gains[name]).eval())
        patch.setattr(synthesizer, "load", lambda run: Balls())
        patch.setattr(synthesizer, "load_cutouts", lambda run: (*Balls()(z), types))
        patch.setitem(runs.STAGES, "stress", runs.Stage("lungadv.stress:build", 1))
        patch.setenv("LUNGADV_RUNS", str(tmp_path_factory.mktemp("runs")))
        run = runs.open_run("tiny", 7)
        for name, gain in gains.items():
            write_validation(run, name, gain)
        stress.build(run)
        yield run


@pytest.fixture(scope="module")
def results(run):
    return stress.load(run)


def chosen(numbers, **values):
    return stress.select(numbers, **values)


def test_build_writes_every_number_that_the_claims_read(run, results):
    numbers = pd.read_csv(run.path("stress", "numbers.csv"), dtype={"item": str}, keep_default_na=False)
    assert numbers.columns.tolist() == ["claim", "measure", "network", "condition", "item", "value"]
    base, shown = {stress.SOURCE}, set(stress.SHOWN)
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
        ("S3", "confidence"): ({"beta+syn", "control", stress.SOURCE}, {"pgd"}),
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
        rows = chosen(numbers, claim=claim, measure=measure)
        for network in networks:
            assert conditions <= set(rows[rows["network"] == network]["condition"]), (claim, measure, network)
    assert not numbers.duplicated(["claim", "measure", "network", "condition", "item"]).any()
    values = pd.to_numeric(numbers["value"], errors="coerce")
    assert set(numbers[values.isna()]["measure"]) <= {"ssim"}
    assert set(numbers[np.isinf(values)]["measure"]) <= {"eps"}


def test_items_pair_and_positives_come_from_benchmark_scans(results):
    numbers = results.numbers
    for claim in ("S5", "S6", "S11"):
        rows = chosen(numbers, claim=claim)
        assert rows.groupby(["measure", "network", "condition"])["item"].agg(lambda items: tuple(sorted(items))).nunique() == 1
    scans = {item.rsplit(":", 1)[0] for item in chosen(numbers, claim="S7")["item"]}
    assert scans == {"1.2", "1.3"}
    assert (chosen(numbers, claim="S1", measure="diameter_mm")["value"] >= 6).all()
    for claim in ("M3", "N1", "S2", "S3"):  # a synthetic nodule carries the scan of its background
        assert {item.rsplit(":", 1)[0] for item in chosen(numbers, claim=claim)["item"]} == {"1.2", "1.3"}


def test_attacks_are_those_of_the_threat_model(results, run):
    answers = results.answers
    own = stress.select(answers, test="pgd", network=stress.SOURCE, source=stress.SOURCE)
    numbers = chosen(results.numbers, claim="S7", network=stress.SOURCE)
    expected = stress.select(own, kind="positives")["confidence"].to_numpy()
    for condition in ("pgd", "white-box"):  # for the network attacked they are one and the same
        np.testing.assert_allclose(chosen(numbers, condition=condition)["value"], expected)
    assert set(answers[answers["source"] == "control"]["network"]) == {"control"}
    assert len(stress.select(answers, source="control", kind="positives")) == run.settings.stress_whitebox
    assert set(answers[answers["source"] == stress.INDEPENDENT]["network"]) == set(stress.SHOWN)


def test_thresholds_come_from_clean_validation_negatives(results):
    table, patches = load_patches(None, "validation", ("nodule", "candidate", "background"))
    confidence = stress.Detector(Bright(11.0), "evidence").respond(patches)[0][table["kind"] != "nodule"]
    limits = results.thresholds.set_index("network")["threshold"]
    assert limits[stress.SOURCE] == pytest.approx(stress.equal_rate_threshold(confidence), abs=1e-6)


def test_the_false_positive_rate_is_measured_on_the_benchmarks_at_the_validation_threshold(run, monkeypatch):
    def brighter_benchmarks(run, dataset, kinds):
        table, patches = load_patches(run, dataset, kinds)
        return table, patches + 0.3 * (torch.arange(len(patches)) % 3 == 0).reshape(-1, 1, 1, 1, 1) * (dataset != "validation")

    monkeypatch.setattr(fpr, "load_patches", brighter_benchmarks)
    row = stress.validation_thresholds(run, {stress.SOURCE: stress.Detector(Bright(11.0), "evidence")}).iloc[0]
    assert row["benchmark_rate"] == pytest.approx(1 / 3)


def test_latent_search_is_harder_than_its_start_and_random_search_is_scored(results):
    base = stress.select(results.synthetic, network=stress.SOURCE)
    before, after = (stress.select(base, condition=condition).set_index("item") for condition in ("random", "pgd"))
    assert (after["confidence"] <= before["confidence"] + 1e-6).all() and (after["diameter_mm"] >= 6).all()
    assert (before["random_search"].dropna() <= before["confidence"][before["random_search"].notna()] + 1e-6).all()
    assert before["random_search"].notna().sum() == 6 and (before["diameter_mm"] >= 6).all()
    np.testing.assert_allclose(before["ssim"], 1, atol=1e-6)


def test_both_searches_of_n1_are_judged_on_nodules_that_count():
    rows = [("random", "1.2:0", 8, 0.9, 0.5), ("pgd", "1.2:0", 7, 0.2, 0.5), ("random", "1.2:1", 8, 0.8, 0.6)]
    rows += [("pgd", "1.2:1", 7, 0.1, 0.6), ("random", "1.2:2", 5, 0.3, 0.3), ("pgd", "1.2:2", 9, 0.0, 0.3)]
    rows += [("random", "1.2:3", 8, 0.7, np.nan), ("pgd", "1.2:3", 8, 0.1, np.nan)]
    base = pd.DataFrame(rows, columns=["condition", "item", "diameter_mm", "confidence", "random_search"]).assign(network=stress.SOURCE)
    found = stress.search_numbers(base)
    values = {name: group.set_index("item")["value"].to_dict() for name, group in found.groupby(["measure", "condition"])}
    assert values == {
        ("confidence", "random"): {"1.2:0": 0.9, "1.2:1": 0.8, "1.2:3": 0.7},
        ("hardest", "random-search"): {"1.2:0": 0.5, "1.2:1": 0.6},
        ("hardest", "pgd"): {"1.2:0": 0.2, "1.2:1": 0.1},
    }


def test_random_search_draws_no_nodule_that_is_too_small():
    class Small(Balls):
        def forward(self, z):
            seen.append(super().forward(z))
            return seen[-1]

    seen, judged = [], []
    detector = stress.Detector(lambda patches: judged.append(patches) or torch.zeros(len(patches)), "logit")
    generator = torch.Generator().manual_seed(0)
    z = synthesizer.draw_latents(Balls(), 30, 1.25, generator)
    stress.random_search(detector, Small(), torch.zeros(30, 1, 16, 16, 16), z, 4, 1.25, generator)
    shown = [masks for nodules, masks in seen if any(torch.equal(nodules, patches) for patches in judged)]
    assert len(judged) == 4 and all((synthesizer.diameter_mm(masks, 1.25) >= 6).all() for masks in shown)
    assert any((synthesizer.diameter_mm(masks, 1.25) < 6).any() for _, masks in seen)  # some were drawn and left


def test_the_samples_of_s11_do_not_hang_on_a_network_beyond_the_paper():
    rows = [(name, index, eps) for index, eps in enumerate((0.01, 0.0, 0.02)) for name in ("beta+syn", "control")]
    rows += [("beta+online", index, eps) for index, eps in enumerate((0.01, 0.01, 0.0))]
    falls = pd.DataFrame(rows, columns=["network", "index", "eps"]).assign(ssim=0.9)
    found = stress.fall_numbers(falls, ["1.2:0", "1.2:1", "1.2:2"])
    assert found.groupby("network")["item"].unique().map(list).to_dict() == dict.fromkeys(
        ("beta+syn", "control", "beta+online"), ["1.2:0", "1.2:2"]
    )


def test_the_ledger_rejects_as_the_stage_does(results):
    own = stress.select(results.rejection, network=stress.SOURCE, attack="transfer").iloc[0]
    text = claims.rejection_is_not_enough(claims.Numbers(results.numbers, pd.DataFrame())).text
    assert text == f"{own['kept']:.1%} of {own['n_wrong']} wrong answers kept; AUROC of uncertainty {own['auroc']:.2f}"


def test_the_curve_rises_and_the_audit_holds_for_a_monotone_model(results):
    white_box = results.curve[results.curve["attack"] == "white-box"]
    assert all(line["share_wrong"].is_monotonic_increasing for _, line in white_box.groupby("network"))
    checks = results.audit[~results.audit["check"].str.contains("HU rule|noise does more|negatives does more")]
    checks = checks[~checks["check"].str.contains("levelled off")]  # three steps are few
    assert checks["holds"].all(), checks[~checks["holds"]]


def test_every_network_of_the_paper_goes_through_the_whole_checklist(results, run):
    table = results.audit
    detector, other = (stress.Detector(Bright(gain), "evidence") for gain in (11.0, 10.0))
    found = stress.search(
        detector, other, random(4, 1, 16, 16, 16), torch.tensor([-1.0, -1, 1, 1]), eps=0.02, steps=2, queries=2, threshold=0.5, seed=0
    )
    checks = {row["check"] for row in stress.check_searches(found)}
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

    networks = {name: Bright(11.0) for name in (*stress.SHOWN, stress.INDEPENDENT)} | {"beta+perturb": Masked(11.0)}
    detectors = {name: stress.Detector(network, "evidence") for name, network in networks.items()}
    clean, _ = stress.benchmark_samples(run)
    few = clean["positives"][:6]
    answers, _ = stress.all_answers(run, detectors, clean)
    curve, _ = stress.eps_tests(run, detectors, few)
    audit = stress.audit(run, detectors, answers, curve, results.steps, results.examples).set_index(["check", "network"])["holds"]
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
    detectors = {name: stress.Detector(Bright(11.0), "evidence") for name in (*stress.SHOWN, stress.INDEPENDENT)}
    name = f"positives/pgd-{run.settings.attack_eps:g}"
    spoilt = results.examples | {name: spoil(results.examples[name])}
    audit = stress.audit(run, detectors, results.answers, results.curve, results.steps, spoilt)
    holds = audit[audit["check"].str.contains(check)]["holds"]
    assert len(holds) == 1 and not holds.item()


def test_build_is_deterministic(run, results):
    stress.build(run)
    for name, table in vars(stress.load(run)).items():
        if name != "examples":
            pd.testing.assert_frame_equal(table, getattr(results, name))


def test_describe_nodules_measures_what_was_drawn():
    masks = torch.zeros(3, 1, 16, 16, 16)
    masks[:, :, 4:12, 4:12, 4:12] = 1.0
    hu = torch.tensor([-600.0, 0.0, -600.0]).reshape(3, 1, 1, 1, 1).repeat(1, 1, 16, 16, 16)
    hu[2, :, 4:8] = 40.0  # half of it solid
    shapes = stress.describe_nodules(masks * (hu + 1000) / 1400, masks, 1.0)
    np.testing.assert_allclose(shapes["diameter_mm"], (6 / np.pi * 512) ** (1 / 3), rtol=1e-5)
    np.testing.assert_allclose(shapes["mean_hu"], [-600, 0, -280], atol=0.01)
    assert stress.density(shapes["solid_share"]).tolist() == ["non_solid", "solid", "part_solid"]
