import json
import os
import tomllib
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save
from scipy import ndimage
from typer.testing import CliRunner

from lungadv import candidates, ct, detection, fpr, lungs, runs
from lungadv.cli import app

LOAD_NETWORKS, LUNG_MASK, PREDICT = candidates.load_networks, lungs.lung_mask, fpr.predict
REAL = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).resolve().parents[2] / "shared" / "real_ct")
SLAB = REAL / "lidc_idri_0001" / "dicom"
CHEST = REAL / "lidc_idri_0001" / "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192.mhd"


def scan_of(slices, spacing=(2.0, 2.0, 2.5), direction=None):
    """Air with one bright ball at (0, 0, 0) mm."""
    hu = np.full((slices, 60, 60), -900, np.int16)
    extent = np.array([60, 60, slices]) * spacing
    direction = np.eye(3) if direction is None else direction
    scan = ct.Scan(hu, spacing, tuple(direction @ (-extent / 2)), direction, "1.2.3")
    voxels = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), -1).reshape(-1, 3)
    hu.reshape(-1)[np.linalg.norm(scan.to_world(voxels), axis=1) < 8] = 50
    return scan


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder that looks like weights, and networks that are certain of what is bright."""
    strategy = tmp_path / "fpr" / detection.STRATEGY
    strategy.mkdir(parents=True)
    (strategy / "weights.safetensors").touch()
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "networks.json").touch()
    made = {"profile": "quick", "seed": 3, "data": "phantom", "settings": vars(runs.load_settings("tiny"))}
    for folder in (strategy, tmp_path / "candidates"):
        (folder / "provenance.json").write_text(json.dumps(made))
    points = pd.DataFrame([[30.0, 0, 0, 0.9, "blob", np.nan], [0, 0, 0, 0.4, "rpn", 16.0]])
    points.columns = ["coordX", "coordY", "coordZ", "score", "source", "diameter_mm"]
    monkeypatch.setattr("lungadv.lungs.lung_mask", lambda scan: scan.hu < -500)
    monkeypatch.setattr("lungadv.candidates.load_networks", lambda folder: folder)
    monkeypatch.setattr("lungadv.candidates.detect", lambda networks, scan, lungs, settings: points)
    monkeypatch.setattr("lungadv.fpr.load_weights", lambda folder: None)

    def predict(network, patches):
        middle = torch.as_tensor(patches)[:, 0, 7:9, 7:9, 7:9].mean((1, 2, 3))
        return middle, 1 - middle

    monkeypatch.setattr("lungadv.fpr.predict", predict)
    return tmp_path


def test_findings_are_the_candidates_scored_again_most_probable_first(weights):
    findings = detection.detect(scan_of(40), weights)
    assert list(findings.columns) == detection.COLUMNS
    assert findings.seriesuid.tolist() == ["1.2.3"] * 2
    assert findings.coordX.tolist() == [0.0, 30.0]
    assert findings.probability[0] == pytest.approx((50 + 1000) / 1400, abs=0.01)
    assert findings.uncertainty[0] == pytest.approx(1 - findings.probability[0])


def test_findings_and_contact_sheet_are_files_to_look_at(weights, tmp_path):
    scan = scan_of(40)
    findings = detection.detect(scan, weights)
    detection.write_findings(findings, tmp_path / "findings.csv")
    again = pd.read_csv(tmp_path / "findings.csv", dtype={"seriesuid": str})
    pd.testing.assert_frame_equal(again, findings, rtol=1e-5, check_dtype=False)
    detection.contact_sheet(scan, findings, tmp_path / "sheet.png")
    assert matplotlib.image.imread(tmp_path / "sheet.png")[..., :3].std() > 0.05


def test_a_scan_without_candidates_is_an_error(weights, monkeypatch):
    monkeypatch.setattr("lungadv.candidates.detect", lambda *_: pd.DataFrame(columns=["coordX", "coordY", "coordZ"]))
    with pytest.raises(runs.InputError, match="no candidate was found in scan '1.2.3'"):
        detection.detect(scan_of(40), weights)


def test_a_scan_without_lungs_is_an_error(weights, monkeypatch):
    monkeypatch.setattr("lungadv.lungs.lung_mask", lambda scan: np.zeros(scan.hu.shape, bool))
    with pytest.raises(runs.InputError, match="no lungs were found in scan '1.2.3'"):
        detection.detect(scan_of(40), weights)


def broken(folder, network):
    """Make the folder one with weights of candidate generation that are not what networks.json says."""
    facts = {"width": 4, "anchors": 3, "scans": 1, "threshold": 0.5}
    (folder / "candidates" / "networks.json").write_text(json.dumps(facts))
    (folder / "candidates" / "blob.safetensors").write_bytes(network)


@pytest.mark.parametrize("network", [b"no tensors", save({"weight": torch.zeros(3)})], ids=["corrupt", "mismatched"])
def test_broken_weights_are_named(weights, monkeypatch, network):
    monkeypatch.setattr("lungadv.candidates.load_networks", LOAD_NETWORKS)
    broken(weights, network)
    ct.write_scan(scan_of(40), weights / "scan.mhd")
    names = [str(weights / "scan.mhd"), "--out", str(weights / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, ["detect", *names])
    assert result.exit_code == 1 and not (weights / "findings.csv").exists()
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(f"error: the weights in {weights} cannot be loaded")


def remade(folder, **changes):
    """Change what the provenance in a folder says."""
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"profile": "full"}, "profile full and quick"),
        ({"seed": 4}, "seed 4 and 3"),
        ({"settings": vars(runs.load_settings("full"))}, "other settings"),
    ],
)
def test_networks_of_two_runs_do_not_fit_together(weights, changes, said):
    remade(weights / "candidates", **changes)
    with pytest.raises(runs.InputError, match=f"mixes the networks of two runs .{said}.: give candidates/ and fpr/ of one run"):
        detection.detect(scan_of(40), weights)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{}", "lacks profile"),
        ("{garbage", "is no provenance"),
        ("[]", "lacks profile"),
        ("3", "is no provenance"),
        ('{"profile": "quick", "seed": 1, "settings": 3}', "is no provenance"),
        ('{"profile": "quick", "seed": 1, "settings": {"patch_size": 32, "patch_spacing": 1.25}}', "lacks cg_spacing"),
    ],
)
def test_weights_of_another_version_are_named_in_one_line(weights, tmp_path, text, said):
    file = weights / "candidates" / "provenance.json"
    file.write_text(text)
    ct.write_scan(scan_of(40), tmp_path / "scan.mhd")
    names = [str(tmp_path / "scan.mhd"), "--out", str(tmp_path / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, ["detect", *names])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith(f"error: '{file}' {said}"), result.stderr


def test_a_size_of_patches_that_the_network_does_not_take_is_named(weights, monkeypatch):
    monkeypatch.setattr("lungadv.fpr.predict", PREDICT)
    monkeypatch.setattr("lungadv.fpr.load_weights", lambda folder: fpr.FPR("evidence", 4).eval())
    settings = detection.load_networks(weights)[2]
    for folder in (weights / "candidates", weights / "fpr" / detection.STRATEGY):
        remade(folder, settings=vars(settings) | {"patch_size": 30})
    with pytest.raises(runs.InputError, match=f"the weights in {weights} cannot be loaded"):
        detection.load_networks(weights)


def test_weights_of_the_tiny_profile_are_called_useless(weights):
    for folder in (weights / "candidates", weights / "fpr" / detection.STRATEGY):
        remade(folder, profile="tiny")
    assert any("profile tiny" in sentence and "mean nothing" in sentence for sentence in detection.warnings(scan_of(40), weights))


def test_a_slab_is_called_a_slab(weights):
    (said,) = detection.warnings(scan_of(9), weights)
    assert "only 22 mm: a slab, not a chest" in said
    assert detection.warnings(scan_of(40), weights) == []


def test_thick_padding_does_not_make_a_chest_of_a_slab(weights):
    slab = scan_of(9)
    hu = np.pad(slab.hu, ((40, 40), (20, 20), (20, 20)), constant_values=ct.AIR)
    padded = ct.Scan(hu, slab.spacing, tuple(slab.to_world([[-40, -20, -20]])[0]), slab.direction, slab.uid)
    assert lungs.extent_mm(padded) == lungs.extent_mm(slab) == pytest.approx(22.5)
    assert "a slab" in detection.warnings(padded, weights)[0]


def test_thick_slices_are_warned_of_and_searched(weights):
    scan = scan_of(30, spacing=(2.0, 2.0, 5.0))
    (said,) = detection.warnings(scan, weights)
    assert "the slices are 5.0 mm apart: nodules smaller than 10 mm may be missed" in said
    assert len(detection.detect(scan, weights)) == 2


def test_coarse_pixels_are_not_taken_for_thick_slices_whatever_the_order_of_the_axes(weights):
    (said,) = detection.warnings(scan_of(60, spacing=(4.2, 4.2, 2.0)), weights)
    assert said.startswith("the pixels are 4.2 mm wide: nodules smaller than 8 mm may be missed")
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # the array's y runs from foot to head
    (said,) = detection.warnings(scan_of(60, spacing=(2.0, 5.0, 2.0), direction=sagittal), weights)
    assert said.startswith("the slices are 5.0 mm apart")


def test_little_lung_is_doubted_in_a_scan_as_tall_as_a_chest(weights, monkeypatch):
    scan = scan_of(60)  # 150 mm
    mask = np.zeros(scan.hu.shape, bool)
    mask.flat[:11700] = True  # of 0.01 ml each
    monkeypatch.setattr("lungadv.lungs.lung_mask", lambda scan: mask)
    (said,) = detection.warnings(scan, weights)
    assert said.startswith("only 117 ml of lung: is this a chest?")
    mask.flat[:51000] = True
    assert detection.warnings(scan, weights) == []


def test_little_lung_is_doubted_in_a_slab_for_its_height(weights, monkeypatch):
    scan = scan_of(30)  # 75 mm, which should hold 150 ml
    mask = np.zeros(scan.hu.shape, bool)
    monkeypatch.setattr("lungadv.lungs.lung_mask", lambda scan: mask)
    for millilitres, doubted in ((140, True), (160, False)):
        mask.flat[: 100 * millilitres] = True  # of 0.01 ml each
        said = detection.warnings(scan, weights)
        assert "a slab, not a chest" in said[0] and len(said) == 1 + doubted
        assert not doubted or said[1].startswith("only 140 ml of lung: is this a chest?")


@pytest.mark.parametrize("hu", [-1000, 0])
def test_an_empty_scan_is_called_empty(weights, hu):
    scan = scan_of(40)
    with pytest.raises(runs.InputError, match=f"scan '1.2.3' is empty: all its voxels are {hu} HU"):
        detection.detect(ct.Scan(np.full_like(scan.hu, hu), scan.spacing, scan.origin, scan.direction, "1.2.3"), weights)


def abdomen():
    """A body of soft tissue in air, with gas in its bowel and no lung."""
    z, y, x = np.indices((60, 80, 100)) * 4.0 - np.array([118, 158, 198])[:, None, None, None]
    hu = np.full(z.shape, -1000.0)
    hu[(x / 170) ** 2 + (y / 120) ** 2 < 1] = 40
    for cx, cy, cz in ((60, -60, -40), (-70, -50, 0), (-20, -70, 60)):
        hu[(x - cx) ** 2 + (y - cy) ** 2 + ((z - cz) / 2) ** 2 < 20**2] = -980
    hu += np.random.default_rng(0).normal(0, 15, hu.shape)
    return ct.Scan(hu.clip(-1024, 3000).astype(np.int16), (4.0, 4.0, 4.0), (0, 0, 0), np.eye(3), "abdomen")


def test_a_scan_of_an_abdomen_has_no_lungs_and_no_findings(weights, monkeypatch, tmp_path):
    monkeypatch.setattr("lungadv.lungs.lung_mask", LUNG_MASK)
    ct.write_scan(abdomen(), tmp_path / "abdomen.mhd")
    names = ["detect", str(tmp_path / "abdomen.mhd"), "--out", str(tmp_path / "findings.csv"), "--weights", str(weights)]
    result = CliRunner().invoke(app, names)
    assert result.exit_code == 1 and not (tmp_path / "findings.csv").exists()
    assert result.stderr == "error: no lungs were found in scan 'abdomen': give a CT of the chest, in HU\n"


def test_a_slab_is_one_from_foot_to_head_whatever_the_order_of_the_axes():
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # the array's y runs from foot to head
    assert lungs.extent_mm(scan_of(9, direction=sagittal)) == pytest.approx(120)


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(runs.InputError, match="holds no weights"):
        detection.detect(scan_of(40), tmp_path)


def test_weights_by_default_are_the_latest_quick_run_or_an_error_with_the_remedy(weights, monkeypatch):
    monkeypatch.setattr(detection, "__file__", str(weights / "nowhere" / "detection.py"))
    monkeypatch.setenv("LUNGADV_RUNS", str(weights / "runs"))
    with pytest.raises(runs.InputError, match="make reproduce"):
        detection.default_weights()
    run = weights / "runs" / "phantom-quick-1"
    run.mkdir(parents=True)
    for name in ("fpr", "candidates"):
        (weights / name).rename(run / name)
    assert detection.default_weights() == run


def test_markups_hold_the_findings_in_lps_mm_and_say_so(tmp_path):
    rows = [["1.2", 10.5, -20.0, -130.25, 0.93, 0.1, 8.0], ["1.2", 1.0, 2.0, 3.0, 0.2, 0.5, 4.0]]
    detection.write_markups(pd.DataFrame(rows, columns=detection.COLUMNS), tmp_path / "findings.mrk.json")
    (markups,) = json.loads((tmp_path / "findings.mrk.json").read_text())["markups"]
    assert markups["coordinateSystem"] == "LPS" and markups["type"] == "Fiducial"
    assert [point["position"] for point in markups["controlPoints"]] == [[10.5, -20.0, -130.25], [1.0, 2.0, 3.0]]
    assert markups["controlPoints"][0]["label"] == "1: p 0.93" and "8.0 mm" in markups["controlPoints"][0]["description"]


def test_json_holds_the_findings_and_what_they_were_made_from(weights, tmp_path):
    scan = scan_of(9)
    findings, said = detection.detect(scan, weights), detection.warnings(scan, weights)
    detection.write_json(scan, findings, weights, said, tmp_path / "findings.json")
    content = json.loads((tmp_path / "findings.json").read_text())
    assert content["seriesuid"] == "1.2.3" and content["coordinates"] == "LPS mm" and content["warnings"] == said and len(said) == 1
    assert content["size"] == [60, 60, 9] and content["spacing_mm"] == [2.0, 2.0, 2.5]
    assert content["weights"]["profile"] == "quick" and content["weights"]["seed"] == 3
    pd.testing.assert_frame_equal(pd.DataFrame(content["findings"]), findings[detection.COLUMNS[1:]], atol=1e-5, check_dtype=False)


# Diameters.


def ball_at(place, diameter, spacing, wall=None, core=40.0, blur=0.5):
    """A ball in lung, with soft edges, and a flat chest wall at x = `wall` mm."""
    shape = np.round(70 / np.array(spacing[::-1])).astype(int)
    scan = ct.Scan(np.zeros(shape, np.int16), spacing, (-35.0, -35.0, -35.0), np.eye(3), "ball")
    points = scan.to_world(np.indices(shape).reshape(3, -1).T)
    inside = 1 / (1 + np.exp((np.linalg.norm(points - place, axis=1) - diameter / 2) / blur))
    if wall is not None:
        inside = np.maximum(inside, points[:, 0] > wall)
    hu = -860 + (core + 860) * inside + np.random.default_rng(0).normal(0, 20, len(points))
    return ct.Scan(hu.reshape(shape).astype(np.int16), spacing, scan.origin, np.eye(3), "ball")


def test_the_contact_sheet_shows_a_finding_in_its_ring(tmp_path):
    place, diameter = (9.0, -6.0, 8.0), 10.0
    finding = pd.DataFrame([["ball", *place, 0.9, 0.1, diameter]], columns=detection.COLUMNS)
    detection.contact_sheet(ball_at(place, diameter, (1.0, 1.0, 1.0)), finding, tmp_path / "sheet.png")
    image = matplotlib.image.imread(tmp_path / "sheet.png")[..., :3]
    rows, columns = np.nonzero(np.abs(image - [0.902, 0.624, 0]).max(axis=2) < 0.15)  # the ring's orange
    (top, bottom), (left, right) = (rows.min(), rows.max()), (columns.min(), columns.max())
    across = bottom - top
    assert across > 20 and abs(right - left - across) <= 2  # a whole ring
    y, x = np.indices(image.shape[:2])
    away = np.hypot(y - (top + bottom) / 2, x - (left + right) / 2) / (across / 2)
    pixel = across / 2 / (diameter / 2 + 3)  # of the sheet, in one mm
    assert np.hypot(rows - (top + bottom) / 2, columns - (left + right) / 2).min() > (diameter / 2 + 2) * pixel
    assert image[away < 0.4].min() > 0.5 and image[(away > 0.75) & (away < 0.85)].max() < 0.4
    assert image[(away > 1.2) & (away < 1.5)].max() < 0.4  # lung around it


@pytest.mark.parametrize("diameter", [5.0, 9.0, 16.0, 24.0])
@pytest.mark.parametrize("spacing, tolerance", [((0.7, 0.7, 1.25), 0.6), ((0.7, 0.7, 2.5), 1.0)])
def test_the_diameter_of_a_ball_is_its_own(diameter, spacing, tolerance):
    scan = ball_at([1.0, -2.0, 0.5], diameter, spacing)
    measured = detection.diameters(scan, np.array([[1.0, -2.0, 0.5], [2.5, -2.0, 0.5], [1.0, -3.0, 2.0]]))  # 1.5 and 1.8 mm off
    assert np.abs(measured - diameter).max() < tolerance


def test_the_diameter_of_a_ball_on_the_wall_or_of_ground_glass_is_its_own():
    assert detection.diameters(ball_at([0, 0, 0], 12.0, (0.7, 0.7, 1.25), wall=5.0), [[0, 0, 0]])[0] == pytest.approx(12, abs=1)
    assert detection.diameters(ball_at([0, 0, 0], 12.0, (0.7, 0.7, 1.25), core=-620.0), [[0, 0, 0]])[0] == pytest.approx(12, abs=1)


def test_there_is_a_diameter_whatever_is_there():
    scan = scan_of(40)
    measured = detection.diameters(scan, [[30, 20, 10], [500, 0, 0], [0, 0, 0]])  # lung, outside the scan, the ball
    assert (measured[:2] == detection.LEAST_MM).all() and measured[2] == pytest.approx(16, abs=1)
    assert detection.diameters(scan, np.empty((0, 3))).shape == (0,)


def test_the_weight_of_a_patch_is_that_of_its_mirror_images(monkeypatch):
    monkeypatch.setattr("lungadv.fpr.predict", lambda network, patches: (patches[:, 0, 0, 0, 0], patches[:, 0, 0, 0, 1]))
    patches = torch.arange(2 * 8.0).reshape(2, 1, 2, 2, 2)
    probability, uncertainty = detection.weigh(None, patches)  # a corner: each of the eight in turn
    assert probability.tolist() == uncertainty.tolist() == [3.5, 11.5]


def test_a_finding_inside_a_more_probable_one_is_left_out():
    table = pd.DataFrame({"coordX": [0.0, 4.0, 9.0, 30.0, 39.0], "coordY": 0.0, "coordZ": 0.0, "diameter_mm": [10.0, 12.0, 6.0, 36.0, 8.0]})
    # what is left out hides nothing, and nothing hides what is more than SAME_MM away
    assert detection.distinct(table)["coordX"].tolist() == [0.0, 9.0, 30.0, 39.0]


# The weights that come with the package.


def test_the_package_holds_the_weights_folder_whatever_is_in_it():
    patterns = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["lungadv"]
    assert "weights/**" in patterns and detection.shipped_folder() == Path(detection.__file__).parent / "weights"


def test_shipped_weights_find_what_the_run_finds_and_their_card_says_what_they_are(chain, tmp_path):
    run = runs.Run("tiny", 0, "phantom", runs.load_settings("tiny"), chain[0] / "phantom-tiny-0")
    target = detection.ship(run, tmp_path / "weights")
    assert detection.is_weights(target) and sum(path.stat().st_size for path in target.rglob("*")) < 10 * 2**20
    scans = pd.read_csv(run.path("datasets", "scans.csv"), dtype=str)
    scan = ct.read_scan(run.path("datasets", scans[scans["dataset"] == "nlst"]["path"].iloc[0]))
    pd.testing.assert_frame_equal(detection.detect(scan, target), detection.detect(scan, run.folder))
    card = (target / "MODEL_CARD.md").read_text()
    made = json.loads(run.path("fpr", detection.STRATEGY, "provenance.json").read_text())
    training = scans[scans["dataset"] == "train"]
    table = pd.read_csv(run.path("benchmarks", "table2.csv"))
    cpm = table[table["strategy"] == runs.STRATEGIES[detection.STRATEGY]]["cpm"].iloc[0]
    for text in ("Not for clinical use", "no scan of a patient", made["commit"], f"{len(training)} scans", f"{cpm:.3f} ("):
        assert text in card
    assert runs.sha256(target / "candidates" / "blob.safetensors") in card
    assert detection.ship(run, target) == target  # again


def test_large_weights_are_shipped_in_bfloat16(chain, tmp_path, monkeypatch):
    run = runs.Run("tiny", 0, "phantom", runs.load_settings("tiny"), chain[0] / "phantom-tiny-0")
    stages = run.path("candidates"), run.path("fpr", detection.STRATEGY)
    whole = sum(path.stat().st_size for stage in stages for path in stage.glob("*.safetensors"))
    monkeypatch.setattr(detection, "SHIPPED_MIB", 0.85 * whole / 2**20)
    target = detection.ship(run, tmp_path / "weights")
    assert "stored in bfloat16" in (target / "MODEL_CARD.md").read_text()
    networks, network, _ = detection.load_networks(target)
    assert next(network.parameters()).dtype == torch.float32
    assert networks["calibration"]["blob"].tolist() == candidates.load_networks(run.path("candidates"))["calibration"]["blob"].tolist()


def test_the_card_says_how_to_make_the_weights_again(chain):
    run = runs.Run("tiny", 0, "phantom", runs.load_settings("tiny"), chain[0] / "phantom-tiny-0")
    commit = detection.provenance(run.folder)[1]["commit"]
    card = detection.model_card(run, run.folder, False)
    assert f"`git checkout {commit} && make reproduce weights PROFILE=tiny SEED=0` makes this folder again" in card


def test_an_unfinished_run_is_not_shipped(run, tmp_path):
    with pytest.raises(runs.InputError, match="candidates is missing: finish `make reproduce PROFILE=tiny SEED=0` first"):
        detection.ship(run, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


# With trained weights.


def run_detect(scan, folder, weights):
    """Call `lungadv detect` on a scan's file; returns its findings and what it said on stderr."""
    out = folder / "findings.csv"
    result = CliRunner().invoke(app, ["detect", str(scan), "--out", str(out), "--weights", str(weights)])
    assert result.exit_code == 0, result.output
    return pd.read_csv(out, dtype={"seriesuid": str}), result.stderr


def test_findings_of_trained_weights_lie_inside_the_scan(chain, tmp_path):
    weights = chain[0] / "phantom-tiny-0"
    scans = pd.read_csv(weights / "datasets" / "scans.csv", dtype={"seriesuid": str})
    row = scans[scans.dataset == "nlst"].iloc[0]
    findings, said = run_detect(weights / "datasets" / row.path, tmp_path, weights)
    scan = ct.read_scan(weights / "datasets" / row.path)
    voxels = scan.to_voxel(findings[["coordX", "coordY", "coordZ"]].to_numpy())
    assert len(findings) > 0 and (voxels > -0.5).all() and (voxels < np.array(scan.hu.shape) - 0.5).all()
    assert findings.probability.between(0, 1).all() and findings.probability.is_monotonic_decreasing
    assert "slab" not in said


@pytest.mark.skipif(not CHEST.is_file(), reason=f"no real CT at {CHEST}: LUNGADV_REAL_CT names the folder that holds it")
def test_shipped_weights_find_a_real_nodule(tmp_path):
    findings, _ = run_detect(CHEST, tmp_path, detection.shipped_folder())
    first = findings.head(8)[["coordX", "coordY", "coordZ"]].to_numpy()
    nodule, diameter = (56.208, 86.343, -115.868), 23.35  # its row in LUNA16's annotations.csv
    assert np.linalg.norm(first - nodule, axis=1).min() < diameter / 2


@pytest.mark.skipif(not SLAB.is_dir(), reason=f"no real CT at {SLAB}: LUNGADV_REAL_CT names the folder that holds it")
def test_findings_in_a_real_slab_lie_inside_the_body(chain, tmp_path):
    findings, said = run_detect(SLAB, tmp_path, chain[0] / "phantom-tiny-0")
    assert "slab" in said
    scan = ct.read_scan(SLAB)
    near_lungs = ndimage.distance_transform_edt(~lungs.lung_mask(scan), sampling=scan.spacing[::-1]) < 10
    voxels = scan.to_voxel(findings[["coordX", "coordY", "coordZ"]].to_numpy()).round().astype(int)
    assert len(findings) > 0 and near_lungs[tuple(voxels.T)].all()
