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
    """Whether an output of a batch is that of the samples in it. An output of another size has no batch axis."""
    if not first.ndim or first.shape != second.shape or both.shape != (2 * len(first), *first.shape[1:]):
        return True
    if both.dtype.kind != "f":
        return True
    alone = np.concatenate([first, second]).astype(np.float64)
    finite = np.isfinite(alone)
    return bool(sqnr_db(alone[finite], both.astype(np.float64)[finite]) > _SAME_DB)
