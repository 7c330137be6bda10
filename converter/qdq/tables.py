"""Embedding tables whose rows are read from the codes of a layer that has the same numbers as its weight.

    codes -> Gather(ids) -> Cast(FLOAT) -> Mul(scale of each id)                 one scale for each output
    codes -> Gather(ids) -> Cast(FLOAT) -> Sub(128) -> Mul -> Reshape            MatMulNBits, in blocks

Only the rows that are read become floats. The codes are an initializer of the layer as well. They have one row for each
of its outputs, since a Gather of columns is slow: with 64 indices into 30,000 x 512 codes, 2.3 ms of 4.7.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from converter.qdq.fragment import Fragment, Names
from converter.qdq.matmul_nbits import stored_blocks
from converter.qdq.weights import output_rows
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.numerics.error import sqnr_db

__all__ = ["CodeTable", "code_tables", "gathered_blocks", "gathered_codes", "gathered_rows", "same_codes"]

_STORED_BITS = 8
_CLOSE_DB = 25.0  # codes of 8 bits have 35 dB and more


@dataclass(frozen=True)
class CodeTable:
    """A table that is read from codes.

    Attributes:
        layer: The layer whose codes they are.
        quantized: The codes and their grid.
        axis: Axis of the Gather.
        rank: Number of axes of its indices.
    """

    layer: Linear
    quantized: Quantized
    axis: int
    rank: int


def code_tables(model: Model, bits: Mapping[str, int], packed: frozenset[str]) -> dict[str, CodeTable]:
    """Return the tables that the file reads from codes, by the name of the Gather.

    Args:
        model: The model.
        bits: Bits of each layer's codes in the file.
        packed: Names of the layers that become MatMulNBits.
    """
    known = model.quantized.keys() & model.float_weights.keys()
    found = {name: table for name, table in model.tables().items() if name in known}
    if not found:
        return {}
    layers, shapes = model.layers(), infer_shapes(model.graph)
    nodes: dict[str, gs.Node] = {str(node.name): node for node in model.graph.nodes}
    result: dict[str, CodeTable] = {}
    for name, table in found.items():
        layer, quantized = layers[name], model.quantized[name]
        grid = quantized.grid
        if sqnr_db(model.float_weights[name].matrix(), grid.values(quantized.codes)) < _CLOSE_DB:
            continue  # training moved the weight
        whole = grid.symmetric and grid.multiples is None and bits[name] == _STORED_BITS
        fits = layer.matrix_shape[2] % (grid.block_size or 1) == 0 if name in packed else grid.per_channel
        ids = [nodes[reader].inputs[1].name for reader in table.readers]
        if whole and fits and all(each in shapes for each in ids):
            result |= {
                reader: CodeTable(layer, quantized, table.axis, len(shapes[each]))
                for reader, each in zip(table.readers, ids, strict=True)
            }
    return result


def gathered_codes(graph: GraphProto) -> list[TensorProto]:
    """Return the int8 initializers that a Gather of the source file reads: it was written like this."""
    read = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    return [tensor for tensor in graph.initializer if tensor.name in read and tensor.data_type == TensorProto.INT8]


def same_codes(tensors: Iterable[TensorProto], layer: Linear, quantized: Quantized) -> str | None:
    """Return the initializer that has the codes of a layer, one row for each output, or None."""
    rows = quantized.grid.integers(quantized.codes)[0]
    alike = [tensor for tensor in tensors if tuple(tensor.dims) == rows.shape] if not layer.kernel else []
    return next((each.name for each in alike if np.array_equal(numpy_helper.to_array(each), rows)), None)


def gathered_rows(table: CodeTable, node: NodeProto, names: Names) -> Fragment:
    """The nodes that replace a Gather of floats, for codes with one row for each output of the layer."""
    layer, ids = table.layer, node.input[1]
    fragment, name = Fragment(names), f"{node.name}.rows"
    codes = output_rows(fragment, layer, table.quantized)
    scales = fragment.shared(f"{layer.weight}_scale", table.quantized.grid.scale.reshape(-1))
    rows = fragment.node("Gather", f"{name}_gather", [codes, ids], f"{name}_int8")  # [*ids, k]
    floats = fragment.node("Cast", f"{name}_cast", [rows], f"{name}_float", to=TensorProto.FLOAT)
    factor = fragment.node("Gather", f"{name}_gather_scale", [scales, ids], f"{name}_scale")  # [*ids]
    _last(fragment, node, table, "Mul", [floats, _column(fragment, name, factor)])
    return fragment


def gathered_blocks(table: CodeTable, node: NodeProto, names: Names) -> Fragment:
    """The nodes that replace a Gather of floats, for the codes of a MatMulNBits."""
    ids = node.input[1]
    fragment, name = Fragment(names), f"{node.name}.rows"
    blocks = stored_blocks(fragment, table.layer, table.quantized)
    rows = fragment.node("Gather", f"{name}_gather", [blocks.codes, ids], f"{name}_uint8")  # [*ids, b, block]
    floats = fragment.node("Cast", f"{name}_cast", [rows], f"{name}_float", to=TensorProto.FLOAT)
    middle = fragment.shared("middle_code", np.array(blocks.middle, np.float32))
    floats = fragment.node("Sub", f"{name}_center", [floats, middle], f"{name}_centered")
    factor = fragment.node("Gather", f"{name}_gather_scale", [blocks.scale, ids], f"{name}_scale")  # [*ids, b]
    column = _column(fragment, name, factor)
    product = fragment.node("Mul", f"{name}_rescale", [floats, column], f"{name}_rescaled")
    shape = fragment.constant(f"{name}_shape", np.array([0] * table.rank + [-1], np.int64))
    _last(fragment, node, table, "Reshape", [product, shape])
    return fragment


def _column(fragment: Fragment, name: str, scales: str) -> str:
    """Scales with one more axis, for the numbers that share them."""
    last = fragment.shared("last_axis", np.array([-1], np.int64))
    return fragment.node("Unsqueeze", f"{name}_unsqueeze", [scales, last], f"{name}_scale_column")


def _last(fragment: Fragment, node: NodeProto, table: CodeTable, op: str, inputs: list[str]) -> None:
    """Add the node that writes ``[*ids, k]``, and a Transpose if the Gather wrote ``[k, *ids]``."""
    if table.axis == 0:
        fragment.node_into(op, node.name, inputs, node.output[0])
        return
    value = fragment.node(op, f"{node.name}.rows_turned", inputs, f"{node.name}.rows_turned")
    fragment.node_into("Transpose", node.name, [value], node.output[0], perm=[table.rank, *range(table.rank)])
