from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.load import IR_VERSION, OPSET, load_onnx, read_whole_onnx, upgrade_opset
from passes.errors import ModelError

node = helper.make_node
WEIGHT = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
CONV = node("Conv", ["x", "conv.weight"], ["y"], name="conv")


def build(
    nodes: list[onnx.NodeProto],
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    constants: dict[str, np.ndarray] | None = None,
    domains: tuple[str, ...] = (),
    result: int = TensorProto.FLOAT,
    rank: int = 4,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", result, [None] * rank)],
        [
            numpy_helper.from_array(v, k)
            for k, v in ({"conv.weight": WEIGHT} if constants is None else constants).items()
        ],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def saved(folder: Path, model: onnx.ModelProto, **options: Any) -> Path:
    path = folder / "model.onnx"
    onnx.save_model(model, path, **options)
    return path


def run(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    outputs: list[np.ndarray] = session.run(None, {"x": x})
    return outputs[0]


def assert_equivalent(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    onnx.checker.check_model(after, full_check=True)
    expected = run(before)
    assert np.abs(run(after) - expected).max() <= 1e-6 * np.abs(expected).max()


def opset_of(model: onnx.ModelProto) -> int:
    versions: dict[str, int] = {entry.domain: entry.version for entry in model.opset_import}
    return versions[""]


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
def test_old_opsets_are_upgraded(tmp_path: Path, opset: int) -> None:
    tail = node("ReduceMean", ["h"], ["y"], axes=[2, 3], keepdims=1)
    if opset >= 18:
        tail = node("ReduceMean", ["h", "axes"], ["y"], keepdims=1)
    constants = {"conv.weight": WEIGHT} | ({"axes": np.array([2, 3])} if opset >= 18 else {})
    model = build([node("Conv", ["x", "conv.weight"], ["h"], name="conv"), tail], opset=opset, constants=constants)
    loaded = load_onnx(saved(tmp_path, model))
    assert opset_of(loaded) == OPSET
    assert loaded.ir_version >= IR_VERSION
    assert loaded.graph.node[0].name == "conv"
    assert [value.name for value in loaded.graph.input] == ["x"]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    np.testing.assert_array_equal(weights["conv.weight"], WEIGHT)  # bit for bit
    assert_equivalent(model, loaded)


@pytest.mark.parametrize("opset", [21, 22])
def test_new_opsets_are_kept(tmp_path: Path, opset: int) -> None:
    loaded = load_onnx(saved(tmp_path, build([CONV], opset=opset)))
    assert opset_of(loaded) == opset
    assert loaded.ir_version == IR_VERSION


def test_an_ir_version_that_the_opset_does_not_need_is_lowered() -> None:
    """A newer onnx package writes it, and onnxruntime refuses it."""
    model = build([CONV], opset=21)
    model.ir_version = 99
    assert upgrade_opset(model).ir_version == IR_VERSION
    assert upgrade_opset(build([CONV], opset=23)).ir_version == 11


def test_operators_of_other_domains_pass_through_the_upgrade(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "conv.weight"], ["h"]), node("Gelu", ["h"], ["y"], domain="com.microsoft")]
    model = build(nodes, opset=13, domains=("com.microsoft",))
    loaded = load_onnx(saved(tmp_path, model))
    assert [n.domain for n in loaded.graph.node] == ["", "com.microsoft"]
    assert opset_of(loaded) == OPSET
    assert_equivalent(model, loaded)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [9, 10])
def test_upsampling_keeps_its_grid(opset: int, mode: str) -> None:
    """onnx's converter alone leaves 'half_pixel', which moves a linear Upsample by a fraction of a pixel."""
    op = "Upsample" if opset == 9 else "Resize"
    scales = np.array([1, 1, 2.5, 3], np.float32)
    model = build([node(op, ["x", "scales"], ["y"], mode=mode)], opset=opset, constants={"scales": scales})
    assert_equivalent(
        model,
        upgrade_opset(build([node(op, ["x", "scales"], ["y"], mode=mode)], opset=opset, constants={"scales": scales})),
    )


def test_external_data_are_read_from_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build([CONV])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = saved(folder, model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    loaded = load_onnx(path.relative_to(tmp_path))
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), WEIGHT)
    assert loaded.graph.initializer[0].data_location == TensorProto.DEFAULT


def test_initializers_are_removed_from_the_graph_inputs(tmp_path: Path) -> None:
    model = build([CONV])
    model.graph.input.append(helper.make_tensor_value_info("conv.weight", TensorProto.FLOAT, WEIGHT.shape))
    assert [value.name for value in load_onnx(saved(tmp_path, model)).graph.input] == ["x"]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = build(
        [node("Twice", ["x"], ["h"], domain="local"), node("Conv", ["h", "conv.weight"], ["y"])], domains=("local",)
    )
    model.functions.append(function)
    loaded = load_onnx(saved(tmp_path, model))
    assert [n.op_type for n in loaded.graph.node] == ["Add", "Conv"]
    assert not loaded.functions
    assert_equivalent(model, loaded)


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    assert load_onnx(str(saved(tmp_path, build([CONV])))).graph.node[0].name == "conv"  # type: ignore[arg-type]


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(ModelError) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_a_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    saved(tmp_path, build([CONV]))
    assert refusal(tmp_path / "modle.onnx").endswith("no such file; did you mean model.onnx?")


def test_a_missing_file_with_nothing_like_it(tmp_path: Path) -> None:
    assert "no such file; check the path" in refusal(tmp_path / "model.onnx")


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere" / "model.onnx")


def test_a_folder(tmp_path: Path) -> None:
    assert "it holds no .onnx file" in refusal(tmp_path)
    saved(tmp_path, build([CONV]))
    assert "is a folder, not an ONNX file; pass a file in it, such as model.onnx" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"import torch\n", "text, starting with 'import torch'"),
        ("größe = 1\n".encode(), "text, starting with 'größe = 1'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX file but a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "not an ONNX file but a JPEG image"),
        (b"PK\x03\x04" + bytes(100), "pass FILE.py:FACTORY with `weights=`"),
        (b"\x80\x02}q\x00", "pass FILE.py:FACTORY with `weights=`"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xfe\xed\xfa\xce" + bytes(100), "does not parse as a model"),
        (bytes(100), "does not parse as a model"),
    ],
)
def test_another_kind_of_file(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert reason in refusal(path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path, build([CONV]))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated or damaged" in refusal(path)


def test_a_file_cut_before_its_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8, producer_name="pytorch").SerializeToString())
    assert "truncated or damaged: it holds no graph" in refusal(path)


def test_an_empty_graph(tmp_path: Path) -> None:
    assert "the graph is empty (no nodes)" in refusal(saved(tmp_path, build([])))


def unknown_op() -> onnx.ModelProto:
    return build([node("Convolve", ["x", "conv.weight"], ["y"])])


def dangling() -> onnx.ModelProto:
    return build([node("Conv", ["x", "missing"], ["y"])])


@pytest.mark.parametrize(
    ("model", "words"), [(unknown_op, "No Op registered for Convolve"), (dangling, "missing")], ids=["op", "input"]
)
def test_the_checkers_first_line_is_quoted(tmp_path: Path, model: Callable[[], onnx.ModelProto], words: str) -> None:
    message = refusal(saved(tmp_path, model()))
    assert "is not a valid ONNX model: " in message
    assert words in message


def test_no_input_at_all(tmp_path: Path) -> None:
    model = build([node("Identity", ["conv.weight"], ["y"])])
    del model.graph.input[:]
    assert "no inputs at all" in refusal(saved(tmp_path, model))


def test_missing_external_data(tmp_path: Path) -> None:
    path = saved(tmp_path, build([CONV]), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    message = refusal(path)
    assert "the external data of conv.weight are missing: no file 'weights.bin' beside it" in message


def test_truncated_external_data(tmp_path: Path) -> None:
    path = saved(tmp_path, build([CONV]), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    with pytest.raises(ModelError, match=r"weights.bin is truncated: conv.weight ends at byte 1,728 of 100"):
        load_onnx(path)


@pytest.mark.parametrize("in_function", [False, True])
def test_truncated_external_data_without_a_length(tmp_path: Path, in_function: bool) -> None:
    """The length is optional. Then a tensor has as many bytes as its shape says."""
    weight = numpy_helper.from_array(np.zeros(8, np.float32), "k")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    constant = helper.make_node("Constant", [], ["k"], value=weight)
    model = build([CONV, helper.make_node("Identity", ["x"], ["z"])])
    if in_function:
        model.functions.append(helper.make_function("own", "F", [], ["k"], [constant], model.opset_import))
    else:
        model.graph.node.append(constant)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(bytes(31))
    for read in (load_onnx, read_whole_onnx):
        with pytest.raises(ModelError, match=r"weights.bin is truncated: k ends at byte 32 of 31"):
            read(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="the external data of k are missing"):
        read_whole_onnx(path)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = saved(folder, build([CONV]), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load_model(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    assert "are in '../weights.bin', which is or leads out of the model's folder; copy the file into it" in refusal(
        path
    )


def test_operators_that_compute_on_integers(tmp_path: Path) -> None:
    multiply = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("ConvInteger", ["q", "codes", "zero"], ["sum"]),
        node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    message = refusal(saved(tmp_path, build(multiply, constants={"codes": np.ones((4, 3, 3, 3), np.uint8)})))
    assert "to operators that compute on integers (1 ConvInteger, 1 DynamicQuantizeLinear)" in message
    assert "quant_format=QuantFormat.QDQ in onnxruntime" in message


def test_an_operator_the_converter_cannot_upgrade(tmp_path: Path) -> None:
    scan = node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"], spatial=0)
    model = build([scan], opset=8, constants={"s": np.ones((3, 8, 8), np.float32)})
    message = refusal(saved(tmp_path, model))
    assert "opset 8 cannot be upgraded to 21: " in message
    assert "export the model at opset 21" in message
    assert ".h:" not in message
