"""One weight that several layers read: one grid, one solve on the moments of all its readers, stored once."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converter import Recipe, convert
from converter.recipes.builtin import find_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.graph.normalise.normalise import Normalise
from passes.ir.ties import tied_layers
from passes.numerics.error import sqnr_db
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from passes.weights.rtn import Rtn
from tests.support.networks import conv, images, network, optimized, prepared, quantize, random, run
from tests.support.recipes import brief
from tests.support.recorded_pass import Recorded

STEPS, SIZE = 4, 24
node = helper.make_node


def unrolled() -> onnx.ModelProto:
    """A gated recurrent layer over six steps: every Gemm reads the same weight and bias."""
    constants: dict[str, NDArray[Any]] = {"sizes": np.array([SIZE] * 4)}
    constants |= {"w": random(4 * SIZE, SIZE) * np.float32(0.16), "b": random(4 * SIZE) * np.float32(0.1)}
    nodes, state = [], "x"
    for step in range(STEPS):
        nodes += [
            node("Gemm", [state, "w", "b"], [f"g{step}"], f"gemm{step}", transB=1),
            node("Split", [f"g{step}", "sizes"], [f"{gate}{step}" for gate in "iofc"], axis=1),
            node("Sigmoid", [f"i{step}"], [f"si{step}"]),
            node("Tanh", [f"c{step}"], [f"tc{step}"]),
            node("Mul", [f"si{step}", f"tc{step}"], [f"h{step}"]),
        ]
        state = f"h{step}"
    return network(nodes, constants, {"x": ["N", SIZE]}, {state: ["N", SIZE]})


def pyramid() -> onnx.ModelProto:
    """Two heads over three resolutions."""
    constants: dict[str, NDArray[Any]] = {}
    nodes = [
        conv(constants, "stem", "x", "s", (16, 3, 3, 3)),
        node("Relu", ["s"], ["p0"], "relu"),
        node("MaxPool", ["p0"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["p1"], ["p2"], "pool2", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    constants |= {"hw": random(16, 16, 3, 3) * np.float32(0.1), "hb": random(16) * np.float32(0.1)}
    constants |= {"ow": random(4, 16, 1, 1) * np.float32(0.2), "ob": random(4)}
    for level in range(3):
        nodes += [
            node("Conv", [f"p{level}", "hw", "hb"], [f"h{level}"], f"head{level}", pads=[1] * 4),
            node("Relu", [f"h{level}"], [f"r{level}"], f"relu{level}"),
            node("Conv", [f"r{level}", "ow", "ob"], [f"y{level}"], f"out{level}"),
        ]
    outputs: dict[str, list[int | str]] = {f"y{level}": ["N", 4, 16 >> level, 16 >> level] for level in range(3)}
    return network(nodes, constants, {"x": ["N", 3, 16, 16]}, outputs)


MODELS = {"unrolled": (unrolled(), images(32, SIZE)), "pyramid": (pyramid(), images(24, 3, 16, 16))}
SHARED = {"unrolled": (4 * SIZE * SIZE,), "pyramid": (16 * 16 * 9, 4 * 16)}


def code_tensors(model: onnx.ModelProto, count: int) -> int:
    """Number of constants of integers with so many elements."""
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return sum(array.size == count and array.dtype.kind not in "f" for array in arrays)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *(("pyramid", name) for name in ("int8", "int8-gptq", "int4", "int2-learned", "int4-qat", "int4-weight-only")),
        *(("unrolled", name) for name in ("int8", "int4", "int4-weight-only")),
    ],
)
def test_a_shared_weight_is_stored_once(name: str, recipe: str) -> None:
    model, x = MODELS[name]
    result = convert(model, x, recipe=brief(recipe))
    for expected, found in zip(run(model, x), run(result.model, x), strict=True):
        assert sqnr_db(expected, found) > (35 if recipe.startswith("int8") else 10 if recipe == "int2-learned" else 22)
    assert [code_tensors(result.model, count) for count in SHARED[name]] == [1] * len(SHARED[name])
    layers = {layer.name: layer for layer in result.layers}
    steps = result.passes[next(i for i, step in enumerate(result.passes) if step.name in {"rtn", "gptq"})]
    for layer in ("gemm0", "gemm3") if name == "unrolled" else ("head0", "out2"):
        assert "weight shared with" in steps.changed[layer].what
        assert layers[layer].bits == (8 if "int8" in recipe else 2 if recipe == "int2-learned" else 4)


def test_the_file_shrinks_as_if_the_weight_were_alone() -> None:
    model, x = MODELS["unrolled"]
    result = convert(model, x, recipe="int8")
    constants = sum(len(numpy_helper.to_array(tensor).tobytes()) for tensor in result.model.graph.initializer)
    floats = sum(len(numpy_helper.to_array(tensor).tobytes()) for tensor in model.graph.initializer)
    assert constants < floats / 4 + 2600  # scales of 128 channels for the weight and its biases, and the float bias


def test_biases_on_other_inputs_are_computed_when_the_file_loads(tmp_path: Path) -> None:
    """The same integers as those that are stored for layers alone, and no operator more when the file runs."""
    model, x = MODELS["pyramid"]
    result = convert(model, x, recipe="int8")
    operators = optimized(result.model, tmp_path)
    assert operators["QLinearConv"] == 7
    assert not {"Conv", "Div", "Round", "Cast"} & set(operators)
    alone = convert(untied(model), x, recipe="int8")
    for expected, found in zip(run(alone.model, x), run(result.model, x), strict=True):
        np.testing.assert_array_equal(found, expected)


def untied(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, in which every layer has constants of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = {tensor.name: tensor for tensor in copy.graph.initializer}
    for each in copy.graph.node:
        for index, name in enumerate(each.input):
            if each.op_type == "Conv" and name in values:
                copy.graph.initializer.append(values[name])
                copy.graph.initializer[-1].name = each.input[index] = f"{each.name}.{index}"
    return copy


def test_the_weight_is_solved_once_on_all_its_inputs() -> None:
    """The first layer's inputs in the quantized network, and the others' in the float network."""
    model, x = MODELS["pyramid"]
    recorded = Recorded(bits=3)
    quantized = quantize(model, recorded, x, ranges=True)
    assert set(recorded.problems) == {"stem", "head0", "out0"}
    layers = prepared(model).layers()
    levels = run(_with_outputs(model, ["p1", "p2"]), x)
    first = run(
        _with_outputs(
            convert(model, x, recipe=Recipe("r", "", (Normalise(), ActivationRanges("minmax"), Rtn(bits=3)))).model,
            ["p0_dequantized"],
        ),
        x,
    )
    rows = np.concatenate(
        [layers[f"head{level}"].rows(values)[0] for level, values in enumerate([*first, *levels])]
    ).astype(np.float64)
    moments = recorded.moments("head0")
    assert moments.rows == len(rows)
    np.testing.assert_allclose(moments.hessian[0], 2 / len(rows) * rows.T @ rows, rtol=1e-3, atol=1e-3)
    assert quantized.quantized["head0"] is quantized.quantized["head2"]


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return copy


def test_an_excluded_layer_keeps_the_float_weight() -> None:
    model, x = MODELS["pyramid"]
    result = convert(model, x, recipe="int4", exclude=["out1"])
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    kept = next(each for each in result.model.graph.node if each.name == "out1")
    np.testing.assert_array_equal(values[kept.input[1]], random(4, 16, 1, 1) * np.float32(0.2))
    assert code_tensors(result.model, 4 * 16) == 1


def test_bits_of_one_layer_are_bits_of_all() -> None:
    model, x = MODELS["pyramid"]
    result = convert(model, x, recipe="int4", bits={"head1": 8})
    bits = {layer.name: layer.bits for layer in result.layers}
    assert [bits[f"head{level}"] for level in range(3)] == [8, 8, 8]
    assert [bits[f"out{level}"] for level in range(3)] == [4, 4, 4]


@pytest.mark.parametrize("correction", [BiasCorrection(), ReestimateBatchnorm()])
def test_corrections_move_the_biases_alone(correction: BiasCorrection | ReestimateBatchnorm) -> None:
    model, x = MODELS["pyramid"]
    steps = (Normalise(), ActivationRanges(), Rtn(bits=4))
    plain = convert(model, x, recipe=Recipe("r", "", steps))
    corrected = convert(model, x, recipe=Recipe("r", "", (*steps, correction)))
    assert code_tensors(corrected.model, 16 * 16 * 9) == 1
    for level in range(3):
        expected, before, after = (run(each, x)[level] for each in (model, plain.model, corrected.model))
        assert abs((after - expected).mean()) < 0.5 * abs((before - expected).mean()) + 1e-3


def test_a_shared_weight_survives_keep() -> None:
    model, x = MODELS["unrolled"]
    source = convert(model, x, recipe="int8").model
    kept = convert(source, recipe="keep").model
    assert code_tensors(kept, 4 * SIZE * SIZE) == 1
    np.testing.assert_array_equal(run(kept, x)[0], run(source, x)[0])


def test_learned_rounding_leaves_it_alone() -> None:
    model, x = MODELS["unrolled"]
    result = convert(model, x, recipe=brief("int2-learned"))
    learned = next(step for step in result.passes if step.name == "learned_rounding")
    assert learned.skipped["gemm3"] == "weight shared with gemm0 and 2 more, so it is not learned"


def test_matmulnbits_shares_too() -> None:
    model, x = MODELS["unrolled"]
    result = convert(model, x, recipe=find_recipe("int4-matmulnbits"))
    readers = [each for each in result.model.graph.node if each.op_type == "MatMulNBits"]
    assert len(readers) == STEPS
    assert len({each.input[1] for each in readers}) == 1


def test_all_layers_of_a_tie_are_found_by_name() -> None:
    layers = prepared(pyramid()).layers()
    assert tied_layers(layers.values())["out1"] == ("out0", "out1", "out2")
