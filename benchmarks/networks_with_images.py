"""Networks with weights that somebody trained, each with images that may calibrate and others that measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from benchmarks.low_bits import image_halves
from benchmarks.nanodet import PREPROCESS as NANODET_PIXELS
from benchmarks.nanodet import average_precision
from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56, ROAD_SIGNS, Pretrained, shared_file
from benchmarks.transformers.road_signs import vit
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.model_io.load import read_onnx

__all__ = ["NETWORKS", "Network"]


@dataclass(frozen=True)
class Network:
    """A network and its images.

    Attributes:
        model: Exports it.
        images: Gives the images that may calibrate and those that measure.
        calibrate: Calibration images of each set.
        measure: Most images that measure.
        metric: What `evaluate` measures, against the float model's own outputs. None: top-1, by labels.
    """

    model: Callable[[], onnx.ModelProto]
    images: Callable[[onnx.ModelProto], tuple[Dataset, Dataset]]
    calibrate: int
    measure: int
    metric: Any = None


def _nanodet_images(model: onnx.ModelProto) -> tuple[Dataset, Dataset]:
    """Return the images that calibrate and 64 others. Their boxes are left out."""
    inputs = input_specs(model)
    with np.load(shared_file("detection/coco_even.npz")) as arrays:
        others = arrays["x"]
    calibration = shared_file("detection/coco_calibration.npz")
    return load_data(calibration, inputs, preprocess=NANODET_PIXELS), load_data(
        others, inputs, preprocess=NANODET_PIXELS
    )


def _pretrained(of: Pretrained, available: int, calibrate: int, measure: int) -> Network:
    return Network(of.model, lambda model: of.images(model, available), calibrate, measure)


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "ResNet-20": _pretrained(RESNET20, 1024, 512, 5000),
        "ResNet-56": _pretrained(RESNET56, 1024, 512, 5000),
        "ResNet-18, road signs": _pretrained(ROAD_SIGNS, 2048, 512, 6315),
        "ViT, road signs": Network(vit, lambda model: ROAD_SIGNS.images(model, 2048), 512, 6315),
        "EfficientNet-Lite0": Network(EFFICIENTNET.model, image_halves, 384, 500),
        "NanoDet": Network(
            lambda: read_onnx(shared_file("detection/nanodet_m.onnx")), _nanodet_images, 96, 64, average_precision
        ),
    }
)
