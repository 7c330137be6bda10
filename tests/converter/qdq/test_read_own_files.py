"""Files of this project as input: in every storage form, the same codes are written again."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter import convert
from converter.recipes.builtin import RECIPES
from converter.recipes.recipe import Recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.errors import TargetError
from passes.graph.normalise.normalise import Normalise
from passes.weights.rtn import Rtn
from tests.support.models import SIDE, make_model, small_cnn
from tests.support.quantized_files import X, scores

pytestmark = pytest.mark.usefixtures("packed")


def test_blocks_of_a_gemm_are_kept() -> None:
    """A Gemm stores its weight with the inputs first."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")]
    weight = np.random.default_rng(4).standard_normal((64, 10)).astype(np.float32)
    model = make_model(nodes, {"w": weight}, inputs={"x": ["n", 64]}, outputs={"y": ["n", 10]})
    data = np.random.default_rng(5).standard_normal((24, 64)).astype(np.float32)
    steps = (Normalise(), ActivationRanges(), Rtn(bits=4, block_size=16, two_level=True, fewest_blocks=0))
    source = convert(model, data, recipe=Recipe("r", "", steps)).model
    rewritten = convert(source, recipe="keep")
    assert [layer.granularity for layer in rewritten.layers] == ["block 16"]
    np.testing.assert_array_equal(scores(rewritten.model, data), scores(source, data))
    assert rewritten.model.graph == source.graph


@pytest.mark.parametrize("floats", [False, True], ids=["integers", "floats"])
@pytest.mark.parametrize("storage", ["cast", "packed", "int8", "dequantize"])
def test_blocks_are_kept_in_every_storage(storage: Any, floats: bool) -> None:
    steps = (
        Normalise(),
        *(() if floats else (ActivationRanges(),)),
        Rtn(bits=4, block_size=16, two_level=True, fewest_blocks=0),
    )
    source = convert(small_cnn(transpose=False), X, recipe=Recipe("r", "", steps)).model
    rewritten = convert(source, recipe=dataclasses.replace(RECIPES["keep"], storage=storage))
    onnx.checker.check_model(rewritten.model, full_check=True)
    (stem,) = (layer for layer in rewritten.layers if layer.name == "stem")
    assert stem.granularity == ("channel" if storage == "int8" else "block 9")
    slack = 1e-6 if storage == "dequantize" else 0  # onnxruntime makes a MatMulNBits of a Gemm on floats
    np.testing.assert_allclose(scores(rewritten.model), scores(source), rtol=0, atol=slack)


def test_blocks_that_matmulnbits_cannot_read_are_refused() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")]
    weight = np.random.default_rng(4).standard_normal((64, 10)).astype(np.float32)
    model = make_model(nodes, {"w": weight}, inputs={"x": ["n", 64]}, outputs={"y": ["n", 10]})
    source = convert(
        model, recipe=Recipe("r", "", (Normalise(), Rtn(bits=4, block_size=16, two_level=True, fewest_blocks=0)))
    ).model
    with pytest.raises(TargetError, match="layer: MatMulNBits reads float scales of blocks"):
        convert(source, recipe=dataclasses.replace(RECIPES["keep"], storage="matmulnbits"))


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-weight-only"])
def test_our_own_files_are_written_again_bit_for_bit(recipe: str) -> None:
    source = convert(small_cnn(), X, recipe=recipe).model
    rewritten = convert(source, recipe="keep").model
    np.testing.assert_array_equal(scores(rewritten), scores(source))
    codes = {t.data_type: 0 for t in source.graph.initializer if t.data_type in {TensorProto.INT8, TensorProto.INT4}}
    assert sizes(rewritten, codes) == sizes(source, codes)


def sizes(model: onnx.ModelProto, types: Any) -> list[tuple[int, ...]]:
    return sorted((t.data_type, *t.dims) for t in model.graph.initializer if t.data_type in types and len(t.dims) > 1)


@pytest.mark.parametrize(
    "step", [Rtn(bits=3), Rtn(bits=3, block_size=16, two_level=True, fewest_blocks=0)], ids=["channel", "two levels"]
)
@pytest.mark.parametrize("floats", [False, True], ids=["integers", "floats"])
def test_codes_of_three_bits_stay_packed(step: Rtn, floats: bool) -> None:
    draw = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["h", "b"], ["y"], "second", pads=[1] * 4),
    ]
    weights = {"a": draw.standard_normal((32, 3, 3, 3)), "b": draw.standard_normal((32, 32, 3, 3))}
    model = make_model(
        nodes,
        {name: values.astype(np.float32) for name, values in weights.items()},
        inputs={"x": ["n", 3, SIDE, SIDE]},
        outputs={"y": ["n", 32, SIDE, SIDE]},
    )
    ranges = () if floats else (ActivationRanges(),)
    source = convert(model, X, recipe=Recipe("r", "", (Normalise(), *ranges, step), storage="packed")).model
    rewritten = convert(source, recipe="keep")
    second = 4 if floats else 3  # few codes lie in INT4, and so do those of layers on floats
    assert {layer.name: layer.bits for layer in rewritten.layers} == {"first": 4, "second": second}
    blocks = ["block 9", "block 16"] if step.two_level else ["channel", "channel"]
    assert [layer.granularity for layer in rewritten.layers] == blocks
    np.testing.assert_array_equal(scores(rewritten.model), scores(source))
    assert rewritten.model.graph.ByteSize() == pytest.approx(source.graph.ByteSize(), rel=0.05)


def test_a_layer_in_float_stays_in_float() -> None:
    source = convert(small_cnn(transpose=False), X, exclude=("deep",)).model
    result = convert(source, recipe="keep")
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons == {"stem": "", "deep": "its weight has no codes of 8 bits or fewer in the source", "fc": ""}
    np.testing.assert_array_equal(scores(result.model), scores(source))
    solved = convert(source, X)
    assert {layer.bits for layer in solved.layers} == {8}
    assert "Sum" not in {node.op_type for node in solved.model.graph.node}  # what kept the layer in float goes with it


def test_int8_storage_of_four_bit_codes() -> None:
    source = convert(small_cnn(transpose=False), X, recipe="int4").model
    result = convert(source, recipe="keep", target="generic")
    assert {(layer.bits, layer.stored_bits) for layer in result.layers} == {(4, 8)}
    np.testing.assert_array_equal(scores(result.model), scores(source))
