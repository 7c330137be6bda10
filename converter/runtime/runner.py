"""Run a model file on the rows of any Dataset, whatever its input names, float type and fixed batch size are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch, Dataset
from converter.data.inputs import InputSpec, input_specs, static_batch
from converter.model_io.structure import read_structure
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET, batch_size, run_bytes
from converter.runtime.output_parts import joined_outputs
from converter.runtime.session import open_session
from passes.errors import ModelError

__all__ = ["Runner", "class_scores"]

_FEWEST_FEATURES = 3
_UNIT, _SUM = 1e-5, 1e-3  # how far rounding moves a length of 1, and a sum of 1


class Runner:
    """A model, open on the CPU. It accepts feeds that were made for another model with the same inputs.

    Args:
        model: A file, or a model in memory.
        name: Name of the model in messages.
        outputs: Outputs to compute. The default is the model's own outputs.
        threads: Threads for each operator. The default is all that the process may use.
        optimize, exact, arena: See `converter.runtime.session.open_session`.
        keep: Whether to keep the model, of which the session has its own copy. `unoptimized`, `joined` and `batch_size`
            need it.

    Raises:
        ModelError: There is no such file, or onnxruntime cannot load it. The message names the model.
    """

    def __init__(
        self,
        model: Path | onnx.ModelProto,
        name: str,
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        optimize: bool = True,
        exact: bool = False,
        arena: bool = True,
        keep: bool = True,
    ) -> None:
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"{name}: no such model file; check the path")
        self.name, self._kept = name, model if keep else None
        try:
            self._session = open_session(model, threads=threads, optimize=optimize, exact=exact, arena=arena)
            self.specs = input_specs(self._session)
            self.batch = static_batch(self.specs)
            declared = self._session.get_outputs()
            self.types: dict[str, str] = {value.name: value.type for value in declared}
            self.shapes: dict[str, Sequence[Any]] = {value.name: value.shape for value in declared}
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{name}: the name of an input, an output or a size is not UTF-8; export it again"
            ) from error
        self.outputs = list(self.types if outputs is None else outputs)

    def inputs(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Rename the feeds to this model's inputs, and convert them to its float types.

        Raises:
            ModelError: An input is missing, or has another shape or type.
        """
        if len(feeds) == 1 and len(self.specs) == 1:
            feeds = {self.specs[0].name: next(iter(feeds.values()))}
        return {spec.name: self._input(spec, feeds) for spec in self.specs}

    def run(self, batch: Batch) -> list[Any]:
        """Run the real rows of a batch, or a whole run.

        A model with a fixed batch size runs batch by batch. The last batch is padded with copies of its last row.

        Returns:
            The outputs, each [count, ...]. An output without a batch axis, a sequence or a map is returned as the model
            computes it.

        Raises:
            ModelError: The run fails.
        """
        feeds, count = self.inputs(batch.feeds), batch.count
        if batch.whole:
            return self.execute(feeds)
        rows = {name: array[:count] for name, array in feeds.items()}
        if self.batch is None or self.batch == count:
            return self.execute(rows)
        portions = []
        for start in range(0, count, self.batch):
            portion = {name: array[start : start + self.batch] for name, array in rows.items()}
            used = min(self.batch, count - start)
            fill = self.batch - used
            padded = {name: np.concatenate([array, np.repeat(array[-1:], fill, 0)]) for name, array in portion.items()}
            portions.append([_first_rows(out, used, self.batch) for out in self.execute(padded)])
        return [_joined(parts) for parts in zip(*portions, strict=True)]

    def unoptimized(self) -> "Runner":
        """Return the same model without onnxruntime's optimizations."""
        return Runner(self._model(), self.name, outputs=self.outputs, optimize=False)

    def _model(self) -> Path | onnx.ModelProto:
        assert self._kept is not None  # `keep` was given
        return self._kept

    def joined(self) -> frozenset[str]:
        """Return the outputs that may have parts of different kinds. See `converter.runtime.output_parts`."""
        model = self._model()
        return joined_outputs((read_structure(model) if isinstance(model, Path) else model).graph)

    def may_equal(self, other: "Runner") -> bool:
        """Whether the first outputs of two models may have equal shapes, as far as their files say."""
        one, two = self.shapes[self.outputs[0]], other.shapes[other.outputs[0]]
        pairs = zip(one, two, strict=False)
        return len(one) == len(two) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))

    def batch_size(self, data: Dataset, most: int, models: int = 1) -> int:
        """Return how many samples may run together, if ``models`` are open. See `converter.runtime.batch_size`."""
        return batch_size(data, most, self._sample_bytes, DEFAULT_MEMORY_BUDGET // 2 // models)

    def _sample_bytes(self, sample: Batch) -> int:
        feeds = self.inputs(sample.feeds)
        if self.batch is not None and not sample.whole:
            feeds = {name: np.repeat(rows[:1], self.batch, 0) for name, rows in feeds.items()}
        try:
            return run_bytes(self._model(), feeds) // (self.batch or 1)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error

    def _input(self, spec: InputSpec, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        if spec.name not in feeds:
            raise ModelError(f"{self.name}: takes {spec}, the data feed {', '.join(feeds)}; compare models of one kind")
        array = feeds[spec.name]
        both_float = np.issubdtype(array.dtype, np.floating) and np.issubdtype(spec.dtype, np.floating)
        if not spec.accepts(array.shape) or (array.dtype != spec.dtype and not both_float):
            raise ModelError(
                f"{self.name}: takes {spec}, the data are {array.dtype} {list(array.shape)}; compare models of one kind"
            )
        return array.astype(spec.dtype, copy=False)

    def execute(self, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run feeds that already are this model's own `inputs`.

        Raises:
            ModelError: The run fails.
        """
        try:
            results: list[NDArray[Any]] = self._session.run(self.outputs, feeds)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ModelError(f"{self.name}: fails when it runs: {str(error).splitlines()[0]}") from error
        return results


def _first_rows(output: Any, count: int, size: int) -> Any:
    """The part of an output, or of a sequence with an element for each row, that belongs to the first rows."""
    if isinstance(output, np.ndarray):
        return output[:count] if output.ndim else output
    return output[:count] if isinstance(output, list) and len(output) == size else output


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts) if parts[0].ndim else parts[0]
    return [element for part in parts for element in part] if isinstance(parts[0], list) else parts[0]


def class_scores(output: NDArray[Any]) -> NDArray[Any] | None:
    """An output as one row of scores per image [n, classes]. None if it is not a classifier's output.

    Axes of size 1 after the classes, as in [n, classes, 1, 1], are dropped. Rows of length 1 are embeddings, unless
    they sum to 1, as probabilities do.
    """
    if output.ndim < 2 or any(size != 1 for size in output.shape[2:]):
        return None
    scores = output.reshape(output.shape[0], output.shape[1])
    return None if _of_length_one(scores) else scores


def _of_length_one(rows: NDArray[Any]) -> bool:
    if rows.dtype.kind != "f" or rows.shape[0] == 0 or rows.shape[1] < _FEWEST_FEATURES:
        return False
    values = rows.astype(np.float64)
    unit = np.abs(np.linalg.norm(values, axis=1) - 1) <= _UNIT
    return bool(unit.all() and (np.abs(values.sum(axis=1) - 1) > _SUM).any())
