"""Graphs with other inputs and outputs: states, integers, float16, sequences, varying sizes."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from models.structures.build import F16, I64, SIDE, U8, F, Feeds, Value, between, floats, ints, layer_weights, make, n

__all__ = [
    "boxes",
    "bytes",
    "embedding",
    "empty_tensor",
    "half",
    "half_image",
    "one_hot",
    "recurrent",
    "recurrent_feeds",
    "sequence",
    "sequence_output",
]


def recurrent() -> onnx.ModelProto:
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
    return make(nodes, inputs, ["y", "stateN"], zero=np.array(0, np.int64), out=layer_weights(5)["m1"][:16])


def recurrent_feeds(rng: np.random.Generator) -> Feeds:
    """Return an input, a state and a gain."""
    return {
        "x": rng.standard_normal((1, 32), dtype=np.float32),
        "state": rng.standard_normal((2, 1, 16), dtype=np.float32),
        "gain": np.array(rng.uniform(0.5, 2), np.float32),
    }


def embedding() -> onnx.ModelProto:
    """Build a lookup of token ids before convolutions."""
    table = np.random.default_rng(4).standard_normal((64, 3 * SIDE)).astype(np.float32)
    nodes = [
        n("Gather", ["table", "ids"], ["a"]),
        n("Reshape", ["a", "to"], ["b"]),
        n("Conv", ["b", "w0", "b0"], ["c"], name="first"),
        n("Relu", ["c"], ["d"]),
        n("Conv", ["d", "w1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("ids", I64, ["n", SIDE])]
    return make(nodes, inputs, table=table, to=ints(0, 3, SIDE, SIDE))


def image_bytes() -> onnx.ModelProto:
    """Build the preprocessing of a uint8 image before convolutions."""
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
    return make(nodes, inputs, k=np.float32(1 / 64), mean=floats(2, 2.1, 1.9))


def one_hot() -> onnx.ModelProto:
    """Build one-hot vectors of token ids before matrix products."""
    nodes = [
        n("OneHot", ["ids", "depth", "values"], ["a"], axis=-1),
        n("MatMul", ["a", "m0"], ["b"], name="first"),
        n("Relu", ["b"], ["c"]),
        n("MatMul", ["c", "m1"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("ids", I64, ["n", 6])]
    return make(nodes, inputs, depth=np.array(32, np.int64), values=floats(0, 1))


def half(inside: bool) -> Callable[[], onnx.ModelProto]:
    """Build a model of float16, or with float16 inside."""

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
        return make(nodes, inputs, outputs, half=True, infer=not inside, k=floats(0.5))

    return build


def half_image(rng: np.random.Generator) -> Feeds:
    """Return a float16 image."""
    return {"x": rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float16)}


def sequence() -> onnx.ModelProto:
    """Build a sequence between layers."""
    return between(
        n("SplitToSequence", ["h"], ["parts"], axis=1, keepdims=1),
        n("ConcatFromSequence", ["parts"], ["m"], axis=1),
    )()


def sequence_output() -> onnx.ModelProto:
    """Build a sequence as an output."""
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], name="first", pads=[1] * 4),
        n("Relu", ["c"], ["h"]),
        n("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
        n("SplitToSequence", ["y"], ["parts"], axis=1, keepdims=1),
    ]
    sequence = helper.make_tensor_sequence_value_info("parts", F, None)
    return make(nodes, outputs=["y", sequence])


def empty_tensor() -> onnx.ModelProto:
    """A tensor without elements goes through a Concat, as an empty list of boxes does."""
    return between(
        n("Slice", ["h", "zero", "zero", "axis"], ["none"]),
        n("Concat", ["h", "none"], ["m"], axis=1),
        zero=ints(0),
        axis=ints(1),
    )()


def boxes() -> onnx.ModelProto:
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
    return make(nodes, outputs=outputs, flat=ints(1, -1), limit=np.float32(0.5), five=ints(5))
