"""Sessions: settings from the environment."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.runtime.session import EXACT_KERNELS, THREADS, available_threads, open_session
from passes.errors import UsageError

HIGH, LOW = np.iinfo(np.uint8).max, -127
"""Two products of them are beyond 16 bits, which x86 without VNNI adds two products in."""


@pytest.fixture
def extremes() -> bytes:
    """A layer whose every input and every weight is at the end of its range."""
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "level": np.int8(0),
        "w": np.full((16, 8), LOW, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "one", "zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["w", "one", "level"], ["w_d"]),
        helper.make_node("MatMul", ["x_d", "w_d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "extremes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def test_exact_kernels_do_not_saturate(extremes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "extremes.onnx"
    path.write_bytes(extremes)
    monkeypatch.setenv(EXACT_KERNELS, "1")
    values = open_session(path).run(None, {"x": np.full((1, 16), HIGH, np.float32)})[0]
    np.testing.assert_array_equal(values, 16 * HIGH * LOW)


def test_without_it_sessions_are_those_of_a_deployment(
    extremes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "extremes.onnx"
    path.write_bytes(extremes)
    monkeypatch.delenv(EXACT_KERNELS)
    feeds = {"x": np.full((1, 16), HIGH, np.float32)}
    plain = onnxruntime.InferenceSession(extremes, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    np.testing.assert_array_equal(open_session(path).run(None, feeds)[0], plain)


def test_the_processors_of_a_process_may_be_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    assert available_threads() >= 1
    monkeypatch.setenv(THREADS, "7")
    assert available_threads() == 7
    for bad in ("0", "two", "-1", ""):
        monkeypatch.setenv(THREADS, bad)
        with pytest.raises(UsageError, match=f"CONVERT_ONNX_THREADS is '{bad}'; give a number from 1 on"):
            available_threads()
