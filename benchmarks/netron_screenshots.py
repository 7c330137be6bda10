"""Pictures of the files in Netron, for the guide: docs/netron-*.png.

    python -m benchmarks.netron_screenshots [--out DIR] [--browser chromium]

A small network with random weights is converted with three recipes. The function of `convert-onnx view` serves each
file, and a headless Chromium (or Chrome) takes a picture of the page, with operators and (for int4) with names. The
browser is controlled over its debugging pipe. So only the browser is needed, and a font with the brackets that Netron
writes shapes in (Debian: fonts-ipafont-gothic). The browser can reach no host but this machine.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared_data import ROOT
from converter import ExportOptions, convert, view

__all__ = ["RECIPES", "Browser", "main", "photograph"]

RECIPES = ("int8", "int4", "int4-matmulnbits")
_FACTORY = """
from collections import OrderedDict

from torch import nn


def small() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(4))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=nn.Linear(1024, 10)))
"""
_SIZE = (900, 1400)
_TIMEOUT = 30.0  # seconds for the page to draw a graph
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
)  # fmt: skip
_BOUNDS = """(() => {
    const boxes = [...document.querySelectorAll('.node, .edge-label')].map(each => each.getBoundingClientRect());
    const [x, y] = [Math.min(...boxes.map(box => box.left)), Math.min(...boxes.map(box => box.top))];
    const width = Math.max(...boxes.map(box => box.right)) - x, height = Math.max(...boxes.map(box => box.bottom)) - y;
    return {x: x - 10, y: y - 10, width: width + 20, height: height + 20, scale: 1};
})()"""
_SHOW_NAMES = "u"  # with Ctrl, Netron's key for showing names


class Browser:
    """A page of a headless browser, controlled by the Chrome DevTools Protocol over a pipe (NUL ends each message)."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._number, self._rest = send, receive, 0, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def page(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the page and return its answer."""
        return self.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        return self.page("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true.

        Raises:
            TimeoutError: It does not become true in time.
        """
        end = time.monotonic() + _TIMEOUT
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"the page is not ready: {expression}; it shows {self.evaluate('document.title')}")
            time.sleep(0.1)

    def press(self, key: str) -> None:
        """Press Ctrl and a letter."""
        code = ord(key.upper())
        for kind in ("rawKeyDown", "keyUp"):
            self.page("Input.dispatchKeyEvent", type=kind, modifiers=2, key=key, windowsVirtualKeyCode=code)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._receive, 1 << 20)
            if not read:
                raise RuntimeError("the browser ended")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def opened(program: str) -> Iterator[Browser]:
    """Yield a browser with a profile of its own. It ends with the `with` block."""
    theirs, send = os.pipe()
    receive, output = os.pipe()
    # the browser may still write into its profile when it is terminated
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-", ignore_cleanup_errors=True) as profile:
        start = f'exec "$@" 3<&{theirs} 4>&{output}'
        size = f"--window-size={_SIZE[0]},{_SIZE[1]}"
        arguments = [program, *_FLAGS, size, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        child = subprocess.Popen(
            ["bash", "-c", start, "bash", *arguments], pass_fds=(theirs, output), stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(output)
        try:
            yield Browser(send, receive)
        finally:
            child.terminate()
            child.wait()
            os.close(send)
            os.close(receive)


def photograph(browser: Browser, model: Path, picture: Path, *, names: bool = False) -> None:
    """Save Netron's picture of a model, with the operators of the nodes, or with the names of nodes and tensors."""
    with view(model, browse=False) as address:
        browser.page("Network.setCookie", name="consent", value="1", url=address)
        browser.page("Page.navigate", url=address)
        browser.until("document.querySelectorAll('.node').length > 3")
        if names:
            browser.press(_SHOW_NAMES)
            browser.until("document.querySelectorAll('.edge-label').length > 3")
        time.sleep(1)  # until the graph has been laid out
        shot = browser.page("Page.captureScreenshot", format="png", clip=browser.evaluate(_BOUNDS))
    picture.write_bytes(base64.b64decode(shot["data"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and write the pictures. The result is 1 if there is no browser."""
    parser = argparse.ArgumentParser(prog="benchmarks.netron_screenshots", description="Photograph files in Netron.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="DIR", help="default docs/")
    parser.add_argument("--browser", default="chromium", help="program to start, chromium if not given")
    options = parser.parse_args(arguments)
    if shutil.which(options.browser) is None:
        print(f"Error: no browser {options.browser!r} on the path; name one by --browser", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder, opened(options.browser) as browser:
        factory = Path(folder) / "small.py"
        factory.write_text(_FACTORY)
        images = np.random.default_rng(0).standard_normal((64, 3, 32, 32), dtype=np.float32)
        for recipe in RECIPES:
            path = Path(folder) / f"{recipe}.onnx"
            convert(f"{factory}:small", images, recipe=recipe, export=ExportOptions(input_shape=(1, 3, 32, 32))).save(
                path
            )
            for names in (False, True) if recipe == "int4" else (False,):
                picture = options.out / f"netron-{recipe}{'-names' * names}.png"
                photograph(browser, path, picture, names=names)
                print(f"Wrote {picture} ({picture.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
