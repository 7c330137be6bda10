"""Segments of a graph: every node is in one, each layer starts one, and tensors live until their last reader."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from converter.calibration.segments import Kind, Segment, cut, submodel
from converter.qdq.floats import float_model
from passes.ir.model import Model
from tests.support.networks import (
    branches,
    conv,
    images,
    network,
    prepared,
    random,
    resnet,
    run,
    shape_branch,
    single,
)

FEEDS: dict[str, tuple[onnx.ModelProto, dict[str, NDArray[Any]]]] = {
    "resnet": (resnet(), {"x": images(4, 3, 12, 12)}),
    "fixed_batch": (resnet(batch=4), {"x": images(4, 3, 12, 12)}),
    "branches": (branches(), {"a": images(4, 3, 8, 8), "b": images(4, 4)}),
    "shape_branch": (shape_branch(), {"x": images(4, 3, 8, 8)}),
    "one_layer": (single("conv2d"), {"x": images(4, 6, 9, 8)}),
}


def run_segments(model: Model, segments: list[Segment], feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run segments in order and collect their outputs. A segment can read only tensors that are alive."""
    alive, seen = dict(feeds), dict(feeds)
    for segment in segments:
        kinds = {name: Kind.of(values) for name, values in alive.items()}
        if segment.outputs:
            proto = float_model(submodel(model, segment, kinds).graph)
            produced = run(proto, {name: alive[name] for name in segment.inputs})
            alive |= dict(zip(segment.outputs, produced, strict=True))
            seen |= alive
        for name in segment.released:
            alive.pop(name, None)
    assert not set(alive) - set(feeds), "a tensor that nothing reads was kept"
    return seen


@pytest.mark.parametrize("name", FEEDS)
def test_every_node_is_in_one_segment_and_every_layer_starts_one(name: str) -> None:
    model = prepared(FEEDS[name][0])
    segments, layers = cut(model.graph, model.layers()), model.layers()
    nodes = [node for segment in segments for node in segment.nodes]
    assert sorted(nodes) == sorted(node.name for node in model.graph.nodes)
    assert segments[0].layer is None
    assert sorted(filter(None, (segment.layer for segment in segments))) == sorted(layers)
    for segment in segments[1:]:
        assert segment.nodes[0] == segment.layer
        assert not set(segment.nodes[1:]) & set(layers)


@pytest.mark.parametrize("name", FEEDS)
def test_segments_in_sequence_compute_what_the_graph_computes(name: str) -> None:
    proto, feeds = FEEDS[name]
    model = prepared(proto)
    actual = run_segments(model, cut(model.graph, model.layers()), feeds)
    whole = float_model(model.graph)
    wanted = [tensor for tensor in actual if tensor not in feeds]
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in wanted)
    for tensor, expected in zip(wanted, run(whole, feeds) if wanted else [], strict=True):
        assert actual[tensor].dtype == expected.dtype
        np.testing.assert_allclose(actual[tensor], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", FEEDS)
def test_a_tensor_is_kept_from_its_segment_to_its_last_reader(name: str) -> None:
    model = prepared(FEEDS[name][0])
    segments = cut(model.graph, model.layers())
    readers = {
        tensor.name: [node.name for node in model.graph.nodes if tensor.name in [value.name for value in node.inputs]]
        for tensor in model.graph.tensors().values()
    }
    segment_of = {node: index for index, segment in enumerate(segments) for node in segment.nodes}
    for index, segment in enumerate(segments):
        for tensor in segment.outputs:
            assert max(segment_of[node] for node in readers[tensor]) > index
        for tensor in segment.released:
            assert max(segment_of[node] for node in readers[tensor]) == index
    released = [tensor for segment in segments for tensor in segment.released]
    assert len(set(released)) == len(released)


def test_operators_run_as_early_as_they_can() -> None:
    """The Relu runs with its Conv, the Add with the later of its operands, the gate with its own layer."""
    model = prepared(resnet())
    segments = {segment.layer: segment for segment in cut(model.graph, model.layers())}
    assert segments["stem"].nodes == ("stem", "stem_relu", "pool")
    assert segments["stem"].outputs == ("pooled",)
    assert segments["block.conv2"].nodes == ("block.conv2", "block_add", "block_relu2")
    assert segments["block.conv2"].inputs == ("block1_relu", "pooled")
    assert set(segments["block.conv2"].released) >= {"block1_relu", "pooled"}
    assert segments["silu.conv"].nodes == ("silu.conv", "silu_sigmoid", "silu_mul")
    assert segments["fc"].outputs == ()


def test_layers_left_in_float_run_with_what_is_before_them() -> None:
    model = prepared(resnet())
    wanted = {name: layer for name, layer in model.layers().items() if name not in {"block.conv1", "stem"}}
    segments = cut(model.graph, wanted)
    assert segments[0].nodes[:2] == ("stem", "stem_relu")
    assert "block.conv1" in segments[0].nodes
    assert [segment.layer for segment in segments] == [None, *wanted]


def test_an_unsorted_graph() -> None:
    model = prepared(resnet())
    expected = cut(model.graph, model.layers())
    model.graph.nodes.reverse()
    segments = cut(model.graph, model.layers())
    assert [segment.layer for segment in segments] == [segment.layer for segment in expected]
    run_segments(model, segments, FEEDS["resnet"][1])


def test_a_graph_without_layers_is_one_segment() -> None:
    proto = network([helper.make_node("Relu", ["x"], ["y"], "relu")], {}, {"x": ["N", 3]}, {"y": ["N", 3]})
    (segment,) = cut(prepared(proto).graph, {})
    assert segment == Segment(("relu",), ("x",), (), None, ("x",))


def test_a_submodel_shares_weights_but_not_nodes() -> None:
    model = prepared(resnet())
    segment = cut(model.graph, model.layers())[1]
    part = submodel(model, segment, {"x": Kind(np.dtype(np.float32), 4)})
    whole = {node.name: node for node in model.graph.nodes}
    assert part.graph.nodes[0] is not whole["stem"]
    assert part.graph.nodes[0].inputs[1] is not whole["stem"].inputs[1]
    assert part.graph.nodes[0].inputs[1].values is whole["stem"].inputs[1].values
    assert len(model.graph.nodes[0].inputs[0].outputs) == 1, "the whole graph's tensors got new readers"


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["Conv", "Relu", "Add"]), st.integers(0, 99), st.integers(0, 99)), max_size=9)
)
def test_any_wiring(steps: list[tuple[str, int, int]]) -> None:
    """Conv, Relu and Add in any order, on any earlier tensors."""
    constants: dict[str, NDArray[Any]] = {}
    tensors, nodes = ["x"], []
    for index, (op, first, second) in enumerate(steps):
        left, right = tensors[first % len(tensors)], tensors[second % len(tensors)]
        tensors.append(f"t{index}")
        if op == "Conv":
            nodes.append(conv(constants, f"n{index}", left, tensors[-1], (2, 2, 1, 1)))
        else:
            nodes.append(helper.make_node(op, [left, right] if op == "Add" else [left], [tensors[-1]], f"n{index}"))
    nodes.append(helper.make_node("Add", [tensors[-1], "x"], ["y"], "end"))
    constants = constants or {"unused": random(1)}
    proto = network(nodes, constants, {"x": ["N", 2, 3, 3]}, {"y": ["N", 2, 3, 3]})
    model = Model(gs.import_onnx(proto), prepared(single("gemm")).rules)
    segments = cut(model.graph, model.layers())
    assert sorted(node for segment in segments for node in segment.nodes) == sorted(n.name for n in model.graph.nodes)
    run_segments(model, segments, {"x": images(2, 2, 3, 3)})
