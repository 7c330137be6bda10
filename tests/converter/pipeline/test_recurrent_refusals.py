"""LSTM, GRU and RNN: calls and models that would give a float file, or weights that no grid holds."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.model_io.open import require_layers
from converter.pipeline.convert import convert
from converter.recipes.builtin import RECIPES
from passes.errors import ModelError, UsageError
from tests.support.recurrent_layers import FEATURES, HIDDEN, sequences, stacked

X = sequences()


def spoilt(op: str, name: str, value: float) -> onnx.ModelProto:
    """Return a model with one entry of a constant that is not finite."""
    model = stacked(op)
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[5] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("name", ["W0", "R0"])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (-np.inf, "Inf")])
def test_weights_that_are_not_finite(op: str, name: str, value: float, kind: str) -> None:
    with pytest.raises(ModelError, match=f"{name}, which rnn0 reads, holds {kind}; export a model whose weights"):
        convert(spoilt(op, name, value), recipe="int8-weight-only")


def test_a_bias_may_hold_a_gate_open() -> None:
    result = convert(spoilt("LSTM", "B0", np.inf), recipe="int8-weight-only")
    assert {layer.name: layer.bits for layer in result.layers} == {"rnn0": 8, "head": 8}


@pytest.mark.parametrize(
    ("head", "recipe", "exclude", "count"),
    [
        (False, "int8-weight-only", ["rnn0"], 1),
        (False, "dynamic", ["op:GRU"], 1),
        (True, "int4-weight-only-rtn", ["rnn0", "head"], 2),
        (True, "int8", ["head"], 1),
    ],
)
def test_a_call_that_excludes_everything(head: bool, recipe: str, exclude: Sequence[str], count: int) -> None:
    data = X if RECIPES[recipe].needs_calibration else None
    with pytest.raises(UsageError, match=f"leaves none of the {count} layers to quantize; exclude fewer"):
        convert(stacked("GRU", head=head), data, recipe=recipe, exclude=exclude)


def test_a_recurrent_layer_is_enough() -> None:
    model = stacked("GRU", 2)
    only = convert(model, recipe="int8-weight-only", exclude=["head", "rnn1"])
    assert {layer.name: layer.bits for layer in only.layers} == {"rnn0": 8, "rnn1": 32, "head": 32}
    named = convert(model, X, recipe="int8", exclude=["head"], bits={"rnn1": 8})
    assert {layer.name: layer.bits for layer in named.layers} == {"rnn0": 32, "rnn1": 8, "head": 32}
    found = converter.sensitivity(model, X[:, :1].repeat(9, axis=1), recipe="int8-weight-only", exclude=["head"])
    assert {source.name for source in found.sources} == {"rnn0", "rnn1"}


def moved(model: onnx.ModelProto) -> None:
    """Make W an input."""
    shape = next(list(tensor.dims) for tensor in model.graph.initializer if tensor.name == "W0")
    model.graph.node[0].input[1] = "moved"
    model.graph.input.append(helper.make_tensor_value_info("moved", TensorProto.FLOAT, shape))


def computed(model: onnx.ModelProto) -> None:
    """Make R depend on an input."""
    model.graph.node[0].input[2] = "scaled"
    model.graph.node.insert(0, helper.make_node("Mul", ["R0", "factor"], ["scaled"]))
    model.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, []))


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "my.domain"


def double(model: onnx.ModelProto) -> None:
    (tensor,) = (each for each in model.graph.initializer if each.name == "R0")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), "R0"))


@pytest.mark.parametrize("change", [moved, computed, foreign, double])
def test_a_model_without_constant_weights(change: Callable[[onnx.ModelProto], None]) -> None:
    model = stacked("GRU", head=False)
    change(model)
    message = "the weights of GRU are no float32 constants, and the model has no other layers; export"
    with pytest.raises(ModelError, match=message):
        require_layers(model)
    if change in (moved, computed):
        with pytest.raises(ModelError, match=message):
            convert(model, recipe="int8-weight-only")
    with_head = stacked("GRU")
    change(with_head)
    require_layers(with_head)


def test_weights_that_are_computed_from_constants() -> None:
    """As torch exports them: halves that are joined, and a reshape whose shape is a constant of integers."""
    model = stacked("LSTM", head=False, directions=1)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    parts = {"upper": values["W0"][:, : 2 * HIDDEN], "lower": values["W0"][:, 2 * HIDDEN :]}
    parts |= {"flat": values["R0"].reshape(-1), "shape": np.array(values["R0"].shape)}
    model.graph.initializer.extend(numpy_helper.from_array(part, name) for name, part in parts.items())
    model.graph.node.insert(0, helper.make_node("Concat", ["upper", "lower"], ["joined"], axis=1))
    model.graph.node.insert(1, helper.make_node("Reshape", ["flat", "shape"], ["shaped"]))
    model.graph.node[2].input[1:3] = ["joined", "shaped"]
    (layer,) = convert(model, recipe="int8-weight-only").layers
    assert (layer.name, layer.bits, layer.shape) == ("rnn0", 8, (1, 4 * HIDDEN, FEATURES + HIDDEN))


def test_layers_in_a_loop_beside_a_recurrent_layer() -> None:
    model = stacked("RNN", head=False)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "square"], ["next"], name="inner"),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(2 * HIDDEN, dtype=np.float32), "square"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "count"))
    model.graph.node[-1].output[0] = "start"
    model.graph.node.append(helper.make_node("Loop", ["count", "", "start"], ["y"], name="loop", body=body))
    result = convert(model, recipe="int8-weight-only")
    assert {layer.name: layer.bits for layer in result.layers} == {"rnn0": 8, "inner": 32}
    with pytest.raises(ModelError, match=r"all 1 layers are inside of loop \(Loop\)"):
        require_layers(model, recurrent=False)
