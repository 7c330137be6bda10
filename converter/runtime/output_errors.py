"""Errors of the outputs of one model against those of another, over a few runs."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.output_numbers import numbers
from converter.runtime.output_parts import OutputPart, parts_of
from passes.numerics.error import SqnrSum

__all__ = ["OutputErrors", "Outputs", "output_errors"]

Outputs = Sequence[Any]
"""Outputs of one run, in the order of the model. An output may be a sequence or a map."""

_NOTHING = 1e-6  # mean error of an output that is zero in the reference, and counts as equal


class OutputErrors:
    """SQNR of every float output of a model against a reference, or of its parts, batch by batch.

    Args:
        joined: Outputs that may have parts of different kinds. The first batch decides.
    """

    def __init__(self, joined: Collection[str] = ()) -> None:
        self._joined = joined
        self._totals: dict[str, _PartError] = {}
        self._parts: dict[str, tuple[OutputPart, ...]] = {}

    def update(self, reference: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Add the outputs of a batch, by name.

        Outputs of another shape are left out, and so are outputs that are no floats unless there are no others.
        """
        arrays = {name: numbers(value) for name, value in reference.items()}
        kinds = "f" if any(array.dtype.kind == "f" for array in arrays.values()) else "iub"
        places = dict(zip(reference, outputs.values(), strict=False))  # models of one kind may name outputs differently
        for name, one in arrays.items():
            if name not in outputs and name not in places:
                continue
            other = numbers(outputs.get(name, places.get(name)))
            if one.dtype.kind not in kinds or one.shape != other.shape:
                continue
            if name not in self._parts:
                self._parts[name] = parts_of(name, [one], self._joined)
            for part in self._parts[name]:
                self._totals.setdefault(part.name, _PartError()).update(part.of(one), part.of(other))

    def db(self) -> dict[str, float]:
        """Return the SQNR in dB of every output or part that could be compared."""
        return {name: total.db for name, total in self._totals.items()}


def output_errors(
    reference: Sequence[Outputs], runs: Sequence[Outputs], names: Sequence[str], joined: Collection[str] = ()
) -> dict[str, float]:
    """Return the SQNR in dB of every output, or of its parts, over all runs.

    Only float outputs are compared, because integers such as the index of the highest score follow the last digits of
    floats. If there are no float outputs, other numbers are compared. Values that are NaN or Inf in both runs are left
    out.

    Args:
        reference: Outputs of the reference, one entry for each run.
        runs: Outputs of the other model on the same inputs.
        names: Names of the outputs.
        joined: Outputs that may have parts of different kinds. See `converter.runtime.output_parts`.

    Returns:
        SQNR by name of the output or part: inf for equal outputs, and -inf if a shape or type differs, or NaN or Inf
        appear in one of them.
        Outputs that cannot be compared are missing.
    """
    kinds = {
        place: getattr(runs_of, "dtype", np.dtype(object)).kind
        for place, runs_of in enumerate(reference[0] if reference else ())
    }
    floats = [place for place, kind in kinds.items() if kind == "f"]
    compared = floats or [place for place, kind in kinds.items() if kind in "iub"]
    errors = {}
    for place in compared:
        pairs = [(first[place], second[place]) for first, second in zip(reference, runs, strict=True)]
        for part in parts_of(names[place], [first for first, _ in pairs], joined):
            errors[part.name] = _error(pairs, part)
    return errors


def _error(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], part: OutputPart) -> float:
    total = _PartError()
    for reference, other in pairs:
        if getattr(other, "shape", None) != reference.shape or other.dtype.kind != reference.dtype.kind:
            return -math.inf
        total.update(part.of(reference), part.of(other))
    return total.db


class _PartError:
    """SQNR of an output or part, over runs. Values that are NaN or Inf in both models are left out."""

    def __init__(self) -> None:
        self._total, self._size, self._broken = SqnrSum(), 0, False

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        expected, actual = reference.astype(np.float64), other.astype(np.float64)
        finite = np.isfinite(expected)
        if not np.array_equal(finite, np.isfinite(actual)):
            self._broken = True
            return
        self._total.update(expected[finite], actual[finite])
        self._size += int(finite.sum())

    @property
    def db(self) -> float:
        if self._broken:
            return -math.inf
        if self._total.signal == 0 and self._total.noise <= self._size * _NOTHING**2:
            return math.inf
        return self._total.db
