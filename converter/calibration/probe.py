"""The error of a changed network at its outputs, measured on a few samples."""

import math
from collections.abc import Iterator
from typing import Any

from converter.data.dataset import Dataset
from converter.qdq.floats import float_model
from converter.runtime.batch_size import batch_size, run_bytes
from converter.runtime.output_errors import OutputErrors
from converter.runtime.output_numbers import numbers
from converter.runtime.output_parts import joined_outputs
from converter.runtime.session import open_session
from passes.ir.model import Model

__all__ = ["Probe"]

_BATCH = 16
_MOST_ERROR = 1e6  # of an output that becomes NaN


class Probe:
    """Measures the network's error on a few held-out samples.

    Args:
        model: The network whose outputs are the reference, as it is now.
        data: The samples.
    """

    def __init__(self, model: Model, data: Dataset) -> None:
        self.data = data
        self.size = batch_size(data, _BATCH, lambda sample: run_bytes(float_model(model.graph), sample.feeds))
        self.expected = list(self._run(model))

    def error(self, model: Model) -> float:
        """Return the error power of the worst output relative to the power of the float network's."""
        errors = OutputErrors(self.joined)
        for expected, outputs in zip(self.expected, self._run(model), strict=True):
            errors.update(expected, outputs)
        worst = min(errors.db().values(), default=math.inf)
        return _MOST_ERROR if worst == -math.inf else min(10 ** (-worst / 10), _MOST_ERROR)

    def _run(self, model: Model) -> Iterator[dict[str, Any]]:
        proto = float_model(model.graph)
        self.joined = joined_outputs(proto.graph)
        session = open_session(proto)
        names = [value.name for value in session.get_outputs()]
        for batch in self.data.batches(self.size):
            outputs = session.run(names, batch.feeds)
            yield {name: batch.real(numbers(each)) for name, each in zip(names, outputs, strict=True)}
