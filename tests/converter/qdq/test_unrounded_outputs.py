"""Outputs and float operators read what exists in float unrounded, and scalar products work wherever they stand."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import convert
from passes.numerics.error import sqnr_db
from tests.support.networks import conv, images, network, run
from tests.support.recipes import brief

X = images(16, 3, 12, 12)
node = helper.make_node


def beside_a_layer(*extra: onnx.NodeProto, **outputs: list[int | str]) -> onnx.ModelProto:
    """x -> Conv -> Relu -> y, and other nodes whose results are outputs too."""
    constants: dict[str, NDArray[Any]] = {"half": np.array(0.5, np.float32), "shape": np.array([0, 3, 144])}
    nodes = [conv(constants, "first", "x", "a", (6, 3, 3, 3)), node("Relu", ["a"], ["y"], "relu"), *extra]
    read = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in constants.items() if name in read}
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 6, 12, 12], **outputs})


@pytest.mark.parametrize("recipe", ["int8", "int8-gptq"])
@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("Identity", ["x"], ["z"], "same")], ["N", 3, 12, 12]),
        ([node("Flatten", ["x"], ["z"], "flat")], ["N", 432]),
        ([node("Reshape", ["x", "shape"], ["z"], "reshape")], ["N", 3, 144]),
        ([node("Transpose", ["x"], ["z"], "turn", perm=[0, 2, 3, 1])], ["N", 12, 12, 3]),
        ([node("Mul", ["x", "half"], ["z"], "scaled")], ["N", 3, 12, 12]),
        ([node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 3, 1]), node("Exp", ["t"], ["z"], "exp")], None),
        ([node("Add", ["x", "x"], ["z"], "double")], ["N", 3, 12, 12]),
    ],
    ids=["identity", "flatten", "reshape", "transpose", "scaled", "two steps", "twice"],
)
def test_what_no_layer_touches_is_as_in_float(
    recipe: str, nodes: list[onnx.NodeProto], shape: list[int | str] | None
) -> None:
    model = beside_a_layer(*nodes, z=shape or ["N", 12, 12, 3])
    result = convert(model, X, recipe=recipe)
    expected, found = run(model, X), run(result.model, X)
    np.testing.assert_array_equal(found[1], expected[1])
    assert 30 < sqnr_db(expected[0], found[0]) < 80  # the layer does run on integers


def test_an_output_that_a_layer_reads_too_is_as_in_float() -> None:
    constants: dict[str, NDArray[Any]] = {}
    nodes = [node("Exp", ["x"], ["e"], "exp"), conv(constants, "first", "e", "y", (6, 3, 3, 3))]
    model = network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 6, 12, 12], "e": ["N", 3, 12, 12]})
    result = convert(model, X, recipe="int8-gptq")
    expected, found = run(model, X), run(result.model, X)
    np.testing.assert_array_equal(found[1], expected[1])
    assert sum(each.op_type == "QuantizeLinear" for each in result.model.graph.node) == 2  # e and y
    assert "Identity" not in {each.op_type for each in result.model.graph.node}


def test_a_file_with_float_and_rounded_readers_is_kept() -> None:
    model = beside_a_layer(node("Flatten", ["x"], ["z"], "flat"), z=["N", 432])
    source = convert(model, X, recipe="int8").model
    assert convert(source, recipe="keep").model.graph == source.graph


SCALARS = [(), (1,), (1, 1, 1, 1)]


def scaled(op: str, value: float, shape: tuple[int, ...], place: str) -> onnx.ModelProto:
    """Conv -> Relu -> product(s) with a scalar -> Conv, and what else reads the product."""
    constants: dict[str, NDArray[Any]] = {"s": np.full(shape, value, np.float32)}
    channels = 12 if place == "concat" else 6
    nodes = [
        *([] if place == "input" else [conv(constants, "first", "x", "a", (6, 3, 3, 3))]),
        *([] if place == "input" else [node("Relu", ["a"], ["r"], "relu")]),
        node(op, ["x" if place == "input" else "r", "s"], ["p"], "product"),
        *([node("Mul", ["p", "s"], ["q"], "again")] if place == "chain" else []),
        *([node("Concat", ["p", "r"], ["q"], "join", axis=1)] if place == "concat" else []),
    ]
    source = {"chain": "q", "concat": "q"}.get(place, "p")
    inputs = 3 if place == "input" else channels
    nodes.append(conv(constants, "second", source, "y", (4, inputs, 3, 3)))
    outputs: dict[str, list[int | str]] = {"y": ["N", 4, 12, 12]}
    if place == "two readers":
        nodes.append(conv(constants, "third", "p", "z", (4, 6, 3, 3)))
        outputs["z"] = ["N", 4, 12, 12]
    if place in {"output", "input"}:
        outputs["p"] = ["N", inputs, 12, 12]
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, outputs)


@pytest.mark.parametrize("recipe", ["int8", "int4", "int8-gptq"])
@pytest.mark.parametrize("place", ["layer", "output", "two readers", "concat", "chain", "input"])
@pytest.mark.parametrize(("op", "value"), [("Mul", 0.5), ("Div", 6.0), ("Mul", -0.25)])
def test_a_product_with_a_scalar_anywhere(op: str, value: float, place: str, recipe: str) -> None:
    index = ["layer", "output", "two readers", "concat", "chain", "input"].index(place)
    model = scaled(op, value, SCALARS[index % 3], place)
    result = convert(model, X, recipe=brief(recipe))
    for expected, found in zip(run(model, X), run(result.model, X), strict=True):
        assert sqnr_db(expected, found) > (18 if recipe == "int4" else 30)


@pytest.mark.parametrize("shape", SCALARS)
def test_hard_swish_in_four_operators(shape: tuple[int, ...]) -> None:
    constants: dict[str, NDArray[Any]] = {name: np.full(shape, v, np.float32) for name, v in {"3": 3, "6": 6}.items()}
    constants |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}

    def hard_swish(source: str, result: str) -> list[onnx.NodeProto]:
        return [
            node("Add", [source, "3"], [f"{result}1"], f"{result}1"),
            node("Clip", [f"{result}1", "low", "high"], [f"{result}2"], f"{result}2"),
            node("Mul", [source, f"{result}2"], [f"{result}3"], f"{result}3"),
            node("Div", [f"{result}3", "6"], [result], result),
        ]

    nodes = [
        conv(constants, "first", "x", "a", (6, 3, 3, 3)),
        *hard_swish("a", "b"),
        conv(constants, "second", "b", "c", (6, 6, 3, 3)),
        *hard_swish("c", "d"),
        node("GlobalAveragePool", ["d"], ["y"], "mean"),
    ]
    model = network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 6, 1, 1]})
    for recipe in ("int8", "int4"):
        result = convert(model, X, recipe=brief(recipe))
        assert sqnr_db(run(model, X)[0], run(result.model, X)[0]) > (20 if recipe == "int4" else 35)
