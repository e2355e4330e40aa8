"""A real browser, and the fixture ``chromium`` for tests of pages that are files."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
from contextlib import contextmanager

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """Chromium, spoken to over a pipe in its DevTools protocol: no port, no package."""

    def __init__(self, home):
        line = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'  # it reads messages from descriptor 3 and writes them to 4
        command = ["/bin/sh", "-c", line, CHROMIUM, *FLAGS, f"--user-data-dir={home}", "about:blank"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        self._down, self._up = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._left, self._number, self._session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        while b"\0" not in self._left:
            assert select.select([self._up], [], [], 60)[0], "Chromium does not answer"
            piece = os.read(self._up, 1 << 16)
            assert piece, "Chromium ended"
            self._left += piece
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def show(self, path, width, dark=False):
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def ask(self, script):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def complaints(self):
        loud = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed")
        return [event for event in self.events if event.get("method") in loud]

    def requests(self):
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def picture(self):
        """The whole page, as an array (height, width, 3)."""
        import numpy as np  # not before tests/conftest.py has said how many threads there are
        from PIL import Image

        width, height = self.ask("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    def close(self):
        self.process.terminate()
        self.process.communicate(timeout=20)


@contextmanager
def browser(home):
    opened = Browser(home)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here: the looks of pages are NOT tested (apt-get install chromium)")
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened
