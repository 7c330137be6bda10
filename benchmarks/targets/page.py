"""A page in headless Chromium that classifies an image with a quantized file, compared with the CPU's result."""

import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photographs import calibration_crops, evaluation_crops
from benchmarks.shared_data import EFFICIENTNET
from benchmarks.targets.browser import open_in_browser
from benchmarks.targets.measure import FOLDER
from converter import convert
from converter.data.preprocess import Preprocess
from converter.runtime.session import open_session

__all__ = ["classify_in_browser", "main"]


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
        }
        answer = open_in_browser(files, runtime, screenshot)
    return np.asarray(answer["scores"], np.float32)


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
