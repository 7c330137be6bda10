"""Outputs that depend on a choice, and what they choose from."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.pipeline.trial_run import trial_run
from converter.runtime.choices import before_choices, find_choices
from converter.runtime.runner import Runner
from models.detector_heads.catalog import DETECTORS
from tests.support.graphs import array, build, node


def best(*more: onnx.NodeProto) -> onnx.ModelProto:
    """A layer with rows of four numbers, of which a TopK of their means chooses two."""
    nodes = [
        node("MatMul", ["x", "w"], ["rows"], "layer"),
        node("ReduceMean", ["rows"], ["means"], "means", axes=[2], keepdims=0),
        node("TopK", ["means", "two"], ["values", "index"], "top", axis=1),
        *(more or (node("Gather", ["flat", "one"], ["y"], "chosen", axis=0),)),
    ]
    if not more:
        nodes.insert(3, node("Squeeze", ["rows", "zero"], ["flat"], "flat"))
        nodes.insert(4, node("Squeeze", ["index", "zero"], ["one"], "one"))
    constants = {"w": array(4, 4), "two": np.array([2]), "zero": np.array([0])}
    read = {name for each in nodes for name in each.input}
    graph = build(nodes, {k: v for k, v in constants.items() if k in read}, [1, 6, 4])
    return onnx.shape_inference.infer_shapes(graph)


def test_rows_that_are_chosen() -> None:
    choices = find_choices(best().graph)
    assert choices.outputs == {"y"}
    assert choices.sources == ("means", "flat")


def test_the_largest_values_are_no_choice() -> None:
    """A value that changes places with a near one is near to it. Its index is not."""
    assert find_choices(best(node("Neg", ["values"], ["y"], "sign")).graph).outputs == set()
    cast = node("Cast", ["index"], ["y"], "sign", to=TensorProto.FLOAT)
    assert find_choices(best(cast).graph).outputs == {"y"}


def test_a_layer_behind_a_choice_is_compared_by_its_output() -> None:
    """Nothing else shows what it loses."""
    more = [
        node("Squeeze", ["rows", "zero"], ["flat"], "flat"),
        node("Squeeze", ["index", "zero"], ["one"], "one"),
        node("Gather", ["flat", "one"], ["picked"], "chosen", axis=0),
        node("MatMul", ["picked", "w"], ["y"], "decoder"),
    ]
    assert find_choices(best(*more).graph).outputs == set()


def test_a_choice_that_depends_on_no_layer_is_none() -> None:
    """The last token of a text, or positions counted by NonZero, are the same in every file."""
    nodes = [
        node("ArgMax", ["x"], ["last"], "last", axis=1, keepdims=0),
        node("MatMul", ["x", "w"], ["rows"], "layer"),
        node("Gather", ["rows", "last"], ["y"], "pick", axis=1),
    ]
    model = build(nodes, {"w": array(4, 4)}, [1, 6, 4], output_shape=None)
    assert find_choices(model.graph).outputs == set()
    assert before_choices(model, model) is None


@pytest.mark.parametrize("name", [name for name, detector in DETECTORS.items() if not detector.selects])
def test_other_detectors_choose_nothing(name: str) -> None:
    assert find_choices(DETECTORS[name].build().graph).outputs == set()


def test_both_models_return_what_they_choose_from() -> None:
    model = best()
    pair = before_choices(model, model)
    assert pair is not None
    assert [value.name for value in pair[0].graph.output] == ["means", "flat"]
    assert [value.name for value in model.graph.output] == ["y"], "the model itself does not change"
    Runner(pair[1], "it")
    assert before_choices(pair[0], pair[1]) is None


def test_a_rounded_tensor_is_compared_behind_its_grid() -> None:
    """So the layer before it keeps its integer kernel."""
    model, written = best(), best()
    for each in written.graph.node:
        each.input[:] = ["values_of_rows" if name == "rows" else name for name in each.input]
    grid = [helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]), helper.make_tensor("zero_point", 2, [], [128])]
    written.graph.initializer.extend(grid)
    written.graph.node.insert(1, node("QuantizeLinear", ["rows", "scale", "zero_point"], ["codes"], "q"))
    written.graph.node.insert(2, node("DequantizeLinear", ["codes", "scale", "zero_point"], ["values_of_rows"], "dq"))
    for each in (model, written):  # chosen from the layer's own result
        squeeze = next(entry for entry in each.graph.node if entry.name == "flat")
        each.graph.node.remove(squeeze)
        next(entry for entry in each.graph.node if entry.name == "chosen").input[0] = squeeze.input[0]
    pair = before_choices(written, model)
    assert pair is not None
    names = [[value.name for value in each.graph.output] for each in pair]
    assert names == [["means", "values_of_rows"], ["means", "rows"]]


def test_a_trial_compares_before_a_choice() -> None:
    """Six rows that are nearly alike. An error of 60 dB decides which of them are the best two."""
    feeds = [{"x": (1 + 1e-5 * array(1, 6, 4, seed=seed)).astype(np.float32)} for seed in range(4)]
    cast = node("Cast", ["index"], ["y"], "sign", to=TensorProto.FLOAT)
    add = node("Add", ["rows", "error"], ["moved"], "error")
    models = []
    for error in (0.0, 1e-3):
        model = best(cast)
        model.graph.node.insert(1, add)
        model.graph.node[2].input[0] = "moved"
        values = error * np.abs(array(6, 1))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), "error"))
        models.append(model)
    fidelity = trial_run(models[1], models[0], feeds)
    assert set(fidelity.outputs) == {"means"}
    assert fidelity.sqnr_db is not None
    assert fidelity.sqnr_db > 40
