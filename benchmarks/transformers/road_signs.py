"""The Vision Transformer that `python -m benchmarks.road_sign_vit` trains, with road signs for it."""

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.shared_data import ROAD_SIGNS, ROOT, VIT_ROAD_SIGNS_WEIGHTS, MissingData
from converter.data.dataset import Dataset
from converter.model_io.open import ExportOptions, open_model

__all__ = ["road_sign_images", "vit"]

_SIDE = 48


def vit() -> onnx.ModelProto:
    """Export the float model. Its input is ``input`` [n, 3, 48, 48].

    Raises:
        MissingData: It was not trained yet.
    """
    weights = ROOT / VIT_ROAD_SIGNS_WEIGHTS
    if not weights.exists():
        raise MissingData(f"no {VIT_ROAD_SIGNS_WEIGHTS}; run `python -m benchmarks.road_sign_vit`, which takes minutes")
    export = ExportOptions(weights=weights, input_shape=(1, 3, _SIDE, _SIDE))
    return open_model(f"{ROOT}/benchmarks/road_sign_vit.py:hybrid", export=export)


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
