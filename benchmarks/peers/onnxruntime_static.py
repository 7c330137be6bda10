"""onnxruntime's quantize_static: U8S8 per channel, or the same with 4-bit weights.

python onnxruntime_static.py FLOAT.onnx CALIBRATION.npz OUT.onnx W8A8|W4A8
"""

import sys
import time

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Reads batches of one image."""

    def __init__(self, path: str) -> None:
        data = np.load(path)
        name = str(data["name"])
        self.batches = iter([{name: image[None]} for image in data["x"]])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self.batches, None)


def main(model: str, data: str, out: str, form: str) -> None:
    """Quantize the model and print the seconds."""
    started, used = time.perf_counter(), time.process_time()
    prepared = f"{out}.prepared.onnx"
    quant_pre_process(model, prepared)
    quantize_static(
        prepared,
        out,
        Reader(data),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt4 if form == "W4A8" else QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    print(time.perf_counter() - started, time.process_time() - used)


main(*sys.argv[1:])
