"""The storage forms of a weight, each checked by running the file."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from converter.qdq.floats import float_model
from converter.qdq.layer_forms import bits_in_file
from converter.qdq.matmul_nbits import BLOCKS
from converter.qdq.weights import STORAGES, Storage
from converter.qdq.writer import emit
from passes.errors import ModelError, TargetError
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.numerics.two_level import equal_block
from passes.weights.rtn import Rtn
from tests.support.graphs import run as unoptimized
from tests.support.networks import (
    LAYERS,
    images,
    initializers,
    network,
    optimized,
    quantize,
    random,
    relative_error,
    run,
    single,
)

INTEGER = [name for name, layer in LAYERS.items() if layer.op != "ConvTranspose"]
MATRICES = [name for name, layer in LAYERS.items() if layer.op in {"Gemm", "MatMul"}]


def quantized(name: str, layer_pass: Rtn, *, ranges: bool = False) -> Model:
    return quantize(single(name), layer_pass, LAYERS[name].images(), ranges=ranges)


def weight_type(proto: onnx.ModelProto) -> int:
    """Type of the only tensor of weight codes."""
    (actual,) = [tensor.data_type for tensor in proto.graph.initializer if tensor.name.startswith("w_int")]
    return int(actual)


def assert_is_float_graph(model: Model, proto: onnx.ModelProto, name: str) -> None:
    """The file equals the graph with dequantized weights, and differs from the float network."""
    x = LAYERS[name].images()
    onnx.checker.check_model(proto, full_check=True)
    actual, expected, float_output = run(proto, x)[0], run(float_model(model.graph), x)[0], run(single(name), x)[0]
    assert relative_error(actual, expected) <= 1e-6  # sums in another order, no more
    assert relative_error(actual, float_output) > 1e-3, "nothing was quantized"


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", INTEGER)
def test_cast_form_computes_bit_for_bit_what_int8_storage_does(name: str, bits: int) -> None:
    model = quantized(name, Rtn(bits=bits), ranges=True)
    x = LAYERS[name].images()
    cast, plain = emit(model, "cast"), emit(model, "int8")
    assert weight_type(cast) == (TensorProto.INT2 if bits == 2 else TensorProto.INT4)
    assert weight_type(plain) == TensorProto.INT8
    np.testing.assert_array_equal(run(cast, x)[0], run(plain, x)[0])
    assert relative_error(run(cast, x)[0], run(single(name), x)[0]) > 1e-3, "nothing was quantized"


@pytest.mark.parametrize("ranges", [True, False], ids=["integers", "floats"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("fewest", [0, 1024], ids=["blocks of several", "as few weights have them"])
@pytest.mark.parametrize("name", LAYERS)
def test_two_level_scales_compute_bit_for_bit_what_int8_storage_does(
    name: str, fewest: int, bits: int, ranges: bool, tmp_path: Path
) -> None:
    solver = Rtn(bits=bits, block_size=4, two_level=True, fewest_blocks=fewest)
    model = quantized(name, solver, ranges=ranges and name in INTEGER)
    grid = model.quantized["layer"].grid
    groups, outputs, k = model.layers()["layer"].matrix_shape
    one_block = equal_block(groups * outputs, k, 4, fewest) is None
    assert (grid.multiples is None) == (one_block or LAYERS[name].op == "ConvTranspose")
    x = LAYERS[name].images()
    packed, plain = emit(model, "packed"), emit(model, "int8")
    onnx.checker.check_model(packed, full_check=True)
    multiples = [tensor.data_type for tensor in packed.graph.initializer if "multiples" in tensor.name]
    assert multiples == ([] if grid.multiples is None else [TensorProto.INT4])
    assert weight_type(packed) == (TensorProto.INT2 if bits == 2 else TensorProto.INT4)
    np.testing.assert_array_equal(run(packed, x)[0], run(plain, x)[0])
    assert relative_error(run(packed, x)[0], run(single(name), x)[0]) > 1e-3, "nothing was quantized"
    assert optimized(packed, tmp_path) == optimized(plain, tmp_path), "multiples are not folded"


@pytest.mark.parametrize("name", INTEGER)
def test_eight_bits_stay_close_to_float(name: str) -> None:
    model = quantized(name, Rtn(bits=8), ranges=True)
    x = LAYERS[name].images()
    # 8 uniform bits over +-4 sigma are 40 dB; input, weight and output are rounded, which adds up to 5 dB less
    assert sqnr_db(run(single(name), x)[0], run(emit(model, "int8"), x)[0]) > 32


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_weight_only_per_channel(name: str, bits: int, symmetric: bool) -> None:
    model = quantized(name, Rtn(bits=bits, symmetric=symmetric))
    assert model.quantized["layer"].grid.symmetric == symmetric
    assert_is_float_graph(model, emit(model, "cast"), name)


@pytest.mark.parametrize("name", [name for name, layer in LAYERS.items() if layer.op != "ConvTranspose"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(
    "block_size", [3, 4, 5]
)  # the depthwise layer has 9 inputs: 3 exact blocks, 2 and 1 ragged ones
def test_weight_only_in_blocks(name: str, symmetric: bool, block_size: int) -> None:
    model = quantized(name, Rtn(bits=4, symmetric=symmetric, block_size=block_size))
    grid, codes = model.quantized["layer"].grid, model.quantized["layer"].codes
    assert grid.block_size == block_size
    assert grid.scale.shape[2] == -(-codes.shape[2] // block_size) > 1
    assert_is_float_graph(model, emit(model, "cast"), name)


@settings(max_examples=40)
@given(
    groups=st.sampled_from([1, 2, 3]),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bits=st.integers(2, 8),
    block_size=st.none() | st.integers(1, 8),
    symmetric=st.booleans(),
)
def test_any_convolution_weight_only(
    groups: int, inputs: int, outputs: int, kernel: tuple[int, int], bits: int, block_size: int | None, symmetric: bool
) -> None:
    weight = random(groups * outputs, inputs, *kernel)
    proto = network(
        [helper.make_node("Conv", ["x", "w"], ["y"], "layer", group=groups)],
        {"w": weight},
        {"x": ["N", groups * inputs, 5, 5]},
        {"y": ["N", groups * outputs, "h", "w"]},
    )
    x = images(2, groups * inputs, 5, 5)
    model = quantize(proto, Rtn(bits=bits, block_size=block_size, symmetric=symmetric), x)
    expected = run(float_model(model.graph), x)[0]
    np.testing.assert_allclose(run(emit(model, "cast"), x)[0], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dequantize_form(name: str, symmetric: bool, bits: int) -> None:
    model = quantized(name, Rtn(bits=bits, symmetric=symmetric))
    proto, x = emit(model, "dequantize"), LAYERS[name].images()
    onnx.checker.check_model(proto, full_check=True)
    form = ["DequantizeLinear"] if bits > 2 else ["Cast", "DequantizeLinear"]  # nothing reads DequantizeLinear(INT2)
    alone = name != "transpose_grouped"  # whose channels lie along two axes
    assert ([node.op_type for node in proto.graph.node] == [*form, LAYERS[name].op]) == alone
    expected = run(float_model(model.graph), x)[0]
    assert relative_error(unoptimized(proto, x)[0], expected) <= 1e-6
    # onnxruntime makes an untransposed matrix MatMulNBits with activations rounded to 8 bits: 1 % of the largest output
    rounded = alone and name in {"gemm", "matmul"}
    assert relative_error(run(proto, x)[0], expected) <= (0.01 if rounded else 1e-6)


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize(("bits", "kind"), [(2, TensorProto.INT2), (4, TensorProto.INT4)])
def test_dequantize_form_under_integer_activations(name: str, bits: int, kind: int) -> None:
    model = quantized(name, Rtn(bits=bits), ranges=True)
    proto, x = emit(model, "dequantize"), LAYERS[name].images()
    assert weight_type(proto) == kind
    assert ("Cast" in {node.op_type for node in proto.graph.node}) == (bits == 2)
    # never fused (DESIGN §5), so the sums are float; one step of the output's grid may fall either way
    step = float(model.activation_qparams["y"].scale) if "y" in model.activation_qparams else 1e-5
    assert np.abs(run(proto, x)[0] - run(emit(model, "int8"), x)[0]).max() <= 1.001 * step


@pytest.mark.parametrize("storage", [storage for storage in STORAGES if storage != "int8"])
@pytest.mark.parametrize(("bits", "kind"), [(2, TensorProto.INT2), (3, TensorProto.INT4), (4, TensorProto.INT4)])
def test_codes_take_the_next_larger_integer_type(storage: Storage, bits: int, kind: int) -> None:
    model = quantized("conv2d", Rtn(bits=bits))
    proto = emit(model, storage)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name.startswith("w_int")]
    assert tensor.data_type == kind
    stored = LAYERS["conv2d"].weight
    codes = onnx.numpy_helper.to_array(tensor).astype(np.int8)
    np.testing.assert_array_equal(codes.reshape(stored), model.quantized["layer"].codes.reshape(stored))
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    assert versions == {"": 25 if bits == 2 else 21}
    assert proto.ir_version >= (13 if bits == 2 else 10)


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_more_than_four_bits_take_eight(bits: int) -> None:
    model = quantized("conv2d", Rtn(bits=bits))
    assert weight_type(emit(model, "cast")) == TensorProto.INT8
    assert_is_float_graph(model, emit(model, "cast"), "conv2d")


_ROUNDED = 2e-2  # relative to max|y|: activations are rounded to int8 in blocks


def with_float_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same file, at the accuracy level at which MatMulNBits does not round its activations."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        kept = [entry for entry in node.attribute if entry.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return copy


@pytest.mark.parametrize("name", MATRICES)  # 24 and 21 inputs: the last block is ragged
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("block_size", [16, 32], ids=["two_blocks", "one_block"])
def test_matmul_nbits(name: str, symmetric: bool, bits: int, block_size: int) -> None:
    model = quantized(name, Rtn(bits=bits, symmetric=symmetric, block_size=block_size))
    proto = emit(model, "matmulnbits")
    (node,) = proto.graph.node
    attributes = {entry.name: entry.i for entry in node.attribute}
    k = LAYERS[name].x[-1]
    assert (node.op_type, node.domain, node.name) == ("MatMulNBits", "com.microsoft", "layer")
    assert attributes == {
        "K": k,
        "N": 10,
        "bits": 8 if bits == 8 else 4,
        "block_size": block_size,
        "accuracy_level": 4,  # with floats, its kernels are slower, and that of 8 bits dequantizes in every run
    }
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 21, "com.microsoft": 1}
    x = LAYERS[name].images()
    actual, expected = run(proto, x)[0], run(float_model(model.graph), x)[0]
    assert relative_error(actual, expected) <= _ROUNDED
    assert relative_error(run(with_float_sums(proto), x)[0], expected) <= 1e-6
    if bits < 8:
        assert relative_error(actual, run(single(name), x)[0]) > 1e-3, "nothing was quantized"


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("k", [40, 200])
def test_matmul_nbits_with_an_odd_number_of_blocks_and_a_wide_one(symmetric: bool, k: int) -> None:
    """Zero points of 3 or 13 blocks do not fill their last byte. Per channel, the only block is 64 or 256 wide."""
    source = network(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer", transB=1)],
        {"w": random(9, k), "b": random(9)},
        {"x": ["N", k]},
        {"y": ["N", 9]},
    )
    x = images(6, k)
    for block_size in (16, None):
        model = quantize(source, Rtn(bits=4, symmetric=symmetric, block_size=block_size), x)
        expected = run(float_model(model.graph), x)[0]
        proto = emit(model, "matmulnbits")
        assert relative_error(run(with_float_sums(proto), x)[0], expected) <= 1e-6
        assert relative_error(run(proto, x)[0], expected) <= _ROUNDED


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("block_size", "bits"), [(16, 4), (32, 2), (64, 2), (128, 2), (256, 4), (None, 2)])
def test_matmul_nbits_stores_two_bits_where_they_are_fast(block_size: int | None, bits: int, symmetric: bool) -> None:
    x = images(6, 300)
    model = quantize(wide_gemm(300), Rtn(bits=2, symmetric=symmetric, block_size=block_size), x)
    proto, expected = emit(model, "matmulnbits"), run(float_model(model.graph), x)[0]
    (node,) = proto.graph.node
    assert next(entry.i for entry in node.attribute if entry.name == "bits") == bits
    assert initializers(proto)[f"w_int{bits}_blocks"].dims[-1] == (block_size or 128) * bits // 8
    assert relative_error(run(proto, x)[0], expected) <= _ROUNDED
    assert bits_in_file(model, model.layers()["layer"], "matmulnbits") == bits
    del model.quantized["layer"]  # as in a search, before it is solved
    assert bits_in_file(model, model.layers()["layer"], "matmulnbits", 2, block_size=block_size) == bits


def test_matmul_nbits_stores_four_bits_in_half_bytes() -> None:
    tensors = initializers(emit(quantized("gemm", Rtn(bits=4, block_size=16, symmetric=False)), "matmulnbits"))
    assert {name: list(tensor.dims) for name, tensor in tensors.items() if name != "b"} == {
        "w_int4_blocks": [10, 2, 8],
        "w_block_scale": [10, 2],
        "w_zero_point": [10, 1],
    }


def wide_gemm(k: int) -> onnx.ModelProto:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer")
    return network([node], {"w": random(k, 7), "b": random(7)}, {"x": ["N", k]}, {"y": ["N", 7]})


@pytest.mark.parametrize("block_size", [8, 12, 20, 512])
def test_matmul_nbits_refuses_blocks_it_cannot_read(block_size: int) -> None:
    model = quantize(wide_gemm(600), Rtn(bits=4, block_size=block_size), images(4, 600))
    message = rf"layer: MatMulNBits cannot read blocks of {block_size}; use block_size = 16, 32, 64, 128 or 256"
    with pytest.raises(TargetError, match=message):
        emit(model, "matmulnbits")


@pytest.mark.parametrize("block_size", [8, 24, 512])
def test_onnxruntime_has_no_kernel_for_the_blocks_that_are_refused(
    block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.qdq.matmul_nbits.BLOCKS", (block_size,))
    model = quantize(wide_gemm(600), Rtn(bits=4, block_size=block_size), images(4, 600))
    with pytest.raises(ModelError, match="Only block sizes 16, 32, 64, 128, and 256"):
        run(emit(model, "matmulnbits"), images(4, 600))


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [*BLOCKS, None])
def test_onnxruntime_runs_every_block_size_and_channels_of_any_width(
    block_size: int | None, bits: int, symmetric: bool
) -> None:
    x = images(4, 600)
    model = quantize(wide_gemm(600), Rtn(bits=bits, block_size=block_size, symmetric=symmetric), x)
    proto = emit(model, "matmulnbits")
    assert [node.op_type for node in proto.graph.node] == ["MatMulNBits"]
    expected = run(float_model(model.graph), x)[0]
    assert relative_error(run(proto, x)[0], expected) <= _ROUNDED
    assert relative_error(run(with_float_sums(proto), x)[0], expected) <= 2e-6


def test_matmul_nbits_leaves_convolutions_to_the_rescale_form() -> None:
    model = quantized("conv2d", Rtn(bits=4, block_size=16))
    proto = emit(model, "matmulnbits")
    assert "MatMulNBits" not in {node.op_type for node in proto.graph.node}
    assert_is_float_graph(model, proto, "conv2d")


@pytest.mark.parametrize("name", ["conv2d", "depthwise", "gemm", "matmul"])
def test_weight_only_folds_at_load(name: str, tmp_path: Path) -> None:
    """What is left when onnxruntime has loaded the file is the float operator alone: float speed (DESIGN §5)."""
    model = quantized(name, Rtn(bits=4, block_size=4, symmetric=False))
    assert len(emit(model, "cast").graph.node) > 4
    left = optimized(emit(model, "cast"), tmp_path)
    assert left - Counter({"ReorderInput": 1, "ReorderOutput": 1}) == Counter({LAYERS[name].op: 1})  # NCHWc layout
