"""Tensors that bear the same name in both models and do not hold the same thing: scaled or rotated channels.

SmoothQuant, equalization and rotation change what a tensor holds and let the layers that read it undo it. Measured
against the reference such a tensor looks lost, and nothing is. It gives itself away by the layer behind it: fed with
that tensor, the float layer computes something else than the quantized layer did, though what the quantized layer
computed is right.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from converter.comparison.subgraphs import Subgraphs
from passes.numerics.error import SqnrSum

__all__ = ["cut_where_alike"]

_UNDONE_DB = 3.0  # the float layer is off by twice the error that the quantized one really has,
_LOST_DB = 6.0  # and what it read looked four times as wrong as what it gave: real errors do not heal like that


def cut_where_alike(
    reference: onnx.ModelProto,
    types: Mapping[str, int],
    wanted: Mapping[str, NDArray[Any]],
    given: Mapping[str, NDArray[Any]],
    feeds: Mapping[str, NDArray[Any]],
    batch: int | None,
) -> tuple[Subgraphs, set[str]]:
    """The reference cut at the tensors that mean the same in both models, and those that do not.

    Args:
        reference: the float model.
        types: element types of its tensors.
        wanted: its tensors for some images.
        given: the quantized model's, by the reference's names.
        feeds: these images.
        batch: the only batch size that the reference takes.
    """
    transformed: set[str] = set()
    reached = {tensor: _db(wanted[tensor], given[tensor]) for tensor in given}
    while True:
        subgraphs = Subgraphs(reference, given.keys() - transformed, types)
        computed = subgraphs.run(given, feeds, batch)
        found = set()
        for tensor, subgraph in subgraphs.subgraphs.items():
            if _db(computed[tensor], given[tensor]) < reached[tensor] - _UNDONE_DB:
                found |= {name for name in subgraph.reads if reached[name] < reached[tensor] - _LOST_DB}
        if not found:
            return subgraphs, transformed
        transformed |= found


def _db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    total = SqnrSum()
    total.update(reference, other)
    return total.db
