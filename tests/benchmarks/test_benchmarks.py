"""Bookkeeping of the benchmarks: a missed bar is reported as missed, and a benchmark without its data is skipped."""

import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import __main__ as bench
from benchmarks.bar import Bar, Benchmark
from benchmarks.deployment import differing_outputs, int8_storage, runtime_operators
from benchmarks.shared_data import RESNET20, MissingData, shared_file
from converter import ConvertError
from converter.runtime.session import Progress


@pytest.mark.parametrize(
    ("bar", "holds", "missed_by"),
    [
        pytest.param(Bar("", 0.1, 0.2, "points"), True, 0.0, id="below_the_most"),
        pytest.param(Bar("", 0.2, 0.2, "points"), True, 0.0, id="at_the_most"),
        pytest.param(Bar("", -3.0, 0.2, "points"), True, 0.0, id="better_than_float"),
        pytest.param(Bar("", 0.21, 0.2, "points"), False, 0.01, id="above_the_most"),
        pytest.param(Bar("", 2.9, 2.8, "x", at_least=True), True, 0.0, id="above_the_least"),
        pytest.param(Bar("", 2.7, 2.8, "x", at_least=True), False, 0.1, id="below_the_least"),
        pytest.param(Bar("", 1, 0, "layers"), False, 1, id="one_is_not_none"),
        pytest.param(Bar("", 9.9, None, "x"), None, 0.0, id="no_bar"),
    ],
)
def test_bar(bar: Bar, holds: bool | None, missed_by: float) -> None:
    assert bar.holds is holds
    assert bar.missed_by == pytest.approx(missed_by)
    expected = {True: "holds", None: "no bar"}.get(holds, f"misses by {bench.number(bar.missed_by)} {bar.unit}")
    assert bench.verdict(bar).plain == expected
    assert bar.to_json()["holds"] is holds


def test_rounding_errors_do_not_miss_a_bar() -> None:
    assert 100 * (0.829 - 0.827) > 0.2
    assert Bar("", 100 * (0.829 - 0.827), 0.2, "points").holds


def benchmark(*bars: Bar, error: Exception | None = None) -> Benchmark:
    """Yield the bars, then raise the error."""

    def run(progress: Progress) -> Iterator[Bar]:
        for done, bar in enumerate(bars, 1):
            progress("measuring", done, len(bars))
            yield bar
        if error is not None:
            raise error

    return run


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    four = {
        "one": benchmark(Bar("first", 1.0, 2.0, "s")),
        "missed": benchmark(Bar("second", 3.0, 2.0, "s", note="three")),
        "broken": benchmark(Bar("third", 1.0, 2.0, "s"), error=ConvertError("conv1: cannot be solved")),
        "without": benchmark(error=MissingData("no images here")),
    }
    monkeypatch.setattr(bench, "BENCHMARKS", four)


@pytest.mark.parametrize(
    ("names", "code", "last"),
    [
        (["one"], 0, "1 bars hold, 0 missed"),
        (["one", "without"], 0, "1 bars hold, 0 missed; skipped: without"),
        (["one", "missed"], 1, "1 bars hold, 1 missed"),
        (["broken"], 1, "1 bars hold, 1 missed"),
        ([], 1, "2 bars hold, 2 missed; skipped: without"),
    ],
)
@pytest.mark.usefixtures("four")
def test_exit_code_and_summary(names: list[str], code: int, last: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(names) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.mark.usefixtures("four")
def test_table_gives_bar_verdict_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([])
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.strip().startswith("second"))
    assert row.split() == ["second", "3.00", "s", "at", "most", "2", "misses", "by", "1.00", "s", "three"]
    assert any("skipped" in line and "no images here" in line for line in lines)
    assert any("failed" in line and "conv1: cannot be solved" in line for line in lines)


@pytest.mark.usefixtures("four")
def test_json_has_every_outcome(tmp_path: Path) -> None:
    bench.main(["missed", "without", "--json", str(tmp_path / "bench.json")])
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    missed, without = content["benchmarks"]
    assert missed["bars"][0] | {"holds": False, "measured": 3.0, "limit": 2.0} == missed["bars"][0]
    assert without["skipped"] == "no images here"
    assert content["machine"]["threads"] >= 1


def test_unknown_benchmark_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["cifra"])
    assert "no benchmark is named 'cifra'; did you mean 'cifar'?" in capsys.readouterr().err


def test_missing_data_name_the_folder_that_was_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERT_ONNX_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"resnet20_cifar10\.npz.*CONVERT_ONNX_DATA"):
        RESNET20.model()
    (tmp_path / "there").touch()
    assert shared_file("there") == tmp_path / "there"


def cast_convolution(codes: np.ndarray) -> onnx.ModelProto:
    """A model x -> quantize -> dequantize -> Conv(dequantize(cast(int4 codes))) -> quantize -> dequantize -> y."""
    arrays: dict[str, np.ndarray] = {
        "w_scale": np.full(codes.shape[0], 0.1, np.float32),
        "w_zero": np.zeros(codes.shape[0], np.int8),
        "scale": np.array(0.05, np.float32),
        "zero": np.array(128, np.uint8),
    }
    constants = [numpy_helper.from_array(values, name) for name, values in arrays.items()]
    constants.append(helper.make_tensor("codes", TensorProto.INT4, codes.shape, codes.flatten().tolist()))
    nodes = [
        helper.make_node("Cast", ["codes"], ["codes8"], "cast", to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["codes8", "w_scale", "w_zero"], ["w"], "w_dequantize", axis=0),
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["xq"], "x_quantize"),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], "x_dequantize"),
        helper.make_node("Conv", ["xd", "w"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["cq"], "c_quantize"),
        helper.make_node("DequantizeLinear", ["cq", "scale", "zero"], ["y"], "c_dequantize"),
    ]
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *codes.shape[1:2], 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", codes.shape[0], 4, 4])
    graph = helper.make_graph(nodes, "cast", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def packed() -> onnx.ModelProto:
    return cast_convolution(np.random.default_rng(0).integers(-8, 8, (4, 3, 3, 3)))


def test_int8_storage_keeps_the_codes(packed: onnx.ModelProto) -> None:
    plain = int8_storage(packed)
    onnx.checker.check_model(plain)
    before, after = (next(t for t in model.graph.initializer if t.name == "codes") for model in (packed, plain))
    assert (before.data_type, after.data_type) == (TensorProto.INT4, TensorProto.INT8)
    np.testing.assert_array_equal(numpy_helper.to_array(before).astype(np.int8), numpy_helper.to_array(after))


def test_differing_outputs_are_counted(packed: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    same = differing_outputs(packed, images)
    assert same.holds
    assert "1 constants below 8 bits" in same.note
    other = cast_convolution(np.random.default_rng(5).integers(-8, 8, (4, 3, 3, 3)))
    monkeypatch.setattr("benchmarks.deployment.int8_storage", Mock(return_value=other))
    assert differing_outputs(packed, images).measured > 0


def test_runtime_operators_are_those_after_fusion(packed: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(packed, tmp_path / "cast.onnx")
    operators = runtime_operators(tmp_path / "cast.onnx")
    assert operators["QLinearConv"] == 1
    assert operators["Conv"] == 0
