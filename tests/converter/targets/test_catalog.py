"""Targets: every fact has a source, and files written for a target follow its facts."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import convert
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.recipes.builtin import find_recipe
from converter.runtime.session import open_session
from converter.targets.catalog import DEFAULT_TARGET, TARGETS, find_target
from converter.targets.target import Target
from converter.verification.rules import violations
from converter.verification.verify import verify
from models.net import Net
from models.zoo import ZOO, feeds_of
from passes.errors import TargetError
from passes.numerics.error import sqnr_db
from tests.support.models import SIDE, small_cnn
from tests.support.recipes import SOLVING, brief

X = np.random.default_rng(0).standard_normal((16, 3, SIDE, SIDE)).astype(np.float32)

# Together: every linear layer, shared grids, float operators between integer ones, open shapes, an old opset.
SUBSET = (
    "conv depthwise",
    "conv 1-D",
    "conv transpose",
    "gemm transB",
    "add",
    "concat",
    "relu6",
    "silu",
    "attention",
    "squeeze and excitation",
    "several inputs",
    "several outputs",
    "detector head",
    "opset 11",
)


QUANTIZING = tuple(name for name, target in TARGETS.items() if not target.floats_only)
FLOATS_ONLY = tuple(name for name, target in TARGETS.items() if target.floats_only)
SOLVED = {
    **dict.fromkeys(("directml", "openvino-npu"), ("int8", "int4", "int4-weight-only")),  # no form that others lack
    **dict.fromkeys(FLOATS_ONLY, ("int4-matmulnbits", "int8-weight-only")),
}
"""Recipes that some targets are tested with, to save time. Others are tested with all of `SOLVING`."""

REFUSED = {("conv 1-D", "tensorrt"): "the target has no integer Conv of 1 dimension; leave it out with an exclude pass"}


@functools.cache
def written(target: str, recipe: str = "int4") -> onnx.ModelProto:
    return convert(small_cnn(transpose=False), X, recipe=brief(recipe), target=target).model


def constant(model: onnx.ModelProto, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def nodes(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def worst_db(reference: onnx.ModelProto, model: onnx.ModelProto, feeds: dict[str, Any]) -> float:
    """SQNR of the worst output. 8 rows run one by one."""
    names = [value.name for value in reference.graph.output]
    rows = [{name: values[row : row + 1] for name, values in feeds.items()} for row in range(8)]
    sessions = open_session(reference, threads=1), open_session(model, threads=1)
    before, after = (list(zip(*(each.run(names, row) for row in rows), strict=True)) for each in sessions)
    return min(sqnr_db(np.concatenate(one), np.concatenate(other)) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_every_fact_has_a_source(target: Target) -> None:
    facts = {field.name for part in (target, target.rules) for field in dataclasses.fields(part)}
    assert set(target.sources) == facts - {"name", "description", "rules", "sources"}
    assert all(target.sources.values())


COMMANDS = tuple(
    f"measured: {command}"
    for command in (
        "make conformance",
        "python -m benchmarks.targets measure",
        "python -m benchmarks.kernel_times",
        "python -m benchmarks.leaky_relu",
        "convert-onnx inspect",
        "convert-onnx verify",
    )
)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_only_targets_that_run_are_measured(target: Target) -> None:
    measured = {fact: source for fact, source in target.sources.items() if "measured" in source}
    assert bool(measured) == (target.provider is not None)
    assert all(source.startswith(COMMANDS) for source in measured.values()), measured


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_four_bits_have_a_form_if_they_can_be_stored(target: Target) -> None:
    assert (target.int4 == "none") == (target.rules.narrowest == 8)
    for wanted in ("cast", "packed", "matmulnbits"):
        assert (target.storage(wanted) == "int8") == (target.int4 == "none")


def test_the_default_target_exists() -> None:
    assert find_target(DEFAULT_TARGET).name == DEFAULT_TARGET


def test_an_unknown_target() -> None:
    with pytest.raises(TargetError, match="no target is named 'tpu'; there are: cpu, openvino, qnn"):
        find_target("tpu")


@pytest.mark.parametrize("target", QUANTIZING)
@pytest.mark.parametrize("graph", SUBSET)
def test_written_files_follow_the_target_s_rules(graph: str, target: str) -> None:
    model = ZOO[graph]()
    feeds = feeds_of(model, 8)
    if (graph, target) in REFUSED:
        with pytest.raises(TargetError, match=REFUSED[graph, target]):
            convert(model, feeds, recipe="int8", target=target)
        return
    result = convert(model, feeds, recipe="int8", target=target)
    assert violations(result.model, find_target(target)) == ()
    assert all(layer.bits == 8 or layer.reason for layer in result.layers)
    assert worst_db(model, result.model, feeds) > 20  # two to six layers of 8 bits in a row leave 25 dB and more


@pytest.mark.parametrize("graph", SUBSET)
def test_four_bits_on_the_cpu(graph: str) -> None:
    model = ZOO[graph]()
    feeds = feeds_of(model, 8)
    result = convert(model, feeds, recipe="int4", target="cpu")
    assert violations(result.model, find_target("cpu")) == ()
    assert all(layer.bits == 4 or layer.reason for layer in result.layers)
    assert (
        worst_db(model, result.model, feeds) > 22
    )  # one layer of 4 bits per channel has 22 dB; blocks gain 5 and more


def test_four_bits_are_verified_by_running_them(tmp_path: Path) -> None:
    model = ZOO["squeeze and excitation"]()
    onnx.save(model, tmp_path / "float.onnx")
    convert(model, feeds_of(model, 8), recipe="int4", target="cpu").save(tmp_path / "int4.onnx")
    rows = load_data(feeds_of(model, 4, seed=2), input_specs(model))
    actual = verify(tmp_path / "int4.onnx", "cpu", rows, reference=tmp_path / "float.onnx")
    assert (actual.how, actual.passed, actual.left, actual.violations, actual.images) == ("run", True, (), (), 4)
    assert actual.nodes
    assert actual.float_db is not None
    assert actual.float_db > 22  # as above


@pytest.mark.parametrize(
    ("recipe", "target"),
    [(recipe, name) for name in sorted(set(TARGETS) - {"tensorrt"}) for recipe in SOLVED.get(name, SOLVING)],
)
def test_every_recipe_follows_the_target_s_rules(recipe: str, target: str) -> None:
    assert violations(written(target, recipe), find_target(target)) == ()


def test_no_weight_only_form_on_tensorrt() -> None:
    with pytest.raises(TargetError, match="target tensorrt needs integer activations; use a recipe that quantizes"):
        convert(small_cnn(), "no such data", recipe="int4-weight-only", target="tensorrt")


@pytest.mark.parametrize("target", FLOATS_ONLY)
def test_targets_of_floats_refuse_quantized_activations_before_any_work(target: str) -> None:
    reason = TARGETS[target].floats_only
    expected = f"target {target} runs floats only, and recipe int8 quantizes activations: {reason}; use recipe fp16, or"
    with pytest.raises(TargetError, match=expected):
        convert(small_cnn(), "no such data", recipe="int8", target=target)


@pytest.mark.parametrize("target", FLOATS_ONLY)
@pytest.mark.parametrize("storage", ["int8", "dequantize"])
def test_weights_for_targets_of_floats_become_floats_when_the_file_loads(
    target: str, storage: Any, tmp_path: Path
) -> None:
    """onnxruntime folds Cast and Mul of constants, and no DequantizeLinear."""
    recipe = dataclasses.replace(find_recipe("int8-weight-only"), storage=storage)
    model = convert(small_cnn(), recipe=recipe, target=target).model
    assert not nodes(model, "DequantizeLinear")
    assert {constant(model, f"{name}.weight_int8").data_type for name in ("stem", "deep", "fc")} == {TensorProto.INT8}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx")
    assert {constant(folded, node.input[1]).data_type for node in nodes(folded, "Conv")} == {TensorProto.FLOAT}


@pytest.mark.parametrize("target", [*FLOATS_ONLY, "directml", "openvino-npu"])
def test_float16_for_targets_that_compute_it(target: str) -> None:
    model = convert(small_cnn(), recipe="fp16", target=target).model
    assert violations(model, find_target(target)) == ()
    assert {constant(model, node.input[1]).data_type for node in nodes(model, "Conv")} == {TensorProto.FLOAT16}


def test_directml_and_the_npu_of_intel_have_no_integer_gemm() -> None:
    for target in ("directml", "openvino-npu"):
        model = written(target, "int8")
        (gemm,), makers = (
            nodes(model, "Gemm"),
            {name: node.op_type for node in model.graph.node for name in node.output},
        )
        assert "DequantizeLinear" not in {makers.get(name) for name in gemm.input[1:]}
        (add,) = nodes(model, "Add")
        assert {makers[name] for name in add.input} == {"DequantizeLinear"}
        assert all(makers[name] == "DequantizeLinear" for node in nodes(model, "Conv") for name in node.input[:2])


def test_a_layer_without_an_integer_kernel_is_refused_before_calibration() -> None:
    net = Net()
    weight = net.weight("up.weight", 8, 4, 2, 2)
    up = net.node("ConvTranspose", net.conv("x"), weight, kernel_shape=[2, 2], group=2)
    model = net.model(net.conv(up))
    steps: list[str] = []
    with pytest.raises(TargetError, match="needs integer activations, but the channels of a grouped ConvTranspose"):
        convert(model, feeds_of(model, 4), target="tensorrt", progress=lambda step, _done, _total: steps.append(step))
    assert not steps


def test_a_transposed_convolution_on_integers() -> None:
    """Its outputs lie along the weight's second axis. Grouped, they lie along two, which no DequantizeLinear has."""
    net = Net()
    weight = net.weight("up.weight", 8, 4, 2, 2)
    up = net.node("ConvTranspose", net.conv("x"), weight, kernel_shape=[2, 2], group=2)
    grouped = net.model(net.conv(up))
    model = convert(grouped, feeds_of(grouped, 4), target="qnn").model
    assert violations(model, find_target("qnn")) == ()
    assert not any(node.op_type == "DequantizeLinear" and "up.weight" in node.input[0] for node in model.graph.node)
    plain = ZOO["conv transpose"]()
    model = convert(plain, feeds_of(plain, 4), target="qnn").model
    (read,) = (node for node in nodes(model, "DequantizeLinear") if node.input[0].startswith("up.weight"))
    assert [entry.i for entry in read.attribute if entry.name == "axis"] == [1]


@pytest.mark.parametrize(
    ("graph", "kernel"), [("conv 3-D", "Conv 3-D"), ("gelu", "Gelu"), ("resize nearest", "Resize nearest")]
)
def test_a_float_kernel_that_the_target_does_not_have(graph: str, kernel: str) -> None:
    model = ZOO[graph]()
    with pytest.raises(TargetError, match=f"there is no float {kernel} on target qnn; use a recipe that quantizes"):
        convert(model, "no such data", recipe="int4-weight-only", target="qnn")
    assert violations(convert(model, feeds_of(model, 4), target="qnn").model, find_target("qnn")) == ()


def test_tensorrt_is_symmetric_and_adds_before_rounding() -> None:
    model = written("tensorrt", "int8")
    for node in nodes(model, "QuantizeLinear"):
        zero_point = constant(model, node.input[2])
        assert zero_point.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero_point).any()
    (add,) = nodes(model, "Add")
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert sorted(makers[name] for name in add.input) == ["Conv", "DequantizeLinear"]
    assert constant(model, next(node for node in nodes(model, "Conv") if node.name == "stem").input[2]).data_type == 1


def test_of_two_added_convolutions_the_last_one_is_not_rounded() -> None:
    net = Net()
    x = net.node("Relu", net.conv("x"))
    first, last = net.conv(x), net.conv(x)
    model = net.model(net.conv(net.node("Add", first, last)))
    result = convert(model, feeds_of(model, 4), target="tensorrt").model
    (add,) = nodes(result, "Add")
    assert last in add.input
    assert first not in add.input


@pytest.mark.parametrize("target", ["qnn", "mobile"])
def test_fixed_shapes_and_a_quantized_head(target: str) -> None:
    model = written(target)
    (image,), (scores,) = model.graph.input, model.graph.output
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 3, SIDE, SIDE]
    assert [dim.dim_value for dim in scores.type.tensor_type.shape.dim] == [1, 5]
    assert {"output"} == {name for node in nodes(model, "DequantizeLinear") for name in node.output} & {"output"}
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.value_info}
    assert [dim.dim_value for dim in shapes["pool"].dim] == [1, 8, 1, 1]


@pytest.mark.parametrize("target", ["qnn", "mobile"])
def test_open_sides_are_refused_before_any_work(target: str) -> None:
    expected = rf"input 'x' has an open dimension 2 \(h\), target {target} needs fixed shapes; export"
    with pytest.raises(TargetError, match=expected):
        convert(ZOO["open height and width"](), "no such data", target=target)


def test_generic_has_no_int4_and_no_foreign_operator() -> None:
    for recipe in SOLVING:
        model = written("generic", recipe)
        types = {tensor.data_type for tensor in model.graph.initializer}
        assert types <= {TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64}
        assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.usefixtures("packed")
def test_reports_have_the_bits_in_the_file() -> None:
    for target, bits in (("cpu", 4), ("generic", 8)):
        result = convert(small_cnn(transpose=False), X, recipe="int4", target=target)
        assert {(layer.bits, layer.stored_bits) for layer in result.layers} == {(4, bits)}


def test_an_operator_set_above_the_ceiling() -> None:
    expected = "the model has opset 22, target generic takes 21 at most; export the model with opset 21"
    with pytest.raises(TargetError, match=expected):
        convert(ZOO["opset 22"](), "no such data", target="generic")


def test_two_bit_codes_on_a_target_with_four_bits_at_least() -> None:
    from converter.recipes.recipe import Recipe
    from passes.activations.activation_ranges import ActivationRanges
    from passes.graph.fold_batchnorm import FoldBatchnorm
    from passes.graph.normalise.normalise import Normalise
    from passes.weights.rtn import Rtn

    recipe = Recipe("r", "", (Normalise(), FoldBatchnorm(), ActivationRanges(), Rtn(bits=2)))
    for target, bits, kind in (
        ("cpu", 2, TensorProto.INT2),
        ("cuda", 4, TensorProto.INT4),
        ("mobile", 8, TensorProto.INT8),
    ):
        model = convert(small_cnn(transpose=False), X, recipe=recipe, target=target).model
        assert constant(model, f"stem.weight_int{bits}").data_type == kind


def test_cuda_keeps_activations_in_float() -> None:
    for recipe in ("int8", "int4"):
        model = written("cuda", recipe)
        assert not nodes(model, "QuantizeLinear")
        assert helper.make_opsetid("", 21) in model.opset_import
