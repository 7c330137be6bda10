"""Integer forms: the rewritten graph computes the same, and the file has no float operator between integers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from converter import convert
from converter.targets.catalog import find_target
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.graph.normalise.normalise import normalise
from passes.ir.model import Model
from passes.ir.rules import Rules
from passes.numerics.error import sqnr_db
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, build, node, run
from tests.support.networks import optimized

CPU = find_target("cpu").rules
IMAGE = (2, 4, 6, 5)
SHUFFLE = ["Conv", "Transpose", "Reshape", "Transpose", "Reshape", "Transpose"]
X = array(*IMAGE)
NORM = {"scale": array(4), "shift": array(4, seed=1), "mean": array(4, seed=2), "var": np.abs(array(4, seed=3)) + 0.5}


def between(middle: list[onnx.NodeProto], constants: Mapping[str, np.ndarray], **options: Any) -> onnx.ModelProto:
    """conv -> a, `middle` from a to b, b -> conv -> y."""
    channels = options.pop("channels", 4)
    nodes = [node("Conv", ["x", "w0"], ["a"], name="first"), *middle, node("Conv", ["b", "w1"], ["y"], name="last")]
    return build(nodes, {"w0": array(4, 4, 1, 1), "w1": array(3, channels, 1, 1), **constants}, IMAGE, **options)


def norm(source: str, result: str) -> onnx.NodeProto:
    return node("BatchNormalization", [source, *NORM], [result], name="norm")


def concat_norm() -> onnx.ModelProto:
    constants = {name: np.concatenate([values] * 2) for name, values in NORM.items()}
    join, relu = node("Concat", ["a", "x"], ["j"], name="join", axis=1), node("Relu", ["n"], ["b"], name="relu")
    return between([join, norm("j", "n"), relu], constants, channels=8)


def rewritten(model: onnx.ModelProto, rules: Rules = CPU) -> tuple[gs.Graph, tuple[str, ...]]:
    work = Model(gs.import_onnx(model), rules)
    normalise(work.graph)
    report = IntegerForms().apply(work, Stats())
    return work.graph, report.notes


def ops(graph: gs.Graph) -> list[str]:
    return [str(item.op) for item in graph.nodes][1:-1]


def hard(op: str, **attributes: Any) -> onnx.ModelProto:
    return between([node(op, ["a"], ["b"], name="act", **attributes)], {})


def up(*shape: int, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    operands = ["a", "up.weight", *(["up.bias"] if bias else [])]
    constants = {"up.weight": array(*shape), "up.bias": array(shape[1])}
    middle = node("ConvTranspose", operands, ["b"], name="up", **attributes)
    return between([middle], constants if bias else {"up.weight": array(*shape)}, channels=shape[1])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(concat_norm(), ["Concat", "Conv", "Relu"], id="batchnorm"),
        pytest.param(hard("HardSwish"), ["Mul", "Add", "Clip", "Mul"], id="hard_swish"),
        pytest.param(hard("HardSigmoid"), ["Mul", "Add", "Clip"], id="hard_sigmoid"),
        pytest.param(hard("HardSigmoid", alpha=1 / 6, beta=0.4), ["Mul", "Add", "Clip"], id="hard_sigmoid_attributes"),
        pytest.param(up(4, 3, 2, 2, strides=[2, 2]), SHUFFLE, id="conv_transpose"),
        pytest.param(up(4, 5, 3, 2, strides=[3, 2], bias=False), SHUFFLE, id="uneven"),
    ],
)
def test_rewritten_graph_computes_the_same(model: onnx.ModelProto, expected: list[str]) -> None:
    graph, notes = rewritten(model)
    assert ops(graph) == expected
    assert len(notes) == 1
    assert_same_outputs(model, graph, X)


def in_double(op: str, constants: Mapping[str, np.ndarray], **attributes: Any) -> onnx.ModelProto:
    """An operator between convolutions that computes in double precision."""
    middle = [
        node("Cast", ["a"], ["c"], name="to", to=onnx.TensorProto.DOUBLE),
        node("Neg", ["c"], ["d"], name="neg"),
        node(op, ["d", *constants], ["e"], name="wide", **attributes),
        node("Cast", ["e"], ["b"], name="back", to=onnx.TensorProto.FLOAT),
    ]
    return between(middle, {name: values.astype(np.float64) for name, values in constants.items()})


@pytest.mark.parametrize(
    ("model", "op"),
    [
        pytest.param(up(4, 3, 3, 3, strides=[2, 2]), "ConvTranspose", id="taps_that_meet"),
        pytest.param(up(4, 3, 2, 2, strides=[2, 2], pads=[1, 1, 0, 0]), "ConvTranspose", id="cropped"),
        pytest.param(up(4, 3, 2, 2, strides=[2, 2], output_padding=[1, 1]), "ConvTranspose", id="padded"),
        pytest.param(up(4, 4, 1, 1), "ConvTranspose", id="one_by_one"),
        pytest.param(in_double("BatchNormalization", NORM), "BatchNormalization", id="double_batchnorm"),
        pytest.param(
            in_double("ConvTranspose", {"up.weight": array(4, 4, 2, 2)}, strides=[2, 2]), "ConvTranspose", id="double"
        ),
        pytest.param(hard("HardSigmoid", alpha=-0.2), "HardSigmoid", id="falling"),
        pytest.param(between([norm("x", "n"), node("Add", ["a", "n"], ["b"])], NORM), "BatchNormalization", id="input"),
    ],
)
def test_operators_without_an_integer_form_stay(model: onnx.ModelProto, op: str) -> None:
    graph, notes = rewritten(model)
    assert op in ops(graph)
    assert notes == ()


@pytest.mark.parametrize(
    ("model", "rules"),
    [
        pytest.param(up(4, 3, 2, 2, strides=[2, 2]), find_target("openvino").rules, id="openvino_conv_transpose"),
        pytest.param(hard("HardSwish"), find_target("qnn").rules, id="qnn_hard_swish"),
        pytest.param(hard("HardSwish"), dataclasses.replace(CPU, scalars=False), id="no_scalars"),
        pytest.param(concat_norm(), find_target("cuda").rules, id="no_integer_convolution"),
    ],
)
def test_operators_with_kernels_are_not_rewritten(model: onnx.ModelProto, rules: Rules) -> None:
    assert rewritten(model, rules)[1] == ()


@pytest.mark.parametrize(
    ("model", "integers", "decibel"),
    [
        pytest.param(concat_norm(), {"QLinearConv": 3, "QLinearConcat": 1}, 30, id="batchnorm"),
        pytest.param(hard("HardSwish"), {"QLinearConv": 2, "QLinearAdd": 1, "QLinearMul": 1}, 28, id="hard_swish"),
        pytest.param(hard("HardSigmoid"), {"QLinearConv": 2, "QLinearAdd": 1}, 28, id="hard_sigmoid"),
        pytest.param(up(4, 3, 2, 2, strides=[2, 2]), {"QLinearConv": 3}, 30, id="conv_transpose"),
    ],
)
def test_the_file_has_no_float_operators_between_integers(
    model: onnx.ModelProto, integers: dict[str, int], decibel: float, tmp_path: Path
) -> None:
    """Rounding to 8 bits gives about 38 dB for each tensor. A chain of four to six tensors has a few dB less."""
    quantized = convert(model, X).model
    operators = optimized(quantized, tmp_path)
    moving = {"Transpose", "Reshape", "QuantizeLinear", "DequantizeLinear"}
    assert {op: count for op, count in operators.items() if op not in moving} == integers
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (1, 1)
    assert sqnr_db(run(model, X)[0], run(quantized, X)[0]) >= decibel
