"""Comparison of an exported model with its torch module: on samples of the user's data, or on random inputs.

Two correct runtimes differ by about 1e-6 of the largest output. Some modules amplify that, the more the deeper they
are. A deep network with random weights, on noise that it was not made for, may turn the last digit of its input into
another output. So where a model differs by more, the module itself is run on inputs that are moved by 1e-6, and the
model may differ by ten times what that changes. If all inputs are integers, the weights are moved instead. Where this
is too much to tell a wrong model, inputs of another kind are used.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from converter.model_io.cpu_session import cpu_session
from passes.errors import ExportError, first_line

__all__ = ["PARITY_BATCH", "RANDOM", "Network", "Parity", "measure_parity"]

_LOG = logging.getLogger(__name__)

PARITY_BATCH = 2
RANDOM = "random samples"
_TOLERANCE = 1e-4  # of max|output|: two correct float32 runtimes differ by about 1e-6
_MOVE = 1e-6  # of every input value
_AMPLIFIED = 10  # a runtime rounds in every layer, and moved inputs differ in the first one only
_LARGEST = 1e-2  # a model that may differ by more cannot be told from a wrong one
_COARSE = 8  # pixels between the random values of smooth images

Feeds = dict[str, NDArray[Any]]
Outputs = list[NDArray[Any]]


class Network(Protocol):
    """A torch module as a function of arrays."""

    def __call__(self, feeds: Feeds, moved: float = 0, seed: int = 0, /) -> Outputs:
        """Return the outputs. Every weight is moved by a part of itself, in directions that the seed draws."""


@dataclass(frozen=True)
class Parity:
    """Difference between the outputs of onnxruntime and of torch, on a few samples.

    Attributes:
        difference: Largest |onnxruntime - torch| over all outputs.
        magnitude: Largest |torch| over all outputs.
        batch: Number of samples.
        kind: What they are: "random samples", or "smooth random samples" or "faint random samples" if the module
            amplifies these less, or "images of FOLDER" or "samples of FILE" if there were data.
    """

    difference: float
    magnitude: float
    batch: int = PARITY_BATCH
    kind: str = RANDOM

    @property
    def relative(self) -> float:
        """The difference as a fraction of the largest output. 0 if both are 0."""
        return self.difference / self.magnitude if self.magnitude else self.difference

    def __str__(self) -> str:
        return f"max |onnxruntime - torch| = {self.relative:.1e} of max |output| on {self.batch} {self.kind}"


def measure_parity(
    model: onnx.ModelProto,
    torch: Network,
    feeds: Feeds,
    expected: Outputs,
    tolerance: float | None = None,
    samples: Sequence[Feeds] = (),
    kind: str = RANDOM,
) -> Parity:
    """Compare the outputs of an exported model in onnxruntime with those of torch.

    Args:
        model: The exported model.
        torch: The torch module.
        feeds: Random inputs ``[2, ...]`` by name. They find a batch size that is written as a number.
        expected: Outputs of torch on them.
        tolerance: Largest `Parity.relative`. The default follows the module's own sensitivity.
        samples: Inputs of a few runs on the user's data. They judge. Without them, the random inputs do.
        kind: What the samples are.

    Raises:
        ExportError: onnxruntime fails, an output of torch has NaN or Inf, or onnxruntime's outputs differ from
            torch's by more than the module's own sensitivity explains, or the module is so sensitive that nothing can
            be said.
    """
    session = _session(model)
    if samples:
        _outputs(session, feeds, expected)
    runs = list(samples) or [feeds]
    expected_of = [torch(each) for each in samples] or [expected]
    parity = _compared(session, runs, expected_of, kind)
    if parity.relative <= (_TOLERANCE if tolerance is None else tolerance):
        return parity
    again = zip(runs, expected_of, strict=True)
    if any(not np.array_equal(a, b) for each, first in again for a, b in zip(torch(each), first, strict=True)):
        raise ExportError(
            f"the exported model differs from torch: {parity}; forward() itself gives two results for one input; "
            "make it deterministic"
        )
    if tolerance is not None:
        raise ExportError(f"the exported model differs from torch: {parity}, more than `tolerance={tolerance:g}`")
    what = "inputs" if _has_floats(feeds) else "weights"
    for tried, given in _kinds(feeds, samples, kind):  # noqa: B007  (read after the loop)
        moved = max(_sensitivity(torch, each) for each in given)
        if moved * _AMPLIFIED <= _LARGEST:
            break
    else:
        raise ExportError(
            f"the export cannot be checked: {parity}, and the outputs of torch itself move by {moved:.1e} when "
            f"its {what} move by {_MOVE:.0e}; give trained weights, or `tolerance=` if such a difference does no harm"
        )
    parity = parity if tried == kind else _compared(session, given, [torch(each) for each in given], tried)
    most = max(_TOLERANCE, moved * _AMPLIFIED)
    if not parity.relative <= most:
        raise ExportError(
            f"the exported model differs from torch: {parity}, more than {most:.0e} (the outputs of torch itself "
            f"move by {moved:.0e} when its {what} move by {_MOVE:.0e}); look for values that forward() computes in "
            "Python from its input, or give `tolerance=` if such a difference does no harm"
        )
    _LOG.warning(
        f"the module is sensitive: its outputs move by {moved:.1e} when its {what} move by {_MOVE:.0e}; "
        f"the export was checked with that in mind: {parity}"
    )
    return parity


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return cpu_session(model, options)
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error


def _outputs(session: ort.InferenceSession, feeds: Feeds, expected: Outputs) -> Outputs:
    """Run the exported model, and require the shapes of torch's outputs."""
    read = {value.name for value in session.get_inputs()}
    try:
        outputs: Outputs = session.run(None, {name: values for name, values in feeds.items() if name in read})
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise ExportError(f"onnxruntime cannot run the exported model: {first_line(error)}") from error
    for output, a, b in zip(session.get_outputs(), outputs, expected, strict=True):
        if a.shape != b.shape:
            raise ExportError(
                f"{output.name} has shape {list(a.shape)} in onnxruntime, {list(b.shape)} in torch for a batch of "
                f"{_rows(feeds)}; forward() must not depend on a fixed batch size"
            )
    return outputs


def _compared(session: ort.InferenceSession, runs: Sequence[Feeds], expected: Sequence[Outputs], kind: str) -> Parity:
    count = sum(map(_rows, runs))
    if not all(np.isfinite(value).all() for outputs in expected for value in outputs):
        raise ExportError(f"the module returns NaN or Inf for {count} {kind}; check its weights")
    pairs = [_difference(_outputs(session, feeds, each), each) for feeds, each in zip(runs, expected, strict=True)]
    differences, magnitudes = np.array(pairs).T
    return Parity(float(differences.max()), float(magnitudes.max()), count, kind)


def _rows(feeds: Feeds) -> int:
    """Return the number of samples in a run."""
    return next((len(values) for values in feeds.values() if values.ndim), 1)


def _difference(outputs: Sequence[NDArray[Any]], expected: Outputs) -> tuple[float, float]:
    """The largest difference and the largest expected value, over all outputs."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(outputs, expected, strict=True) if a.size]
    difference = float(np.max([0.0, *(np.max(np.abs(a - b)) for a, b in pairs)]))
    return difference, float(np.max([0.0, *(np.max(np.abs(b)) for _, b in pairs)]))


def _sensitivity(torch: Network, feeds: Feeds) -> float:
    """By how much of the largest the outputs of torch move when every input value moves by `_MOVE` of itself.

    If no input is a float, the weights move.
    """
    draw = np.random.default_rng(0)
    expected, moved = torch(feeds), 0.0

    def nearby(values: NDArray[Any]) -> NDArray[Any]:
        change = 1 + _MOVE * draw.choice(np.array([-1, 1], np.float32), values.shape)
        return np.asarray(values * change, np.float32)

    for seed in range(2):
        outputs = torch(_floats(feeds, nearby)) if _has_floats(feeds) else torch(feeds, _MOVE, seed)
        moved = max(moved, Parity(*_difference(outputs, expected)).relative)
    return moved


def _has_floats(feeds: Feeds) -> bool:
    return any(values.dtype.kind == "f" for values in feeds.values())


def _floats(feeds: Feeds, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Feeds:
    """Change the inputs that are floats."""
    return {name: change(values) if values.dtype.kind == "f" else values for name, values in feeds.items()}


def _kinds(feeds: Feeds, samples: Sequence[Feeds], kind: str) -> Iterator[tuple[str, Sequence[Feeds]]]:
    """Yield inputs of several kinds: samples, noise, noise without fine detail as photographs are, noise of a tenth."""
    if samples:
        yield kind, samples
    yield RANDOM, [feeds]
    if not _has_floats(feeds):
        return
    if any(values.ndim > 2 for values in feeds.values()):
        yield f"smooth {RANDOM}", [_floats(feeds, _smooth)]
    yield f"faint {RANDOM}", [_floats(feeds, lambda values: np.asarray(values / np.float32(10)))]


def _smooth(values: NDArray[Any]) -> NDArray[Any]:
    """Every eighth value along each axis but the first two, with straight lines between them."""
    for axis in range(2, values.ndim):
        places = np.arange(values.shape[axis])
        kept = places[::_COARSE]
        values = np.apply_along_axis(lambda line: np.interp(places, kept, line[kept]), axis, values)  # noqa: B023
    return np.ascontiguousarray(values, np.float32)
