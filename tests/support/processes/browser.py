"""A page in headless Chromium, controlled by its debugging protocol over two pipes.

Needs no driver, no port and no package.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Path of the browser of this machine; None if it has none."""

# Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
_WITH_PIPES = 'exec "$0" "$@" 3<&"$FROM_TEST" 4>&"$TO_TEST"'


class Page:
    """One tab, with the JavaScript errors that it has raised."""

    def __init__(self, commands: int, answers: int) -> None:
        self.errors: list[str] = []
        self._commands = commands
        self._answers = answers
        self._rest = b""
        self._number = 0
        self._session = ""

    def attach(self) -> None:
        """Open a tab and control it from now on."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Page", "Log"):
            self.call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Start to load a page."""
        self.call("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression} is still false; errors: {self.errors}"
            time.sleep(0.2)

    def screenshot(self, file: Path) -> None:
        """Write a picture of what is visible, as a PNG file."""
        answer = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its answer; errors among the events on the way go into `errors`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], 60)[0], "the browser does not answer"
            chunk = os.read(self._answers, 1 << 20)
            assert chunk, "the browser has ended"
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)


@contextmanager
def open_browser(profile: Path, size: tuple[int, int] = (1600, 1000)) -> Iterator[Page]:
    """Start a browser with an empty profile, and end it at the end of the block."""
    assert CHROMIUM is not None
    from_test, commands = os.pipe()
    answers, to_test = os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
    options += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
    command = ["bash", "-c", _WITH_PIPES, CHROMIUM, *options]
    environment = os.environ | {"FROM_TEST": str(from_test), "TO_TEST": str(to_test)}
    silent = subprocess.DEVNULL
    process = subprocess.Popen(
        command, env=environment, pass_fds=(from_test, to_test), stdout=silent, stderr=silent
    )
    os.close(from_test)
    os.close(to_test)
    try:
        page = Page(commands, answers)
        page.attach()
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)
