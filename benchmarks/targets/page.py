"""A page in headless Chromium that classifies an image with a quantized file, compared with the CPU's result.

The server listens on this machine only, until the page is done, and serves five files by name.
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

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photographs import calibration_crops, evaluation_crops
from benchmarks.shared_data import EFFICIENTNET, MissingData
from benchmarks.targets.measure import FOLDER
from converter import convert
from converter.data.preprocess import Preprocess
from converter.runtime.session import open_session

__all__ = ["classify_in_browser", "main"]

_TIMEOUT = 120.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


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


def classify_in_browser(
    model: Path, image: NDArray[np.uint8], preprocess: Preprocess, runtime: Path, screenshot: Path | None = None
) -> NDArray[np.float32]:
    """Return the scores that the page computes for an image.

    Args:
        model: The model file.
        image: Image [h, w, 3].
        preprocess: Preprocessing of the image.
        runtime: npm folder with onnxruntime-web.
        screenshot: File for a picture of the page, or None.

    Raises:
        MissingData: There is no browser, or no onnxruntime-web.
        RuntimeError: The page reports an error, or does not answer in time.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    distribution = runtime / "node_modules" / "onnxruntime-web" / "dist"
    if browser is None:
        raise MissingData(f"none of {', '.join(_BROWSERS)} is on the path; install Chromium")
    if not distribution.is_dir():
        raise MissingData(f"no onnxruntime-web in {runtime}; run convert-onnx targets setup web")
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as name:
        folder = Path(name)
        Image.fromarray(image).save(folder / "image.png")
        mean, std = ((values * 3)[:3] for values in (preprocess.mean or (0.0,), preprocess.std or (1.0,)))
        (folder / "job.json").write_text(json.dumps({"mean": mean, "std": std}), encoding="utf-8")
        files = {
            "/": Path(__file__).with_name("page.html"),
            "/model.onnx": model,
            "/image.png": folder / "image.png",
            "/job.json": folder / "job.json",
            "/ort/": distribution,
        }
        results: Queue[dict[str, Any]] = Queue()
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, files, results)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            answer = _browse(browser, address, folder, results, screenshot)
            server.shutdown()
    if "error" in answer:
        raise RuntimeError(f"the page does not run the model: {answer['error']}")
    return np.asarray(answer["scores"], np.float32)


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


def main() -> int:
    """Run EfficientNet-Lite0 as int8 on one photograph. The result is 1 if the page's class differs from the CPU's."""
    preprocess = EFFICIENTNET.preprocess
    model = EFFICIENTNET.model()
    picture = evaluation_crops(1)[0]
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        path = Path(folder) / "model.onnx"
        convert(model, calibration_crops(32), recipe="int8", target="web", preprocess=preprocess).save(path)
        shot = FOLDER / "page.png"
        scores = classify_in_browser(path, picture, preprocess, FOLDER / "web", shot)
        session = open_session(path)
        pixels = (picture.astype(np.float32) / 255 - preprocess.mean) / preprocess.std
        tensor = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # [1, c, h, w]
        expected = session.run(None, {session.get_inputs()[0].name: tensor})[0][0]
    difference = float(np.abs(scores - expected).max())
    print(f"page: class {scores.argmax()}, CPU: class {expected.argmax()}, largest difference {difference:.2g}; {shot}")
    return int(scores.argmax() != expected.argmax())
