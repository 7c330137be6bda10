"""Float islands: operators that onnxruntime runs in float between integer operators."""

from pathlib import Path

import numpy as np
import onnx
from click.testing import CliRunner
from onnx import helper

from converter import convert
from converter.cli.main import cli
from converter.inspection.float_islands import Island, find_islands
from converter.inspection.inspect import inspect
from tests.support.models import SIDE, make_model, small_cnn

IMAGES = np.random.default_rng(3).standard_normal((8, 3, SIDE, SIDE), dtype=np.float32)


def gelu_between() -> onnx.ModelProto:
    """Two convolutions with an activation function between them that has no integer kernel."""
    draw = np.random.default_rng(0)
    weights = {name: draw.standard_normal((3, 3, 1, 1), dtype=np.float32) for name in ("a.weight", "b.weight")}
    nodes = [
        helper.make_node("Conv", ["input", "a.weight"], ["a"], "a"),
        helper.make_node("Softplus", ["a"], ["soft"], "soft"),
        helper.make_node("Tanh", ["soft"], ["tanh"], "tanh"),
        helper.make_node("Conv", ["tanh", "b.weight"], ["output"], "b"),
    ]
    shape = ["n", 3, SIDE, SIDE]
    return make_model(nodes, weights, inputs={"input": shape}, outputs={"output": shape})


def test_connected_float_operators_are_one_island(tmp_path: Path) -> None:
    convert(gelu_between(), IMAGES).save(tmp_path / "int8.onnx")
    assert inspect(tmp_path / "int8.onnx").model["islands"] == [
        {"operators": ["Softplus", "Tanh"], "count": 1, "nodes": ["soft", "tanh"], "dequantize": 1, "quantize": 1}
    ]
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "int8.onnx")]).output
    assert "Softplus, Tanh" in shown


def test_a_file_with_integers_throughout_has_no_island(tmp_path: Path) -> None:
    convert(small_cnn(), IMAGES).save(tmp_path / "int8.onnx")
    assert inspect(tmp_path / "int8.onnx").model["islands"] == []
    onnx.save(small_cnn(), tmp_path / "float.onnx")
    assert inspect(tmp_path / "float.onnx").model["islands"] == []


def test_float_operators_at_the_end_are_no_island() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "in"),
        helper.make_node("QLinearConv", ["q"], ["c"], "conv"),
        helper.make_node("DequantizeLinear", ["c", "s"], ["d"], "out"),
        helper.make_node("Softmax", ["d"], ["y"], "softmax"),
    ]
    assert find_islands(nodes) == ()
    nodes += [helper.make_node("QuantizeLinear", ["y", "s"], ["r"], "again")]
    assert find_islands(nodes) == (Island(("Softmax",), ("softmax",), 1, 1),)
