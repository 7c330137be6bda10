"""Quantized files whose codes cannot be kept: the reasons, and other recipes and targets for them."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import convert, convert_within
from converter.budget.limits import Budget
from converter.recipes.recipe import Recipe
from passes.activations.keep_ranges import KeepRanges
from passes.errors import ConvertError, ModelError, QuantizationError, UsageError
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.weights.keep import KeepCodes
from tests.support.models import make_model, small_cnn
from tests.support.quantized_files import (
    PLAIN,
    ROWS,
    U8,
    ZERO,
    X,
    dequantize,
    drawn,
    network,
    qdq,
    scores,
    static,
    trained,
)


def unsymmetric() -> onnx.ModelProto:
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [5])
    return qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=zero)


def blocked() -> onnx.ModelProto:
    zeros = helper.make_tensor("zero", TensorProto.INT8, [5, 2], [0] * 10)
    scale = drawn(1, 9)[:, :2] / 100
    return qdq(dequantize(axis=1, block_size=4), codes=PLAIN, scale=scale, zero_point=zeros)


def inputs_scaled() -> onnx.ModelProto:
    zeros = helper.make_tensor("zero", TensorProto.INT8, [8], [0] * 8)
    return qdq(dequantize(axis=1), codes=PLAIN, scale=np.linspace(0.1, 0.2, 8), zero_point=zeros)


def sixteen_bits() -> onnx.ModelProto:
    return qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO, activation=TensorProto.UINT16)


def four_bits() -> onnx.ModelProto:
    return qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO, activation=TensorProto.UINT4)


def many_scales() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    for tensor in model.graph.initializer:
        if tensor.name == "x_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.linspace(0.04, 0.06, 8, dtype=np.float32), "x_scale"))
        elif tensor.name == "x_zero":
            tensor.CopyFrom(numpy_helper.from_array(np.full(8, 128, np.uint8), "x_zero"))
    return model


def half_scales() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(np.array(0.01, np.float16), "scale"))
    model.graph.node.insert(3, helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT))
    model.graph.node[4].input[1] = "wide"
    return model


def two_readers() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    model.graph.node.append(helper.make_node("Gemm", ["input", "w2"], ["other"], "other"))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32), "w2"))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 8]))
    return model


def pooled_codes() -> onnx.ModelProto:
    model = qdq(dequantize(), codes=PLAIN, scale=0.01, zero_point=ZERO)
    model.graph.node.insert(1, helper.make_node("Flatten", ["x_codes"], ["flat"], "flat"))
    model.graph.node[2].input[0] = "flat"
    return model


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (unsymmetric, QuantizationError, r"fc: its weight's grid has zero point 5 \(as int8\).*`exclude=\['fc'\]`"),
        (blocked, QuantizationError, r"fc: its weight has a scale for every 4 inputs.*`exclude=\['fc'\]`"),
        (inputs_scaled, QuantizationError, "fc: its scales do not lie along its output channels; quantize it again"),
        (
            sixteen_bits,
            QuantizationError,
            "input: its grid has 16 bits.*no integer kernels for them; .*such as qnn",
        ),
        (four_bits, ModelError, "input is quantized to uint4; activations of 8 and 16 bits are read; quantize it to"),
        (many_scales, ModelError, "input is quantized with 8 scales of float32; .*quantize it per tensor"),
        (two_readers, QuantizationError, "input is read both quantized and in float.*; quantize it again with"),
        (pooled_codes, ModelError, r"flat \(Flatten\) computes on the codes of input; save it in QDQ form before"),
        (small_cnn, QuantizationError, "nothing to keep: the model is not quantized; use another recipe, such as int8"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    source: Callable[[], onnx.ModelProto], kind: type[ConvertError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        convert(source(), recipe="keep")


def test_scales_of_16_bits_are_read_as_they_are() -> None:
    """float16 becomes float32 when a model is read, and loses nothing."""
    result = convert(half_scales(), recipe="keep")
    assert [layer.bits for layer in result.layers] == [8]
    assert sqnr_db(scores(half_scales(), ROWS), scores(result.model, ROWS)) > 70


def test_every_layer_that_cannot_be_kept_is_named_at_once(tmp_path: Path) -> None:
    source = static(tmp_path, network(), weight_type=U8, activation_type=U8)
    with pytest.raises(
        QuantizationError, match=r"^stem: .* \(and 2 more such\); .*, or leave them in float with"
    ) as caught:
        convert(source, recipe="keep")
    named = str(caught.value).partition("in float with `exclude=")[2].removesuffix("`")
    assert ast.literal_eval(named) == ["stem", "deep", "fc"]
    result = convert(source, recipe="keep", exclude=ast.literal_eval(named))
    assert {layer.bits for layer in result.layers} == {32}


@pytest.mark.parametrize("source", [unsymmetric, blocked, inputs_scaled, two_readers])
def test_what_cannot_be_kept_can_be_solved_again(source: Callable[[], onnx.ModelProto]) -> None:
    result = convert(source(), ROWS, recipe="int8")
    assert sqnr_db(scores(source(), ROWS), scores(result.model, ROWS)) > 25


def test_a_block_is_kept_where_activations_stay_in_float() -> None:
    result = convert(blocked(), recipe="keep", target="cuda")
    assert result.layers[0].granularity == "block 4"
    assert sqnr_db(scores(result.reference, ROWS), scores(result.model, ROWS)) > 100


def test_an_unsymmetric_activation_on_a_symmetric_target(tmp_path: Path) -> None:
    source = static(tmp_path, network(), activation_type=U8)
    with pytest.raises(
        QuantizationError, match=r"input: its grid has zero point -?\d+, and the target takes symmetric"
    ):
        convert(source, recipe="keep", target="tensorrt")


def test_a_pass_that_changes_weights_is_refused() -> None:
    nodes = [
        *(node for node in trained().graph.node if node.op_type != "Conv"),
        helper.make_node("Conv", ["x_d", "w_d"], ["raw"], "conv"),
        helper.make_node("BatchNormalization", ["raw", "g", "g", "g", "g"], ["output"], "norm"),
    ]
    constants = [*trained().graph.initializer, numpy_helper.from_array(np.full(4, 0.3, np.float32), "g")]
    source = make_model(nodes, constants, inputs={"input": ["n", 3, 6, 6]}, outputs={"output": ["n", 4, 4, 4]})
    assert convert(source, recipe="keep").layers[0].bits == 8
    recipe = Recipe("r", "", (Normalise(), FoldBatchnorm(), KeepRanges(), KeepCodes()))
    with pytest.raises(QuantizationError, match="conv: its weight no longer equals its codes on their grid"):
        convert(source, recipe=recipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": X}, "recipe 'keep' keeps the grids of the model, so `calibration=` has no effect"),
        ({"bits": {"fc": 4}}, "recipe 'keep' keeps the codes of the model, so `bits=` has no effect"),
    ],
)
def test_options_without_a_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(small_cnn(), recipe="keep", **options)
    with pytest.raises(UsageError, match="recipe 'keep' has only one result, so a budget has no effect"):
        convert_within(small_cnn(), options.get("calibration"), Budget(max_drop=1.0), recipe="keep")
