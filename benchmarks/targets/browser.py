"""Headless Chromium on a page that is served to it, which posts one JSON object as its result.

The server listens on this machine only, until the page is done, and serves files by name.
"""

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from benchmarks.shared_data import MissingData

__all__ = ["open_in_browser", "why_no_page"]

_TIMEOUT = 120.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_DISTRIBUTION = Path("node_modules") / "onnxruntime-web" / "dist"


class _Handler(BaseHTTPRequestHandler):
    """Serves `files` by path, and puts posted results into `results`."""

    def __init__(self, files: Mapping[str, Path], results: "Queue[dict[str, Any]]", *arguments: Any) -> None:
        self.files, self.results = files, results
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send one of the files."""
        file = self.files.get(self.path) or self._runtime()
        if file is None:
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        """Receive the page's result."""
        self.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""

    def _runtime(self) -> Path | None:
        folder, name = self.files["/ort/"], self.path.removeprefix("/ort/")
        return (
            folder / name
            if self.path.startswith("/ort/") and name in {file.name for file in folder.iterdir()}
            else None
        )


def why_no_page(runtime: Path) -> str:
    """Return why no page can run a model here, or nothing if one can.

    Args:
        runtime: npm folder with onnxruntime-web.
    """
    if not any(map(shutil.which, _BROWSERS)):
        return f"none of {', '.join(_BROWSERS)} is on the path; install Chromium"
    if not (runtime / _DISTRIBUTION).is_dir():
        return f"no onnxruntime-web in {runtime}; run convert-onnx targets setup web"
    return ""


def open_in_browser(files: Mapping[str, Path], runtime: Path, screenshot: Path | None = None) -> dict[str, Any]:
    """Return what a page posts.

    Args:
        files: Files by path: "/" is the page. Those of onnxruntime-web are in "/ort/".
        runtime: npm folder with onnxruntime-web.
        screenshot: File for a picture of the page, or None.

    Raises:
        MissingData: There is no browser, or no onnxruntime-web.
        RuntimeError: The page reports an error, or does not answer in time.
    """
    missing = why_no_page(runtime)
    if missing:
        raise MissingData(missing)
    browser = next(filter(None, map(shutil.which, _BROWSERS)))
    served = {**files, "/ort/": runtime / _DISTRIBUTION}
    results: Queue[dict[str, Any]] = Queue()
    with (
        tempfile.TemporaryDirectory(prefix="convert-onnx-bench-", ignore_cleanup_errors=True) as folder,
        ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, served, results)) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        answer = _browse(browser, address, Path(folder), results, screenshot)
        server.shutdown()
    if "error" in answer:
        raise RuntimeError(f"the page does not run the model: {answer['error']}")
    return answer


def _browse(
    browser: str, address: str, folder: Path, results: "Queue[dict[str, Any]]", screenshot: Path | None
) -> dict[str, Any]:
    """Open the page and return its answer. With a screenshot, the browser waits until the page is done."""
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=800,700", "--no-first-run", "--disable-background-networking"]
    if screenshot is not None:
        command += [f"--screenshot={screenshot}", "--virtual-time-budget=60000"]
    else:
        command += ["--remote-debugging-port=0"]
    with subprocess.Popen([*command, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            answer = results.get(timeout=_TIMEOUT)
            if screenshot is not None:
                process.wait(timeout=_TIMEOUT)
        except Empty:
            answer = {"error": f"no answer in {_TIMEOUT:.0f} s"}
        finally:
            process.terminate()
    return answer
