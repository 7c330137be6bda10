"""Whether samples may be stacked into batches: the model must give each of them what it gives it alone.

A file may declare an open batch and still work on one sample only, because the batch was 1 when it was exported: a
Reshape has a fixed size, or mixes samples.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.dataset import Dataset
from converter.runtime.output_numbers import numbers
from converter.runtime.runner import Runner
from passes.errors import ModelError
from passes.numerics.error import sqnr_db

__all__ = ["samples_alone"]

_SAME_DB = 20.0  # rounding in another order costs far less, even in a network that amplifies it


def samples_alone(data: Dataset, runner: Runner) -> Dataset:
    """Return the data, or the same samples one at a time if the model gives two in one batch other outputs.

    Args:
        data: The data. Nothing runs if there is one sample, if samples run alone anyway, or if the batch is fixed.
        runner: The model.

    Raises:
        ModelError: The model fails on one sample.
    """
    if data.alone or data.static_batch is not None or runner.batch is not None or len(data) < 2:
        return data
    both = next(data.batches(2))
    each = [
        dataclasses.replace(both, feeds={name: rows[at : at + 1] for name, rows in both.feeds.items()}) for at in (0, 1)
    ]
    expected = [[numbers(output) for output in runner.run(one)] for one in each]
    plain = runner.unoptimized()  # optimizations may remove a Reshape that fails, and comparing tensors brings it back
    try:
        together = [numbers(output) for output in plain.execute(plain.inputs(both.feeds))]
    except ModelError:
        return data.one_at_a_time()
    alike = all(_alike(*outputs) for outputs in zip(*expected, together, strict=True))
    return data if alike else data.one_at_a_time()


def _alike(first: NDArray[Any], second: NDArray[Any], both: NDArray[Any]) -> bool:
    """Whether an output of a batch consists of those of its two samples, joined along some axis, but for rounding.

    An output of one size, whatever the batch, must have one value. Sizes that depend on the samples and outputs that
    are no floats, such as indices, are not compared.
    """
    if both.dtype.kind != "f" or first.shape != second.shape:
        return True
    if first.shape == both.shape:
        return _equal(first, second) and _equal(first, both)
    if first.ndim + 1 == both.ndim:  # it loses its batch axis when that is 1
        first, second = first[None], second[None]
    joins = (np.concatenate([first, second], axis=axis) for axis in range(first.ndim))
    return any(joined.shape == both.shape and _equal(joined, both) for joined in joins)


def _equal(expected: NDArray[Any], actual: NDArray[Any]) -> bool:
    finite = np.isfinite(expected) & np.isfinite(actual)
    return bool(sqnr_db(expected[finite].astype(np.float64), actual[finite].astype(np.float64)) > _SAME_DB)
