"""Comparison of an exported model with its torch module, on random inputs.

Two correct runtimes differ by about 1e-6 of the largest output. Some modules amplify that. A deep network with random
weights, on noise that it was not made for, may turn the last digit of its input into another output. So where a model
differs by more, the module itself is run on inputs that are moved by 1e-6, and the model may differ by ten times what
that changes. Where this is too much to tell a wrong model, inputs of another kind are used.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from converter.model_io.cpu_session import cpu_session
from passes.errors import ExportError, first_line

__all__ = ["PARITY_BATCH", "Parity", "measure_parity"]

_LOG = logging.getLogger(__name__)

PARITY_BATCH = 2
_TOLERANCE = 1e-4  # of max|output|: two correct float32 runtimes differ by about 1e-6
_MOVE = 1e-6  # of every input value
_AMPLIFIED = 10  # a runtime rounds in every layer, and moved inputs differ in the first one only
_LARGEST = 1e-2  # a model that may differ by more cannot be told from a wrong one
_COARSE = 8  # pixels between the random values of smooth images

Images = NDArray[np.float32]
Outputs = list[NDArray[Any]]
Run = Callable[[Images], Outputs]


@dataclass(frozen=True)
class Parity:
    """Difference between the outputs of onnxruntime and of torch, on a random batch.

    Attributes:
        difference: Largest |onnxruntime - torch| over all outputs.
        magnitude: Largest |torch| over all outputs.
        batch: Images in the batch.
        kind: What the images are: "random", or "smooth random" or "faint random" if the module amplifies these less.
    """

    difference: float
    magnitude: float
    batch: int = PARITY_BATCH
    kind: str = "random"

    @property
    def relative(self) -> float:
        """The difference as a fraction of the largest output. 0 if both are 0."""
        return self.difference / self.magnitude if self.magnitude else self.difference

    def __str__(self) -> str:
        return f"max |onnxruntime - torch| = {self.relative:.1e} of max |output| on {self.batch} {self.kind} images"


def measure_parity(model: onnx.ModelProto, torch: Run, images: Images, expected: Outputs) -> Parity:
    """Compare the outputs of an exported model in onnxruntime with those of torch.

    Args:
        model: The exported model.
        torch: Runs the torch module.
        images: Inputs ``[2, ...]``.
        expected: Outputs of torch on them.

    Raises:
        ExportError: onnxruntime fails, or its outputs differ from torch's by more than the module's own sensitivity
            explains, or the module is so sensitive that nothing can be said.
    """
    session = _session(model)
    parity = _compared(session, images, expected, "random")
    if parity.relative <= _TOLERANCE:
        return parity
    if any(not np.array_equal(a, b) for a, b in zip(torch(images), expected, strict=True)):
        raise ExportError(
            f"the exported model differs from torch: {parity}; forward() itself gives two results for one input; "
            "make it deterministic"
        )
    for kind, given in _kinds(images):  # noqa: B007  (read after the loop)
        moved = _sensitivity(torch, given)
        if moved * _AMPLIFIED <= _LARGEST:
            break
    else:
        raise ExportError(
            f"the export cannot be checked: {parity}, and the outputs of torch itself move by {moved:.1e} when "
            f"its inputs move by {_MOVE:.0e}; give trained weights, or export the model yourself and give the file"
        )
    parity = parity if kind == "random" else _compared(session, given, torch(given), kind)
    tolerance = max(_TOLERANCE, moved * _AMPLIFIED)
    if not parity.relative <= tolerance:
        raise ExportError(
            f"the exported model differs from torch: {parity}, more than {tolerance:.0e} (the outputs of torch itself "
            f"move by {moved:.0e} when inputs move by {_MOVE:.0e}); "
            "forward() probably computes something once that depends on its input"
        )
    _LOG.warning(
        f"the module is sensitive: its outputs move by {moved:.1e} when {kind} inputs move by {_MOVE:.0e}; "
        f"the export was checked on them: {parity}"
    )
    return parity


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return cpu_session(model, options)
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error


def _compared(session: ort.InferenceSession, images: Images, expected: Outputs, kind: str) -> Parity:
    try:
        outputs: Outputs = session.run(None, {"input": images})
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error
    for output, a, b in zip(session.get_outputs(), outputs, expected, strict=True):
        if a.shape != b.shape:
            raise ExportError(
                f"{output.name} has shape {list(a.shape)} in onnxruntime, {list(b.shape)} in torch for a batch of "
                f"{len(images)}; forward() must not depend on a fixed batch size"
            )
    return Parity(*_difference(outputs, expected), kind=kind)


def _difference(outputs: Sequence[NDArray[Any]], expected: Outputs) -> tuple[float, float]:
    """The largest difference and the largest expected value, over all outputs."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(outputs, expected, strict=True) if a.size]
    difference = float(np.max([0.0, *(np.max(np.abs(a - b)) for a, b in pairs)]))
    return difference, float(np.max([0.0, *(np.max(np.abs(b)) for _, b in pairs)]))


def _sensitivity(torch: Run, images: Images) -> float:
    """By how much of the largest the outputs of torch move when every input value moves by `_MOVE` of itself."""
    draw = np.random.default_rng(0)
    expected, moved = torch(images), 0.0
    for _ in range(2):
        nearby = images * (1 + _MOVE * draw.choice(np.array([-1, 1], np.float32), images.shape))
        moved = max(moved, Parity(*_difference(torch(nearby.astype(np.float32)), expected)).relative)
    return moved


def _kinds(images: Images) -> Iterator[tuple[str, Images]]:
    """Yield inputs of several kinds: noise, noise without fine detail as photographs are, noise of a tenth."""
    yield "random", images
    if images.ndim > 2:
        yield "smooth random", _smooth(images)
    yield "faint random", images / np.float32(10)


def _smooth(images: Images) -> Images:
    """Every eighth value along each axis but the first two, with straight lines between them."""
    for axis in range(2, images.ndim):
        places = np.arange(images.shape[axis])
        kept = places[::_COARSE]
        images = np.apply_along_axis(lambda line: np.interp(places, kept, line[kept]), axis, images)  # noqa: B023
    return np.ascontiguousarray(images, np.float32)
