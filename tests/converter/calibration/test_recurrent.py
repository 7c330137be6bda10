"""Weights of LSTM, GRU and RNN, rounded and restored in a model."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter.calibration.correction import float_network
from converter.calibration.range_trial import _applied
from converter.calibration.recurrent import round_recurrent
from converter.calibration.statistics import calibrate
from converter.qdq.writer import emit
from converter.targets.catalog import find_target
from passes.activations.activation_ranges import ActivationRanges
from passes.errors import QuantizationError
from passes.graph.check import check
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.ir.recurrent import recurrent_layers, recurrent_nodes, tied_recurrent, why_not_recurrent
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import dataset, quiet
from tests.support.recurrent_layers import FEATURES, HIDDEN, sequences, stacked

RTN = Rtn(bits=8, recurrent=True)


def model_of(*arguments: Any, **options: Any) -> Model:
    return Model(import_graph(stacked(*arguments, **options)), find_target("cpu").rules)


def rounded(model: Model, layer_pass: Any = RTN) -> Model:
    round_recurrent(model, layer_pass, layer_pass.bits_of_recurrent(model))
    check(model, "round_recurrent")
    return model


def test_the_geometry_of_both_weights() -> None:
    layer = recurrent_layers(model_of("GRU").graph)["rnn0"]
    assert layer.shape == (2, 3 * HIDDEN, FEATURES + HIDDEN)
    for weight, name, inputs in zip(layer.weights, ("W0", "R0"), (FEATURES, HIDDEN), strict=True):
        assert (weight.weight, weight.matrix_shape) == (name, (2, 3 * HIDDEN, inputs))
        assert weight.scale_shape == (2, 3 * HIDDEN, 1)
        values = np.arange(2 * 3 * HIDDEN * inputs).reshape(weight.weight_shape)
        assert np.array_equal(weight.stored(weight.matrix(values)), values)


def test_the_graph_has_the_values_of_the_codes_and_the_float_network_the_old_ones() -> None:
    model = model_of("LSTM", 2, shared=True)
    before = model.node("rnn0").inputs[1].values.copy()
    rounded(model)
    assert set(model.recurrent) == {"rnn0", "rnn1"}
    assert not np.array_equal(model.node("rnn0").inputs[1].values, before)
    assert model.node("rnn0").inputs[1] is model.node("rnn1").inputs[1]
    network = float_network(model)
    assert np.array_equal(network.node("rnn0").inputs[1].values, before)
    assert np.array_equal(network.node("rnn1").inputs[1].values, before)


def test_a_change_of_the_weight_breaks_the_model() -> None:
    model = rounded(model_of("RNN"))
    model.node("rnn0").inputs[2].values = model.node("rnn0").inputs[2].values * 2
    with pytest.raises(QuantizationError, match="the weight of rnn0 differs from its codes on their grid"):
        check(model, "a pass")


def test_any_solver_rounds_them_to_nearest() -> None:
    by_gptq, by_rtn = (rounded(model_of("GRU"), step) for step in (Gptq(bits=8, recurrent=True), RTN))
    for one, other in zip(by_gptq.recurrent["rnn0"].weights, by_rtn.recurrent["rnn0"].weights, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.grid.scale, other.grid.scale)


def test_shared_weights_get_the_most_bits() -> None:
    model = model_of("LSTM", 2, shared=True)
    rounded(model, Rtn(bits=4, recurrent=True, layer_bits={"rnn1": 6}))
    assert {part.grid.bits for each in model.recurrent.values() for part in each.weights} == {6}
    assert tied_recurrent(model.recurrent_layers().values()) == [("rnn0", "rnn1")]


def test_without_the_field_only_named_ones_are_rounded() -> None:
    model = rounded(model_of("LSTM", 2), Rtn(bits=8, layer_bits={"rnn1": 8}))
    assert set(model.recurrent) == {"rnn1"}
    assert not model.float_reasons


@pytest.mark.parametrize("storage", ["int8", "dynamic"])
def test_the_batch_first(storage: Any) -> None:
    """onnxruntime's CPU provider does not run such an LSTM, so `convert` refuses it. Other runtimes may."""
    model = rounded(model_of("LSTM", layout=1))
    assert model.recurrent_layers()["rnn0"].batch_first
    (written,) = (node for node in emit(model, storage).graph.node if node.name == "rnn0")
    assert written.op_type == "LSTM"
    assert {entry.name: entry.i for entry in written.attribute}["layout"] == 1


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (gs.Variable("moved"), "its weight R is an activation"),
        (gs.Constant("double", np.ones((1, 4, 4))), "its weight R is float64, not float32"),
        (
            gs.Constant("flat", np.ones((4, 4), np.float32)),
            "its weight R has shape (4, 4), not three axes with elements",
        ),
        (None, "its weight R is an activation"),
    ],
)
def test_refusals(weight: gs.Tensor | None, reason: str) -> None:
    first = gs.Constant("w", np.ones((1, 4, 4), np.float32))
    inputs = [gs.Variable("x"), first, *([] if weight is None else [weight])]
    assert why_not_recurrent(gs.Node("RNN", "rnn", inputs=inputs, outputs=[gs.Variable("y")])) == reason


def test_an_operator_of_another_domain_stays_in_float() -> None:
    model = model_of("LSTM", 2)
    model.node("rnn0").domain = "my.domain"
    assert set(recurrent_nodes(model.graph)) == {"rnn0", "rnn1"}
    rounded(model)
    assert set(model.recurrent) == {"rnn1"}
    assert model.float_reasons == {"rnn0": "it is an operator of domain my.domain, not of ONNX"}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["W0", "R0"])
def test_a_weight_that_is_a_graph_output_keeps_its_values(name: str, shared: bool) -> None:
    model = model_of("GRU", 2, shared=shared)
    weight = model.graph.tensors()[name]
    before = weight.values.copy()
    model.graph.outputs.append(weight)
    rounded(model)
    assert np.array_equal(model.graph.tensors()[name].values, before)
    layers = model.recurrent_layers()
    read = {part.weight for each in layers.values() for part in each.weights}
    assert name not in read
    assert len(read) == (2 if shared else 4)


def test_a_trial_of_ranges_does_not_change_the_model() -> None:
    model = model_of("LSTM")
    step = ActivationRanges()
    trial = _applied(step, model, calibrate(model, step.needs(model), dataset(model, sequences()), quiet))
    rounded(trial)
    assert trial.recurrent
    assert not model.recurrent
