"""Operators between integer layers with what newer opsets added: the file runs, and as exactly as others do."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import convert
from passes.numerics.error import sqnr_db
from tests.support.networks import conv, images, network, run

X = images(16, 3, 12, 12)
node = helper.make_node


def between(opset: int, nodes: list[onnx.NodeProto], channels: int = 8, **values: Any) -> onnx.ModelProto:
    """Conv -> Relu r -> ``nodes`` -> m -> Conv -> Relu. Integers are int64 constants, floats are float32."""
    constants: dict[str, NDArray[Any]] = {}
    for name, value in values.items():
        array = np.array(value)
        constants[name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    every = [
        conv(constants, "first", "x", "c", (8, 3, 3, 3)),
        node("Relu", ["c"], ["r"], "relu"),
        *nodes,
        conv(constants, "second", "m", "b", (6, channels, 3, 3)),
        node("Relu", ["b"], ["y"], "last"),
    ]
    return network(every, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 6, "H", "W"]}, opset=opset)


POOL: dict[str, Any] = {"kernel_shape": [3, 3]}
HALF: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
CASES = {
    "Pad axes": between(18, [node("Pad", ["r", "p", "", "a"], ["m"], "op", mode="reflect")], p=[2, 1, 2, 1], a=[2, 3]),
    "Pad value": between(18, [node("Pad", ["r", "p", "v", "a"], ["m"], "op")], p=[1, 2], v=0.5, a=[-1]),
    "Pad channels": between(18, [node("Pad", ["r", "p", "", "a"], ["m"], "op")], 10, p=[1, 1], a=[1]),
    "Pad wrap": between(19, [node("Pad", ["r", "p", "", "a"], ["m"], "op", mode="wrap")], p=[1, 2], a=[3]),
    "Resize scales": between(18, [node("Resize", ["r", "", "s"], ["m"], "op", axes=[3, 2])], s=[2.0, 1.5]),
    "Resize sizes": between(18, [node("Resize", ["r", "", "", "s"], ["m"], "op", axes=[2, 3])], s=[24, 20]),
    "Resize linear": between(18, [node("Resize", ["r", "", "s"], ["m"], "op", axes=[2], mode="linear")], s=[2.0]),
    "Resize ratio": between(
        18,
        [node("Resize", ["r", "", "", "s"], ["m"], "op", axes=[2, 3], keep_aspect_ratio_policy="not_larger")],
        s=[24, 30],
    ),
    "Resize antialias": between(
        18, [node("Resize", ["r", "", "s"], ["m"], "op", mode="linear", antialias=1)], s=[1.0, 1.0, 0.5, 0.5]
    ),
    "AveragePool dilations": between(19, [node("AveragePool", ["r"], ["m"], "op", dilations=[2, 2], **POOL)]),
    "AveragePool beyond pads": between(
        19, [node("AveragePool", ["r"], ["m"], "op", pads=[1] * 4, count_include_pad=1, **HALF)]
    ),
    "AveragePool beyond the input": between(19, [node("AveragePool", ["r"], ["m"], "op", count_include_pad=1, **HALF)]),
    "ReduceMean axes": between(
        18, [node("ReduceMean", ["r", "a"], ["g"], "op"), node("Mul", ["r", "g"], ["m"], "gate")], a=[1]
    ),
    "Split num_outputs": between(
        18,
        [
            node("Split", ["r"], ["s", "t", "u"], "op", axis=1, num_outputs=3),
            node("Concat", ["u", "s", "t"], ["m"], axis=1),
        ],
    ),
}


@pytest.mark.parametrize("recipe", ["int8", "int8-gptq"])
@pytest.mark.parametrize("case", CASES)
def test_what_newer_opsets_added(case: str, recipe: str) -> None:
    """`convert` itself compares the run with and without onnxruntime's optimizations, and refuses what differs."""
    result = convert(CASES[case], X, recipe=recipe)
    assert sqnr_db(run(CASES[case], X)[0], run(result.model, X)[0]) > 33  # three rounded activations: 37 to 42 dB
