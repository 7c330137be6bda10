"""Floats of a graph in float16: what computes in it, what stays in float32, and constants that are only stored so."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.narrow_floats import compute_in_float16, store_as_float16
from converter.runtime.session import open_session
from tests.support.graphs import array, build, node

SHAPE = (2, 4, 6, 6)


def network(*between: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Conv -> nodes from "b" to "c" -> Conv."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        *(between or [node("Identity", ["b"], ["c"], name="same")]),
        node("Conv", ["c", "w2"], ["y"], name="second"),
    ]
    values = {"w1": array(4, 4, 3, 3), "w2": array(4, 4, 1, 1, seed=1)}
    for name, value in constants.items():
        values[name] = np.asarray(value) if isinstance(value, np.uint8) else np.asarray(value, np.float32)
    return build(nodes, values, SHAPE)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return np.asarray(open_session(model).run(None, {"x": array(*SHAPE, seed=5)})[0])


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Return the types of the tensors that nodes write."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    return {each.name: types[each.output[0]] for each in model.graph.node}


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() < 4e-3 * np.abs(expected).max())  # 11 bits, summed over 36 products


def test_a_network_computes_in_float16_between_its_own_types() -> None:
    model = network()
    expected = run(model)
    assert compute_in_float16(model, {}, {}) == {}
    found = run(model)
    assert found.dtype == np.float32
    assert near(found, expected)
    assert not np.array_equal(found, expected)
    types = kinds(model)
    assert {types[name] for name in ("first", "relu", "second")} == {TensorProto.FLOAT16}
    assert [each.op_type for each in model.graph.node].count("Cast") == 2
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT16}


@pytest.mark.parametrize(
    ("between", "constants", "why"),
    [
        pytest.param([node("Exp", ["b"], ["c"], name="it")], {}, "Exp soon leaves the range of float16", id="operator"),
        pytest.param(
            [node("Add", ["b", "k"], ["c"], name="it")],
            {"k": 1e6},
            "the constant k has 1e+06, which float16 does not hold",
            id="large constant",
        ),
        pytest.param(
            [node("Add", ["b", "k"], ["c"], name="it")],
            {"k": 1e-12},
            "the constant k has 1e-12, which float16 does not hold",
            id="small constant",
        ),
        pytest.param(
            [node("Celu", ["b"], ["c"], name="it")],
            {},
            "Celu has no form in float16 that is known to be safe",
            id="new",
        ),
    ],
)
def test_what_float16_cannot_do_stays_in_float32(
    between: list[onnx.NodeProto], constants: dict[str, float], why: str
) -> None:
    model = network(*between, **constants)
    expected = run(model)
    assert compute_in_float16(model, {}, {}) == {"it": why}
    assert near(run(model), expected)
    types = kinds(model)
    assert types["it"] == TensorProto.FLOAT
    assert types["first"] == types["second"] == TensorProto.FLOAT16


def test_nodes_and_tensors_that_are_named_stay_in_float32() -> None:
    model = network()
    reasons = compute_in_float16(model, {"first": "excluded"}, {"c": 1e5})
    assert reasons == {
        "first": "excluded",
        "same": "c reaches 1e+05, and float16 ends at 65504",
        "second": "c reaches 1e+05, and float16 ends at 65504",
    }
    assert kinds(model)["relu"] == TensorProto.FLOAT16


def test_an_infinite_constant_is_one_of_float16() -> None:
    model = network(node("Max", ["b", "k"], ["c"], name="it"), k=-np.inf)
    assert compute_in_float16(model, {}, {}) == {}
    assert np.isfinite(run(model)).all()


def test_a_resize_reads_its_scales_in_float32() -> None:
    resize = node("Resize", ["b", "", "k"], ["c"], name="it", mode="nearest")
    model = network(resize, k=[1, 1, 2, 2])
    expected = run(model)
    assert compute_in_float16(model, {}, {}) == {}
    assert near(run(model), expected)


def test_a_model_of_float16_inside_needs_no_casts_at_its_ends() -> None:
    """A file of float16 is read as float32 between Casts. Written as float16 again, it computes as it did."""
    model = network()
    graph = model.graph
    graph.node.insert(0, helper.make_node("Cast", ["x16"], ["x"], name="in", to=TensorProto.FLOAT))
    graph.input[0].name, graph.input[0].type.tensor_type.elem_type = "x16", TensorProto.FLOAT16
    compute_in_float16(model, {}, {})
    assert next(each for each in graph.node if each.name == "first").input[0] == "x16"


@pytest.mark.parametrize("order", [1, -1])
def test_a_cast_has_one_type(order: int) -> None:
    whole = helper.make_node("Cast", ["b"], ["n"], name="whole", to=TensorProto.INT32)
    model = network(whole, helper.make_node("Cast", ["n"], ["c"], name="it", to=TensorProto.FLOAT))
    model.opset_import[0].version = 19
    cast = next(each for each in model.graph.node if each.name == "it")
    attributes = [*cast.attribute, helper.make_attribute("saturate", 1)][::order]
    attributes = [onnx.AttributeProto.FromString(each.SerializeToString()) for each in attributes]
    del cast.attribute[:]
    cast.attribute.extend(attributes)
    assert compute_in_float16(model, {}, {}) == {}
    written = next(each for each in model.graph.node if each.name == "it")
    assert {each.name: each.i for each in written.attribute} == {"to": TensorProto.FLOAT16, "saturate": 1}
    assert len(written.attribute) == 2


@pytest.mark.parametrize("read", [True, False])
def test_a_layer_normalization_with_statistics_stays_in_float32(read: bool) -> None:
    layer = node("LayerNormalization", ["b", "k"], ["d", "mean"], name="it")
    after = node("Add", ["d", "mean" if read else "k"], ["c"], name="after")
    model = network(layer, after, k=np.ones(4))
    expected = run(model)
    reasons = compute_in_float16(model, {}, {})
    assert reasons == ({"it": "LayerNormalization has no form in float16 for its further outputs"} if read else {})
    assert near(run(model), expected)


@pytest.mark.parametrize(("value", "why"), [(2.0, ""), (1e6, "the constant k has 1e+06, which float16 does not hold")])
@pytest.mark.parametrize("form", ["value", "value_float"])
def test_a_constant_node_is_a_constant(value: float, why: str, form: str) -> None:
    constant = helper.make_node("Constant", [], ["k"], name="k")
    content = numpy_helper.from_array(np.array(value, np.float32)) if form == "value" else value
    constant.attribute.append(helper.make_attribute(form, content))
    model = network(constant, node("Add", ["b", "k"], ["c"], name="it"))
    expected = run(model)
    assert compute_in_float16(model, {}, {}) == ({"it": why} if why else {})
    assert near(run(model), expected)
    assert any(each.op_type == "Constant" for each in model.graph.node) == bool(why)


def test_codes_and_their_neighbours_stay_as_they_are() -> None:
    quantized = [
        node("QuantizeLinear", ["b", "scale", "zero"], ["q"], name="quantize"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["c"], name="dequantize"),
    ]
    model = network(*quantized, scale=0.05, zero=np.uint8(0))
    expected = run(model)
    reasons = compute_in_float16(model, {}, {})
    assert reasons == dict.fromkeys(("relu", "second"), "it is next to integers")
    assert np.abs(run(model) - expected).max() < 0.2  # a code or two of 0.05 may be the next one


def test_constants_are_stored_as_float16() -> None:
    model = network(node("Mul", ["b", "k"], ["c"], name="it"), k=np.full((4, 4, 4), 1e5))
    before, expected = model.ByteSize(), run(model)
    saved = store_as_float16(model)
    assert saved == 2 * 4 * 4 * 9
    assert before - model.ByteSize() > saved / 2
    assert near(run(model), expected)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored == {"w1_float16": TensorProto.FLOAT16, "w2": TensorProto.FLOAT, "k": TensorProto.FLOAT}
