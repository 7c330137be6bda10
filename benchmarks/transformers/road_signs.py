"""The Vision Transformers that `python -m benchmarks.road_sign_vit` trains, with road signs for them."""

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.shared_data import ROAD_SIGNS, ROOT, VIT_ROAD_SIGNS_WEIGHTS, MissingData
from converter.data.dataset import Dataset
from converter.model_io.open import ExportOptions, open_model

__all__ = ["road_sign_images", "vit"]

_SIDE = 48


def vit(name: str = "vit") -> onnx.ModelProto:
    """Export a float model. Its input is ``input`` [n, 3, 48, 48].

    Args:
        name: A name in `VIT_ROAD_SIGNS_WEIGHTS`.

    Raises:
        MissingData: It was not trained yet.
    """
    weights, projected = VIT_ROAD_SIGNS_WEIGHTS[name], name == "vit-projected"
    if not (ROOT / weights).exists():
        command = f"python -m benchmarks.road_sign_vit{' --projected' if projected else ''}"
        raise MissingData(f"no {weights}; run `{command}`, which takes minutes")
    export = ExportOptions(weights=ROOT / weights, input_shape=(1, 3, _SIDE, _SIDE))
    factory = "projected_hybrid" if projected else "hybrid"
    return open_model(f"{ROOT}/benchmarks/road_sign_vit.py:{factory}", export=export)


def road_sign_images(
    model: onnx.ModelProto, calibrate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return normalized images to calibrate on and to measure on, [n, 3, 48, 48], and the classes of the latter [n]."""
    calibration, evaluation = ROAD_SIGNS.images(model, calibrate)
    if evaluation.labels is None:
        raise MissingData(f"{ROAD_SIGNS.evaluation} has no labels")
    return _pixels(calibration), _pixels(evaluation), evaluation.labels


def _pixels(data: Dataset) -> NDArray[np.float32]:
    return np.concatenate([batch.real(batch.feeds["input"]) for batch in data.batches(256)])
