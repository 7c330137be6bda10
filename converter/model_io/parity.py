"""Comparison of an exported model with its torch module, on random inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from converter.model_io.cpu_session import cpu_session
from passes.errors import ExportError, first_line

__all__ = ["PARITY_BATCH", "Parity", "measure_parity"]

PARITY_BATCH = 2
_TOLERANCE = 1e-4  # of max|output|: two correct float32 runtimes differ by about 1e-6


@dataclass(frozen=True)
class Parity:
    """Difference between the outputs of onnxruntime and of torch, on a random batch.

    Attributes:
        difference: Largest |onnxruntime - torch| over all outputs.
        magnitude: Largest |torch| over all outputs.
        batch: Images in the batch.
    """

    difference: float
    magnitude: float
    batch: int = PARITY_BATCH

    @property
    def relative(self) -> float:
        """The difference as a fraction of the largest output. 0 if both are 0."""
        return self.difference / self.magnitude if self.magnitude else self.difference

    def __str__(self) -> str:
        return f"max |onnxruntime - torch| = {self.relative:.1e} of max |output| on {self.batch} random images"


def measure_parity(
    model: onnx.ModelProto, images: np.ndarray[Any, Any], expected: list[np.ndarray[Any, Any]]
) -> Parity:
    """Compare the outputs of an exported model in onnxruntime with those of torch.

    Args:
        model: The exported model.
        images: Inputs ``[2, ...]``.
        expected: Outputs of torch.

    Raises:
        ExportError: onnxruntime fails, or its outputs differ from torch's.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = cpu_session(model, options)
        outputs = session.run(None, {"input": images})
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error
    for name, a, b in zip([o.name for o in model.graph.output], outputs, expected, strict=True):
        if a.shape != b.shape:
            raise ExportError(
                f"{name} has shape {list(a.shape)} in onnxruntime, {list(b.shape)} in torch for a batch of "
                f"{len(images)}; forward() must not depend on a fixed batch size"
            )
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(outputs, expected, strict=True) if a.size]
    parity = Parity(
        difference=float(np.max([0.0, *(np.max(np.abs(a - b)) for a, b in pairs)])),
        magnitude=float(np.max([0.0, *(np.max(np.abs(b)) for _, b in pairs)])),
    )
    if not parity.relative <= _TOLERANCE:
        raise ExportError(
            f"the exported model differs from torch: {parity}, more than {_TOLERANCE:.0e}; "
            f"forward() probably computes something once that depends on its input"
        )
    return parity
