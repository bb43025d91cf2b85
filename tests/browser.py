"""A browser for the tests of reports: Chromium without a window, driven over its DevTools socket."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 60  # seconds


class Page:
    """One open page: run JavaScript in it, press keys, look at it; `problems` holds console errors, exceptions and requests."""

    def __init__(self, socket):
        self.socket, self.numbers, self.problems = socket, itertools.count(1), []

    def call(self, method, **parameters):
        """One DevTools command: its result. Events that come first are kept in `problems` where they are any."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message):
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown" or (method == "Log.entryAdded" and parameters["entry"]["level"] == "error"):
            self.problems.append(parameters)
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.problems.append(parameters)
        elif method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(("data:", "file:")):
            self.problems.append(parameters["request"]["url"])

    def open(self, path, width=1280, height=900):
        """Load a file at a window size in CSS pixels and wait until it is there."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.until("document.readyState == 'complete' && location.protocol == 'file:'")

    def run(self, code):
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition):
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + WAIT
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def click(self, selector):
        """Click with the mouse on the middle of the first element of a CSS selector."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle(self, selector):
        """The middle of an element in the window, which is scrolled to it."""
        code = "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]"
        return self.run(f"(e => {{{code}}})(document.querySelector({json.dumps(selector)}))")

    def wheel(self, selector, delta):
        """Turn the mouse wheel over an element; delta in CSS pixels, down is positive."""
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def press(self, key, code):
        """Press and release one key: its name and its Windows key code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path, whole=False):
        """Save what is seen, or the whole page, as a PNG."""
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(result["data"]))


@contextmanager
def open_browser():
    """A Page of a new browser. Skips the test where no browser, or no client for its socket, is installed."""
    websocket = pytest.importorskip("websocket", reason="websocket-client is not installed: no way to drive a browser")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run", "--disable-gpu"]
        options += ["--remote-allow-origins=*", "--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        process = subprocess.Popen([program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            socket = websocket.create_connection(_address(process, folder), timeout=WAIT)
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            process.terminate()
            process.wait(WAIT)


def _address(process, folder):
    """The socket of the first tab, when the browser has said on which port it listens."""
    from urllib.request import urlopen

    port, deadline = Path(folder) / "DevToolsActivePort", time.monotonic() + WAIT
    while time.monotonic() < deadline:
        assert process.poll() is None, "the browser ended at once"
        if port.exists() and (lines := port.read_text().split()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=WAIT) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise AssertionError("the browser never listened")
