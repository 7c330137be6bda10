"""Inputs and outputs of the runs by which a file is verified, and how the outputs of two models are compared."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.dataset import Batch, Dataset
from converter.data.inputs import InputSpec, share_batch
from converter.runtime.few_samples import noise
from converter.runtime.output_errors import OutputErrors
from converter.runtime.output_numbers import numbers
from converter.runtime.runner import Runner, class_scores
from passes.errors import ModelError

__all__ = [
    "Outputs",
    "all_finite",
    "class_agreement",
    "data_runs",
    "loss_error_db",
    "noise_runs",
    "output_db",
    "outputs_of",
    "unlike_runs",
    "worst_db",
]

Outputs = Mapping[str, NDArray[Any]]
"""Outputs of one run, by name."""

_NOISE_ROWS = 8
_FEWEST_RUNS = 3  # that have a scatter


def noise_runs(runner: Runner) -> list[Batch]:
    """Return noise in the model's own sizes: see `converter.runtime.few_samples.noise`.

    There are 8 rows, one in a run or as many as a fixed batch takes. If the inputs share no batch, there is one run.

    Raises:
        ModelError: A size besides the batch is open.
    """
    rng = np.random.default_rng(0)
    if not share_batch(runner.specs):
        return [
            Batch(
                {spec.name: _noise(spec, _sizes(spec, runner), rng, runner) for spec in runner.specs}, None, whole=True
            )
        ]
    size = runner.batch or 1
    rows = max(_NOISE_ROWS // size, 1) * size
    feeds = {spec.name: _noise(spec, (rows, *spec.shape[1:]), rng, runner) for spec in runner.specs}
    return [
        Batch({name: values[start : start + size] for name, values in feeds.items()}, None)
        for start in range(0, rows, size)
    ]


def _sizes(spec: InputSpec, runner: Runner) -> list[int | None]:
    """Sizes of a run with a batch of 1. The batch is what some input has as its axis 0."""
    batches = {other.symbols[0] for other in runner.specs if other.symbols and other.symbols[0]}
    symbols = spec.symbols or (None,) * len(spec.shape)
    pairs = zip(spec.shape, symbols, strict=True)
    return [1 if size is None and symbol in batches else size for size, symbol in pairs]


def _noise(spec: InputSpec, sizes: Sequence[int | None], rng: np.random.Generator, runner: Runner) -> NDArray[Any]:
    if None in sizes:
        raise ModelError(f"{runner.name}: takes {spec}, whose sizes are not fixed; give `data=`")
    shape = tuple(size or 0 for size in sizes)
    return noise(spec, shape, rng)


def data_runs(runner: Runner, data: Dataset) -> list[Batch]:
    """Return the inputs of every run: one sample, or as many rows as a fixed batch takes.

    Rows at the end that do not fill a batch are left out. If there are too few rows for one batch, the last one is
    repeated.
    """
    size = runner.batch or 1
    runs: list[Batch] = []
    for batch in data.batches(size):
        feeds = runner.inputs(batch.feeds)
        if not batch.whole:
            if batch.count < size and runs:
                break
            feeds = {name: _filled(rows, size) for name, rows in feeds.items()}
        runs.append(Batch(feeds, None, whole=batch.whole))
    return runs


def _filled(rows: NDArray[Any], size: int) -> NDArray[Any]:
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), 0)])


def outputs_of(runner: Runner, runs: Sequence[Batch]) -> list[dict[str, NDArray[Any]]]:
    """Return a model's outputs of each run."""
    return [dict(zip(runner.outputs, map(numbers, runner.run(run)), strict=True)) for run in runs]


def all_finite(arrays: Iterable[NDArray[Any]]) -> bool:
    """Whether no array holds NaN or Inf."""
    return all(np.isfinite(array.astype(np.float64)).all() for array in arrays)


def unlike_runs(name: str, expected: Sequence[Outputs], actual: Sequence[Outputs], runner: Runner) -> int:
    """Return the number of runs whose output has another size, such as another number of detections.

    Args:
        name: Name of the output.
        expected: The outputs of ``runner``.
        actual: Those of another runtime. If the output is missing, or has another size where the model fixes it, all
            runs count.
        runner: The model.
    """
    pairs = [(one[name].shape, other[name].shape) for one, other in zip(expected, actual, strict=True) if name in other]
    fixed = [axis for axis, size in enumerate(runner.shapes[name]) if isinstance(size, int)]
    formed = len(pairs) == len(expected) and all(
        len(one) == len(other) and all(one[axis] == other[axis] for axis in fixed if axis < len(one))
        for one, other in pairs
    )
    return sum(one != other for one, other in pairs) if formed else len(expected)


def class_agreement(runs: Sequence[Batch], expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float | None:
    """Return the fraction of samples with the same highest score in the first output.

    None if it is not [n, classes] for n samples. The cells of a detector are no samples.
    """
    agreed: list[NDArray[np.bool_]] = []
    name = next(iter(expected[0]))
    for run, one, other in zip(runs, expected, actual, strict=True):
        if one[name].shape != other[name].shape:
            continue
        mine, its = class_scores(one[name]), class_scores(other[name])
        if mine is None or its is None or mine.shape[1] < 2 or len(mine) != run.count:
            return None
        agreed.append(mine.argmax(axis=1) == its.argmax(axis=1))
    return float(np.concatenate(agreed).mean()) if agreed else None


def output_db(expected: Sequence[Outputs], actual: Sequence[Outputs], joined: Collection[str]) -> dict[str, float]:
    """Return the SQNR in dB of every float output, or of its parts, by name.

    Runs in which an output has another shape are left out.

    Args:
        expected: Outputs of the reference in each run.
        actual: Those of the other model or runtime.
        joined: Outputs that may have parts of different kinds. See `converter.runtime.output_parts`.
    """
    errors = OutputErrors(joined)
    for one, other in zip(expected, actual, strict=True):
        errors.update({name: value for name, value in one.items() if value.dtype.kind == "f"}, other)
    return errors.db()


def loss_error_db(name: str, floats: Sequence[Outputs], actual: Sequence[Outputs], usual: Sequence[Outputs]) -> float:
    """Return the standard error in dB of what an output loses in ``actual``, compared with ``usual``.

    It is a jackknife over the runs: few runs with large errors decide a ratio of error powers alone.

    Args:
        name: Name of the output.
        floats: Outputs of the float model in each run.
        actual, usual: Those of two runtimes. With fewer than three runs that can be compared, the error is 0. Runs
            without the output are left out.
    """
    runs = (run for run in zip(floats, actual, usual, strict=True) if all(name in each for each in run))
    triples = [tuple(each[name] for each in run) for run in runs]
    powers = np.array(
        [
            [np.square(one.astype(np.float64) - floating).sum() for one in others]
            for floating, *others in triples
            if all(one.shape == floating.shape for one in others)
        ]
    ).reshape(-1, 2)  # [runs, 2]
    rest = powers.sum(axis=0) - powers
    count = len(powers)
    if count < _FEWEST_RUNS or (rest <= 0).any():
        return 0.0
    losses = 10 * np.log10(rest[:, 0] / rest[:, 1])
    return float(np.sqrt((count - 1) * np.square(losses - losses.mean()).mean()))


def worst_db(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """Return the SQNR in dB of the worst float output, whole. inf if there is none."""
    return min(output_db(expected, actual, ()).values(), default=math.inf)
