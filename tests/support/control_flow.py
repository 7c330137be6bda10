"""Networks with control flow: convolutions, and an If, Loop, Scan or SequenceMap that reads their results."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.graphs import array, build, node

__all__ = ["NETWORKS", "SHAPE", "body", "with_if"]

SHAPE = (8, 3, 8, 8)
FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Value = tuple[str, int, list[int | str] | None]

WEIGHTS: dict[str, np.ndarray] = {
    "w0": array(8, 3, 3, 3) / 5,
    "w1": array(8, 8, 3, 3) / 8,
    "w2": array(8, 8, 1, 1) / 3,
    "zero": np.array(0, np.float32),
}
LAYERS = [
    node("Conv", ["x", "w0"], ["a"], name="conv0", pads=[1] * 4),
    node("Relu", ["a"], ["b"], name="relu0"),
    node("Conv", ["b", "w1"], ["c"], name="conv1", pads=[1] * 4),
    node("Relu", ["c"], ["d"], name="relu1"),
]
SOME = [
    node("ReduceMax", ["d"], ["most"], name="most", keepdims=0),
    node("Greater", ["most", "zero"], ["some"], name="some"),
]


def body(name: str, nodes: list[onnx.NodeProto], outputs: list[Value], inputs: list[Value] = []) -> onnx.GraphProto:  # noqa: B006
    """Make a body. Its inputs and outputs are (name, element type, shape)."""
    given, results = ([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs))
    return helper.make_graph(nodes, name, given, results)


def with_if(
    then: list[onnx.NodeProto],
    other: list[onnx.NodeProto],
    *more: onnx.NodeProto,
    before: Sequence[onnx.NodeProto] = (),
    name: str = "choice",
) -> onnx.ModelProto:
    """Make a network with an If that writes `h`, and whose branches write `t` and `e`. `more` replaces a layer."""
    bodies = {
        "then_branch": body("then", then, [("t", FLOAT, ["n", 8, 8, 8])]),
        "else_branch": body("else", other, [("e", FLOAT, ["n", 8, 8, 8])]),
    }
    choice = node("If", ["some"], ["h"], name, **bodies)
    last = [node("Conv", ["h", "w2"], ["y"], name="conv2")]
    nodes = [*LAYERS, *SOME, *before, choice, *(more or last)]
    return build(nodes, WEIGHTS, ["n", *SHAPE[1:]], output_shape=["n", 8, 8, 8])


def choice_of_captured() -> onnx.ModelProto:
    """Both branches read tensors of the network, one of them an input of a layer."""
    return with_if([node("Add", ["d", "b"], ["t"])], [node("Neg", ["d"], ["e"])])


def unnamed() -> onnx.ModelProto:
    """The If has no name, and is the last node."""
    return with_if([node("Identity", ["d"], ["t"])], [node("Neg", ["c"], ["e"])], node("Neg", ["h"], ["y"]), name="")


def layer_inside() -> onnx.ModelProto:
    """A layer inside reads a weight that a layer outside has too, and an input of the network."""
    inside = [
        node("Conv", ["b", "w1"], ["r"], name="inside", pads=[1] * 4),
        node("Conv", ["x", "w0"], ["s"], name="also", pads=[1] * 4),
        node("Add", ["r", "s"], ["t"]),
    ]
    return with_if(inside, [node("Identity", ["c"], ["e"])])


def nested() -> onnx.ModelProto:
    """A branch holds another If, which reads tensors of the network and of the branch."""
    inner = {
        "then_branch": body("deep then", [node("Add", ["q", "b"], ["deep"])], [("deep", FLOAT, ["n", 8, 8, 8])]),
        "else_branch": body("deep else", [node("Identity", ["d"], ["deeper"])], [("deeper", FLOAT, ["n", 8, 8, 8])]),
    }
    then = [
        node("Exp", ["zero"], ["one"]),
        node("Less", ["most", "one"], ["again"]),
        node("Neg", ["d"], ["q"]),
        node("If", ["again"], ["t"], **inner),
    ]
    return with_if(then, [node("Neg", ["b"], ["e"])])


def bypassed() -> onnx.ModelProto:
    """A branch reads the result of an Identity, which is removed."""
    copying = node("Identity", ["d"], ["copy"], name="copying")
    return with_if([node("Neg", ["copy"], ["t"])], [node("Identity", ["copy"], ["e"])], before=[copying])


def loop_of_layers() -> onnx.ModelProto:
    """A Loop runs a layer three times. It captures another tensor."""
    inside = body(
        "steps",
        [
            node("Conv", ["v", "w1"], ["r"], name="inside", pads=[1] * 4),
            node("Tanh", ["r"], ["s"]),
            node("Add", ["s", "b"], ["v_out"]),
            node("Identity", ["go"], ["go_out"]),
        ],
        [("go_out", BOOL, []), ("v_out", FLOAT, ["n", 8, 8, 8])],
        [("i", INT, []), ("go", BOOL, []), ("v", FLOAT, ["n", 8, 8, 8])],
    )
    loop = node("Loop", ["three", "", "d"], ["h"], name="loop", body=inside)
    last = node("Conv", ["h", "w2"], ["y"], name="conv2")
    constants = WEIGHTS | {"three": np.array(3)}
    return build([*LAYERS, loop, last], constants, ["n", *SHAPE[1:]], output_shape=["n", 8, 8, 8])


def scan() -> onnx.ModelProto:
    """A Scan over rows adds them up, and captures the mean of a layer's input."""
    inside = body(
        "rows",
        [
            node("Add", ["sum", "row"], ["next"]),
            node("Add", ["next", "mean"], ["kept"]),
            node("Identity", ["next"], ["sum_out"]),
        ],
        [("sum_out", FLOAT, None), ("kept", FLOAT, None)],
        [("sum", FLOAT, None), ("row", FLOAT, None)],
    )
    nodes = [
        *LAYERS,
        node("ReduceMean", ["b"], ["mean"], name="mean", keepdims=0),
        node("ReduceSum", ["d", "rows"], ["start"], name="start", keepdims=0),
        node(
            "Scan", ["start", "d"], ["end", "h"], "scan",
            body=inside, num_scan_inputs=1, scan_input_axes=[2], scan_output_axes=[2],
        ),
        node("Conv", ["h", "w2"], ["y"], name="conv2"),
    ]  # fmt: skip
    constants = WEIGHTS | {"rows": np.array([2])}
    return build(nodes, constants, ["n", *SHAPE[1:]], output_shape=["n", 8, 8, 8])


def sequence_map() -> onnx.ModelProto:
    """A SequenceMap runs over the images, which a layer computes one by one. The sequence crosses another layer."""
    inside = body(
        "each", [node("Add", ["image", "shift"], ["moved"])], [("moved", FLOAT, None)], [("image", FLOAT, None)]
    )
    nodes = [
        *LAYERS,
        node("ReduceMean", ["d"], ["shift"], name="shift", keepdims=0),
        node("SplitToSequence", ["d"], ["images"], name="split", axis=0),
        node("SequenceMap", ["images"], ["all"], "map", body=inside),
        node("Conv", ["d", "w2"], ["k"], name="conv2"),
        node("ReduceMax", ["k"], ["most"], name="most", keepdims=0),
        node("Cast", ["most"], ["whole"], name="whole", to=INT),
        node("Mul", ["whole", "none"], ["first"], name="first"),
        node("SequenceAt", ["all", "first"], ["picked"], name="pick"),
        node("Add", ["k", "picked"], ["y"], name="end"),
    ]
    constants = WEIGHTS | {"none": np.array(0)}
    return build(nodes, constants, ["n", *SHAPE[1:]], output_shape=["n", 8, 8, 8])


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "captured": choice_of_captured,
    "unnamed": unnamed,
    "layer_inside": layer_inside,
    "nested": nested,
    "bypassed": bypassed,
    "loop": loop_of_layers,
    "scan": scan,
    "sequence_map": sequence_map,
}
