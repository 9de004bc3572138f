"""Chromium without a window, driven through a pipe by its DevTools protocol."""

import base64
import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_AWAY = 100  # descriptors from here on are not those that the browser expects, 3 and 4
_PATIENCE = 30.0  # seconds


class Browser:
    """One tab. Raises AssertionError for what a page throws, and what takes too long."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        (theirs, own), (read, theirs_too) = os.pipe(), os.pipe()
        self._out, self._in, self._buffer, self._number = own, read, b"", 0
        far = [fcntl.fcntl(each, fcntl.F_DUPFD, _AWAY) for each in (theirs, theirs_too)]
        quiet = os.open(os.devnull, os.O_RDWR)
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        dup = os.POSIX_SPAWN_DUP2
        actions = [(dup, quiet, 1), (dup, quiet, 2), (dup, far[0], 3), (dup, far[1], 4)]
        self._process = os.posix_spawn(
            CHROMIUM, command, os.environ, file_actions=actions, setsid=True
        )
        for each in (theirs, theirs_too, quiet, *far):
            os.close(each)
        self.said: list[str] = []  # errors and warnings of pages
        (tab,) = [
            each["targetId"] for each in self("Target.getTargets")["targetInfos"]
            if each["type"] == "page"
        ]  # fmt: skip
        self._session = self("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    _session: str | None = None

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A call of the protocol."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        while (told := self._next()).get("id") != self._number:
            self._hear(told)
        assert "error" not in told, (method, told["error"])
        return told["result"]

    def run(self, script: str) -> Any:
        """What a script in the page comes to."""
        told = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True,
                    userGesture=True)  # fmt: skip
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, script: str, within: float = 10.0) -> Any:
        """Wait for a script to come to something."""
        ends = time.monotonic() + within
        while not (found := self.run(script)):
            assert time.monotonic() < ends, f"never {script}: {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return found

    def goto(self, address: str) -> None:
        self("Page.navigate", url=address)
        self.until(f"document.readyState === 'complete' && location.href === {address!r}")

    def type(self, text: str) -> None:
        """By the keyboard, where the focus is."""
        self("Input.insertText", text=text)

    def press(self, name: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                 windowsVirtualKeyCode=code, **text)  # fmt: skip

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height,
             deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])

    def shoot(self, path: Path) -> None:
        """All of the page, as PNG."""
        told = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        """End it, and all that it started: they are one session of processes."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._out)
        os.close(self._in)

    def _next(self) -> dict[str, Any]:
        ends = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            assert time.monotonic() < ends, "the browser does not answer"
            read = os.read(self._in, 1 << 20)
            assert read, "the browser ended"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _hear(self, event: dict[str, Any]) -> None:
        match event:
            case {"method": "Runtime.exceptionThrown", "params": told}:
                self.said.append(json.dumps(told["exceptionDetails"]))
            case {"method": "Log.entryAdded", "params": {"entry": entry}}:
                self.said.append(f"{entry['level']}: {entry['text']}")
