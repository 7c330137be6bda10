"""Files of onnxruntime's own quantize_static, in every form that it has for 8 bits per channel."""

import logging
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["errors_only", "static_files"]

_FORMS = (("U8S8", "QDQ"), ("U8S8", "QOperator"), ("S8S8", "QDQ"), ("S8S8", "QOperator"))


@contextmanager
def errors_only() -> Iterator[None]:
    """Hide warnings of all packages."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)


def static_files(model: Path, images: NDArray[np.float32], folder: Path) -> dict[str, Path]:
    """Write U8S8 and S8S8, each as QDQ and as integer operators, calibrated by minimum and maximum on ``images``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Reads one image after the other."""

        def __init__(self) -> None:
            self.left: Iterator[dict[str, NDArray[np.float32]]] = iter([{"input": image[None]} for image in images])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            """Return the next image."""
            return next(self.left, None)

    with errors_only():  # it warns about preprocessing that is done below
        prepared = folder / "prepared.onnx"
        source = str(model.resolve())
        with chdir(folder):  # where it fails, it leaves files in the current folder
            try:
                quant_pre_process(source, prepared.name)
            except Exception as error:
                if "Incomplete symbolic shape inference" not in str(error):
                    raise
                quant_pre_process(source, prepared.name, skip_symbolic_shape=True)  # as its message advises
        written = {}
        for types, form in _FORMS:
            path = folder / f"static-{types}-{form}.onnx"
            activations = QuantType.QUInt8 if types == "U8S8" else QuantType.QInt8
            quantize_static(
                str(prepared),
                str(path),
                Reader(),
                quant_format=QuantFormat[form],
                per_channel=True,
                activation_type=activations,
                weight_type=QuantType.QInt8,
            )
            written[f"quantize_static {types} {form}"] = path
        return written
