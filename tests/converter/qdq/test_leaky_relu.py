"""A LeakyRelu as a sum of two multiples of codes: written, run by onnxruntime, and read again."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from converter import convert
from converter.qdq.reader import read_qdq
from converter.runtime.session import open_session
from passes.numerics.error import sqnr_db
from tests.support.models import make_model
from tests.support.networks import run

X = np.random.default_rng(0).standard_normal((32, 8, 12, 12)).astype(np.float32)


def leaky_network(*, alpha: float | None = 0.1, read_twice: bool = False) -> onnx.ModelProto:
    """Conv, LeakyRelu, Conv. Another convolution may read what the LeakyRelu reads."""
    draw = np.random.default_rng(1)
    slope: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["first"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["first"], ["second"], "act", **slope),
        helper.make_node("Conv", ["second", "w2"], ["third"], "conv2"),
    ]
    if read_twice:
        nodes += [
            helper.make_node("Conv", ["first", "w3"], ["side"], "conv3"),
            helper.make_node("Add", ["third", "side"], ["output"], "add"),
        ]
    else:
        nodes[-1].output[0] = "output"
    constants = {
        "w1": draw.standard_normal((16, 8, 3, 3)).astype(np.float32) / 8,
        "b1": draw.standard_normal(16).astype(np.float32) / 4,
        "w2": draw.standard_normal((8, 16, 1, 1)).astype(np.float32) / 4,
        "w3": draw.standard_normal((8, 16, 1, 1)).astype(np.float32) / 4,
    }
    read = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in constants.items() if name in read}
    shape = ["n", 8, 12, 12]
    return make_model(nodes, constants, inputs={"input": shape}, outputs={"output": shape})


def of(op: str, model: onnx.ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


@pytest.mark.parametrize("alpha", [0.1, None, 0.9])
@pytest.mark.parametrize("read_twice", [False, True])
def test_the_sum_is_the_leaky_relu_but_for_ties(alpha: float | None, read_twice: bool) -> None:
    network = leaky_network(alpha=alpha, read_twice=read_twice)
    summed, kept = (convert(network, X, recipe="int8", target=target).model for target in ("cpu", "generic"))
    assert not of("LeakyRelu", summed)
    assert len(of("LeakyRelu", kept)) == 1
    assert (of("Add", summed)[0].name, of("Add", summed)[0].output[0]) == ("act", "second")
    assert sqnr_db(run(kept, X)[0], run(summed, X)[0]) > 40
    assert sqnr_db(run(network, X)[0], run(summed, X)[0]) > sqnr_db(run(network, X)[0], run(kept, X)[0]) - 0.2


def test_onnxruntime_adds_on_integers(tmp_path: Path) -> None:
    model = convert(leaky_network(), X, recipe="int8").model
    open_session(model, optimized=tmp_path / "optimized.onnx")
    found = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert found.count("QLinearAdd") == 1
    assert found.count("QLinearConv") == 2
    assert found.count("DequantizeLinear") == 1  # of the output


@pytest.mark.parametrize("alpha", [0.0, -0.2, 1.0, 1.5])
def test_other_slopes_stay_leaky_relus(alpha: float) -> None:
    model = convert(leaky_network(alpha=alpha), X, recipe="int8").model
    assert len(of("LeakyRelu", model)) == 1
    assert not of("Clip", model)


@pytest.mark.parametrize("read_twice", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_the_sum_is_read_as_a_leaky_relu(alpha: float, read_twice: bool) -> None:
    network = leaky_network(alpha=alpha, read_twice=read_twice)
    model = convert(network, X, recipe="int8").model
    floats, found = read_qdq(model)
    (node,) = of("LeakyRelu", floats)
    assert node.name == "act"
    assert node.input == ["first"]
    assert node.output[0] in {"second", "second_unclamped"}  # a range may clip the largest values
    assert node.attribute[0].f == pytest.approx(alpha)
    assert {"first", "second"} <= set(found.ranges)
    assert sqnr_db(run(network, X)[0], run(floats, X)[0]) > 30
    again = convert(model, recipe="keep").model
    np.testing.assert_array_equal(run(again, X)[0], run(model, X)[0])
    assert sorted(each.op_type for each in again.graph.node) == sorted(each.op_type for each in model.graph.node)


def test_a_sum_of_other_multiples_is_read_as_it_is() -> None:
    model = convert(leaky_network(), X, recipe="int8").model
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "first_all_scale")
    scale.raw_data = (2 * np.frombuffer(scale.raw_data, np.float32)).tobytes()
    floats, _ = read_qdq(model)
    assert not of("LeakyRelu", floats)
    assert sqnr_db(run(model, X)[0], run(floats, X)[0]) > 30


# ----------------------------------------------------- codes that stand for other values than they were rounded from


@pytest.mark.parametrize(("factor", "zero_point"), [(0.5, 128), (2.0, 128), (0.5, 100), (1.0, 90)])
def test_a_tensor_that_is_dequantized_with_another_scale_is_a_multiple(factor: float, zero_point: int) -> None:
    draw = np.random.default_rng(2)
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["codes"], "q"),
        helper.make_node("DequantizeLinear", ["codes", "other_scale", "other_zero"], ["floats"], "d"),
        helper.make_node("Conv", ["floats", "w"], ["output"], "conv"),
    ]
    constants = {
        "scale": np.float32(0.03),
        "zero": np.uint8(128),
        "other_scale": np.float32(0.03 * factor),
        "other_zero": np.uint8(zero_point),
        "w": draw.standard_normal((4, 8, 1, 1)).astype(np.float32),
    }
    shapes = {"input": ["n", 8, 12, 12]}, {"output": ["n", 4, 12, 12]}
    model = make_model(nodes, {k: np.asarray(v) for k, v in constants.items()}, inputs=shapes[0], outputs=shapes[1])
    floats, _ = read_qdq(model)
    assert sqnr_db(run(model, X)[0], run(floats, X)[0]) > 30


def test_a_product_that_only_changes_the_scale_survives_reading() -> None:
    network = leaky_network()
    network.graph.node[1].CopyFrom(helper.make_node("Mul", ["first", "half"], ["second"], "halve"))
    network.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    model = convert(network, X, recipe="int8").model
    assert not of("Mul", model)  # the DequantizeLinear has the factor
    floats, _ = read_qdq(model)
    assert sqnr_db(run(network, X)[0], run(floats, X)[0]) > 30
    np.testing.assert_array_equal(run(convert(model, recipe="keep").model, X)[0], run(model, X)[0])


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_a_clip_behind_it_that_the_quantizer_took_over_is_read(target: str) -> None:
    network = leaky_network()
    network.graph.node[2].input[0] = "clipped"
    bounds = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("l", 0.0), ("h", 0.2))]
    network.graph.initializer.extend(bounds)
    network.graph.node.insert(2, helper.make_node("Clip", ["second", "l", "h"], ["clipped"], "clip"))
    model = convert(network, X, recipe="int8", target=target).model
    floats, _ = read_qdq(model)
    assert sqnr_db(run(model, X)[0], run(floats, X)[0]) > 25


def test_a_sum_of_which_a_part_is_an_output_is_read() -> None:
    model = convert(leaky_network(), X, recipe="int8").model
    part = of("Add", model)[0].input[1]
    model.graph.output.append(helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, ["n", 16, 12, 12]))
    floats, _ = read_qdq(model)
    for wanted, found in zip(run(model, X), run(floats, X), strict=True):
        assert sqnr_db(wanted, found) > 25
