"""A headless Chromium, driven by its own protocol (DevTools) over tornado's websockets: no driver is needed."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tornado.websocket import websocket_connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ABSENT = "no chromium here (apt-get install chromium): the page was not looked at by a browser"
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--remote-debugging-port=0", "about:blank"),
)


async def _connected(url):
    return await websocket_connect(url, max_message_size=1 << 28)


class Browser:
    """Example: with Browser(tmp_path) as browser: browser.open(url); browser.value("document.title")"""

    def __init__(self, folder: Path, language: str = "en-US"):
        self._folder, self._language, self._number = folder, language, 0
        self.events: list[dict] = []

    def __enter__(self):
        folder = self._folder / f"chromium_{self._language}"
        command = [PROGRAM, f"--user-data-dir={folder}", f"--accept-lang={self._language}", *_OPTIONS]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._loop = asyncio.new_event_loop()
        try:
            self._connect(folder)
        except BaseException:
            self._end()
            raise
        return self

    def _connect(self, folder):
        port_file, deadline = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            assert time.monotonic() < deadline and self._process.poll() is None, "chromium does not start"
            time.sleep(0.05)
        port, path = port_file.read_text().split("\n")[:2]
        self._session = ""
        self._socket = self._loop.run_until_complete(_connected(f"ws://127.0.0.1:{port}{path}"))
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def __exit__(self, *_):
        self._socket.close()
        self._end()

    def _end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._loop.close()

    def call(self, method, **arguments):
        """A command of the protocol; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        return self._loop.run_until_complete(self._answer(message))

    async def _answer(self, message):
        await self._socket.write_message(json.dumps(message))
        while (text := await self._socket.read_message()) is not None:
            found = json.loads(text)
            if found.get("id") == message["id"]:
                assert "error" not in found, found["error"]
                return found["result"]
            self.events.append(found)
        raise ConnectionError("chromium has ended")

    def size(self, width, height, scale=1):
        device = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **device)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.body && Number(document.body.dataset.updates) > 0")

    def value(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression, seconds=20):
        deadline = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never true: {expression}; the page: {self.text()[:2000]}"
            time.sleep(0.05)

    def text(self):
        return self.value("document.body ? document.body.innerText : ''")

    def screenshot(self, path, is_whole=True):
        found = self.call("Page.captureScreenshot", captureBeyondViewport=is_whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def complaints(self):
        """What the console said: errors, refusals of the page's policy."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [each["params"] for each in self.events if each["method"] in kinds]
