"""Models of 16-bit floats are read as float32: the same weights, the same interface."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter import convert
from converter.model_io.check import check_model
from converter.model_io.load import load_proto
from passes.errors import ModelError
from passes.numerics.error import sqnr_db

node = helper.make_node
info = helper.make_tensor_value_info
F16, F32, BF16 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16
RANDOM = np.random.default_rng(0)
W = RANDOM.normal(0, 0.2, (16, 3, 3, 3)).astype(np.float16)
W2 = RANDOM.normal(0, 0.1, (8, 16, 3, 3)).astype(np.float16)
X = RANDOM.normal(size=(4, 3, 8, 8)).astype(np.float16)
CONVS = [
    node("Conv", ["x", "w"], ["a"], name="first"),
    node("Relu", ["a"], ["b"]),
    node("Conv", ["b", "w2"], ["y"], name="second"),
]


def built(nodes: list[onnx.NodeProto], x: int = F16, y: int = F16, **more: NDArray[np.generic]) -> onnx.ModelProto:
    constants = {"w": W, "w2": W2} | more
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", x, ["N", 3, 8, 8])],
        [info("y", y, ["N", 8, 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return node("Cast", [source], [result], to=kind)


def interface() -> onnx.ModelProto:
    return built(CONVS)


def kept_io_types() -> onnx.ModelProto:
    """As onnxconverter-common writes it: Casts inside, also around what must not be float16."""
    nodes = [
        cast("x", "h", F16),
        node("Conv", ["h", "w"], ["a"], name="first"),
        cast("a", "a32", F32),
        node("Softmax", ["a32"], ["s32"], axis=1),
        cast("s32", "s", F16),
        node("Conv", ["s", "w2"], ["c"], name="second"),
        cast("c", "y", F32),
    ]
    return built(nodes, F32, F32)


def constants_and_attributes() -> onnx.ModelProto:
    """16-bit types in a Constant, a ConstantOfShape and a Cast of integers."""
    nodes = [
        *CONVS[:2],
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(0.5, np.float16))),
        node("Mul", ["b", "k"], ["m"]),
        node("Shape", ["m"], ["size"]),
        node("ConstantOfShape", ["size"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float16))),
        cast("count", "c", F16),
        node("Add", ["m", "ones"], ["p"]),
        node("Mul", ["p", "c"], ["q"]),
        node("Conv", ["q", "w2"], ["y"], name="second"),
    ]
    return built(nodes, count=np.array(3))


def branches() -> onnx.ModelProto:
    """The branches of an If read the input, which is float16, and declare what they compute."""
    taken, other = (
        helper.make_graph(
            [cast("x", f"{name}0", F32), node("Abs", [f"{name}0"], [f"{name}1"]), cast(f"{name}1", name, F16)],
            name,
            [],
            [info(name, F16, None)],
        )
        for name in ("taken", "other")
    )
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "zero"], ["positive"]),
        node("If", ["positive"], ["i"], then_branch=taken, else_branch=other),
        node("Conv", ["i", "w"], ["a"], name="first"),
        *CONVS[1:],
    ]
    return built(nodes, zero=np.array(0, np.float16))


def passed_on() -> onnx.ModelProto:
    """The input is an output too, and so is a weight."""
    model = built(CONVS)
    model.graph.output.extend([info("x", F16, ["N", 3, 8, 8]), info("w", F16, W.shape)])
    return model


def output_read_again() -> onnx.ModelProto:
    model = built([*CONVS, node("Neg", ["y"], ["z"])])
    model.graph.output.append(info("z", F16, ["N", 8, 4, 4]))
    return model


MODELS = [interface, kept_io_types, constants_and_attributes, branches, passed_on, output_read_again]


def run(model: onnx.ModelProto, x: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on every processor
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kind = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    outputs: list[NDArray[np.floating]] = session.run(None, {"x": x.astype(kind)})
    return outputs


def kinds(model: onnx.ModelProto) -> list[int]:
    return [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize("make", MODELS)
def test_the_loaded_model_is_float32_between_the_same_types(make: Callable[[], onnx.ModelProto]) -> None:
    """Outputs differ by the roundings to 16 bits that are left out: float16 has 66 dB."""
    model = make()
    loaded = load_proto(model)
    check_model(loaded, full=True)
    assert kinds(loaded) == kinds(model)
    stored = {tensor.name: tensor for tensor in loaded.graph.initializer}
    assert numpy_helper.to_array(stored["w2"]).dtype == np.float32
    np.testing.assert_array_equal(numpy_helper.to_array(stored["w2"]), W2)
    for expected, found in zip(run(model, X), run(loaded, X), strict=True):
        assert found.dtype == expected.dtype
        assert sqnr_db(expected.astype(np.float64), found.astype(np.float64)) > 55


@pytest.mark.parametrize("recipe", ["int8", "int8-gptq", "int4", "int4-weight-only"])
@pytest.mark.parametrize("make", [interface, kept_io_types])
def test_a_float16_model_is_converted(make: Callable[[], onnx.ModelProto], recipe: str) -> None:
    model = make()
    result = convert(
        model, np.repeat(X, 8, 0).astype(np.float32 if make is kept_io_types else np.float16), recipe=recipe
    )
    assert kinds(result.model) == kinds(model)
    assert [layer.name for layer in result.layers if layer.bits < 32] == ["first", "second"]
    assert sqnr_db(run(model, X)[0].astype(float), run(result.model, X)[0].astype(float)) > (
        25 if "8" in recipe else 12
    )


def test_casts_inside_are_gone_and_a_line_says_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_proto(kept_io_types())
    assert "Cast" not in [each.op_type for each in loaded.graph.node]
    assert "model: float16 is read as float32, which is exact; inputs and outputs keep their types" in caplog.text


def test_bfloat16_weights_are_read_too() -> None:
    """onnxruntime's CPU has few kernels for them, so the reference is the float32 model of the same weights."""
    model = built([cast("w", "wf", F32), node("Conv", ["x", "wf"], ["a"], name="first"), *CONVS[1:]], F32, F32)
    exact = (W2.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(exact, "w2"))
    expected = run(model, X)
    stored = helper.make_tensor(
        "w2", BF16, W2.shape, (exact.view(np.uint32) >> 16).astype(np.uint16).tobytes(), raw=True
    )
    model.graph.initializer[1].CopyFrom(stored)
    np.testing.assert_array_equal(run(load_proto(model), X)[0], expected[0])


def test_a_sequence_of_float16_is_refused_by_name() -> None:
    model = built([*CONVS[:2], node("Conv", ["b", "w2"], ["c"]), node("SequenceConstruct", ["c"], ["y"])])
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", F16, None))
    with pytest.raises(ModelError, match="y holds several tensors of 16-bit floats; export the model in float32"):
        load_proto(model)


def test_a_layer_of_float64_stays_and_the_others_are_converted() -> None:
    nodes = [*CONVS[:2], node("Conv", ["b", "w2"], ["c"], name="second"), cast("c", "d", TensorProto.DOUBLE)]
    nodes += [node("MatMul", ["d", "wide"], ["e"], name="wide"), cast("e", "y", F32)]
    model = built(nodes, F32, F32, wide=np.eye(4), w=W.astype(np.float32), w2=W2.astype(np.float32))
    result = convert(model, np.repeat(X, 8, 0).astype(np.float32))
    bits = {layer.name: layer.bits for layer in result.layers}
    assert bits == {"first": 8, "second": 8, "wide": 32}
    assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > 25
