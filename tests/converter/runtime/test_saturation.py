"""Sums of 8-bit products that saturate, and the files in which that cannot be turned off."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.runtime.saturation import has_integer_operators, quantizes_in_bodies, sums_saturate
from converter.runtime.session import EXACT_KERNELS
from tests.support.graphs import build, node


@pytest.mark.parametrize("value", [1, 127])
def test_the_probe_is_what_a_file_of_integers_gets(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products never saturate; the largest do where the probe says so."""
    monkeypatch.delenv(EXACT_KERNELS)
    nodes = [node("MatMulInteger", ["x", "w"], ["sums"]), node("Cast", ["sums"], ["y"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.full((64, 8), value, np.int8), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    from onnxruntime import InferenceSession

    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.full((1, 64), 255, np.uint8)})[0]
    assert bool((found == 64 * 255 * value).all()) == (value == 1 or not sums_saturate())


def test_what_a_file_has() -> None:
    plain = build([node("Relu", ["x"], ["y"])], {}, ["n", 4], output_shape=None)
    assert not has_integer_operators(plain)
    assert not quantizes_in_bodies(plain)
    integers = build(
        [node("ConvInteger", ["x", "w"], ["y"])],
        {"w": np.ones((4, 3, 1, 1), np.int8)},
        ["n", 3, 8, 8],
        output_shape=None,
    )
    assert has_integer_operators(integers)
    constants: dict[str, np.ndarray] = {"s": np.array(1, np.float32), "z": np.array(0, np.uint8)}
    body = helper.make_graph(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"])],
        "body",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    branches = build(
        [node("If", ["yes"], ["y"], then_branch=body, else_branch=body)],
        {"yes": np.array(True)},
        ["n", 4],
        output_shape=None,
    )
    assert quantizes_in_bodies(branches)
    assert not has_integer_operators(branches)
    outside = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    assert not quantizes_in_bodies(build(outside, constants, ["n", 4], output_shape=None))
