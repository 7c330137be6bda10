"""Embedding tables: matrices of which a Gather takes rows.

Language models often have a layer that multiplies by all of the table, as it is stored or transposed. Both can read one
set of codes, so the file has the numbers once (`converter.qdq.tables`). Other tables stand alone
(`passes.graph.embeddings`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.ir.large_constants import TransposedValues, Values
from passes.ir.linear import Linear
from passes.ir.surgery import graph_output_names, is_default_domain

__all__ = ["Table", "find_tables", "lone_tables"]

_SMALLEST = 1 << 14  # bytes; the nodes that read rows of codes take some hundreds


@dataclass(frozen=True)
class Table:
    """The nodes that read a layer's weight as a table.

    Attributes:
        readers: Names of the Gather nodes.
        axis: Their axis: 0 if the table has a row for each output of the layer, 1 if it has a column.
    """

    readers: tuple[str, ...]
    axis: int


def find_tables(graph: gs.Graph, layers: Mapping[str, Linear], weights: Mapping[str, Values]) -> dict[str, Table]:
    """Return the tables that have the values of a layer's weight, by the name of the layer.

    Of layers that share their weight, it is the first one.

    Args:
        graph: The graph.
        layers: Its layers.
        weights: Float weight of each layer, as its node stores it.
    """
    found: dict[str, Table] = {}
    for table in _gathered(graph):
        readers = tuple(str(node.name) for node in table.outputs)
        axis = _axis(table.outputs[0])
        for name, layer in layers.items():
            turned = axis != layer.channel_axis
            if not layer.kernel and _are_same(table._values, weights[name], turned=turned):
                found.setdefault(name, Table(readers, axis))
                break
    return found


def lone_tables(graph: gs.Graph, shared: Collection[str]) -> list[gs.Constant]:
    """Return the tables of which Gathers take rows, but those that a layer has too.

    Args:
        graph: The graph.
        shared: Names of the Gathers that read a table of a layer. See `find_tables`.
    """
    return [
        table
        for table in _gathered(graph)
        if _axis(table.outputs[0]) == 0
        and not any(node.name in shared for node in table.outputs)
        and not all(isinstance(node.inputs[1], gs.Constant) for node in table.outputs)  # it would be folded
    ]


def _gathered(graph: gs.Graph) -> list[gs.Constant]:
    """Return the matrices that Gathers of one axis read, and nothing else reads."""
    outputs = graph_output_names(graph)
    tables = {id(node.inputs[0]): node.inputs[0] for node in graph.nodes if node.op == "Gather"}
    return [table for table in tables.values() if table.name not in outputs and _is_table(table)]


def _is_table(tensor: gs.Tensor) -> bool:
    if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32 or len(tensor.shape) != 2:
        return False
    gathers = [node.op == "Gather" and is_default_domain(node) and node.inputs[0] is tensor for node in tensor.outputs]
    one_axis = len({_axis(node) for node in tensor.outputs}) == 1
    return bool(tensor._values.nbytes >= _SMALLEST) and all(gathers) and one_axis


def _axis(gather: gs.Node) -> int:
    return int(gather.attrs.get("axis", 0)) % 2


def _are_same(table: Values, weight: Values, *, turned: bool) -> bool:
    """Whether a weight has the values of a table, or those of its transpose. Large ones come from one initializer."""
    if isinstance(weight, TransposedValues):
        return turned and weight.source is table
    if isinstance(table, LazyValues) or isinstance(weight, LazyValues):
        return not turned and weight is table
    return np.array_equal(table.T if turned else table, weight)
