"""Files of onnxruntime's own quantizers for a transformer, with weights per channel.

`quantize_static` rounds what it rounds by default, the products of attention included, or only MatMul and Gemm.
`quantize_dynamic` and `MatMulNBitsQuantizer` (blocks of 32, int8 sums) need no data.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from benchmarks.static_quantization import errors_only

__all__ = ["onnxruntime_files"]

_LAYERS = ["MatMul", "Gemm"]


def onnxruntime_files(model: Path, samples: Mapping[str, NDArray[Any]], folder: Path) -> dict[str, Path]:
    """Write one file for each quantizer, calibrated by minimum and maximum on the rows of ``samples``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Reads one row after the other."""

        def __init__(self) -> None:
            count = len(next(iter(samples.values())))
            rows = ({name: values[row : row + 1] for name, values in samples.items()} for row in range(count))
            self.left: Iterator[dict[str, NDArray[Any]]] = iter(rows)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Return the next row."""
            return next(self.left, None)

    with errors_only():  # it warns about preprocessing that is done below
        bare, prepared = folder / "bare.onnx", folder / "prepared.onnx"
        proto = onnx.load(model)
        del proto.graph.value_info[:]  # the preprocessing transposes weights, and keeps the shapes that they had
        onnx.save(proto, bare)
        quant_pre_process(str(bare), str(prepared), skip_symbolic_shape=True)
        written = {name: folder / f"{name.replace(' ', '-')}.onnx" for name in _FORMS}
        types = {"weight_type": QuantType.QInt8, "per_channel": True}
        for name, only in zip(_FORMS[:2], (None, ["Conv", *_LAYERS]), strict=True):
            forms = {"activation_type": QuantType.QUInt8, "op_types_to_quantize": only, **types}
            quantize_static(str(prepared), str(written[name]), Reader(), **forms)
        quantize_dynamic(str(prepared), str(written[_FORMS[2]]), op_types_to_quantize=_LAYERS, **types)
        blocks = MatMulNBitsQuantizer(onnx.load(prepared), block_size=32, is_symmetric=True, accuracy_level=4)
        blocks.process()
        blocks.model.save_model_to_file(str(written[_FORMS[3]]), False)
        return written


_FORMS = ("quantize_static", "quantize_static, layers only", "quantize_dynamic", "MatMulNBitsQuantizer")
