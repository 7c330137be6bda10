"""Layers by name, pattern, operator and place in the graph."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import converter
from passes.errors import UnknownLayerError, UsageError
from passes.ir.selectors import matches, select
from tests.support.graphs import array, build, node

#   x -> stem -> relu -+-> a.conv -> b.conv -+-> add -> head
#                      +-------> side -------+


def network() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["s"], name="stem", pads=[1] * 4),
        node("Relu", ["s"], ["r"], name="relu"),
        node("Conv", ["r", "w1"], ["a"], name="a.conv", pads=[1] * 4),
        node("Conv", ["a", "w2"], ["b"], name="b.conv", pads=[1] * 4),
        node("Conv", ["r", "w3"], ["c"], name="side", pads=[1] * 4),
        node("Add", ["b", "c"], ["d"], name="add"),
        node("GlobalAveragePool", ["d"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "fc"], ["y"], name="head[0]"),
    ]
    weights = {name: array(4, 4, 3, 3, seed=seed) for seed, name in enumerate(("w1", "w2", "w3"))}
    return build(nodes, {"w": array(4, 3, 3, 3), **weights, "fc": array(4, 5)}, ["n", 3, 6, 6])


GRAPH = gs.import_onnx(network())
LAYERS = ["stem", "a.conv", "b.conv", "side", "head[0]"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("stem", ["stem"]),
        ("head[0]", ["head[0]"]),  # a name, and no pattern of one character
        ("*.conv", ["a.conv", "b.conv"]),
        ("?.conv", ["a.conv", "b.conv"]),
        ("re:[ab]\\.conv", ["a.conv", "b.conv"]),
        ("re:s.*", ["stem", "side"]),
        ("op:Gemm", ["head[0]"]),
        ("op:Conv", ["stem", "a.conv", "b.conv", "side"]),
        ("after:a.conv", ["b.conv", "head[0]"]),
        ("after:add", ["head[0]"]),
        ("from:relu..to:add", ["a.conv", "b.conv", "side"]),
        ("from:a.conv..to:b.conv", ["a.conv", "b.conv"]),
        ("from:stem..to:head[0]", LAYERS),
    ],
)
def test_what_a_selector_matches(selector: str, names: list[str]) -> None:
    assert select([selector], GRAPH, LAYERS, "exclude") == {selector: tuple(names)}


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("steem", "no layer is named 'steem'; did you mean 'stem'"),
        ("conv*", r"'conv\*' matches no layer; the nearest names are b.conv, a.conv"),
        ("op:Softmax", "'op:Softmax' matches no layer; the layers are Conv, Gemm"),
        ("re:(", r"'re:\(' is not a regular expression"),
        ("after:ad", "'after:ad': no node is named 'ad'; did you mean 'add'"),
        ("from:stem", "has no end; write from:NODE..to:NODE"),
        ("from:head[0]..to:stem", "matches no layer"),
    ],
)
def test_what_matches_nothing_is_refused(selector: str, message: str) -> None:
    with pytest.raises(UnknownLayerError, match=message):
        select([selector], GRAPH, LAYERS, "exclude")


def test_a_name_that_looks_like_a_pattern_is_a_name() -> None:
    assert select(["op:x", "a*"], GRAPH, ["op:x", "a*", "ab"], "exclude") == {"op:x": ("op:x",), "a*": ("a*",)}


def test_a_line_says_what_matched() -> None:
    assert matches({"stem": ("stem",), "*.conv": ("a.conv", "b.conv")}) == ("*.conv matches 2: a.conv, b.conv",)
    assert matches({"op:Conv": tuple(f"c{index}" for index in range(9))})[0].endswith("c7, ...")


def test_a_conversion_takes_selectors_everywhere() -> None:
    result = converter.convert(
        network(), array(32, 3, 6, 6), exclude=["from:a.conv..to:b.conv"], bits={"op:Conv": 4, "stem": 6}
    )
    assert {layer.name: layer.bits for layer in result.layers} == {
        "stem": 6,  # a name overrides a pattern
        "a.conv": 32,
        "b.conv": 32,
        "side": 4,
        "head[0]": 8,
    }
    notes = [note for report in result.passes for note in report.notes]
    assert "from:a.conv..to:b.conv matches 2: a.conv, b.conv" in notes
    assert "op:Conv matches 2: stem, side" in notes
    again = converter.convert(network(), array(32, 3, 6, 6), recipe=result.recipe)
    assert [layer.bits for layer in again.layers] == [layer.bits for layer in result.layers]


def test_bits_of_layers_around_a_node_that_a_later_pass_takes_out() -> None:
    """The Transpose of a channel shuffle is gone when layers get their bits."""
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="first"),
        node("Reshape", ["a", "blocks"], ["b"], name="cut"),
        node("Transpose", ["b"], ["c"], name="turn", perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["c", "whole"], ["d"], name="join"),
        node("Conv", ["d", "w1"], ["e"], name="second"),
        node("Relu", ["e"], ["f"], name="relu"),
        node("Conv", ["f", "w2"], ["y"], name="third"),
    ]
    shapes = {"blocks": np.array([1, 2, 4, 6, 6]), "whole": np.array([1, 8, 6, 6])}
    weights = {name: array(8, 8, 1, 1, seed=seed) for seed, name in enumerate(("w0", "w1", "w2"))}
    model, images = build(nodes, weights | shapes, [1, 8, 6, 6]), array(8, 8, 6, 6)
    for selector, layers in (("after:turn", {"second", "third"}), ("from:turn..to:second", {"second"})):
        result = converter.convert(model, images, bits={selector: 4})
        assert any("sorted in the weights" in note for report in result.passes for note in report.notes)
        assert {layer.name for layer in result.layers if layer.bits == 4} == layers
    kept = converter.convert(model, images, bits={"after:turn": 4}, exclude=["third"])
    assert {layer.name: layer.bits for layer in kept.layers} == {"first": 8, "second": 4, "third": 32}
    with pytest.raises(UsageError, match=r"`bits=\{'after:second': 4\}`: 'after:second' matches no layer"):
        converter.convert(model, images, bits={"after:second": 4}, exclude=["third"])


def test_the_parameter_is_named_in_a_refusal() -> None:
    with pytest.raises(UsageError, match=r"`exclude=\['op:Softmax'\]`: 'op:Softmax' matches no layer"):
        converter.convert(network(), array(32, 3, 6, 6), exclude=["op:Softmax"])
    with pytest.raises(UsageError, match=r"`bits=\{'x\*': 4\}`: 'x\*' matches no layer"):
        converter.convert(network(), array(32, 3, 6, 6), bits={"x*": 4})
