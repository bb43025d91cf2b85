"""The page of a scan's findings: its slices, its marks, and how it behaves in a browser."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lungadv.data.display import WINDOWS
from lungadv.data.scan import Scan
from lungadv.detection.detect import COLUMNS, detect
from lungadv.detection.scan_report import encode_slices, from_codes, to_codes, write_scan_report
from tests.browser import open_browser
from tests.web_pages import HOSTILE, Elements, assert_sound, page_data


def decode(url):
    """The grey values of a slice of the page, uint8 (rows, columns)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))))


@pytest.fixture
def page(weights, tmp_path, scan_of):
    """A page of a scan of one ball of 50 HU in -900 HU, in slice 20 of 40, and of a second finding of nothing, 40 mm below."""
    scan = scan_of(40)
    findings = detect(scan, weights).head(1)
    below = findings.assign(coordZ=-40.0, coordX=30.0, probability=0.3, diameter_mm=6.0)
    findings = pd.concat([findings.assign(probability=0.9), below], ignore_index=True)
    path = tmp_path / "findings.html"
    write_scan_report(scan, findings, weights, ["the slices are thick"], path)
    return path


def test_codes_keep_hu_to_half_a_step():
    hu = np.arange(-1024, 1301)
    error = np.abs(from_codes(to_codes(hu)) - hu)
    assert error[hu < -160].max() <= 4.9 and error[(hu > -160) & (hu < 240)].max() <= 2.1 and error.max() <= 8.3
    assert from_codes(to_codes(np.array([-3000, 3000]))).tolist() == [-1024, 1300]


def test_slices_hold_the_scan():
    y, x = np.indices((60, 80))
    hu = np.stack([(-800 + 10 * x + k * 30).astype(np.int16) for k in range(4)])
    urls, (rows, columns) = encode_slices(hu)
    assert (rows, columns) == (60, 80) and len(urls) == 4
    assert np.abs(from_codes(decode(urls[2])) - hu[2]).mean() < 12


def test_a_large_scan_is_averaged_in_plane_until_it_fits():
    hu = np.random.default_rng(0).normal(-850, 60, (6, 128, 128)).astype(np.int16)
    hu[:, :64] += 800
    whole = sum(map(len, encode_slices(hu)[0]))
    urls, (rows, columns) = encode_slices(hu, whole // 3)
    assert sum(map(len, urls)) <= whole // 3 and rows == columns < 128
    small = from_codes(decode(urls[0]))
    assert small[: rows // 3].mean() == pytest.approx(-50, abs=12) and small[-rows // 3 :].mean() == pytest.approx(-850, abs=12)


TURNS = {"straight": np.eye(3), "upside down": np.diag([1.0, -1, -1]), "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])}


@pytest.mark.parametrize("turn", TURNS)
def test_a_mark_lies_on_what_was_found_however_the_scan_is_turned(weights, tmp_path, scan_of, turn):
    scan = scan_of(40, direction=TURNS[turn])
    write_scan_report(scan, detect(scan, weights).head(1), weights, [], tmp_path / "page.html")
    data = page_data(tmp_path / "page.html")
    (finding,), (width, height) = data["findings"], data["size_mm"]
    picture = from_codes(decode(data["slices"][round(finding["slice"])]))
    y, x = np.indices(picture.shape)
    away = np.hypot((x + 0.5) * width / data["columns"] - finding["x_mm"], (y + 0.5) * height / data["rows"] - finding["y_mm"])
    assert picture[away < 5].min() > -200 and picture[away > 12].max() < -700  # the ball has a radius of 8 mm


def test_the_page_stands_alone_and_says_what_was_found(page):
    assert_sound(page)
    assert page.stat().st_size < 1e6
    text = page.read_text(encoding="utf-8")
    for words in ("1.2.3", "Not for clinical use", "the slices are thick", "60 x 60 x 40 voxels", "profile quick, seed 3"):
        assert words in text
    assert len([attributes for attributes, _ in Elements(page).of("tr") if "data-finding" in attributes]) == 2


def test_a_scan_of_clinical_size_fits_in_20_mb(weights, tmp_path):
    noise = np.random.default_rng(0).normal(-600, 150, (8, 512, 512)).astype(np.int16)
    scan = Scan(np.concatenate([noise] * 75), (0.7, 0.7, 0.6), (0.0, 0.0, 0.0), np.eye(3), "1.2")
    write_scan_report(scan, pd.DataFrame([["1.2", 9, 9, 9, 0.9, 0.1, 5]], columns=COLUMNS), weights, [], tmp_path / "page.html")
    assert 10e6 < (tmp_path / "page.html").stat().st_size < 20e6
    data = page_data(tmp_path / "page.html")
    assert len(data["slices"]) == 600 and data["size_mm"] == pytest.approx([358.4, 358.4])


def hostile_page(weights, scan_of, remake):
    remake(profile=HOSTILE, commit=HOSTILE)
    scan = scan_of(9)
    scan = Scan(scan.hu, scan.spacing, scan.origin, scan.direction, HOSTILE)
    path = weights / "page.html"
    write_scan_report(scan, pd.DataFrame([[HOSTILE, 0, 0, 0, 0.9, 0.1, 5]], columns=COLUMNS), weights, [HOSTILE], path)
    return path


def test_hostile_words_stay_words(weights, scan_of, remake):
    page = Elements(hostile_page(weights, scan_of, remake))
    assert len(page.of("script")) == 2 and not page.of("img")
    assert [HOSTILE in text for _, text in page.of("title")] == [True]


def test_hostile_words_do_nothing_in_a_browser(weights, scan_of, remake):
    with open_browser() as browser:
        browser.open(hostile_page(weights, scan_of, remake))
        browser.until("document.getElementById('slice').dataset.shown")
        assert browser.run("document.title") == f"Findings in {HOSTILE}" and not browser.problems


SEEN = "Number(document.getElementById('slice').dataset.shown)"  # the slice that is drawn, from 1
GREY = "document.getElementById('slice').getContext('2d').getImageData({}, {}, 1, 1).data[0]"


@pytest.mark.parametrize("width", [390, 1280])
def test_a_finding_is_jumped_to_and_marked(page, width):
    data = page_data(page)
    with open_browser() as browser:
        browser.open(page, width)
        for k in (1, 0, 1):
            browser.click(f"tr[data-finding='{k}'] button")
            wanted = round(data["findings"][k]["slice"]) + 1
            browser.until(f"{SEEN} === {wanted}")
            assert browser.run("document.getElementById('slider').value") == str(wanted)
            ring = browser.run("['cx', 'cy', 'r'].map(name => document.querySelector('circle.chosen')[name].baseVal.value)")
            assert ring[:2] == pytest.approx([data["findings"][k]["x_mm"], data["findings"][k]["y_mm"]], rel=1e-5)
            assert data["findings"][k]["diameter_mm"] / 2 < ring[2] + 1 and ring[2] < data["findings"][k]["diameter_mm"] / 2 + 3
            box = browser.run("(b => [b.left, b.right, b.top, innerHeight])(document.getElementById('stage').getBoundingClientRect())")
            assert box[0] >= 0 and box[1] <= width and -1 <= box[2] < box[3] / 2  # the picture is in sight
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert not browser.problems


def test_wheel_keys_and_slider_change_the_slice(page):
    with open_browser() as browser:
        browser.open(page)
        browser.until(f"{SEEN} > 0")
        start = browser.run(SEEN)
        browser.wheel("#stage", 100)
        browser.until(f"{SEEN} < {start}")
        browser.run("document.getElementById('stage').focus()")
        browser.press("End", 35)
        browser.until(f"{SEEN} === 40")
        browser.press("ArrowDown", 40)
        browser.until(f"{SEEN} === 39")
        browser.press("Home", 36)
        browser.until(f"{SEEN} === 1")
        browser.run("document.getElementById('slider').focus()")
        browser.press("ArrowRight", 39)
        browser.until(f"{SEEN} === 2")
        assert "slice 2 of 40" in browser.run("document.getElementById('where').textContent")
        assert not browser.problems


def test_each_window_shows_hu_as_it_should(page):
    data = page_data(page)
    hu = from_codes(decode(data["slices"][round(data["findings"][0]["slice"])]))
    assert hu[30, 30] == pytest.approx(50, abs=25) and hu[5, 5] == pytest.approx(-900, abs=25)
    with open_browser() as browser:
        browser.open(page)
        for name, (level, wide) in WINDOWS.items():
            browser.click(f"[data-window={name}]")
            for column, row in ((30, 30), (5, 5)):
                grey = np.clip(255 * ((hu[row, column] - level) / wide + 0.5), 0, 255)
                browser.until(f"Math.abs({GREY.format(column, row)} - {grey}) < 4")  # decoders of JPEG differ by a code, 4 HU here
            pressed = "[...document.querySelectorAll('[data-window][aria-pressed=true]')].map(b => b.dataset.window)"
            assert browser.run(pressed) == [name]
        assert not browser.problems


def test_the_command_writes_the_page(weights, tmp_path, scan_of, monkeypatch):
    from typer.testing import CliRunner

    from lungadv.cli import app
    from lungadv.data.io.write import write_scan

    write_scan(scan_of(40), tmp_path / "scan.mhd")
    page = tmp_path / "page.html"
    words = ["detect", tmp_path / "scan.mhd", "--out", tmp_path / "f.csv", "--weights", weights, "--report", page]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    rows = pd.read_csv(tmp_path / "f.csv")
    assert [finding["diameter_mm"] for finding in page_data(page)["findings"]] == pytest.approx(rows.diameter_mm.tolist(), rel=1e-4)
    assert page_data(page)["windows"] == {name: list(window) for name, window in WINDOWS.items()}
