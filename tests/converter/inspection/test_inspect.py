"""inspect reports what the file contains, for our own files and for those of other tools."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console

import converter
from converter.inspection.inspect import InspectedLayer, Inspection, inspect
from converter.qdq.stored_weights import tensor_bytes
from converter.recipes.builtin import find_recipe
from converter.report.table import inspection_tables
from passes.errors import ModelError
from passes.graph.integer_forms.integer_forms import IntegerForms
from tests.support.models import images, make_model, small_cnn
from tests.support.networks import random, relative_error, run

pytestmark = pytest.mark.usefixtures("packed")

KEYS = {
    "name", "op", "weight_bits", "storage", "bytes", "granularity", "activation_bits", "activation_type", "fused",
    "reason", "zeros",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The small network, converted once with each recipe. "float" is the network itself."""
    folder = tmp_path_factory.mktemp("inspect")
    onnx.save(small_cnn(), folder / "float.onnx")

    def file(recipe: str) -> Path:
        path = folder / f"{Path(recipe).stem}.onnx"
        if not path.exists():
            converter.convert(folder / "float.onnx", images(), recipe=recipe).save(path)
        return path

    return file


def by_name(inspection: Inspection) -> dict[str, InspectedLayer]:
    return {layer.name: layer for layer in inspection.layers}


def elements(path: Path) -> dict[str, int]:
    """Number of weights of each layer of the small network."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer}
    return {name.removesuffix(".weight"): size for name, size in sizes.items() if name.endswith(".weight")}


def save(path: Path, nodes: list[NodeProto], tensors: list[TensorProto], shape: list[Any], out: list[Any]) -> Path:
    onnx.save(make_model(nodes, tensors, inputs={"x": shape}, outputs={"y": out}), path)
    return path


def tensor(name: str, value: Any, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def test_inputs_and_outputs_are_listed(files: Callable[[str], Path]) -> None:
    found = inspect(files("float"))
    assert found.model["inputs"] == {"input": "float32 [n, 3, 12, 12]"}
    assert found.model["outputs"] == {"output": "float32 [n, 5]"}
    stream = io.StringIO()
    Console(file=stream, width=120).print(*inspection_tables(found))
    assert "input float32 [n, 3, 12, 12]" in stream.getvalue()


def test_float_model(files: Callable[[str], Path]) -> None:
    inspection = inspect(files("float"))
    assert [layer.op for layer in inspection.layers] == ["Conv", "Conv", "ConvTranspose", "Gemm"]
    for layer in inspection.layers:
        assert (layer.weight_bits, layer.storage, layer.activation_bits) == (32, "float32", 32)
        assert not layer.fused
        assert layer.reason == "weight is float32"
        assert layer.bytes == 4 * elements(files("float"))[layer.name]


@pytest.mark.parametrize("recipe", ["float", "int8", "int4", "int4-weight-only", "int4-matmulnbits"])
def test_numbers_equal_the_file(files: Callable[[str], Path], recipe: str) -> None:
    path = files(recipe)
    facts = inspect(path).to_json()
    model = onnx.load(path)
    raw: dict[str, int] = {}
    for constant in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(constant.data_type).lower().replace("float", "float32")
        raw[kind] = raw.get(kind, 0) + len(numpy_helper.from_array(numpy_helper.to_array(constant)).raw_data)
    assert facts["bytes_by_type"] == dict(sorted(raw.items()))
    assert facts["model"]["bytes"] == path.stat().st_size
    assert set(facts) == {"model", "layers", "bytes_by_type"}
    assert all(set(layer) == KEYS for layer in facts["layers"])
    assert sum(layer["bytes"] for layer in facts["layers"]) <= sum(raw.values())


def test_int8_runs_on_integers(files: Callable[[str], Path]) -> None:
    layers = by_name(inspect(files("int8")))
    for name, outputs in (("stem", 8), ("deep", 8), ("fc", 5)):
        layer = layers[name]
        assert (layer.weight_bits, layer.storage, layer.granularity, layer.activation_bits) == (8, "int8", "channel", 8)
        assert layer.fused, layer
        assert not layer.reason
        assert layer.bytes == elements(files("float"))[name] + 5 * outputs  # codes, float scales, int8 zero points


def test_int4_is_stored_in_half_bytes_and_fused(files: Callable[[str], Path]) -> None:
    layers = by_name(inspect(files("int4")))
    for name, outputs, block_size in (("stem", 8, 3), ("deep", 8, 3), ("fc", 5, None)):
        layer, weights = layers[name], elements(files("float"))[name]
        assert (layer.weight_bits, layer.storage, layer.fused) == (4, "int4 cast", True)
        assert layer.granularity == ("channel" if block_size is None else f"block {block_size}")
        multiples = 0 if block_size is None else weights // block_size
        assert layer.bytes == -(-weights // 2) + -(-multiples // 2) + 5 * outputs
    assert layers["up"].op == "Conv"  # a 1x1 convolution and a shuffle
    assert layers["up"].fused


def test_a_transposed_convolution_without_an_integer_form_runs_in_float(tmp_path: Path) -> None:
    plan = find_recipe("int4")
    plan = replace(plan, passes=tuple(step for step in plan.passes if not isinstance(step, IntegerForms)))
    converter.convert(small_cnn(), images(), recipe=plan).save(tmp_path / "m.onnx")
    up = by_name(inspect(tmp_path / "m.onnx"))["up"]
    assert (up.op, up.weight_bits, up.storage, up.fused) == ("ConvTranspose", 4, "int4 rescale", False)
    assert up.reason == "float activations; dequantized at load"


def test_nodes_without_names_are_found_by_their_weights(files: Callable[[str], Path], tmp_path: Path) -> None:
    model = onnx.load(files("int4"))
    for node in model.graph.node:
        node.ClearField("name")
    onnx.save(model, tmp_path / "m.onnx")
    assert [layer.fused for layer in inspect(tmp_path / "m.onnx").layers] == [True, True, True, True]


def test_weight_only_is_dequantized_at_load(files: Callable[[str], Path]) -> None:
    for layer in inspect(files("int4-weight-only")).layers:
        assert (layer.weight_bits, layer.storage, layer.activation_bits) == (4, "int4 rescale", 32)
        assert not layer.fused
        assert layer.reason == "float activations; dequantized at load"


def test_matmulnbits(files: Callable[[str], Path]) -> None:
    fc = by_name(inspect(files("int4-matmulnbits")))["fc"]
    assert (fc.op, fc.weight_bits, fc.storage, fc.granularity) == ("MatMulNBits", 4, "matmulnbits", "block 16")
    assert fc.fused
    assert fc.bytes == 5 * 8 + 5 * 4  # one block of 16 codes and one scale for each of 5 outputs
    assert (fc.activation_bits, fc.on_integers) == (8, True)


@pytest.mark.parametrize(("level", "bits"), [(None, 32), (0, 32), (1, 32), (4, 8)])
def test_matmulnbits_is_on_integers_only_at_accuracy_level_4(
    level: int | None, bits: int, files: Callable[[str], Path], tmp_path: Path
) -> None:
    """onnxruntime follows the level: float activations give the float result, int8 activations do not."""
    model = onnx.load(files("int4-matmulnbits"))
    (node,) = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    x = random(8, 3, 12, 12)
    kept = [entry for entry in node.attribute if entry.name != "accuracy_level"]
    del node.attribute[:]
    node.attribute.extend(kept)
    before = run(model, x)[0]
    if level is not None:
        node.attribute.append(helper.make_attribute("accuracy_level", level))
    onnx.save(model, tmp_path / "m.onnx")
    inspection = inspect(tmp_path / "m.onnx")
    fc = by_name(inspection)["fc"]
    assert (fc.fused, fc.activation_bits, fc.on_integers) == (True, bits, bits == 8)
    assert (relative_error(run(model, x)[0], before) < 1e-6) == (bits == 32)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*inspection_tables(inspection))
    words = console.export_text()
    assert re.search(r"layers on integers +(\d) of 4", words)[1] == ("1" if bits == 8 else "0")  # type: ignore[index]
    assert bool(re.search(r"codes times float activations +1 of 4", words)) == (bits == 32)


def test_grid_bits_come_from_the_metadata(files: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = tmp_path / "int3.toml"
    recipe.write_text('[[passes]]\npass = "normalise"\n\n[[passes]]\npass = "rtn"\nbits = 3\n')
    layer = inspect(files(str(recipe))).layers[0]
    assert (layer.weight_bits, layer.storage) == (3, "int4 rescale")


def test_blocks_are_recognized_behind_a_reshape(files: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = tmp_path / "blocks.toml"
    recipe.write_text('[[passes]]\npass = "normalise"\n\n[[passes]]\npass = "rtn"\nbits = 4\nblock_size = 9\n')
    layers = by_name(inspect(files(str(recipe))))
    assert layers["stem"].granularity == "block 9"
    assert layers["stem"].bytes == 8 * 27 // 2 + 4 * 8 * 3
    assert layers["deep"].granularity == "channel"  # 9 inputs: one block is the whole channel


def test_int4_dequantize_is_not_fused(tmp_path: Path) -> None:
    """onnxruntime dequantizes this form, which other tools write, on every run."""
    codes = helper.make_tensor("w", TensorProto.INT4, [4, 3, 1, 1], list(range(-6, 6)))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    tensors = [codes, tensor("ws", [0.1] * 4), tensor("s", 0.1), tensor("z", 128, np.uint8)]
    path = save(tmp_path / "m.onnx", nodes, tensors, ["n", 3, 4, 4], ["n", 4, 4, 4])
    (layer,) = inspect(path).layers
    assert (layer.weight_bits, layer.storage, layer.granularity, layer.activation_bits) == (
        4, "int4 dequantize", "channel", 8,
    )  # fmt: skip
    assert layer.bytes == 6 + 16
    assert not layer.fused
    assert layer.reason == "not fused: DequantizeLinear of int4; dequantized on every run"


def test_integer_operators_of_other_tools(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "a", "s", "az", "s", "z"], ["t"], "qlinear"),
        helper.make_node("MatMulInteger", ["t", "b", "z"], ["i"], "integer"),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    tensors = [
        tensor("s", 0.1), tensor("z", 128, np.uint8), tensor("az", 0, np.int8),
        tensor("a", np.ones((6, 4)), np.int8), tensor("b", np.ones((4, 3)), np.uint8),
    ]  # fmt: skip
    layers = by_name(inspect(save(tmp_path / "m.onnx", nodes, tensors, ["n", 6], ["n", 3])))
    first, second = layers["qlinear"], layers["integer"]
    assert (first.storage, first.granularity, first.bytes, first.activation_bits) == ("int8", "tensor", 24 + 4 + 1, 8)
    assert (second.storage, second.bytes, second.activation_bits) == ("uint8", 12, 8)
    assert first.fused
    assert second.fused


def test_block_dequantize_of_a_matmul(tmp_path: Path) -> None:
    """onnxruntime fuses it into MatMulNBits. It is found by the node's name although its weight was repacked."""
    codes = helper.make_tensor("w", TensorProto.INT4, [64, 8], [1, -2] * 256)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "wd"], ["y"], "matmul"),
    ]
    path = save(tmp_path / "m.onnx", nodes, [codes, tensor("s", np.full((2, 8), 0.1))], ["n", 64], ["n", 8])
    (layer,) = inspect(path).layers
    assert (layer.weight_bits, layer.granularity, layer.bytes) == (4, "block 32", 256 + 64)
    assert layer.reason == ("" if layer.fused else "float activations; dequantized on every run")


def test_matmul_of_two_activations(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    (layer,) = inspect(save(tmp_path / "m.onnx", nodes, [], [2, 2], [2, 2])).layers
    assert (layer.name, layer.weight_bits, layer.storage, layer.bytes) == ("y", None, "none", 0)
    assert layer.reason == "no operand is a constant"


def test_layers_with_a_shared_weight_are_distinguished_by_name(tmp_path: Path) -> None:
    """One Conv is quantized on both sides, and the other writes floats. Both read the same codes."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["c"], "first"),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cd"]),
        helper.make_node("Conv", ["cd", "wd"], ["e"], "second"),
        helper.make_node("Sin", ["e"], ["y"]),
    ]
    tensors = [
        tensor("w", np.arange(-8, 8).reshape(4, 4, 1, 1), np.int8), tensor("ws", [0.1] * 4), tensor("s", 0.1),
        tensor("wz", [0] * 4, np.int8), tensor("z", 128, np.uint8),
    ]  # fmt: skip
    layers = by_name(inspect(save(tmp_path / "m.onnx", nodes, tensors, ["n", 4, 5, 5], ["n", 4, 5, 5])))
    assert layers["first"].fused
    assert not layers["second"].fused
    assert layers["second"].reason == "its output is not quantized"


def test_a_constant_node_is_a_constant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor("", np.ones((4, 2)))),
        helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"),
    ]
    inspection = inspect(save(tmp_path / "m.onnx", nodes, [], ["n", 4], ["n", 2]))
    assert inspection.layers[0].bytes == 32
    assert inspection.bytes_by_type == {"float32": 32}


def test_external_data_count(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small_cnn(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    inspection = inspect(path)
    assert inspection.model["bytes"] == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    assert inspection.bytes_by_type == {"float32": 4 * (8 * 27 + 8 + 8 * 9 + 8 + 8 * 8 * 4 + 5 * 8 + 5)}


def test_a_file_onnxruntime_cannot_load_is_still_read(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("MatMul", ["x", "wd"], ["t"], "matmul"),
        helper.make_node("Mystery", ["t"], ["y"], domain="example"),
    ]
    tensors = [tensor("w", np.ones((4, 2)), np.int8), tensor("s", 0.1)]
    inspection = inspect(save(tmp_path / "m.onnx", nodes, tensors, ["n", 4], ["n", 2]))
    assert inspection.model["loads"] is False
    assert (inspection.layers[0].weight_bits, inspection.layers[0].granularity) == (8, "tensor")
    assert "onnxruntime cannot load the model" in inspection.layers[0].reason


@pytest.mark.parametrize(
    ("bits", "count", "size"), [(TensorProto.INT4, 3, 2), (TensorProto.INT8, 3, 3), (TensorProto.FLOAT16, 3, 6)]
)
def test_packed_tensors_round_up(bits: int, count: int, size: int) -> None:
    assert tensor_bytes(TensorProto(data_type=bits, dims=[count])) == size


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "empty"), (b"hello", "text"), (b"\x89PNG....", "PNG")], ids=["empty", "text", "png"]
)
def test_not_an_onnx_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        inspect(path)
