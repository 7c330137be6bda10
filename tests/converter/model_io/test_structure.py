"""Reading the graph of a large file without its weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.model_io import structure
from converter.model_io.structure import read_structure
from passes.errors import ModelError


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large."""
    monkeypatch.setattr(structure, "_LARGE", 0)


def _model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [64, 64], weight.ravel())  # in float_data, not in raw_data
    nodes = [
        helper.make_node("Constant", [], ["kept"], value=numpy_helper.from_array(weight)),
        helper.make_node("MatMul", ["x", "raw"], ["a"]),
        helper.make_node("MatMul", ["a", "typed"], ["b"]),
        helper.make_node("MatMul", ["b", "kept"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "raw"), typed, numpy_helper.from_array(np.array([-1, 8, 8]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], doc_string="a text")
    helper.set_model_props(model, {"classes": "cat, dog"})
    return model


@pytest.mark.usefixtures("large")
def test_everything_but_large_values_is_read(tmp_path: Path) -> None:
    model = _model()
    onnx.save(model, tmp_path / "model.onnx")
    found = read_structure(tmp_path / "model.onnx")
    values = {tensor.name: len(tensor.raw_data) + len(tensor.float_data) for tensor in found.graph.initializer}
    assert values == {"raw": 0, "typed": 0, "shape": 24}
    for tensor in [*model.graph.initializer[:2]]:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    assert found == model


def test_a_small_file_is_read_as_a_whole(tmp_path: Path) -> None:
    onnx.save(_model(), tmp_path / "model.onnx")
    assert read_structure(tmp_path / "model.onnx") == _model()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("size", [1, 7, 100, 20_000])
def test_a_truncated_file_is_refused_as_by_its_reader(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_model().SerializeToString()[:size])
    with pytest.raises(ModelError, match=r"model\.onnx"):
        read_structure(path)


@pytest.mark.usefixtures("large")
def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_structure(tmp_path / "none.onnx")
