"""Old operators that onnx's version converter changes in meaning, as nodes of opset 21 that compute the same.

The measure is what onnxruntime computes for the old ones.

Upsample, and Resize of opset 10:

- Both sample at ``x_out / scale``, which is called 'asymmetric' now.
- 'nearest' rounds down along axes that grow and up along axes that shrink. So an unknown scale, or scales of both
  kinds, take two steps: the axes that shrink first, then those that grow.

Dropout before opset 12 gives a mask of zeros, and a newer one gives a mask of ones.

GroupNormalization of opset 18 has a scale and a bias per group, and that of opset 21 has them per channel.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["upgraded_dropout", "upgraded_group_norm", "upgraded_resize"]


def upgraded_resize(
    node: NodeProto, constants: Mapping[str, TensorProto], fresh: Callable[[str], str]
) -> list[NodeProto]:
    """Return the nodes that replace an Upsample of opset 7 or 9 or a Resize of opset 10.

    Args:
        node: The node.
        constants: Constants that it may read, by name.
        fresh: Gives an unused tensor name that resembles the given one.
    """
    attributes = {attribute.name: attribute for attribute in node.attribute}
    mode = attributes["mode"].s.decode() if "mode" in attributes else "nearest"
    mode = "linear" if mode == "bilinear" else mode
    result = node.output[0]
    if "scales" in attributes:  # Upsample of opset 7
        constant = _constant(np.array(attributes["scales"].floats, np.float32), fresh(f"{result}_scales"))
        return [constant, _resize(node, node.input[0], constant.output[0], result, mode, "floor")]
    scales = node.input[1]
    known = numpy_helper.to_array(constants[scales]) if scales in constants else None
    grows = node.op_type == "Upsample" or (known is not None and bool(np.all(known >= 1)))
    shrinks = known is not None and bool(np.all(known <= 1))
    if mode != "nearest" or grows or shrinks:
        return [_resize(node, node.input[0], scales, result, mode, "floor" if grows else "ceil")]
    one = _constant(np.ones(1, np.float32), fresh(f"{result}_one"))
    shrinking, growing, between = fresh(f"{result}_shrinking"), fresh(f"{result}_growing"), fresh(f"{result}_shrunk")
    return [
        one,
        helper.make_node("Min", [scales, one.output[0]], [shrinking]),
        helper.make_node("Max", [scales, one.output[0]], [growing]),
        _resize(NodeProto(), node.input[0], shrinking, between, mode, "ceil"),
        _resize(node, between, growing, result, mode, "floor"),
    ]


def _resize(like: NodeProto, source: str, scales: str, result: str, mode: str, rounding: str) -> NodeProto:
    node = helper.make_node(
        "Resize",
        [source, "", scales],
        [result],
        name=like.name,
        doc_string=like.doc_string,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode=rounding,
    )
    node.metadata_props.extend(like.metadata_props)
    return node


def upgraded_dropout(node: NodeProto, mask_type: int, fresh: Callable[[str], str]) -> list[NodeProto]:
    """Return the nodes that replace a Dropout before opset 12 whose mask is used.

    Args:
        node: The node.
        mask_type: Type of the mask's elements.
        fresh: Gives an unused tensor name that resembles the given one.
    """
    result, mask = node.output
    shape, zero = fresh(f"{mask}_shape"), helper.make_tensor("zero", mask_type, [1], [0])
    same = helper.make_node("Identity", node.input, [result or fresh(f"{mask}_of")], node.name, node.doc_string)
    same.metadata_props.extend(node.metadata_props)
    return [
        same,
        helper.make_node("Shape", node.input, [shape]),
        helper.make_node("ConstantOfShape", [shape], [mask], value=zero),
    ]


def upgraded_group_norm(node: NodeProto, fresh: Callable[[str], str]) -> list[NodeProto]:
    """Return the nodes that replace a GroupNormalization of opset 18.

    Args:
        node: The node.
        fresh: Gives an unused tensor name that resembles the given one.
    """
    source, *by_group = node.input
    groups = next(attribute.i for attribute in node.attribute if attribute.name == "num_groups")
    shape = [fresh(f"{node.output[0]}_{what}") for what in ("groups", "channels", "per_group", "grouped")]
    nodes = [
        _constant(np.array([groups, 1], np.int64), shape[0]),
        _constant(np.array([-1], np.int64), flat := fresh(f"{node.output[0]}_flat")),
        _constant(np.array([groups], np.int64), number := fresh(f"{node.output[0]}_number")),
        helper.make_node("Shape", [source], [shape[1]], start=1, end=2),
        helper.make_node("Div", [shape[1], number], [shape[2]]),
        helper.make_node("Concat", [number, shape[2]], [shape[3]], axis=0),
    ]
    by_channel = []
    for name in by_group:
        column, table, row = (fresh(f"{name}_{what}") for what in ("column", "table", "by_channel"))
        nodes += [
            helper.make_node("Reshape", [name, shape[0]], [column]),
            helper.make_node("Expand", [column, shape[3]], [table]),
            helper.make_node("Reshape", [table, flat], [row]),
        ]
        by_channel.append(row)
    result = NodeProto.FromString(node.SerializeToString())
    result.input[:] = [source, *by_channel]
    return [*nodes, result]


def _constant(values: NDArray[Any], name: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
