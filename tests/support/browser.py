"""Headless Chromium, driven through its pipe of the DevTools protocol: no package is needed beside the program."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_SWITCHES = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-extensions",
    "disable-quic",
    "no-first-run",
    "hide-scrollbars",
    "mute-audio",
    "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "remote-debugging-pipe",
)
_DEADLINE = 60.0
_KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " ")} | {
    f"Arrow{way}": (number, "") for number, way in enumerate(("Left", "Up", "Right", "Down"), 37)
}
"""Key -> its number in Windows and the text that it types, without which the browser does nothing of its own."""
_SHIFT = 8


class Chromium:
    """One tab of one browser process. Messages are JSON texts that end with a zero byte."""

    def __init__(self, profile: Path) -> None:
        command_read, self._commands = os.pipe()
        self._replies, reply_write = os.pipe()

        def ends() -> None:
            """The browser reads commands from 3 and writes to 4; neither pipe may lie there already."""
            spare = os.dup(command_read), os.dup(reply_write)
            high = os.dup(spare[0]), os.dup(spare[1])
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        switches = [f"--{switch}" for switch in (*_SWITCHES, f"user-data-dir={profile}")]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *switches, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=ends,
            close_fds=False,
        )
        os.close(command_read)
        os.close(reply_write)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        """Messages of the page, its errors and its requests."""
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._replies)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._replies, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def size(self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window in CSS pixels, and which colours it prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path | str, state: str = "") -> float:
        """Open a file or an address; returns the seconds until its script has run and the page has been painted."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        started = time.monotonic()
        self.call("Page.navigate", url=(page if isinstance(page, str) else page.as_uri()) + state)
        while not self("location.href !== 'about:blank' && document.readyState === 'complete'"):
            assert time.monotonic() - started < _DEADLINE, "the page does not load"
            time.sleep(0.005)
        self("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return time.monotonic() - started

    def __call__(self, script: str) -> Any:
        """Evaluate JavaScript; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until a script gives something true, and return it."""
        started = time.monotonic()
        while not (found := self(script)):
            assert time.monotonic() - started < _DEADLINE, f"never true: {script}"
            time.sleep(0.02)
        return found

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press a key and let it go."""
        number, text = _KEYS.get(key, (0, key if len(key) == 1 else ""))
        known = {"key": key, "windowsVirtualKeyCode": number, "modifiers": _SHIFT * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def choose_files(self, selector: str, *files: Path) -> None:
        """Choose files in an ``<input type="file">``."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["result"]["objectId"])

    def mistakes(self, own: str = "file:") -> list[str]:
        """What went wrong on the page: exceptions, messages of the console, and requests beyond the page itself.

        Args:
            own: beginning of the addresses that the page may ask for.
        """
        self("0")
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                found.append(json.dumps(params)[:500])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                kinds = ("Document", "Image") if own == "file:" else ("Document", "Image", "Media", "Fetch", "XHR")
                if not url.startswith(("data:", f"blob:{own}", own)) or params["type"] not in kinds:
                    found.append(url[:200])
        return found

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """Write a screenshot of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
