"""AMD Quark: U8S8 per channel, ranges by percentile. It is also asked for 4-bit weights, which it refuses.

Activations are unsigned. With the signed activations of the preset A8W8, onnxruntime runs 10 of ResNet-20's 19
convolutions and all its additions in float.

python quark_int8.py FLOAT.onnx CALIBRATION.npz OUT.onnx W8A8|W4A8
"""

import sys
import time

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType
from quark.onnx import (
    Config,
    Int8Spec,
    ModelQuantizer,
    QConfig,
    QLayerConfig,
    QuantGranularity,
    QuantizationConfig,
    UInt8Spec,
)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Reads batches of 32 images."""

    def __init__(self, path: str) -> None:
        data = np.load(path)
        name, images = str(data["name"]), data["x"]
        self.batches = iter([{name: images[start : start + 32]} for start in range(0, len(images), 32)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self.batches, None)


def configuration(form: str) -> Config | QConfig:
    """Return the configuration. QConfig has no 4-bit spec, but the older Config takes any type of onnxruntime."""
    if form == "W4A8":
        return Config(QuantizationConfig(weight_type=QuantType.QInt4, per_channel=True))
    weight = Int8Spec(quant_granularity=QuantGranularity.Channel)
    return QConfig(QLayerConfig(input_tensors=UInt8Spec(), weight=weight))


def main(model: str, data: str, out: str, form: str) -> None:
    """Quantize the model and print the seconds."""
    started, used = time.perf_counter(), time.process_time()
    ModelQuantizer(configuration(form)).quantize_model(model, out, Reader(data))
    print(time.perf_counter() - started, time.process_time() - used)


main(*sys.argv[1:])
