"""The built site in a real browser: `make docs` makes it. Skipped where there is no site or no browser."""

import functools
import http.server
import re
import shutil
import threading

import pytest

from lungadv.utils.files import repo_root

SITE = repo_root() / "docs" / "_build" / "html"
DOOR = SITE / "index.html"  # it only leads on
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path != DOOR)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROKEN = "[...document.images].filter(image => !image.complete || image.naturalWidth === 0).map(image => image.src)"
WRONG_IN_MATHML = ("\\", "&#x0005C;", "<mi>r</mi><mi>g</mi>")  # "arg max" in letters would be a product
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the built site, served on this machine."""
    if not PAGES:
        pytest.skip("the site is not built: make docs")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or one of its kind, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make docs")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}): apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, site):
    """A page that keeps what went wrong and what it asked of other machines."""
    page = browser.new_page()
    page.problems = []
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith((site, "data:")) or page.problems.append(f"asks for {request.url}"))
    page.on("response", lambda answer: answer.status < 400 or page.problems.append(f"{answer.status} {answer.url}"))
    yield page
    page.close()


def test_names_of_settings_stay_whole(page, site):
    page.goto(f"{site}/docs/reference/settings.html")
    names = page.locator("td:first-child code")
    assert names.count() > 50 and all(names.evaluate_all("names => names.map(name => name.getClientRects().length === 1)"))


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_loads_whole_and_fits_the_screen(page, site, width):
    page.set_viewport_size({"width": width, "height": 900})
    wrong = {}
    for name in PAGES:
        page.problems.clear()
        page.goto(f"{site}/{name}", wait_until="load")
        found = [*page.problems, *(f"no picture {source}" for source in page.evaluate(BROKEN))]
        if (wider := page.evaluate(OVERFLOW)) > 0:
            found.append(f"{wider} px wider than the screen")
        if found:
            wrong[name] = found
    assert not wrong


def test_the_front_door_leads_to_the_first_page(page, site):
    page.goto(f"{site}/")
    page.wait_for_url("**/docs/index.html")
    assert page.locator("h1").first.inner_text().startswith("lungadv")


def test_search_finds_froc(page, site):
    page.goto(f"{site}/search.html?q=FROC")
    results = page.locator("#search-results li a")
    results.first.wait_for(timeout=60_000)
    assert any("FROC" in text for text in results.all_inner_texts())
    assert not page.problems


def test_equations_are_drawn(page, site):
    page.goto(f"{site}/nbs/02_pgd.html")
    assert page.locator("div.math math").first.bounding_box()["height"] > 10


def test_no_equation_shows_a_command_of_tex_or_spells_an_operator():
    if not PAGES:
        pytest.skip("the site is not built: make docs")
    wrong = {}
    for name in PAGES:
        equations = re.findall(r"<math.*?</math>", (SITE / name).read_text(encoding="utf-8"), re.DOTALL)
        if found := [equation for equation in equations if any(mark in equation for mark in WRONG_IN_MATHML)]:
            wrong[name] = found
    assert not wrong
