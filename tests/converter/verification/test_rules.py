"""Every rule: it reports a file that breaks it, under the name of the fact, but not the original file."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter import Recipe, convert, find_recipe
from converter.qdq.pruned import pruned_patterns
from converter.targets.catalog import find_target
from converter.targets.target import Target
from converter.verification.rules import RULES, violations
from models.zoo import ZOO, feeds_of
from passes.activations.activation_ranges import ActivationRanges
from passes.graph.normalise.normalise import Normalise
from passes.ir.rules import Rules
from passes.weights.prune import Prune
from tests.support.models import SIDE, small_cnn
from tests.support.networks import resnet

pytestmark = pytest.mark.usefixtures("packed")

X = np.random.default_rng(0).standard_normal((16, 3, SIDE, SIDE)).astype(np.float32)


PRUNED = Recipe(
    "pruned", "", (Normalise(), ActivationRanges(), Prune(bits=8, pattern="2:4", fewest_inputs=0)), storage="int8"
)
TWO_OF_FOUR = find_recipe("int8-2of4").with_solver(fewest_inputs=32)


def written(target: str, recipe: str | Recipe = "int8") -> onnx.ModelProto:
    return convert(small_cnn(transpose=False), X, recipe=recipe, target=target).model


def node(model: onnx.ModelProto, name: str) -> NodeProto:
    actual: NodeProto = next(each for each in model.graph.node if each.name == name)
    return actual


def retype(model: onnx.ModelProto, name: str, values: Any) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))


def new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 26


def open_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def unsigned(model: onnx.ModelProto) -> None:
    retype(model, "input_zero_point", np.uint8(0))


def signed(model: onnx.ModelProto) -> None:
    retype(model, "input_zero_point", np.int8(0))


def wider(model: onnx.ModelProto) -> None:
    retype(model, "input_zero_point", np.uint16(0))


def gated(model: onnx.ModelProto) -> None:
    """A Sigmoid in front of a grid of 16 bits that is not its own."""
    quantize = node(model, "relu_quantize")
    place = list(model.graph.node).index(quantize)
    model.graph.node.insert(place, helper.make_node("Sigmoid", [quantize.input[0]], ["gate"], name="gate"))
    node(model, "relu_quantize").input[0] = "gate"


def off_center(model: onnx.ModelProto) -> None:
    retype(model, "relu_zero_point", np.int8(-128))


def off_center_weight(model: onnx.ModelProto) -> None:
    retype(model, "deep.weight_zero_point", np.array([0] * 7 + [3], np.int8))


def nibbles(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "stem.weight_int8")
    values = np.clip(numpy_helper.to_array(tensor), -8, 7)
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT4, values.shape, values))


def read_directly(model: onnx.ModelProto) -> None:
    """DequantizeLinear reads the 4-bit codes directly."""
    dequantize = node(model, "stem.weight_dequantize")
    dequantize.input[0] = "stem.weight_int4"
    retype(model, "stem.weight_zero_point", np.zeros(8, np.int8))
    model.graph.node.remove(node(model, "stem.weight_cast"))


def float_input(model: onnx.ModelProto) -> None:
    node(model, "stem").input[0] = "input"


def integer_gemm(model: onnx.ModelProto) -> None:
    """Quantize an activation that the target does not expect to be quantized."""
    other = written("cpu")
    model.CopyFrom(other)


def one_dimension(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "stem.weight_int8")
    del tensor.dims[3:]
    tensor.raw_data = tensor.raw_data[: int(np.prod(tensor.dims))]


def no_float_kernel(model: onnx.ModelProto) -> None:
    weight = numpy_helper.from_array(np.ones((8, 8, 1, 1, 1), np.float32), "deep3d.weight")
    model.graph.initializer.append(weight)
    model.graph.node.append(helper.make_node("Conv", ["relu", "deep3d.weight"], ["deep3d"], name="deep3d"))


def other_axis(model: onnx.ModelProto) -> None:
    (axis,) = (entry for entry in node(model, "stem.weight_dequantize").attribute if entry.name == "axis")
    axis.i = 1


def integer_bias(model: onnx.ModelProto) -> None:
    name = node(model, "stem").input[2]
    retype(model, name, np.zeros(8, np.int32))
    scale = numpy_helper.from_array(np.ones(8, np.float32), "bias_scale")
    model.graph.initializer.append(scale)
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", [name, "bias_scale"], ["bias"], axis=0))
    node(model, "stem").input[2] = "bias"


def float_head(model: onnx.ModelProto) -> None:
    for each in [*model.graph.node]:
        if each.name in {"output_quantize", "output_dequantize"}:
            model.graph.node.remove(each)
    node(model, "fc").output[0] = "output"


def rounded_twice(model: onnx.ModelProto) -> None:
    """Both operands of the Add come from a DequantizeLinear."""
    add = node(model, "add")
    index = list(add.input).index("deep")
    scale = ["relu_scale", "relu_zero_point"]
    for op, reads, writes in (
        ("QuantizeLinear", "deep", "deep_codes"),
        ("DequantizeLinear", "deep_codes", "deep_again"),
    ):
        model.graph.node.append(helper.make_node(op, [reads, *scale], [writes], name=writes))
    add.input[index] = "deep_again"


def not_rounded(model: onnx.ModelProto) -> None:
    add = node(model, "add")
    add.input[list(add.input).index("relu_dequantized")] = "relu"


def rounded_in_vain(model: onnx.ModelProto) -> None:
    """Two float operators with codes between them. No operator reads these as codes."""
    grid = ["relu_scale", "relu_zero_point"]
    for op, reads, writes in (
        ("LeakyRelu", ["relu_dequantized"], "leaky"),
        ("QuantizeLinear", ["leaky", *grid], "leaky_codes"),
        ("DequantizeLinear", ["leaky_codes", *grid], "leaky_again"),
        ("Sigmoid", ["leaky_again"], "gate"),
    ):
        model.graph.node.append(helper.make_node(op, reads, [writes], name=writes))


def other_grid(model: onnx.ModelProto) -> None:
    """The Flatten reads codes of one scale, and the quantizer behind it writes codes of another."""
    node(model, "flat_quantize").input[1] = "input_scale"


def no_clamp(model: onnx.ModelProto) -> None:
    """Put an operator that is not a clamp between a layer and its quantizer."""
    node(model, "stem").output[0] = "stem_result"
    model.graph.node.append(helper.make_node("LeakyRelu", ["stem_result"], ["relu"], name="leaky"))


def turned_gemm(model: onnx.ModelProto) -> None:
    (axis,) = (entry for entry in node(model, "fc.weight_dequantize").attribute if entry.name == "axis")
    axis.i = 1


def unsigned_weight(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "stem.weight_int8")
    retype(model, "stem.weight_int8", (numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8))
    retype(model, "stem.weight_zero_point", np.full(8, 128, np.uint8))


def packed(model: onnx.ModelProto) -> None:
    model.CopyFrom(written("cpu", "int4-matmulnbits"))


def full_weight(model: onnx.ModelProto) -> None:
    """No weight of the Gemm is zero. It was pruned in a pattern."""
    tensor = next(each for each in model.graph.initializer if each.name == "fc.weight_int8")
    retype(model, tensor.name, np.ones(numpy_helper.to_array(tensor).shape, np.int8))


def cut_weight(model: onnx.ModelProto) -> None:
    """The Gemm reads 7 inputs."""
    tensor = next(each for each in model.graph.initializer if each.name == "fc.weight_int8")
    retype(model, tensor.name, numpy_helper.to_array(tensor)[:, :7])


BREAKS: dict[str, tuple[str, str | Recipe, Callable[[onnx.ModelProto], None], str]] = {
    # fact: target, recipe, how to break it, message
    "opset": ("tensorrt", "int8", new_opset, "opset 26 is above 25"),
    "static_shapes": ("mobile", "int8", open_batch, "input input: dimension 0 is open (n)"),
    "signed": ("tensorrt", "int8", unsigned, "input_quantize: activations are uint8, not int8"),
    "signed mobile": ("mobile", "int8", signed, "input_quantize: activations are int8, not uint8"),
    "activation_bits": (
        "mobile",
        "int8",
        wider,
        "input_quantize: activations have 16 bits, the target has integer kernels for 8",
    ),
    "wide_ranges": ("qnn", "a16w8", gated, "relu_quantize: its 16 bits need step 1.52588e-05 and zero point 0"),
    "activation_bits xnnpack": ("xnnpack", "int8", wider, "input_quantize: activations have 16 bits, the target has"),
    "signed xnnpack": ("xnnpack", "int8", unsigned, "input_quantize: activations are uint8, not int8"),
    "signed vitisai": ("vitisai", "a16w8", unsigned, "input_quantize: activations are uint8, not int8"),
    "symmetric vitisai": ("vitisai", "int8", off_center, "relu_quantize: zero point -128 is not 0"),
    "narrowest vitisai": ("vitisai", "int8", nibbles, "stem.weight_int8: int4, the smallest integers are int8"),
    "static_shapes xnnpack": ("xnnpack", "int8", open_batch, "input input: dimension 0 is open (n)"),
    "signed directml": ("directml", "int8", signed, "input_quantize: activations are int8, not uint8"),
    "linear directml": ("directml", "int8", integer_gemm, "fc: no integer Gemm, so it runs on dequantized floats"),
    "opset directml": ("directml", "int8", new_opset, "opset 26 is above 21"),
    "activation_bits openvino-npu": ("openvino-npu", "int8", wider, "input_quantize: activations have 16 bits, the"),
    "static_shapes openvino-npu": ("openvino-npu", "int8", open_batch, "input input: dimension 0 is open (n)"),
    "linear openvino-npu": ("openvino-npu", "int8", integer_gemm, "fc: no integer Gemm, so it runs on dequantized"),
    "floats_only": (
        "coreml",
        "fp16",
        integer_gemm,
        "input_quantize: QuantizeLinear, and onnxruntime's CoreML provider",
    ),
    "floats_only acl": ("acl", "fp16", packed, "fc: MatMulNBits, and onnxruntime's ACL provider takes no integer"),
    "symmetric": ("tensorrt", "int8", off_center, "relu_quantize: zero point -128 is not 0"),
    "weight_zero_points": ("tensorrt", "int8", off_center_weight, "deep: a weight zero point is not 0"),
    "weight_zero_points mobile": ("mobile", "int8", off_center_weight, "deep: a weight zero point is not 0"),
    "narrowest": ("tensorrt", "int8", nibbles, "stem.weight_int8: int4, the smallest integers are int8"),
    "narrowest mobile": ("mobile", "int8", nibbles, "stem.weight_int8: int4, the smallest integers are int8"),
    "int4": ("cpu", "int4", read_directly, "stem: codes are read by dequantize, not cast"),
    "weight_only": ("tensorrt", "int8", float_input, "stem: its weight is quantized and its input is float"),
    "no_float": ("qnn", "int8", no_float_kernel, "deep3d: there is no float Conv 3-D"),
    "linear": ("cuda", "int8", integer_gemm, "stem: no integer Conv, so it runs on dequantized floats"),
    "compute": ("mobile", "int8", rounded_in_vain, "leaky_codes: the result of LeakyRelu is quantized, but neither"),
    "compute tensorrt": ("tensorrt", "int8", rounded_in_vain, "leaky_codes: the result of LeakyRelu is quantized, but"),
    "moving": ("cpu", "int8", other_grid, "flatten: Flatten keeps its input's grid, flat_quantize has another one"),
    "moving qnn": ("qnn", "int8", other_grid, "flatten: Flatten keeps its input's grid, flat_quantize has another"),
    "absorbable": (
        "mobile",
        "int8",
        no_clamp,
        "stem: LeakyRelu reads its float output; only Clip or Relu can be fused",
    ),
    "conv_dims": ("mobile", "int8", one_dimension, "stem: no integer Conv of 1 dimensions"),
    "channel_axes": ("tensorrt", "int8", other_axis, "stem: scales along axis 1 of the weight, not 0"),
    "channel_axes mobile": ("mobile", "int8", other_axis, "stem: scales along axis 1 of the weight, not 0"),
    "channel_axes Gemm": ("tensorrt", "int8", turned_gemm, "fc: scales along axis 1 of the weight, not 0"),
    "weight_types": ("tensorrt", "int8", unsigned_weight, "stem: its weight is read as uint8, not int8"),
    "bias": ("tensorrt", "int8", integer_bias, "stem: its bias is int32 behind a DequantizeLinear, not"),
    "float_outputs": ("mobile", "int8", float_head, "fc: it reads integers and writes a float output of"),
    "fused_adds": (
        "tensorrt",
        "int8",
        rounded_twice,
        "add: every operand is quantized, so it cannot be fused into deep",
    ),
    "fused_adds float": (
        "tensorrt",
        "int8",
        not_rounded,
        "add: no operand is quantized; the one beside the convolution",
    ),
    "sparsity": (
        "tensorrt",
        PRUNED,
        full_weight,
        "fc: pruned 2:4, but 10 of 10 groups of 4 neighbouring input channels have more than 2 weights that are not",
    ),
    "sparsity rest": ("tensorrt", PRUNED, cut_weight, "fc: pruned 2:4, but 4 does not divide its 7 inputs"),
    "matmulnbits": ("mobile", "int8", packed, "fc: the target does not run MatMulNBits"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_file_that_breaks_a_rule_is_reported(name: str) -> None:
    target, recipe, change, said = BREAKS[name]
    model = written(target, recipe)
    assert violations(model, find_target(target)) == ()
    change(model)
    actual = [each for each in violations(model, find_target(target)) if each.fact == name.partition(" ")[0]]
    assert any(each.what.startswith(said) for each in actual), actual
    assert {each.source for each in actual} == {find_target(target).sources[name.partition(" ")[0]]}


@pytest.mark.parametrize(("target", "recipe"), [("tensorrt", TWO_OF_FOUR), ("cpu", TWO_OF_FOUR), ("cpu", PRUNED)])
def test_a_pruned_network_has_the_pattern(target: str, recipe: Recipe) -> None:
    """In the weights of convolutions, four input channels at one place of the kernel are a group."""
    x = np.random.default_rng(0).standard_normal((16, 3, SIDE, SIDE)).astype(np.float32)
    model = convert(resnet(), x, recipe=recipe, target=target).model
    assert len(pruned_patterns(model)) >= 2
    assert violations(model, find_target(target)) == ()
    stated = next(entry for entry in model.metadata_props if entry.key == "convert_onnx.pruned")
    dense = convert(resnet(), x, recipe="int8", target=target).model
    dense.metadata_props.append(stated)
    broken = {each.what.partition(":")[0] for each in violations(dense, find_target(target))}
    assert broken == (set(pruned_patterns(model)) if target == "tensorrt" else set())


def test_every_rule_has_a_case() -> None:
    assert {rule.fact for rule in RULES} == {name.partition(" ")[0] for name in BREAKS}


WITHOUT_RULE = {
    "runtime": "no file says which version will run it",
    "provider": "where a file is run, not what is in it",
    "whole": "which nodes a provider takes is seen when it runs the file",
    "variants": "one file serves them all",
    "float16": "a choice of type; Casts stand where a kernel is missing",
    "wide_silu": "a fault of one kernel that its runtime may mend; running the file shows it",
    "on_demand": "a choice of what to round; either file is taken",
    "scalars": "a choice of what to round; either file is taken",
    "gathers_codes": "a choice of how a table is stored; either file is taken",
    "leaky_relu_as_sum": "a choice of what is faster; either file is taken",
    "reads_by_channel": "keeps weights exact; either file is taken",
    "pair_sum": "larger sums saturate on some processors only; a conversion there says so",
    "channels_last": "a choice of what runs in float; either file is taken",
    "times": "a choice of what runs in float; either file is taken",
}


def test_every_fact_has_a_rule_or_a_reason_to_have_none() -> None:
    facts = {field.name for part in (Target, Rules) for field in dataclasses.fields(part)}
    checked = {rule.fact for rule in RULES}
    assert not checked & set(WITHOUT_RULE)
    assert checked | set(WITHOUT_RULE) == facts - {"name", "description", "rules", "sources"}


@pytest.mark.parametrize("graph", ["leaky relu", "global average pool", "silu"])
def test_an_operator_without_integer_kernel_may_stand_between_integers(graph: str) -> None:
    """The file has floats between two layers. `qnn` has an integer kernel for them, and `mobile` has none."""
    model = ZOO[graph]()
    qnn, mobile = (convert(model, feeds_of(model, 4), target=target).model for target in ("qnn", "mobile"))
    assert qnn.graph == mobile.graph
    assert violations(qnn, find_target("mobile")) == ()


def test_targets_may_accept_unsigned_weights() -> None:
    model = written("mobile")
    unsigned_weight(model)
    assert {each.fact for each in violations(model, find_target("mobile"))} == {"weight_zero_points"}


def test_a_cpu_file_breaks_the_rules_of_tensorrt() -> None:
    facts = {each.fact for each in violations(written("cpu", "int4"), find_target("tensorrt"))}
    assert facts == {"signed", "symmetric", "narrowest", "bias", "fused_adds"}
