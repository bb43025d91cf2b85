"""Cubes of nodules: what ingest takes, how it splits them, and what it refuses as a whole."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.data.ingest.cubes import TERMS, split_cubes
from lungadv.data.ingest.split import DATASET_OF_FOLD, fold_of
from lungadv.data.manifest import read_manifest
from lungadv.data.nodule_cubes import read_cubes
from lungadv.utils.errors import InputError
from lungadv.utils.files import real_folder, repo_root
from tests.data.ingest.folders import HEADER, luna16, report_of, take
from tests.data.made_cubes import clone, write_cube

CUBES = "nodule-cubes"


@pytest.fixture
def src(tmp_path):
    return clone(tmp_path / "clone")


def table(text, folder):
    path = folder / "ratings.csv"
    path.write_text(text)
    return path


def test_a_clone_is_read_as_it_is(src, out):
    report = take(src, CUBES, out)
    cubes = read_cubes(out).table
    assert report["taken"] == len(cubes) == 12 and not report["unchanged"]
    first = cubes.set_index("path").loc[str(src / "nodule_patches" / "1.2.0_dcm_1.mha")]
    assert first[["coordX", "coordY", "coordZ"]].tolist() == [-5.0, -25.0, -275.0]  # origin and 25 mm
    assert first["diameter_mm"] == pytest.approx(8.0, abs=0.3) and first["type"] == "unspecified" and first["world_ok"] == ""
    assert set(cubes["kind"]) == {"nodule-cube"} and set(cubes["patient"]) == set(cubes["seriesuid"])
    said = " ".join(report["left_out"])
    for words in ("Patients are unknown for 6 series", "No table says whether the world position of 12 cubes is right", TERMS):
        assert words in said
    assert take(src, CUBES, out)["unchanged"]


def test_the_middle_is_the_masks_not_the_cubes(tmp_path, out):
    write_cube(tmp_path / "clone", "1.2.3", 0, middle=(30, 12, 25))
    take(tmp_path / "clone", CUBES, out)
    assert read_cubes(out).table[["coordX", "coordY", "coordZ"]].iloc[0].tolist() == [-75.0, -38.0, -270.0]


def test_cut_off_and_padded_cubes_are_told(tmp_path, out):
    write_cube(tmp_path / "clone", "1.2.3", 0, shape=(40, 50, 50), middle=(20, 25, 25))
    hu = np.full((50,) * 3, -800)
    hu[:3] = -3024
    write_cube(tmp_path / "clone", "1.2.4", 0, hu=hu)
    said = take(tmp_path / "clone", CUBES, out)["left_out"]
    cubes = read_cubes(out).table
    assert cubes["cut_off"].tolist() == [True, False] and cubes["padded"].tolist() == [0, 7500]
    assert "1 cube cut off at a scan's edge, 1 with padding, which is read as air." in said
    assert report_of(out)["reason"].tolist() == ["cut off: 50x50x40 voxels", "7500 voxels of padding"]


def test_ratings_types_and_patients_are_joined_by_file(src, out, tmp_path):
    text = "file,patient,mask_mm,world_ok,type,texture\n1.2.0_dcm_0.mha,A,6.2,False,solid,4.5\n1.2.1_dcm_0.mha,A,6.3,True,,\n"
    text += "not.mha,B,5,True,,\n"
    report = take(src, CUBES, out, table(text, tmp_path))
    cubes = read_cubes(out).table.set_index(["seriesuid", "number"])
    assert cubes.loc[("1.2.0", 0), ["patient", "type", "texture", "world_ok"]].tolist() == ["A", "solid", 4.5, "False"]
    assert cubes.loc[("1.2.1", 0), "type"] == "unspecified" and np.isnan(cubes.loc[("1.2.1", 0), "texture"])
    said = " ".join(report["left_out"])
    for words in ("does not list 10 of 12 cubes", "1 row of ratings.csv", "position of 1 cube is wrong", "Types are missing for 11 of 12"):
        assert words in said


def test_a_patient_known_of_one_cube_is_that_of_its_series(src, out, tmp_path):
    take(src, CUBES, out, table("file,patient\n1.2.0_dcm_0.mha,LIDC-IDRI-0007\n", tmp_path))
    assert read_cubes(out).table.groupby("seriesuid")["patient"].nunique().max() == 1
    assert set(read_cubes(out).table.query("seriesuid == '1.2.0'")["patient"]) == {"LIDC-IDRI-0007"}


def test_lunas_table_beside_the_cubes_says_which_positions_are_right(src, out):
    (src / "annotations.csv").write_text(f"{HEADER}\n1.2.0,-75.2,-25,-275,6\n1.2.0,60,-25,-275,6\n1.2.1,-75,-25,-275,6\n")
    take(src, CUBES, out)
    cubes = read_cubes(out).table.set_index(["seriesuid", "number"])
    assert [cubes.loc[key, "world_ok"] for key in (("1.2.0", 0), ("1.2.0", 1), ("1.2.1", 0), ("1.2.2", 0))] == ["True", "False", "True", ""]


def test_what_is_no_nodule_is_kept_inside_its_cubes(src, out):
    header = "file,seriesuid,coordX,coordY,coordZ,diameter_mm,source\n"
    (src / "not_nodules.csv").write_text(
        header
        + "1.2.0_dcm_0.mha,1.2.0,-80,-25,-275,-1,luna16 excluded finding\n"
        + "1.2.0_dcm_0.mha,1.2.0,-70,-25,-275,,false positive of a detector\n"
        + "1.2.0_dcm_0.mha,1.2.0,-500,-25,-275,,false positive of a detector\n"
    )
    report = take(src, CUBES, out)
    assert any("1 excluded, 1 false positive in these cubes; 1 row left out" in said for said in report["left_out"])
    others = read_cubes(out).not_nodules
    assert others["kind"].tolist() == ["excluded", "false positive"] and others["diameter_mm"].tolist() == [-1, -1]
    assert set(others["path"]) == {str(src / "nodule_patches" / "1.2.0_dcm_0.mha")}


def test_lunas_excluded_findings_are_found_in_every_cube_that_holds_them(src, out):
    (src / "annotations_excluded.csv").write_text(f"{HEADER}\n1.2.0,-52,-25,-275,4\n1.2.0,-20,-25,-275,4\n1.2.0,-200,-25,-275,4\n")
    take(src, CUBES, out)
    assert read_cubes(out).not_nodules["coordX"].tolist() == [-52, -20]


def test_the_split_is_by_patient_alone_and_about_70_15_15():
    sets = pd.Series([split_cubes(f"LIDC-IDRI-{k:04}") for k in range(1, 1011)])
    shares = sets.value_counts(normalize=True)
    assert abs(shares["train"] - 0.7) < 0.05 and abs(shares["validation"] - 0.15) < 0.03 and abs(shares["test"] - 0.15) < 0.03
    assert sets[:5].tolist() == [split_cubes(f"LIDC-IDRI-{k:04}") for k in range(1, 6)]


def test_who_trains_here_is_no_benchmark_of_the_scans():
    for k in range(1, 1011):
        ours, scans = split_cubes(f"LIDC-IDRI-{k:04}"), DATASET_OF_FOLD[fold_of(f"LIDC-IDRI-{k:04}")]
        assert (ours == "train") == (scans == "train") and not (ours == "test" and scans == "validation")


BAD = {
    "a pointer of Git LFS": ("1.2.1_dcm_0.mha' is a pointer of Git LFS, not the file: complete the clone",),
    "all pointers": ("1.2.0_dcm_0.mha' is a pointer of Git LFS", "the first of 24 such"),
    "a cube without its mask": ("1.2.1_dcm_0.mha' has no mask", "1.2.1_seg_0.mha", "complete the clone"),
    "a mask without its cube": ("1.2.1_seg_0.mha' is a mask without its cube",),
    "an empty mask": ("1.2.1_seg_0.mha' is empty", "remove the cube"),
    "a mask of another size": ("1.2.1_seg_0.mha", "is no mask on the grid of its cube"),
    "a cube cut short": ("1.2.1_dcm_0.mha",),
    "a cube twice": ("copy/1.2.0_dcm_0.mha", "one cube in two files: keep one"),
    "a cube under two names": ("1.2.1_dcm_0.mha", "1.2.9_dcm_5.mha", "one cube in two files"),
    "a table of other files": ("lists 1 file, the first 'x.mha', and none is here",),
    "a table of other masks": ("ratings.csv, line 2: mask_mm 20, but the mask of", "has 6.17 mm"),
    "a table with a cube twice": ("ratings.csv, line 3: '1.2.1_dcm_0.mha' comes twice",),
    "a table with two patients of a series": ("ratings.csv, line 3: series '1.2.1' is of patient 'B', but of 'A'",),
    "a table with an unknown type": ("ratings.csv, line 2: unknown type 'soft'",),
    "a table with a rating that is none": ("ratings.csv, line 2: texture 'high' is no number",),
    "a table that is not there": ("cannot be read as CSV",),
    "a table without files or places": ("has neither a column file nor seriesuid",),
    "LUNA16's rows of other scans": ("has no row of the 12 cubes here",),
}
TABLES = {
    "a table of other files": "file\nx.mha\n",
    "a table of other masks": "file,mask_mm\n1.2.0_dcm_0.mha,20\n",
    "a table with a cube twice": "file,patient\n1.2.1_dcm_0.mha,A\n1.2.1_dcm_0.mha,B\n",
    "a table with two patients of a series": "file,patient\n1.2.1_dcm_0.mha,A\n1.2.1_dcm_1.mha,B\n",
    "a table with an unknown type": "file,type\n1.2.1_dcm_0.mha,soft\n",
    "a table with a rating that is none": "file,texture\n1.2.1_dcm_0.mha,high\n",
    "a table without files or places": "name\nx\n",
    "LUNA16's rows of other scans": f"{HEADER}\n7.7,0,0,0,5\n",
}


def spoil(src, case):
    """Make a clone as bad as its case says."""
    cube, mask = src / "nodule_patches" / "1.2.1_dcm_0.mha", src / "nodule_patches" / "1.2.1_seg_0.mha"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 176016\n"
    if case == "a pointer of Git LFS":
        cube.write_text(pointer)
    elif case == "all pointers":
        for path in cube.parent.iterdir():
            path.write_text(pointer)
    elif case == "a cube without its mask":
        mask.unlink()
    elif case == "a mask without its cube":
        cube.unlink()
    elif case == "an empty mask":
        write_cube(src / "nodule_patches", "1.2.1", 0, radius=-1)
    elif case == "a mask of another size":
        write_cube(src / "other", "1.2.1", 0, shape=(40, 50, 50), middle=(20, 20, 20))
        shutil.move(src / "other" / mask.name, mask)
        shutil.rmtree(src / "other")
    elif case == "a cube cut short":
        cube.write_bytes(cube.read_bytes()[:5000])
    elif case == "a cube twice":
        shutil.copytree(src / "nodule_patches", src / "copy")
    elif case == "a cube under two names":
        shutil.copy(cube, cube.with_name("1.2.9_dcm_5.mha"))
        shutil.copy(mask, cube.with_name("1.2.9_seg_5.mha"))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_nothing_is_written(case, src, out, tmp_path):
    spoil(src, case)
    nodules = table(TABLES[case], tmp_path) if case in TABLES else tmp_path / "absent.csv" if "not there" in case else None
    with pytest.raises(InputError) as error:
        take(src, CUBES, out, nodules)
    assert "\n" not in str(error.value) and not out.parent.exists()
    for words in BAD[case]:
        assert words in str(error.value)


def test_a_patient_in_two_data_sets_is_refused_by_ingest_and_by_the_reader(src, out, tmp_path):
    take(src, CUBES, out)
    rows = pd.read_csv(out, dtype=str, keep_default_na=False)
    other = next(name for name in ("train", "validation", "test") if name != rows["dataset"][0])
    rows.loc[0, "dataset"] = other
    rows.to_csv(out, index=False)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    for call in (lambda: take(src, CUBES, out), lambda: read_cubes(out)):
        with pytest.raises(InputError, match="patient '1.2.0' is in .*: a patient belongs to one data set"):
            call()
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_the_split_of_an_existing_manifest_is_kept(src, out):
    take(src, CUBES, out)
    rows = pd.read_csv(out, dtype=str, keep_default_na=False).assign(dataset="test")
    rows.to_csv(out, index=False)
    take(src, CUBES, out)
    assert set(read_cubes(out).table["dataset"]) == {"test"}


def test_the_command_says_what_it_took_and_on_what_terms(src, out):
    result = CliRunner().invoke(app, ["ingest", str(src), "--kind", CUBES, "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0 and "12 cubes taken, 0 refused" in result.stdout and TERMS in result.stdout
    spoil(src, "a cube without its mask")
    result = CliRunner().invoke(app, ["ingest", str(src), "--kind", CUBES, "--out", str(out), "--workers", "1"])
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1


def test_cubes_are_no_scans_and_scans_no_cubes(src, out, tmp_path):
    with pytest.raises(InputError, match="no scan file .*it looks like --kind nodule-cubes"):
        take(src, "luna16", out)
    scans = luna16(tmp_path / "luna", 1)
    with pytest.raises(InputError, match="no cube of a nodule .*: it looks like --kind luna16"):
        take(scans, CUBES, out)
    take(src, CUBES, out)
    with pytest.raises(InputError, match="manifest.csv' lists cubes of nodules, not scans: give a manifest of --kind luna16"):
        read_manifest(out)


def test_cubes_beside_scans_are_left_out_with_a_line(tmp_path, out):
    scans = luna16(tmp_path / "luna", 1)
    cube = write_cube(scans / "cubes", "1.2.7", 0)
    assert take(scans, "luna16", out)["left_out_files"] == 2
    assert cube.relative_to(scans).as_posix() in report_of(out)["path"].tolist()


def test_the_card_names_the_terms_that_ingest_prints():
    licence = json.loads((repo_root() / "data_manifests" / "nodule_cubes.json").read_text())["licence"]
    for word in ("Apache-2.0", "CC BY 4.0", "CC BY 3.0", "The Cancer Imaging Archive", "NODE21"):
        assert word in licence and word in TERMS


@pytest.mark.skipif(not (real_folder() / "luna16_nodules").is_dir(), reason="the cubes are not here")
def test_real_cubes_are_taken_and_agree_with_their_table(out, tmp_path):
    folder = real_folder() / "luna16_nodules"
    known = pd.read_csv(folder / "nodules.csv").iloc[60:70]  # one is of a flipped series
    (tmp_path / "some").mkdir()
    for name in known["file"]:
        for file in (name, name.replace("_dcm_", "_seg_")):
            (tmp_path / "some" / file).symlink_to(folder / "nodule_patches" / file)
    take(tmp_path / "some", CUBES, out, folder / "nodules.csv")
    cubes = read_cubes(out).table
    assert np.allclose(cubes["diameter_mm"], known["mask_mm"], atol=0.01) and cubes["patient"].tolist() == known["patient"].tolist()
    assert (cubes["world_ok"] == "False").sum() == (~known["world_ok"]).sum() == 1
