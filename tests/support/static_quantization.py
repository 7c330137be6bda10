"""The file of onnxruntime's own quantize_static, to compare with."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

__all__ = ["static_file"]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Reads one sample after the other."""

    def __init__(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.left = iter(feeds)

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        return next(self.left, None)


def static_file(model: onnx.ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], folder: Path) -> onnx.ModelProto:
    """Return its model: QDQ, uint8 activations, int8 weights with a scale per channel."""
    source, prepared, written = (folder / f"{name}.onnx" for name in ("source", "prepared", "static"))
    onnx.save(model, source)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it warns about preprocessing that is done here
    try:
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(written),
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().setLevel(level)
    return onnx.load(written)
