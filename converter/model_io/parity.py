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

Feeds = dict[str, NDArray[Any]]
Outputs = list[NDArray[Any]]
Run = Callable[[Feeds], Outputs]


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


def measure_parity(
    model: onnx.ModelProto, torch: Run, feeds: Feeds, expected: Outputs, tolerance: float | None = None
) -> Parity:
    """Compare the outputs of an exported model in onnxruntime with those of torch.

    Args:
        model: The exported model.
        torch: Runs the torch module.
        feeds: Inputs ``[2, ...]`` by name.
        expected: Outputs of torch on them.
        tolerance: Largest `Parity.relative`. The default follows the module's own sensitivity.

    Raises:
        ExportError: onnxruntime fails, or its outputs differ from torch's by more than the module's own sensitivity
            explains, or the module is so sensitive that nothing can be said.
    """
    session = _session(model)
    parity = _compared(session, feeds, expected, "random")
    if parity.relative <= (_TOLERANCE if tolerance is None else tolerance):
        return parity
    if any(not np.array_equal(a, b) for a, b in zip(torch(feeds), expected, strict=True)):
        raise ExportError(
            f"the exported model differs from torch: {parity}; forward() itself gives two results for one input; "
            "make it deterministic"
        )
    if tolerance is not None:
        raise ExportError(f"the exported model differs from torch: {parity}, more than `tolerance={tolerance:g}`")
    for kind, given in _kinds(feeds):  # noqa: B007  (read after the loop)
        moved = _sensitivity(torch, given)
        if moved * _AMPLIFIED <= _LARGEST:
            break
    else:
        raise ExportError(
            f"the export cannot be checked: {parity}, and the outputs of torch itself move by {moved:.1e} when "
            f"its inputs move by {_MOVE:.0e}; give trained weights, or `tolerance=` if such a difference does no harm"
        )
    parity = parity if kind == "random" else _compared(session, given, torch(given), kind)
    most = max(_TOLERANCE, moved * _AMPLIFIED)
    if not parity.relative <= most:
        raise ExportError(
            f"the exported model differs from torch: {parity}, more than {most:.0e} (the outputs of torch itself "
            f"move by {moved:.0e} when inputs move by {_MOVE:.0e}); look for values that forward() computes in Python "
            "from its input, or give `tolerance=` if such a difference does no harm"
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


def _compared(session: ort.InferenceSession, feeds: Feeds, expected: Outputs, kind: str) -> Parity:
    read = {value.name for value in session.get_inputs()}
    try:
        outputs: Outputs = session.run(None, {name: values for name, values in feeds.items() if name in read})
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error
    for output, a, b in zip(session.get_outputs(), outputs, expected, strict=True):
        if a.shape != b.shape:
            raise ExportError(
                f"{output.name} has shape {list(a.shape)} in onnxruntime, {list(b.shape)} in torch for a batch of "
                f"{PARITY_BATCH}; forward() must not depend on a fixed batch size"
            )
    return Parity(*_difference(outputs, expected), kind=kind)


def _difference(outputs: Sequence[NDArray[Any]], expected: Outputs) -> tuple[float, float]:
    """The largest difference and the largest expected value, over all outputs."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(outputs, expected, strict=True) if a.size]
    difference = float(np.max([0.0, *(np.max(np.abs(a - b)) for a, b in pairs)]))
    return difference, float(np.max([0.0, *(np.max(np.abs(b)) for _, b in pairs)]))


def _sensitivity(torch: Run, feeds: Feeds) -> float:
    """By how much of the largest the outputs of torch move when every float input value moves by `_MOVE` of itself."""
    draw = np.random.default_rng(0)
    expected, moved = torch(feeds), 0.0

    def nearby(values: NDArray[Any]) -> NDArray[Any]:
        change = 1 + _MOVE * draw.choice(np.array([-1, 1], np.float32), values.shape)
        return np.asarray(values * change, np.float32)

    for _ in range(2):
        moved = max(moved, Parity(*_difference(torch(_floats(feeds, nearby)), expected)).relative)
    return moved


def _floats(feeds: Feeds, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Feeds:
    """Change the inputs that are floats."""
    return {name: change(values) if values.dtype.kind == "f" else values for name, values in feeds.items()}


def _kinds(feeds: Feeds) -> Iterator[tuple[str, Feeds]]:
    """Yield inputs of several kinds: noise, noise without fine detail as photographs are, noise of a tenth."""
    yield "random", feeds
    if any(values.ndim > 2 for values in feeds.values()):
        yield "smooth random", _floats(feeds, _smooth)
    yield "faint random", _floats(feeds, lambda values: np.asarray(values / np.float32(10)))


def _smooth(values: NDArray[Any]) -> NDArray[Any]:
    """Every eighth value along each axis but the first two, with straight lines between them."""
    for axis in range(2, values.ndim):
        places = np.arange(values.shape[axis])
        kept = places[::_COARSE]
        values = np.apply_along_axis(lambda line: np.interp(places, kept, line[kept]), axis, values)  # noqa: B023
    return np.ascontiguousarray(values, np.float32)
