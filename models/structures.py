"""Graphs with structures of files that people ship: old opsets, control flow, states, integer inputs, shared weights.

Every structure stands beside or between layers that can be quantized. `Structure.feeds` makes inputs for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["STRUCTURES", "Structure"]

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


def _image(rng: np.random.Generator) -> Feeds:
    return {"x": rng.standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)}


def _tokens(rng: np.random.Generator) -> Feeds:
    return {"x": rng.standard_normal((1, 6, 16), dtype=np.float32)}


def _vector(rng: np.random.Generator) -> Feeds:
    return {"x": rng.standard_normal((1, 32), dtype=np.float32)}


X = helper.make_tensor_value_info("x", F, ["n", 3, SIDE, SIDE])


def _weights(seed: int = 0) -> dict[str, Array]:
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


def _model(
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
    known = {name: value for name, value in _weights().items() if name in used and name not in constants}
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


def _between(*middle: NodeProto, opset: int = 17, last: str = "w1", **constants: Any) -> Callable[[], onnx.ModelProto]:
    """Conv and Relu, the nodes from `h` to `m`, Conv."""

    def build() -> onnx.ModelProto:
        nodes = [n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4), n("Relu", ["c"], ["h"])]
        end = n("Conv", ["m", last], ["y"], name="last", pads=[1] * 4)
        return _model([*nodes, *middle, end], opset=opset, ir=min(8, 3 + opset // 3) if opset > 8 else 4, **constants)

    return build


def _i(*values: int) -> Array:
    return np.array(values, np.int64)


def _f(*values: float) -> Array:
    return np.array(values, np.float32)


def _resized(op: str, opset: int, mode: str, scale: float) -> Callable[[], onnx.ModelProto]:
    if op == "Upsample" and opset < 9:
        return _between(n("Upsample", ["h"], ["m"], mode=mode, scales=[1.0, 1.0, scale, scale]), opset=opset)
    return _between(n(op, ["h", "s"], ["m"], mode=mode), opset=opset, s=_f(1, 1, scale, scale))


def _branches(name: str, *, nested: bool = False, shared: bool = False) -> Callable[[], onnx.ModelProto]:
    """Layers, then an If whose branches read tensors and constants of the outer graph."""

    def branch(op: str, output: str) -> onnx.GraphProto:
        nodes = [n(op, ["c1"], [f"{output}_a"]), n("Add", [f"{output}_a", "half"], [output])]
        if shared:
            nodes[0] = n("Conv", ["h", "w1"], [f"{output}_a"], pads=[1] * 4)
        return helper.make_graph(nodes, f"{op} branch", [], [helper.make_tensor_value_info(output, F, None)])

    def build() -> onnx.ModelProto:
        then, other = branch("Identity", "t"), branch("Neg", "e")
        if nested:
            inner = n("If", ["cond"], ["v"], then_branch=then, else_branch=other)
            then = helper.make_graph([inner], "outer then", [], [helper.make_tensor_value_info("v", F, None)])
            other = branch("Abs", "f")
        nodes = [
            n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
            n("Relu", ["c"], ["h"]),
            n("Conv", ["h", "w1"], ["c1"], name="second", pads=[1] * 4),
            n("ReduceMax", ["c1"], ["top"], keepdims=0),
            n("Greater", ["top", "limit"], ["cond"]),
            n("If", ["cond"], ["i"], name=name, then_branch=then, else_branch=other),
            n("Conv", ["i", "w2"], ["y"], name="last"),
        ]
        model = _model(nodes, infer=False, limit=np.float32(0.5))
        model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
        return model

    return build


def _loop() -> onnx.ModelProto:
    """A Loop that adds a captured tensor three times."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [n("Add", ["state", "h"], ["next"]), n("Identity", ["go"], ["on"])],
        "body",
        [info("step", I64, []), info("go", TensorProto.BOOL, []), info("state", F, None)],
        [info("on", TensorProto.BOOL, []), info("next", F, None)],
    )
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Loop", ["count", "", "h"], ["m"], name="loop", body=body),
        n("Conv", ["m", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    return _model(nodes, count=np.array(3, np.int64))


def _scan() -> onnx.ModelProto:
    """A Scan over tokens with a running sum."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [n("Add", ["sum", "token"], ["total"]), n("Identity", ["total"], ["seen"])],
        "body",
        [info("sum", F, [16]), info("token", F, [16])],
        [info("total", F, [16]), info("seen", F, [16])],
    )
    nodes = [
        n("MatMul", ["x", "a"], ["h"], name="first"),
        n("Squeeze", ["h", "axis"], ["rows"]),
        n("Scan", ["start", "rows"], ["end", "all"], name="scan", body=body, num_scan_inputs=1),
        n("MatMul", ["all", "b"], ["y"], name="last"),
    ]
    weights = _weights(3)
    inputs = [info("x", F, [1, 6, 16])]
    return _model(nodes, inputs, a=weights["m1"][:16], b=weights["m1"][16:], axis=_i(0), start=np.zeros(16, np.float32))


def _recurrent() -> onnx.ModelProto:
    """A state of another layout, a scalar, and a state that is given back."""
    info = helper.make_tensor_value_info
    nodes = [
        n("MatMul", ["x", "m1"], ["a"], name="first"),
        n("Mul", ["a", "gain"], ["b"]),
        n("Gather", ["state", "zero"], ["s"], axis=0),
        n("Add", ["b", "s"], ["h"]),
        n("Relu", ["h"], ["r"]),
        n("MatMul", ["r", "out"], ["y"], name="last"),
        n("Mul", ["state", "gain"], ["stateN"]),
    ]
    inputs = [info("x", F, ["n", 32]), info("state", F, [2, "n", 16]), info("gain", F, [])]
    return _model(nodes, inputs, ["y", "stateN"], zero=np.array(0, np.int64), out=_weights(5)["m1"][:16])


def _recurrent_feeds(rng: np.random.Generator) -> Feeds:
    return {
        "x": rng.standard_normal((1, 32), dtype=np.float32),
        "state": rng.standard_normal((2, 1, 16), dtype=np.float32),
        "gain": np.array(rng.uniform(0.5, 2), np.float32),
    }


def _embedding() -> onnx.ModelProto:
    table = np.random.default_rng(4).standard_normal((64, 3 * SIDE)).astype(np.float32)
    nodes = [
        n("Gather", ["table", "ids"], ["a"]),
        n("Reshape", ["a", "to"], ["b"]),
        n("Conv", ["b", "w0", "b0"], ["c"], name="first"),
        n("Relu", ["c"], ["d"]),
        n("Conv", ["d", "w1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("ids", I64, ["n", SIDE])]
    return _model(nodes, inputs, table=table, to=_i(0, 3, SIDE, SIDE))


def _bytes() -> onnx.ModelProto:
    nodes = [
        n("Cast", ["image"], ["f"], to=F),
        n("Mul", ["f", "k"], ["s"]),
        n("Sub", ["s", "mean"], ["z"]),
        n("Transpose", ["z"], ["t"], perm=[0, 3, 1, 2]),
        n("Conv", ["t", "w0", "b0"], ["c"], name="first"),
        n("Relu", ["c"], ["d"]),
        n("Conv", ["d", "w1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("image", U8, ["n", SIDE, SIDE, 3])]
    return _model(nodes, inputs, k=np.float32(1 / 64), mean=_f(2, 2.1, 1.9))


def _one_hot() -> onnx.ModelProto:
    nodes = [
        n("OneHot", ["ids", "depth", "values"], ["a"], axis=-1),
        n("MatMul", ["a", "m0"], ["b"], name="first"),
        n("Relu", ["b"], ["c"]),
        n("MatMul", ["c", "m1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("ids", I64, ["n", 6])]
    return _model(nodes, inputs, depth=np.array(32, np.int64), values=_f(0, 1))


def _half(inside: bool) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        source = "z" if inside else "x"
        nodes = [
            n("Conv", [source, "w0", "b0"], ["c"], name="first", pads=[1] * 4),
            n("Relu", ["c"], ["h"]),
            n("Mul", ["h", "k"], ["m"]),
            n("Conv", ["m", "w1"], ["d" if inside else "y"], name="last", pads=[1] * 4),
        ]
        if inside:  # the Casts come last, as a tool for float16 writes them
            nodes += [n("Cast", ["d"], ["y"], to=F), n("Cast", ["x"], ["z"], to=F16)]
        kind = F if inside else F16
        inputs = [helper.make_tensor_value_info("x", kind, ["n", 3, SIDE, SIDE])]
        outputs: list[Value | str] = [helper.make_tensor_value_info("y", kind, None)]
        return _model(nodes, inputs, outputs, half=True, infer=not inside, k=_f(0.5))

    return build


def _half_image(rng: np.random.Generator) -> Feeds:
    return {"x": rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float16)}


def _decomposed_hard_swish(*shape: int) -> Callable[[], onnx.ModelProto]:
    def value(number: float) -> Array:
        return np.full(shape, number, np.float32)

    return _between(
        n("Add", ["h0", "three"], ["p"]),
        n("Clip", ["p", "low", "high"], ["q"]),
        n("Mul", ["h0", "q"], ["r"]),
        n("Div", ["r", "six"], ["m"]),
        n("Conv", ["h", "k"], ["h0"], pads=[1] * 4),
        opset=11,
        k=_weights(8)["w1"],
        three=value(3),
        six=value(6),
        low=np.float32(0),
        high=np.float32(6),
    )


def _scaled(op: str, number: float, *, output: bool) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        nodes = [
            n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
            n("Relu", ["c"], ["h"]),
            n(op, ["h", "k"], ["m"]),
            n("Conv", ["m", "w1"], ["y"], name="last", pads=[1] * 4),
        ]
        return _model(nodes, outputs=["y", "m"] if output else ["y"], k=np.float32(number))

    return build


def _old(ir: int) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        rng = np.random.default_rng(2)
        ones = rng.uniform(0.5, 1.5, (4, 8)).astype(np.float32)
        nodes = [
            n("Conv", ["x", "w0"], ["c"], name="first", pads=[1] * 4),
            n("BatchNormalization", ["c", "g", "b", "mu", "var"], ["e"]),
            n("Relu", ["e"], ["h"]),
            n("Dropout", ["h"], ["d"], ratio=0.5),
            n("Reshape", ["w1flat", "shape"], ["w1r"]),
            n("Conv", ["d", "w1r"], ["f"], name="second", pads=[1] * 4),
            n("Clip", ["f"], ["k"], min=0.0, max=6.0),
            n("AveragePool", ["k"], ["p"], kernel_shape=[SIDE, SIDE]),
            n("Flatten", ["p"], ["q"]),
            n("Gemm", ["q", "fc", "bias"], ["z"], name="fc", transB=1),
            n("Softmax", ["z"], ["y"], axis=1),
        ]
        fc = _weights()["m0"][:10, :8]
        weights: dict[str, Any] = {"g": ones[0], "b": ones[1], "mu": 0.1 * ones[2], "var": ones[3]}
        return _model(
            nodes,
            opset=8 if ir == 3 else 9,
            ir=ir,
            w1flat=_weights()["w1"].reshape(-1),
            shape=_i(8, 8, 3, 3),
            fc=fc,
            bias=0.1 * fc[:, 0],
            **weights,
        )

    return build


def _wrong_shapes() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("ReduceMean", ["h"], ["m"], axes=[2], keepdims=0),
        n("Transpose", ["m"], ["t"], perm=[2, 0, 1]),
        n("MatMul", ["t", "fc"], ["f"], name="fc"),
        n("Reshape", ["f", "shape"], ["y"]),
    ]
    model = _model(
        nodes,
        None,
        [info("y", F, [1, "length"])],
        opset=12,
        ir=6,
        infer=False,
        fc=_weights()["m0"][:8],
        shape=_i(-1, 1, 32),
    )
    model.graph.value_info.append(info("h", F, [1, 5]))
    return model


def _fixed_batch() -> onnx.ModelProto:
    """A batch of 1 that an exporter wrote into the shapes, and a Reshape that does not hold it."""
    info = helper.make_tensor_value_info
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w1"], ["d"], name="last", pads=[1] * 4),
        n("Reshape", ["d", "shape"], ["y"]),
    ]
    inputs = [info("x", F, [1, 3, SIDE, SIDE])]
    return _model(nodes, inputs, [info("y", F, [1, 8 * SIDE * SIDE])], shape=_i(1, -1))


def _unsorted() -> onnx.ModelProto:
    nodes = [
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["s", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Mul", ["x", "k"], ["s"]),
    ]
    return _model(nodes, infer=False, k=np.float32(0.5))


def _function() -> onnx.ModelProto:
    body = helper.make_function(
        "own",
        "Swish",
        ["v"],
        ["o"],
        [n("Sigmoid", ["v"], ["g"]), n("Mul", ["v", "g"], ["o"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Swish", ["c"], ["h"], domain="own"),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    model = _model(nodes, infer=False, domains=("own",))
    model.functions.append(body)
    return model


def _zeros(what: str) -> Callable[[], onnx.ModelProto]:
    first, second = _weights()["w0"], _weights()["w1"]
    match what:
        case "kernel position":
            first[:, :, 0, 0], second[:, :, 0, 0] = 0, 0
        case "input channel":
            second[:, 2] = 0
        case "output channel":
            first[3] = 0
        case "layer":
            second[:] = 0
    nodes = [
        n("Conv", ["x", "first"], ["c"], name="first"),
        n("Conv", ["c", "second"], ["d"], name="second"),
        n("Add", ["d", "one"], ["e"]),
        n("Conv", ["e", "w2"], ["y"], name="last"),
    ]
    return lambda: _model(nodes, first=first, second=second, one=np.ones((1, 8, 1, 1), np.float32))


def _generated() -> onnx.ModelProto:
    nodes = [
        n("ConstantOfShape", ["shape"], ["zeros"]),
        n("MatMul", ["x", "m0"], ["a"], name="first"),
        n("Relu", ["a"], ["b"]),
        n("Concat", ["b", "zeros"], ["c"], axis=1),
        n("Slice", ["c", "from", "to", "axis"], ["d"]),
        n("MatMul", ["d", "m1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("x", F, [1, 32])]
    constants: dict[str, Any] = {"shape": _i(1, 100_000), "from": _i(0), "to": _i(32), "axis": _i(1)}
    return _model(nodes, inputs, **constants)


def _unrolled() -> onnx.ModelProto:
    """A recurrent cell of one weight, six times."""
    nodes, state = [], "x"
    for step in range(6):
        nodes += [
            n("Gemm", [state, "m0", "bias"], [f"a{step}"], name=f"step{step}", transB=1),
            n("Tanh", [f"a{step}"], [f"h{step}"]),
        ]
        state = f"h{step}"
    nodes.append(n("MatMul", [state, "m1"], ["y"], name="last"))
    inputs = [helper.make_tensor_value_info("x", F, ["n", 32])]
    return _model(nodes, inputs, bias=0.1 * _weights(9)["m0"][0])


def _pyramid() -> onnx.ModelProto:
    """A head that two resolutions share."""
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("MaxPool", ["h"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    for level in ("h", "small"):
        nodes += [
            n("Conv", [level, "w1"], [f"{level}_c"], name=f"head_{level}", pads=[1] * 4),
            n("Relu", [f"{level}_c"], [f"{level}_r"]),
            n("Conv", [f"{level}_r", "w2"], [f"y_{level}"], name=f"scores_{level}"),
        ]
    return _model(nodes, outputs=["y_h", "y_small"])


def _passed_on() -> onnx.ModelProto:
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
        n("Identity", ["x"], ["same"]),
        n("Flatten", ["x"], ["flat"]),
        n("Transpose", ["x"], ["turned"], perm=[0, 2, 3, 1]),
    ]
    return _model(nodes, outputs=["y", "same", "flat", "turned"])


def _sequence() -> onnx.ModelProto:
    return _between(
        n("SplitToSequence", ["h"], ["parts"], axis=1, keepdims=1),
        n("ConcatFromSequence", ["parts"], ["m"], axis=1),
    )()


def _sequence_output() -> onnx.ModelProto:
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
        n("SplitToSequence", ["y"], ["parts"], axis=1, keepdims=1),
    ]
    sequence = helper.make_tensor_sequence_value_info("parts", F, None)
    return _model(nodes, outputs=["y", sequence])


def _empty_tensor() -> onnx.ModelProto:
    """A tensor without elements goes through a Concat, as an empty list of boxes does."""
    return _between(
        n("Slice", ["h", "zero", "zero", "axis"], ["none"]),
        n("Concat", ["h", "none"], ["m"], axis=1),
        zero=_i(0),
        axis=_i(1),
    )()


def _boxes() -> onnx.ModelProto:
    """A number of rows that depends on the values, and indices."""
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w2"], ["y"], name="last"),
        n("Reshape", ["y", "flat"], ["f"]),
        n("Greater", ["f", "limit"], ["above"]),
        n("NonZero", ["above"], ["found"]),
        n("TopK", ["f", "five"], ["best", "at"], axis=1),
    ]
    outputs: list[Value | str] = ["y", "best"]
    outputs += [helper.make_tensor_value_info(name, I64, None) for name in ("found", "at")]
    return _model(nodes, outputs=outputs, flat=_i(1, -1), limit=np.float32(0.5), five=_i(5))


def _scatter() -> onnx.ModelProto:
    """An addition to a slice in place, as an exporter writes it."""
    at = np.stack(np.meshgrid([0], np.arange(4), indexing="ij"), -1).astype(np.int64)
    return _between(
        n("Slice", ["h", "zero", "four", "axis"], ["part"]),
        n("Relu", ["part"], ["q"]),
        n("Add", ["q", "q"], ["twice"]),
        n("ScatterND", ["h", "at", "twice"], ["m"]),
        zero=_i(0),
        four=_i(4),
        axis=_i(1),
        at=at,
    )()


def _repeated_split() -> onnx.ModelProto:
    nodes = [n("Split", ["h", "sizes"], [f"s{turn}{part}" for part in range(2)], axis=1) for turn in range(2)]
    return _between(*nodes, n("Concat", ["s00", "s11"], ["m"], axis=1), sizes=_i(4, 4))()


def _linear_tokens() -> onnx.ModelProto:
    nodes = [
        n("MatMul", ["x", "a"], ["b"], name="first"),
        n("Add", ["b", "bias"], ["c"]),
        n("Gelu", ["c"], ["d"], domain="com.microsoft"),
        n("MatMul", ["d", "e"], ["f"], name="last"),
        n("Add", ["f", "end"], ["y"]),
    ]
    weights = _weights(6)
    inputs = [helper.make_tensor_value_info("x", F, [1, 6, 16])]
    return _model(
        nodes,
        inputs,
        domains=("com.microsoft",),
        a=np.ascontiguousarray(weights["m1"].T),
        bias=0.1 * weights["m0"][0],
        e=weights["m1"],
        end=0.1 * weights["m1"][0],
    )


def _lstm() -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    gates: dict[str, Any] = {name: (rng.standard_normal((1, 64, 16)) / 4).astype(np.float32) for name in ("wx", "wr")}
    nodes = [
        n("MatMul", ["x", "a"], ["h"], name="first"),
        n("LSTM", ["h", "wx", "wr"], ["seen", "last_h", "last_c"], hidden_size=16),
        n("Squeeze", ["seen", "axis"], ["s"]),
        n("MatMul", ["s", "b"], ["y"], name="last"),
    ]
    weights = _weights(3)
    inputs = [helper.make_tensor_value_info("x", F, ["n", 6, 16])]
    return _model(nodes, inputs, a=weights["m1"][:16], b=weights["m1"][16:], axis=_i(1), **gates)


def _relu_then(op: str, layer: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        nodes = [
            n(layer, ["x", "m0", "bias"][: 3 if layer == "Gemm" else 2], ["a"], name="first"),
            n("Relu", ["a"], ["b"]),
            n("Mul", ["b", "s"], ["c"]) if op == "Mul" else n(op, ["b"], ["c"]),
            n("MatMul", ["c", "m1"], ["y"], name="last"),
        ]
        constants: dict[str, Any] = (
            {"s": np.random.default_rng(1).uniform(0.5, 2, 32).astype(np.float32)} if op == "Mul" else {}
        )
        inputs = [helper.make_tensor_value_info("x", F, ["n", 32])]
        bias: dict[str, Any] = {"bias": 0.1 * _weights()["m0"][1]} if layer == "Gemm" else {}
        return _model(nodes, inputs, **constants, **bias)

    return build


STRUCTURES: Mapping[str, Structure] = MappingProxyType(
    {
        **{
            f"{op} {opset} {mode} {scale:g}": Structure(_resized(op, opset, mode, scale), _image)
            for op, opset in (("Upsample", 7), ("Upsample", 8), ("Upsample", 9), ("Resize", 10))
            for mode in ("nearest", "linear")
            for scale in ((2.0, 1.7) if op == "Upsample" else (2.0, 1.7, 0.6))
        },
        "Pad with axes": Structure(
            _between(n("Pad", ["h", "p", "", "axes"], ["m"]), opset=18, p=_i(1, 1, 1, 1), axes=_i(2, 3)), _image
        ),
        "Pad with negative axes": Structure(
            _between(n("Pad", ["h", "p", "", "axes"], ["m"], mode="reflect"), opset=19, p=_i(1, 2), axes=_i(-1)), _image
        ),
        "Resize with axes": Structure(
            _between(n("Resize", ["h", "", "s"], ["m"], mode="nearest", axes=[2, 3]), opset=18, s=_f(2, 2)), _image
        ),
        "Resize to sizes with axes": Structure(
            _between(n("Resize", ["h", "", "", "s"], ["m"], mode="linear", axes=[2, 3]), opset=19, s=_i(20, 17)), _image
        ),
        "Resize antialiased": Structure(
            _between(n("Resize", ["h", "", "s"], ["m"], mode="linear", antialias=1), opset=18, s=_f(1, 1, 0.6, 0.6)),
            _image,
        ),
        "If": Structure(_branches("choice"), _image),
        "If without a name": Structure(_branches(""), _image),
        "nested If": Structure(_branches("choice", nested=True), _image),
        "If with a layer of a shared weight": Structure(_branches("choice", shared=True), _image),
        "Loop": Structure(_loop, _image),
        "Scan": Structure(_scan, _tokens),
        "recurrent state": Structure(_recurrent, _recurrent_feeds, exact=("stateN",)),
        "token ids": Structure(_embedding, lambda rng: {"ids": rng.integers(0, 64, (1, SIDE))}),
        "bytes of an image": Structure(
            _bytes, lambda rng: {"image": rng.integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.uint8)}
        ),
        "one hot": Structure(_one_hot, lambda rng: {"ids": rng.integers(0, 32, (1, 6))}),
        "float16": Structure(_half(inside=False), _half_image),
        "float16 inside": Structure(_half(inside=True), _image),
        **{
            f"decomposed HardSwish {list(shape)}": Structure(_decomposed_hard_swish(*shape), _image)
            for shape in ((), (1,), (1, 1, 1, 1))
        },
        **{
            f"{op} by {number:g}{', an output too' if output else ''}": Structure(
                _scaled(op, number, output=output), _image
            )
            for op, number in (("Mul", 0.5), ("Div", 3.0), ("Mul", -0.5))
            for output in (False, True)
        },
        "IR version 3": Structure(_old(3), _image),
        "IR version 4": Structure(_old(4), _image),
        "wrong declared shapes": Structure(_wrong_shapes, _image),
        "fixed batch": Structure(_fixed_batch, _image),
        "unsorted nodes": Structure(_unsorted, _image),
        "function": Structure(_function, _image),
        **{
            f"zeros in a {what}": Structure(_zeros(what), _image)
            for what in ("kernel position", "input channel", "output channel", "layer")
        },
        "generated zeros": Structure(_generated, _vector),
        "unrolled recurrence": Structure(_unrolled, _vector),
        "shared head": Structure(_pyramid, _image),
        "input passed on": Structure(_passed_on, _image, exact=("same", "flat", "turned")),
        "sequence": Structure(_sequence, _image),
        "sequence as output": Structure(_sequence_output, _image),
        "tensor without elements": Structure(_empty_tensor, _image),
        "varying number of rows": Structure(_boxes, _image),
        "scatter into a slice": Structure(_scatter, _image),
        "repeated Split": Structure(_repeated_split, _image),
        "linear layers on tokens": Structure(_linear_tokens, _tokens),
        "LSTM": Structure(_lstm, _tokens),
        "mean and variance": Structure(_between(n("MeanVarianceNormalization", ["h"], ["m"]), opset=13), _image),
        **{
            f"{layer}, Relu, {op}": Structure(_relu_then(op, layer), _vector)
            for layer in ("Gemm", "MatMul")
            for op in ("Mul", "Softmax", "Erf")
        },
    }
)
