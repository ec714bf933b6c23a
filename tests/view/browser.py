"""A real browser without a window, steered over its debugging protocol: clicks, drags, pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

#: Programs that speak the protocol.
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """One page of a browser."""

    def __init__(self, folder: Path, *, width: int = 1200, height: int = 860) -> None:
        """Skips the test where there is no browser. Args: folder: for its profile."""
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        sync = pytest.importorskip("websockets.sync.client")
        if program is None:
            pytest.skip("no browser is installed")
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        profile = [f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
        self._stack = contextlib.ExitStack()
        self._process = subprocess.Popen(
            [program, *words, *profile], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = _port(folder / "DevToolsActivePort", self._process)
            line = sync.connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None)
            self._socket = self._stack.enter_context(line)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self._number, self._session = 0, None
        page = next(t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **view)

    def _ask(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            continue
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 30.0) -> None:
        """Wait until an expression of the page is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never happened: {script}"
            time.sleep(0.05)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """mousePressed, mouseMoved or mouseReleased at a place of the window [px]."""
        down = 0 if kind == "mouseReleased" else 1
        more = {"button": "left", "buttons": down, "clickCount": 1}
        self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """As with a mouse."""
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """As with a mouse, in five moves."""
        self.mouse("mousePressed", *start)
        for k in range(1, 6):
            place = [a + (b - a) * k / 5 for a, b in zip(start, end, strict=True)]
            self.mouse("mouseMoved", place[0], place[1])
        self.mouse("mouseReleased", *end)

    def press(self, selector: str) -> None:
        """Click the middle of an element."""
        where = self.run(
            f"(() => {{const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2];})()"
        )
        self.click(where[0], where[1])

    def type(self, selector: str, text: str) -> None:
        """Put words into a field, as if typed over what is there."""
        self.run(f"document.querySelector({selector!r}).focus()")
        self.run(f"document.querySelector({selector!r}).select()")
        self._ask("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End it."""
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Port and path of its protocol, as it writes them when it is ready."""
    end = time.monotonic() + 60
    while True:
        lines = file.read_text().split("\n") if file.is_file() else []
        if len(lines) >= 2:
            return lines[0], lines[1]
        assert process.poll() is None and time.monotonic() < end, "the browser did not start"
        time.sleep(0.1)
