"""A run on nodule cubes at tiny size, from balls in noise: every stage of its graph, and what its end says."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from lungadv.data.ingest import ingest
from lungadv.pipeline.artefacts import build_stage
from lungadv.pipeline.execute import reproduce
from lungadv.pipeline.graph import CUBE_STAGES
from lungadv.pipeline.report import write_report
from lungadv.pipeline.runs import open_run
from lungadv.pipeline.stages.cube_datasets import HELD_BACK
from lungadv.pipeline.stages.stress import load_results
from lungadv.pipeline.stages.synthesizer import cutout_grid, load_generator
from lungadv.pipeline.summary import summary_lines
from lungadv.training.strategies import BASELINE, strategies_of
from lungadv.utils.errors import InputError
from tests.data.made_cubes import write_cube

PARTS = {"train": 16, "validation": 7, "test": 7}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A manifest of thirty patients, one of them held back, of balls of 6.4 to 7.6 mm and one of ground glass in six."""
    root = tmp_path_factory.mktemp("cubes")
    count = sum(PARTS.values())
    for k in range(count):
        rng, radius = np.random.default_rng(k), 3.2 + 0.6 * (k % 7) / 6
        inside = np.linalg.norm(np.moveaxis(np.indices((50,) * 3), 0, -1) - 25, axis=-1) <= radius
        hu = np.where(inside, -400 if k % 6 == 5 else 30, -850) + rng.integers(-40, 40, (50,) * 3)
        write_cube(root / "cubes", f"1.2.{k}", 0, radius, hu=hu)
    path = root / "made" / "real.csv"
    ingest(root / "cubes", "nodule-cubes", path, workers=1)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["patient"] = [HELD_BACK[0], *(f"patient-{k}" for k in range(1, count))]
    table["dataset"] = np.repeat(list(PARTS), list(PARTS.values()))
    table["type"] = ["ground_glass" if k % 6 == 5 else "solid" for k in range(count)]
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(manifest, tmp_path_factory):
    """The run with every stage built."""
    before = os.environ.get("LUNGADV_RUNS")
    os.environ["LUNGADV_RUNS"] = str(tmp_path_factory.mktemp("runs"))
    try:
        run = open_run("tiny", 0, str(manifest))
    finally:
        os.environ.pop("LUNGADV_RUNS")
        if before is not None:
            os.environ["LUNGADV_RUNS"] = before
    for stage in CUBE_STAGES:
        build_stage(run, stage)
    return run


def patients(manifest, series):
    """The data sets that series, or cubes `<series>_<number>`, belong to."""
    dataset = pd.read_csv(manifest, dtype=str).set_index("seriesuid")["dataset"]
    return set(dataset.loc[sorted({uid.split("_")[0] for uid in series})])


def test_every_stage_is_made_and_says_of_what(finished):
    for stage in CUBE_STAGES:
        made = json.loads((finished.path(stage) / "provenance.json").read_text())
        assert (made["stage"], made["kind"], made["settings"]["patch"]["size"]) == (stage, "cubes", 16)


def test_a_held_back_patient_is_in_no_data_set(finished):
    scans = pd.read_csv(finished.path("datasets", "scans.csv"), dtype=str)
    assert scans["dataset"].value_counts().to_dict() == PARTS | {"train": PARTS["train"] - 1}
    for path in finished.folder.rglob("*.csv"):
        assert "1.2.0_dcm" not in path.read_text() and HELD_BACK[0] not in path.read_text(), path


def test_nothing_is_trained_on_a_test_patient_and_all_are_tested_on(finished, manifest):
    banks = [pd.read_csv(path, dtype=str).get("seriesuid", pd.Series(dtype=str)) for path in finished.path("banks").glob("bank_*.csv")]
    for name in ("synthesizer/cutouts.csv", "patches/train.csv"):
        banks.append(pd.read_csv(finished.folder / name, dtype=str)["seriesuid"])
    assert patients(manifest, pd.concat(banks)) == {"train"}
    items = load_results(finished).answers["item"]
    tested = {item.rpartition(":")[0] for item in items if not item.startswith("noise:")}
    assert len(tested) == PARTS["test"] and patients(manifest, tested) == {"test"}
    searched = pd.read_csv(finished.path("search", "test", "cubes.csv"), dtype=str)
    assert patients(manifest, [path.split("/")[-1] for path in searched["path"]]) == {"test"} and len(searched) == PARTS["test"]


def test_patches_of_both_labels_come_from_the_same_cubes(finished):
    for name, positives in (("train", 3), ("validation", 1), ("test", 1)):
        table = pd.read_csv(finished.path("patches", f"{name}.csv"), dtype={"seriesuid": str})
        assert table["has_both"].all() and (table[table["label"] == 1].groupby("path").size() == positives).all()
    border = pd.read_csv(finished.path("patches", "border.csv")).set_index("dataset")["auc"]
    assert 0.2 < border["train"] < 0.8  # noise around balls tells nothing


def test_cutouts_are_wider_than_patches_and_the_generator_draws_patches(finished):
    grid, generator = cutout_grid(finished), load_generator(finished)
    assert grid.size * grid.spacing == 40 and (generator.size, generator.spacing) == (16, 1.0)


def test_the_search_scores_every_row_on_validation_and_test_patients_apart(finished):
    found = pd.read_csv(finished.path("search", "sensitivity.csv"))
    assert set(found["network"]) == set(strategies_of(finished.data)) and set(found["dataset"]) == {"validation", "test"}
    everything = found[found["group"] == "all"]
    assert (everything["nodules"] == 7).all() and (everything["patients"] == 7).all() and everything["sensitivity"].between(0, 1).all()
    assert {"6-8", "solid", "ground_glass", "subsolid"} <= set(found["group"])
    differences = pd.read_csv(finished.path("search", "differences.csv"))
    assert (differences["lower"] <= differences["difference"]).all() and {BASELINE, "control"} == set(differences["other"])
    assert set(pd.read_csv(finished.path("search", "thresholds.csv"))["network"]) == set(strategies_of(finished.data))


def test_the_end_says_what_was_found_and_that_it_is_no_froc(finished):
    found, gates, apart, *_ = summary_lines(finished, None)
    assert "7 nodules of 7 test patients" in found and all(f"{name} " in found for name in strategies_of(finished.data))
    assert "gates missed" in gates and apart.startswith("not LUNA16's FROC")


def test_the_report_has_real_nodules_in_place_of_claims(finished):
    pd.read_csv(finished.path("search", "sensitivity.csv")).to_csv(finished.figures / "real_nodules.csv", index=False)
    text = write_report(finished.folder).read_text(encoding="utf-8")
    assert "This is not LUNA16" in text and "Table II" not in text and "ledger" not in text.split("</style>")[-1]
    assert "datasets" not in text.split("Missing:")[1].split("</p>")[0]  # figures are missing, stages are not


def test_too_few_cubes_are_one_line(tmp_path, manifest, monkeypatch):
    monkeypatch.setenv("LUNGADV_RUNS", str(tmp_path))
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    few = manifest.with_name("few.csv")
    table[table["dataset"] != "test"].to_csv(few, index=False)
    few.with_suffix(".ingest.json").write_bytes(manifest.with_suffix(".ingest.json").read_bytes())
    with pytest.raises(InputError, match=r"few.csv' has 0 cubes of 6 mm and more in 'test', 5 are needed: ingest more cubes"):
        reproduce(open_run("tiny", 0, str(few)), 1)
