"""Weights that are not kept twice."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from passes.errors import QuantizationError
from passes.ir.large_constants import LARGE, ComputedValues, LargeConstant, assign, is_large
from passes.ir.model import Model
from passes.ir.onnx_graph import export_graph, fill_weights, import_graph
from passes.numerics.weight_grid import GridForm
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES

SIDE = 512  # a square weight of 1 MiB
W, V = array(SIDE, SIDE), array(SIDE, SIDE, seed=1)


def model(**weights: np.ndarray) -> Model:
    nodes = [node("Gemm", ["x", "w"], ["h"], name="first"), node("MatMul", ["h", "v"], ["y"], name="second")]
    return Model(import_graph(build(nodes, {"w": W, "v": V, **weights}, ["n", SIDE])), RULES)


def initializers(work: Model) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in export_graph(work.graph).graph.initializer}


def test_a_reader_gets_an_array_of_its_own_that_it_cannot_write() -> None:
    weight = model().node("first").inputs[1]
    assert is_large(weight)
    assert isinstance(weight, LargeConstant)
    assert weight.values is not weight.values
    np.testing.assert_array_equal(weight.values, W)
    with pytest.raises(ValueError, match="read-only"):
        weight.values[0] = 0


def test_small_weights_are_kept() -> None:
    work = model(v=array(SIDE, SIDE - 1))
    assert not is_large(work.node("second").inputs[1])
    assert work.node("second").inputs[1].values is work.node("second").inputs[1].values


def test_export_has_all_weights() -> None:
    work = model()
    work.node("second").inputs[1].values = V * 2
    exported = initializers(work)
    np.testing.assert_array_equal(exported["w"], W)
    np.testing.assert_array_equal(exported["v"], V * 2)


def test_a_renamed_weight_keeps_its_data() -> None:
    work = model()
    work.node("first").inputs[1].name = "renamed"
    np.testing.assert_array_equal(initializers(work)["renamed"], W)


def test_weights_that_are_left_out_can_be_filled_in_later() -> None:
    work = model()
    proto = export_graph(work.graph, without={"w"})
    present = {each.name: len(each.raw_data) for each in proto.graph.initializer}
    assert present == {"w": 0, "v": V.nbytes}
    fill_weights(proto.graph, work.graph, {"w", "not there"})
    np.testing.assert_array_equal(numpy_helper.to_array(proto.graph.initializer[0]), W)


@pytest.mark.parametrize("side", [SIDE, 16])
def test_values_of_codes(side: int) -> None:
    """Those of a large weight are computed from the codes, those of a small one are kept."""
    work = model(w=array(SIDE, side), v=array(side, SIDE))
    layer = work.layers()["first"]
    before = work.float_weight(layer)
    grid = GridForm(8, search=False).grid(work.weight(layer))
    codes = grid.codes(work.weight(layer))
    work.write_codes([layer], codes, grid, [None])
    assert isinstance(work.node("first").inputs[1]._values, ComputedValues) == (SIDE * side * 4 >= LARGE)
    np.testing.assert_array_equal(work.weight(layer), grid.values(codes))
    np.testing.assert_array_equal(initializers(work)["w"], layer.stored(grid.values(codes)))
    np.testing.assert_array_equal(before.matrix(), layer.matrix(array(SIDE, side)))
    work.write_stored([layer], before.stored, [before.bias])
    np.testing.assert_array_equal(work.weight(layer), before.matrix())


def test_layers_that_share_a_weight_share_its_codes() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], name="first"), node("MatMul", ["h", "w"], ["y"], name="second")]
    work = Model(import_graph(build(nodes, {"w": W}, ["n", SIDE])), RULES)
    layers = list(work.layers().values())
    grid = GridForm(8, search=False).grid(work.weight(layers[0]))
    codes = grid.codes(work.weight(layers[0]))
    work.write_codes(layers, codes, grid, [None, None])
    assert list(initializers(work)) == ["w"]
    work.write(layers[1], work.weight(layers[1]) + 1, None)
    np.testing.assert_array_equal(work.weight(layers[0]), grid.values(codes))
    assert len(initializers(work)) == 2


def test_a_copy_of_the_graph_reads_the_same_weights() -> None:
    work = model()
    copy = work.graph.copy()
    weight = next(each for each in copy.nodes if each.name == "first").inputs[1]
    assert isinstance(weight, LargeConstant)
    np.testing.assert_array_equal(weight.values, W)


def test_graphsurgeon_itself_exports_computed_values() -> None:
    constant = gs.Constant("c", W)
    assign(constant, ComputedValues(lambda: W + 1, W.shape, W.dtype))
    variable = gs.Variable("y", np.float32, list(W.shape))
    graph = gs.Graph([gs.Node("Identity", inputs=[constant], outputs=[variable])], outputs=[variable], opset=21)
    np.testing.assert_array_equal(numpy_helper.to_array(gs.export_onnx(graph).graph.initializer[0]), W + 1)


def test_a_layer_that_is_not_there() -> None:
    work = model()
    layer = work.layers()["first"]
    work.node("first").name = "another"
    with pytest.raises(QuantizationError, match="no node is named first"):
        work.float_weight(layer)
