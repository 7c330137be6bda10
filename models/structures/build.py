"""Parts of graphs: a builder of models, weights, and inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = [
    "F16",
    "I64",
    "SIDE",
    "U8",
    "Array",
    "F",
    "Feeds",
    "Structure",
    "Value",
    "X",
    "between",
    "floats",
    "image",
    "ints",
    "layer_weights",
    "make",
    "n",
    "tokens",
    "vector",
]

Feeds = dict[str, NDArray[Any]]
Array = NDArray[Any]
Value = onnx.ValueInfoProto
n = helper.make_node
F, F16, I64, U8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8
SIDE = 12


@dataclass(frozen=True)
class Structure:
    """A graph and its inputs.

    Attributes:
        build: Returns the model.
        feeds: Returns the inputs of one run from a generator of random numbers.
        exact: Outputs that no layer touches, so that they must be the same bits as in float.
    """

    build: Callable[[], onnx.ModelProto]
    feeds: Callable[[np.random.Generator], Feeds]
    exact: tuple[str, ...] = ()


def image(rng: np.random.Generator) -> Feeds:
    """Return an image."""
    return {"x": rng.standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)}


def tokens(rng: np.random.Generator) -> Feeds:
    """Return six tokens."""
    return {"x": rng.standard_normal((1, 6, 16), dtype=np.float32)}


def vector(rng: np.random.Generator) -> Feeds:
    """Return one row of 32 numbers."""
    return {"x": rng.standard_normal((1, 32), dtype=np.float32)}


X = helper.make_tensor_value_info("x", F, ["n", 3, SIDE, SIDE])


def layer_weights(seed: int = 0) -> dict[str, Array]:
    """Return weights of two convolutions and two matrix products."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        fan = np.prod(shape[1:])
        return np.asarray(rng.standard_normal(shape) / np.sqrt(fan), np.float32)

    return {
        "w0": normal(8, 3, 3, 3),
        "b0": (0.1 * rng.standard_normal(8)).astype(np.float32),
        "w1": normal(8, 8, 3, 3),
        "w2": normal(4, 8, 1, 1),
        "m0": normal(32, 32),
        "m1": normal(32, 16),
    }


def make(
    nodes: list[NodeProto],
    inputs: list[Value] | None = None,
    outputs: list[Value | str] | None = None,
    *,
    opset: int = 17,
    ir: int = 8,
    domains: tuple[str, ...] = (),
    infer: bool = True,
    half: bool = False,
    **constants: Any,
) -> onnx.ModelProto:
    """Make a model. Constants of `_weights` are taken as they are used; others are given."""
    body = [inner for node in nodes for a in node.attribute if a.HasField("g") for inner in a.g.node]
    used = {name for node in [*nodes, *body] for name in node.input}
    known = {name: value for name, value in layer_weights().items() if name in used and name not in constants}
    arrays = {name: np.asarray(value) for name, value in {**known, **constants}.items()}
    if half:
        arrays = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in arrays.items()}
    values = [
        helper.make_tensor_value_info(each, F, None) if isinstance(each, str) else each for each in outputs or ["y"]
    ]
    graph = helper.make_graph(
        nodes,
        "structure",
        [X] if inputs is None else inputs,
        values,
        [
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            for name, value in arrays.items()
        ],
    )
    if ir == 3:
        for tensor in graph.initializer:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir)
    return onnx.shape_inference.infer_shapes(model) if infer else model


def between(*middle: NodeProto, opset: int = 17, last: str = "w1", **constants: Any) -> Callable[[], onnx.ModelProto]:
    """Conv and Relu, the nodes from `h` to `m`, Conv."""

    def build() -> onnx.ModelProto:
        nodes = [n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4), n("Relu", ["c"], ["h"])]
        end = n("Conv", ["m", last], ["y"], name="last", pads=[1] * 4)
        return make([*nodes, *middle, end], opset=opset, ir=min(8, 3 + opset // 3) if opset > 8 else 4, **constants)

    return build


def ints(*values: int) -> Array:
    """Return int64 numbers."""
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    """Return float32 numbers."""
    return np.array(values, np.float32)
