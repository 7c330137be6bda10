"""Files with 16-bit activations, read back: those of this package, of onnxruntime, and with both widths."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.pipeline.convert import convert
from converter.pipeline.result import Result
from converter.recipes.builtin import RECIPES
from converter.recipes.recipe import Recipe
from converter.targets.catalog import find_target
from converter.verification.rules import violations
from passes.activations.activation_ranges import ActivationRanges
from passes.errors import QuantizationError
from passes.numerics.error import sqnr_db
from tests.support.graphs import array, build, run
from tests.support.large_channel import images, network
from tests.support.quantized_files import network as pooled
from tests.support.quantized_files import quantization, static

ONE = images(1)[:1]


def wide_layers(*names: str) -> Recipe:
    """Recipe int8 with 16 bits for some nodes."""
    passes = [step.widened(names) if isinstance(step, ActivationRanges) else step for step in RECIPES["int8"].passes]
    return dataclasses.replace(RECIPES["int8"], name="some-wide", passes=tuple(passes))


@functools.cache
def converted(recipe: str, target: str = "qnn") -> Result:
    return convert(network(), images(), recipe=RECIPES[recipe], target=target)


def bits_of(result: Result) -> dict[str, int]:
    return {layer.name: layer.activation_bits for layer in result.layers}


@pytest.mark.parametrize(("recipe", "target"), [("a16w8", "qnn"), ("a16w4", "qnn"), ("a16w8", "vitisai")])
def test_keep_writes_the_same_grids_and_codes(recipe: str, target: str) -> None:
    first = converted(recipe, target)
    again = convert(first.model, recipe="keep", target=target)
    assert set(bits_of(again).values()) == {16}
    assert np.array_equal(run(first.model, ONE)[0], run(again.model, ONE)[0])
    assert violations(again.model, find_target(target)) == ()
    kinds = {tensor.data_type for tensor in again.model.graph.initializer if "_zero_point" in tensor.name}
    assert {TensorProto.UINT16, TensorProto.INT16} & kinds


@pytest.mark.parametrize("wide", [("second",), ("first", "head")])
def test_copies_of_another_width_are_kept(wide: tuple[str, ...]) -> None:
    """Where a node of 8 bits reads a tensor of 16, or the other way round, the file quantizes it twice."""
    first = convert(network(), images(), recipe=wide_layers(*wide), target="qnn")
    again = convert(first.model, recipe="keep", target="qnn")
    assert bits_of(again) == bits_of(first) == {name: 16 if name in wide else 8 for name in bits_of(first)}
    quantizers = [[node.op_type for node in each.model.graph.node].count("QuantizeLinear") for each in (first, again)]
    assert quantizers[0] == quantizers[1]
    assert np.array_equal(run(first.model, ONE)[0], run(again.model, ONE)[0])
    assert violations(again.model, find_target("qnn")) == ()
    floats = convert(first.model, recipe="keep", target="cuda")
    assert "QuantizeLinear" not in {node.op_type for node in floats.model.graph.node}


@pytest.mark.parametrize(("signed", "opset"), [(False, 17), (True, 21)])
def test_a_file_by_onnxruntime(signed: bool, opset: int, tmp_path: Path) -> None:
    kind = quantization.QuantType.QInt16 if signed else quantization.QuantType.QUInt16
    weights = quantization.QuantType.QInt8
    source = static(tmp_path, pooled(opset), activation_type=kind, weight_type=weights)
    result = convert(source, recipe="keep", target="qnn")
    assert set(bits_of(result).values()) == {16}
    x = array(1, *(size.dim_value for size in source.graph.input[0].type.tensor_type.shape.dim[1:]))
    assert sqnr_db(run(source, x)[0], run(result.model, x)[0]) > 60  # signs differ, and biases are rounded again


def test_a_target_without_integer_layers_keeps_the_weights() -> None:
    result = convert(converted("a16w8").model, recipe="keep", target="cuda")
    assert {(layer.bits, layer.activation_bits) for layer in result.layers} == {(8, 32)}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cpu", r"x: its grid has 16 bits, and the target has no integer kernels for them; .*such as qnn, or quantize"),
        ("vitisai", r"x: its grid has zero point \d+, .*symmetric ones only; quantize it again with recipe a16w8"),
    ],
)
def test_targets_refuse_what_they_have_no_kernels_for(target: str, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        convert(converted("a16w8").model, recipe="keep", target=target)


def sigmoid() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
        helper.make_node("Concat", ["s", "c"], ["y"], name="join", axis=1),
    ]
    shapes = {"x": [1, 3, 8, 8], "y": [1, 8, 8, 8]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weight = numpy_helper.from_array(0.1 * array(4, 3, 1, 1, seed=1), "w")
    graph = helper.make_graph(nodes, "sigmoid", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_grid_that_a_kernel_fixes() -> None:
    """QNN writes the 16 bits of a Sigmoid in steps of 1 / 65,536."""
    first = convert(sigmoid(), array(32, 3, 8, 8), recipe="a16w8", target="qnn")
    again = convert(first.model, recipe="keep", target="qnn")
    x = array(1, 3, 8, 8, seed=1)
    assert np.array_equal(run(first.model, x)[0], run(again.model, x)[0])
    coarser = onnx.ModelProto()
    coarser.CopyFrom(first.model)
    scale = next(node for node in coarser.graph.node if node.input[0] == "s").input[1]
    (stored,) = (tensor for tensor in coarser.graph.initializer if tensor.name == scale)
    stored.CopyFrom(numpy_helper.from_array(np.array(2.0**-15, np.float32), scale))
    with pytest.raises(QuantizationError, match=r"s: its grid has step \S+, and .* writes 16 bits with 1.52588e-05"):
        convert(coarser, recipe="keep", target="qnn")


def test_tools_read_them() -> None:
    model = converted("a16w8").model
    assert {layer.activation_type for layer in converter.inspect(model).layers} == {"uint16"}
    assert converter.compare(network(), model, images(1)).sqnr_db > 30
    again = convert(model, images(), recipe="int8")
    assert set(bits_of(again).values()) == {8}
    sqnr = converter.evaluate([network(), model], images(1), latency=False).models[1].sqnr_db
    assert sqnr is not None
    assert sqnr > 30


def with_constant(kind: type[np.integer], zero_point: int, *, quantized: bool = False) -> onnx.ModelProto:
    """A constant of codes, added to the input of a layer whose weight has int8 codes.

    Args:
        kind: Type of the codes.
        zero_point: Their zero point.
        quantized: Whether the input and the sum are quantized too, to uint8.
    """
    ends = np.iinfo(kind)
    constants = {
        "offset_codes": np.linspace(ends.min, ends.max, 24).astype(kind),
        "offset_scale": np.array(2.0 / ends.max, np.float32),
        "offset_zero": np.array(zero_point, kind),
        "w_codes": (40 * array(24, 8, seed=2)).clip(-127, 127).astype(np.int8),
        "w_scale": np.array(0.01, np.float32),
        "step": np.array(0.04, np.float32),
        "middle": np.array(128, np.uint8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["offset_codes", "offset_scale", "offset_zero"], ["offset"]),
        helper.make_node("DequantizeLinear", ["w_codes", "w_scale"], ["w"]),
        helper.make_node("Add", ["x", "offset"], ["a"], name="add"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="fc"),
    ]
    for index, (node, name) in enumerate(((nodes[2], "x"), (nodes[3], "a")) if quantized else ()):
        node.input[0] = f"{name}_read"
        pair = [
            helper.make_node("QuantizeLinear", [name, "step", "middle"], [f"{name}_codes"], name=f"{name}_quantize"),
            helper.make_node("DequantizeLinear", [f"{name}_codes", "step", "middle"], [f"{name}_read"]),
        ]
        nodes[2 + 3 * index : 2 + 3 * index] = pair
    model = build(nodes, constants, [4, 24])
    model.opset_import[0].version, model.ir_version = 21, 10
    return model


CONSTANTS = [(np.int16, 0), (np.uint16, 32768), (np.int16, 5), (np.int8, 0), (np.uint8, 7)]


@pytest.mark.parametrize(("kind", "zero_point"), CONSTANTS)
@pytest.mark.parametrize("target", ["cpu", "generic", "cuda", "qnn"])
def test_constants_keep_their_values(kind: type[np.integer], zero_point: int, target: str) -> None:
    source = with_constant(kind, zero_point)
    result = convert(source, recipe="keep", target=target)
    assert [(layer.name, layer.bits) for layer in result.layers] == [("fc", 8)]
    x = array(4, 24, seed=3)
    assert sqnr_db(run(source, x)[0], run(result.model, x)[0]) > 120


@pytest.mark.parametrize(("kind", "zero_point"), CONSTANTS)
@pytest.mark.parametrize("target", ["cpu", "tensorrt", "vitisai"])
def test_constants_beside_computed_tensors(kind: type[np.integer], zero_point: int, target: str) -> None:
    """The grids of the computed tensors are kept, and a constant whose grid the target does not take is floats."""
    source = with_constant(kind, zero_point, quantized=True)
    result = convert(source, recipe="keep", target=target)
    assert [(layer.name, layer.bits, layer.activation_bits) for layer in result.layers] == [("fc", 8, 8)]
    x = array(4, 24, seed=3)
    assert sqnr_db(run(source, x)[0], run(result.model, x)[0]) > 40
    broken = {each.fact for each in violations(result.model, find_target(target))}
    assert broken <= {"float_outputs"}  # the source writes floats


def test_a_constant_that_clean_up_folds() -> None:
    source = with_constant(np.int16, 0)
    source.graph.initializer.append(numpy_helper.from_array(np.array([1, 24]), "row"))
    add = next(index for index, node in enumerate(source.graph.node) if node.op_type == "Add")
    source.graph.node[add].input[1] = "offset_row"
    source.graph.node.insert(add, helper.make_node("Reshape", ["offset", "row"], ["offset_row"]))
    x = array(4, 24, seed=3)
    assert np.array_equal(run(source, x)[0], run(convert(source, recipe="keep").model, x)[0])
