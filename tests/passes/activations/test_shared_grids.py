"""Shared grids around a Concat: inputs that share one, and inputs that do not."""

import dataclasses
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.activations.placement import Placement, place
from passes.activations.shared_grids import shared_grids
from passes.ir.linear import linear_layers
from passes.numerics.grid import ActivationGrid
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES


def conv(source: str, result: str, channels: int = 4) -> onnx.NodeProto:
    return node("Conv", [source, f"{result}.w{channels}"], [result], name=f"conv_{result}")


def placed(nodes: Sequence[onnx.NodeProto]) -> tuple[gs.Graph, Placement]:
    weights = {
        item.input[1]: array(4, int(item.input[1].rpartition("w")[2]), 1, 1) for item in nodes if item.op_type == "Conv"
    }
    graph = gs.import_onnx(build(nodes, weights, (1, 4, 3, 3)))
    return graph, place(graph, RULES, frozenset(linear_layers(graph)))


def ranges(nodes: Sequence[onnx.NodeProto], **known: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Return ranges after sharing. Ranges before are given by tensor, or are -1 to 1."""
    graph, placement = placed(nodes)
    before = {source: ActivationGrid.of(*known.get(source, (-1.0, 1.0))) for source in set(placement.tensors.values())}
    after = shared_grids(graph, placement, before, symmetric=False)
    return {name: (after[name].low, after[name].high) for name in known}


def relu(source: str, result: str) -> onnx.NodeProto:
    return node("Relu", [source], [result], name=f"relu_{result}")


BRANCHES = [conv("x", "a"), conv("x", "b"), node("Concat", ["a", "b"], ["j"], name="join", axis=1), conv("j", "y", 8)]


def test_inputs_of_a_concat_share_a_grid() -> None:
    shared = ranges(BRANCHES, a=(-1, 2), b=(-1.5, 1.8), j=(-1.4, 1.9))
    assert shared == dict.fromkeys("abj", (-1.5, 2.0))


def test_a_range_that_is_much_narrower_keeps_its_grid() -> None:
    """Boxes and scores: on a shared grid all scores would round to one code."""
    shared = ranges(BRANCHES, a=(0, 640), b=(0, 1), j=(0, 640))
    assert shared == {"a": (0, 640), "b": (0, 1), "j": (0, 640)}


def test_a_tensor_that_others_read_keeps_its_grid() -> None:
    nodes = [*BRANCHES[:3], conv("a", "c"), conv("j", "d", 8), node("Add", ["c", "d"], ["y"], name="add")]
    shared = ranges(nodes, a=(-1, 1), b=(-1.5, 1.5), j=(-1.5, 1.5))
    assert shared == {"a": (-1, 1), "b": (-1.5, 1.5), "j": (-1.5, 1.5)}


def test_a_dense_block_has_one_grid() -> None:
    nodes = [
        conv("x", "a"),
        conv("x", "b"),
        node("Concat", ["a", "b"], ["j"], name="first", axis=1),
        conv("j", "c", 8),
        node("Concat", ["a", "b", "c"], ["k"], name="second", axis=1),
        conv("k", "y", 12),
    ]
    shared = ranges(nodes, a=(-1, 1), b=(-1, 1.2), c=(-1.3, 1), j=(-1, 1.2), k=(-1.3, 1.2))
    assert shared == dict.fromkeys("abcjk", (-1.3, 1.2))


def test_a_shared_grid_still_does_an_absorbed_clamp() -> None:
    """A grid that reaches below zero would not clamp negative numbers as the absorbed Relu does."""
    nodes = [conv("x", "p"), relu("p", "a"), conv("x", "b"), *BRANCHES[2:]]
    shared = ranges(nodes, a=(0, 2), b=(-1, 2), j=(-1, 2))
    assert shared == {"a": (0, 2), "b": (-1, 2), "j": (-1, 2)}
    both = [conv("x", "p"), relu("p", "a"), conv("x", "q"), relu("q", "b"), *BRANCHES[2:]]
    assert ranges(both, a=(0, 2), b=(0, 3), j=(0, 2.9)) == dict.fromkeys("abj", (0, 3))


def test_moving_operators_share_the_grid_too() -> None:
    pool = node("MaxPool", ["a"], ["m"], name="pool", kernel_shape=[1, 1])
    nodes = [
        conv("x", "a"),
        pool,
        conv("x", "b"),
        node("Concat", ["m", "b"], ["j"], name="join", axis=1),
        conv("j", "y", 8),
    ]
    assert ranges(nodes, a=(-1, 2), b=(-1.5, 1.8), j=(-1.5, 2)) == dict.fromkeys("abj", (-1.5, 2.0))


@pytest.mark.parametrize("signed", [False, True])
def test_shared_grids_follow_the_rules_of_the_target(signed: bool) -> None:
    graph, placement = placed(BRANCHES)
    kind = dataclasses.replace(RULES, signed=signed)
    sources = set(placement.tensors.values())
    before = {name: ActivationGrid.of(-1.0, 1.0 + len(name), signed=kind.signed, symmetric=signed) for name in sources}
    after = shared_grids(graph, placement, before, symmetric=signed)
    assert after["a"].signed == signed
    assert after["a"] == after["j"]
    assert not signed or after["a"].zero_point == 0
