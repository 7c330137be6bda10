"""Tensors with the same name in both models whose channels are scaled, rotated or in another order in one of them.

SmoothQuant, equalization, rotation and routes of channels change a tensor, and the layers that read it undo the change.
Compared with the reference, such a tensor seems to have a large error although it has none. It is detected by the layer
behind it. If the float layer reads that tensor, its output differs from the quantized layer's output, although the
quantized layer's output is close to the reference.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from converter.comparison.subgraphs import Subgraphs
from passes.numerics.error import sqnr_db

__all__ = ["cut_where_alike"]

# A tensor counts as transformed if both hold (dB of noise power; real errors do not shrink like that):
_UNDONE_DB = 3.0  # the float layer's output differs by twice the error that the quantized layer's output has
_LOST_DB = 6.0  # the error of the tensor that is read is four times the error of the output


def cut_where_alike(
    reference: onnx.ModelProto,
    types: Mapping[str, int],
    wanted: Mapping[str, NDArray[Any]],
    given: Mapping[str, NDArray[Any]],
    feeds: Mapping[str, NDArray[Any]],
    batch: int | None,
) -> tuple[Subgraphs, set[str]]:
    """Cut the reference at the tensors that have the same meaning in both models.

    Args:
        reference: The float model.
        types: Element types of its tensors.
        wanted: The reference's tensors for some images.
        given: The quantized model's tensors for these images, by the reference's names.
        feeds: These images.
        batch: The only batch size that the reference takes, or None.

    Returns:
        The subgraphs of the reference, and the tensors that are scaled, rotated or in another order.
    """
    transformed: set[str] = set()
    reached = {tensor: sqnr_db(wanted[tensor], given[tensor]) for tensor in given}
    ranks = {tensor: array.ndim for tensor, array in given.items()}
    while True:
        subgraphs = Subgraphs(reference, given.keys() - transformed, types, ranks)
        computed = subgraphs.run(given, feeds, batch)
        newly_found = set()
        for tensor, subgraph in subgraphs.subgraphs.items():
            if computed[tensor].shape != given[tensor].shape:  # the size depends on values
                continue
            if sqnr_db(computed[tensor], given[tensor]) < reached[tensor] - _UNDONE_DB:
                newly_found |= {name for name in subgraph.reads if reached[name] < reached[tensor] - _LOST_DB}
        if not newly_found:
            return subgraphs, transformed
        transformed |= newly_found
