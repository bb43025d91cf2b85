"""The report of a run: what is in it, what is missing from it, and how it looks in a browser."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from lungadv.cli import app
from lungadv.evaluation.claims import CLAIMS
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.report import find_figures, missing_stages, read_table, write_report
from lungadv.pipeline.steps import CUBE_STEPS, STEPS
from lungadv.utils.files import repo_root
from tests.browser import open_browser
from tests.web_pages import HOSTILE, Elements, assert_sound

COMMITTED = repo_root() / "figures" / "quick"
CAPTIONS = read_table(repo_root() / "lungadv" / "pipeline" / "captions.csv")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lay_out(folder):
    """Make a finished run of the committed results, as `reproduce` would leave it."""
    (folder / "figures").mkdir(parents=True)
    for path in COMMITTED.iterdir():
        if path.suffix in (".png", ".csv"):
            shutil.copy(path, folder / "figures")
    made = json.loads((COMMITTED / "provenance.json").read_text())
    shared = {key: made[key] for key in ("profile", "seed", "data", "settings", "versions", "python", "device")}
    for k, name in enumerate(STAGES, 1):
        (folder / name).mkdir(parents=True)
        stage = shared | {"commit": "c0ffee" * 6, "dirty": k == 2, "wall_seconds": 60.0 * k, "peak_memory_mib": 100 + k, "threads": 1}
        (folder / name / "provenance.json").write_text(json.dumps(stage | {"precision": "float32", "data_sha256": "ab" * 32}))
    whole = {"wall_seconds": 1200.0, "peak_memory_mib": 2048, "cores": 2, "stages_built": list(STAGES)}
    (folder / "run.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run: the committed results."""
    return lay_out(tmp_path / "phantom-quick-1")


@pytest.fixture
def small(finished):
    """The same with small pictures."""
    for path in (finished / "figures").glob("*.png"):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    return finished


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_report_of_the_committed_results_holds_all_of_them(finished):
    path = write_report(finished)
    assert path == finished.resolve() / "report.html" and path.stat().st_size < 15e6
    assert_sound(path)
    page = Elements(path)
    text = path.read_text(encoding="utf-8")
    for row in read_table(finished / "figures" / "claims.csv").itertuples():
        assert row.id in [attributes.get("id") for attributes, _ in page.of("th")]
    assert len(page.of("img")) == len(list((finished / "figures").glob("*.png"))) == len(page.of("figcaption"))
    row = pd.read_csv(finished / "figures" / "table2.csv").iloc[0]
    for number in (row.cpm, row.lower, row.upper, row.paper_cpm, row.fp_4, row.paper_fp_4):
        assert f"{number:.3f}" in text
    assert "20.0 minutes on 2 cores, at most 2.00 GiB" in text and "c0ffee" * 6 in text
    assert f"{len(STAGES):.2f}</td>" in text  # minutes of the last stage
    count = len(json.loads((repo_root() / "figures" / "quick" / "expected.json").read_text()))
    assert f"{count} of {count} numbers" in text and "No verdict differs" in text and "not finished" not in text


def test_every_claim_leads_to_a_figure_or_to_table_2(small):
    rows = [attributes["href"] for attributes, _ in Elements(write_report(small)).of("a")]
    shown = set(" ".join(CAPTIONS["claims"]).split())
    assert shown == set(CLAIMS)
    assert {f"#{name}" for name in CAPTIONS["name"][CAPTIONS["claims"] != ""]} <= set(rows) and "#table2" in rows


def test_every_figure_of_the_pipeline_has_a_caption():
    drawn = {name.removesuffix(".png") for step in (*STEPS, *CUBE_STEPS) for name in step.figures if name.endswith(".png")}
    drawn |= {path.stem for path in COMMITTED.glob("*.png")}
    assert {name for name in drawn if not name.startswith("training-")} <= set(CAPTIONS["name"])
    assert (CAPTIONS[["title", "caption", "alt"]].map(len) > 4).all(axis=None)
    assert max(len(sentence.split()) for text in CAPTIONS["caption"] for sentence in text.split(". ")) <= 25


def test_figures_come_in_the_order_of_the_captions_and_then_strangers(small):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(small / "figures" / "aardvark.png")
    names = [figure["name"] for figure in find_figures(small / "figures")]
    assert names[:2] == ["fig01", "fig07"] and names.index("fig09") < names.index("fig14") < names.index("aardvark")
    titles = {figure["name"]: figure["title"] for figure in find_figures(small / "figures")}
    assert titles["training-beta+perturb+syn"] == "Training of beta+perturb+syn" and titles["aardvark"] == "aardvark"


def test_numbers_and_verdicts_that_differ_from_the_committed_ones_are_named(small):
    table = pd.read_csv(small / "figures" / "table2.csv")
    table.loc[table.index[0], "cpm"] = 0.1234
    table.to_csv(small / "figures" / "table2.csv", index=False)
    claims = read_table(small / "figures" / "claims.csv")
    before = claims["verdict"][3]
    claims.loc[3, "verdict"] = "not measured"
    claims.to_csv(small / "figures" / "claims.csv", index=False)
    text = " ".join(write_report(small).read_text(encoding="utf-8").split())
    count = len(json.loads((repo_root() / "figures" / "quick" / "expected.json").read_text()))
    assert f"{count - 1} of {count} numbers" in text and text.index("0.1234</td>") < text.index("not-reproduced\">no<")
    assert f'<a href="#T4">T4</a>: not measured here, {before} there' in text


def test_an_unfinished_run_gets_a_report_that_names_what_is_missing(small):
    shutil.rmtree(small / "stress")
    for name in ("claims.csv", "fig09.png", "phantom.png"):
        (small / "figures" / name).unlink()
    assert missing_stages(small) == ["04_phantom", "stress", "claims"]
    result = call("report", small)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: the run is not finished: 04_phantom, stress, claims missing")
    text = (small / "report.html").read_text(encoding="utf-8")
    assert "Missing: 04_phantom, stress, claims." in text and "Not made yet" in text
    assert_sound(small / "report.html")


def test_a_run_that_has_only_begun_gets_one_too(tmp_path):
    folder = lay_out(tmp_path / "run")
    shutil.rmtree(folder / "figures")
    for name in ("run.json", *STAGES):
        if name != "two_moons":
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
    assert "Not compared" in write_report(folder).read_text(encoding="utf-8") and not (folder / "figures").exists()


def test_what_is_no_run_is_said_in_one_line_and_nothing_is_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, words in {"file": "is no folder", "none": "is no folder", "folder": "is no run: no stage in it is finished"}.items():
        result = call("report", tmp_path / name)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1 and words in result.stderr and name in result.stderr
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


DAMAGE = {
    "claims.csv": ("figures/claims.csv", b"id,claim\nT1,x\n", "no column measured"),
    "empty table": ("figures/table2.csv", b"", "table2.csv"),
    "no numbers": ("figures/table2.csv", b"benchmark,strategy,cpm,lower,upper\na,b,much,0,1\n", "table2.csv"),
    "picture": ("figures/fig05.png", b"picture", "fig05.png' is no picture"),
    "provenance": ("banks/provenance.json", b"{", "provenance.json' is damaged"),
    "list": ("banks/provenance.json", b"[]", "provenance.json' is damaged"),
    "run.json": ("run.json", b"{}", "lacks cores, peak_memory_mib"),
    "bytes": ("figures/table1.csv", b"a\n\xff\xfe\n", "table1.csv"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_and_the_old_report_stays(small, case):
    name, content, words = DAMAGE[case]
    (small / name).write_bytes(content)
    (small / "report.html").write_text("old")
    result = call("report", small)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and words in result.stderr
    assert (small / "report.html").read_text() == "old" and not list(small.glob(".*report*"))


def hostile(run):
    """Put hostile words wherever a run's report takes words from."""
    for path in run.glob("**/provenance.json"):
        words = {"commit": HOSTILE, "versions": {HOSTILE: HOSTILE}, "device": HOSTILE, "settings": {HOSTILE: HOSTILE}, "data": HOSTILE}
        change(path, **words, peak_memory_mib=HOSTILE, threads=HOSTILE)
    for name in ("claims.csv", "table1.csv", "table2.csv"):
        table = read_table(run / "figures" / name)
        words = [column for column in table if table[column].str.contains("[a-z]").all()]
        table[words] = HOSTILE
        table.rename(columns={"source": HOSTILE}).to_csv(run / "figures" / name, index=False)
    shutil.copy(run / "figures" / "fig01.png", run / "figures" / f"{HOSTILE.replace('/', '')}.png")


def test_hostile_words_stay_words(small):
    hostile(small)
    page = Elements(write_report(small))
    assert not page.of("script") and HOSTILE in "".join(text for _, text in page.of("td"))
    for name, attributes, _ in page.found:
        assert "onerror" not in attributes and name not in ("iframe", "object")


def test_hostile_words_do_nothing_in_a_browser(small):
    hostile(small)
    with open_browser() as browser:
        browser.open(write_report(small))
        assert browser.run("document.title") == "phantom-quick-1: report"
        assert browser.run("document.scripts.length") == 0 and not browser.problems


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_is_readable_in_a_browser(finished, width):
    with open_browser() as browser:
        browser.open(write_report(finished), width)
        assert not browser.problems
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")  # wide tables scroll by themselves
        assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
        assert browser.run("[...document.querySelectorAll('p, td, th, li')].every(e => parseFloat(getComputedStyle(e).fontSize) >= 12)")
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        browser.click("a[href='#fig07']")
        browser.until("Math.abs(document.getElementById('fig07').getBoundingClientRect().top) < 200")
