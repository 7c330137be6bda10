"""Models that make the same choice, so that their outputs can be compared."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.pipeline.trial_run import trial_run
from converter.runtime.choices import chosen_tensors, same_choice
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
    constants = {"w": array(4, 4), "d": array(4, 4), "two": np.array([2]), "zero": np.array([0])}
    read = {name for each in nodes for name in each.input}
    graph = build(nodes, {k: v for k, v in constants.items() if k in read}, [1, 6, 4])
    return onnx.shape_inference.infer_shapes(graph)


FEEDS = [{"x": array(1, 6, 4, seed=seed)} for seed in range(4)]


def test_what_is_chosen_and_from_what() -> None:
    assert chosen_tensors(best().graph) == {"index": "means"}


def test_the_largest_values_are_no_choice() -> None:
    """A value that changes places with a near one is near to it. Its index is not."""
    assert "values" not in chosen_tensors(best().graph)


def test_a_choice_that_depends_on_no_layer_is_none() -> None:
    """The last token of a text, or positions counted by NonZero, are the same in every file."""
    nodes = [
        node("ArgMax", ["x"], ["last"], "last", axis=1, keepdims=0),
        node("MatMul", ["x", "w"], ["rows"], "layer"),
        node("Gather", ["rows", "last"], ["y"], "pick", axis=1),
    ]
    model = build(nodes, {"w": array(4, 4)}, [1, 6, 4], output_shape=None)
    assert chosen_tensors(model.graph) == {}
    assert same_choice(model, model, FEEDS) is None


@pytest.mark.parametrize("name", [name for name, detector in DETECTORS.items() if not detector.selects])
def test_other_detectors_choose_nothing(name: str) -> None:
    assert chosen_tensors(DETECTORS[name].build().graph) == {}


def moved(model: onnx.ModelProto, error: float) -> onnx.ModelProto:
    """The same model with an error behind its layer."""
    model.graph.node.insert(1, node("Add", ["rows", "error"], ["moved"], "error"))
    for each in model.graph.node[2:]:
        each.input[:] = ["moved" if name == "rows" else name for name in each.input]
    values = (error * np.abs(array(6, 1))).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "error"))
    return model


ALIKE = [{"x": (1 + 1e-5 * array(1, 6, 4, seed=seed)).astype(np.float32)} for seed in range(4)]
"""Six rows that are nearly alike. An error of 60 dB decides which of them are the best two."""


def test_a_model_makes_the_choice_of_another() -> None:
    model = moved(best(), 1e-3)
    same = same_choice(model, moved(best(), 0.0), ALIKE)
    assert same is not None
    assert [value.name for value in model.graph.input] == ["x"], "the model itself does not change"
    reference, other = Runner(same.reference, "float"), Runner(same.model, "other")
    for feed in same.feeds:
        assert set(feed) == {"x", "index"}
        expected, actual = reference.execute(reference.inputs(feed)), other.execute(other.inputs(feed))
        np.testing.assert_allclose(actual[0], expected[0], atol=5e-3)


def test_an_output_that_says_what_is_chosen_is_compared_by_what_it_is_chosen_from() -> None:
    model = best(node("Identity", ["index"], ["y"], "same"))
    model.graph.node.pop()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("index", TensorProto.INT64, None))
    same = same_choice(model, model, FEEDS)
    assert same is not None
    assert [value.name for value in same.reference.graph.output] == ["means"]
    assert [value.name for value in same.model.graph.output] == ["means"]
    Runner(same.model, "it")


def test_a_rounded_tensor_is_compared_behind_its_grid() -> None:
    """So the layer before it keeps its integer kernel."""
    model = best(node("Identity", ["index"], ["y"], "same"))
    model.graph.node.pop()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("index", TensorProto.INT64, None))
    written = onnx.ModelProto()
    written.CopyFrom(model)
    for each in written.graph.node:
        each.input[:] = ["values_of_means" if name == "means" else name for name in each.input]
    grid = [helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]), helper.make_tensor("zero_point", 2, [], [128])]
    written.graph.initializer.extend(grid)
    written.graph.node.insert(2, node("QuantizeLinear", ["means", "scale", "zero_point"], ["codes"], "q"))
    written.graph.node.insert(3, node("DequantizeLinear", ["codes", "scale", "zero_point"], ["values_of_means"], "dq"))
    same = same_choice(written, model, FEEDS)
    assert same is not None
    assert [value.name for value in same.model.graph.output] == ["values_of_means"]
    assert [value.name for value in same.reference.graph.output] == ["means"]


@pytest.mark.parametrize("behind", [False, True])
def test_a_trial_compares_on_the_same_choice(behind: bool) -> None:
    """What a layer behind the choice loses is seen, and another choice of nearly equal rows is not."""
    more = [
        node("Squeeze", ["rows", "zero"], ["flat"], "flat"),
        node("Squeeze", ["index", "zero"], ["one"], "one"),
        node("Gather", ["flat", "one"], ["picked"], "chosen", axis=0),
        node("MatMul", ["picked", "w"], ["y"], "decoder"),
    ]
    chain = more if behind else []
    fidelity = trial_run(moved(best(*chain), 1e-3), moved(best(*chain), 0.0), ALIKE, "calibration")
    assert set(fidelity.outputs) == {"y"}
    assert fidelity.sqnr_db is not None
    assert 40 < fidelity.sqnr_db < 90


def test_an_error_behind_a_choice_is_seen() -> None:
    more = [
        node("Squeeze", ["rows", "zero"], ["flat"], "flat"),
        node("Squeeze", ["index", "zero"], ["one"], "one"),
        node("Gather", ["flat", "one"], ["picked"], "chosen", axis=0),
        node("MatMul", ["picked", "d"], ["y"], "decoder"),
    ]
    models = []
    for error in (0.0, 0.5):
        model = best(*more)
        decoder = next(tensor for tensor in model.graph.initializer if tensor.name == "d")
        values = (array(4, 4) + error * array(4, 4, seed=9)).astype(np.float32)
        decoder.CopyFrom(numpy_helper.from_array(values, "d"))
        models.append(model)
    fidelity = trial_run(models[1], models[0], FEEDS, "calibration")
    assert fidelity.sqnr_db is not None
    assert fidelity.sqnr_db < 15
    assert fidelity.warning
