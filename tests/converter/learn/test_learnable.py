"""What a learning recipe cannot do in a model is said before data are read."""

from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import converter
from converter.learn.learnable import require_learnable
from converter.recipes.builtin import find_recipe
from converter.targets.catalog import find_target
from passes.errors import QuantizationError, UsageError
from passes.weights.learned_rounding import LearnedRounding
from tests.support.control_flow import NETWORKS, body
from tests.support.graphs import array, build, node
from tests.support.networks import resnet
from tests.support.recurrent_layers import sequences, stacked


def unread() -> Any:
    return pytest.fail("the data were read")


def strange(*, everywhere: bool) -> onnx.ModelProto:
    """Two convolutions, with an operator without a gradient behind one of them or behind both."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="one"),
        node("Round", ["a"], ["b"], name="round"),
        node("Conv", ["b", "v"], ["c"], name="two"),
        node("Round", ["c"], ["y"], name="last") if everywhere else node("Relu", ["c"], ["y"], name="last"),
    ]
    return build(nodes, {"w": array(4, 3, 3, 3), "v": array(4, 4, 3, 3)}, ["n", 3, 8, 8])


def check(model: onnx.ModelProto, recipe: str) -> None:
    require_learnable(model, find_recipe(recipe), find_target("cpu"))


def test_what_can_learn_passes() -> None:
    for recipe in ("int2-learned", "int4-qat", "int4"):
        check(resnet(), recipe)
    check(strange(everywhere=False), "int2-learned")
    check(strange(everywhere=True), "int4")


def test_training_names_the_operator_and_what_can_take_the_model() -> None:
    with pytest.raises(QuantizationError) as caught:
        converter.train(strange(everywhere=False), unread)
    assert "cannot train the network: Round (round) has no differentiable form" in str(caught.value)
    assert "int2-learned learns 1 of 2 layers" in str(caught.value)


@pytest.mark.parametrize("recipe", ["int2-learned", "int4-qat"])
def test_a_model_without_a_layer_that_learns(recipe: str) -> None:
    with pytest.raises(QuantizationError, match=r"can learn no layer: in the model, Round .*int4 and int8-gptq"):
        converter.convert(strange(everywhere=True), unread, recipe=recipe)


def only_in_branches() -> onnx.ModelProto:
    """A convolution in each branch of an If, and no layer around it."""
    bodies = {
        f"{name}_branch": body(name, [node("Conv", ["x", weight], [name])], [(name, onnx.TensorProto.FLOAT, None)])
        for name, weight in (("then", "w"), ("else", "v"))
    }
    nodes = [
        node("ReduceMax", ["x"], ["most"], name="most", keepdims=0),
        node("Greater", ["most", "zero"], ["some"], name="some"),
        node("If", ["some"], ["y"], name="choice", **bodies),
    ]
    constants = {"w": array(4, 3, 1, 1), "v": array(4, 3, 1, 1, seed=1), "zero": np.zeros((), np.float32)}
    return build(nodes, constants, ["n", 3, 8, 8], output_shape=["n", 4, 8, 8])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (only_in_branches(), "all of them are in branches of an If; recipes int4 and int8-gptq take it"),
        (stacked("LSTM", head=False), "the model has only LSTM, GRU or RNN; recipe int4-weight-only takes it"),
    ],
)
@pytest.mark.parametrize("recipe", ["int2-learned", "int4-qat"])
def test_a_model_without_a_layer_outside_of_bodies(model: onnx.ModelProto, reason: str, recipe: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        check(model, recipe)
    assert str(caught.value) == f"recipe {recipe!r} can learn no layer: {reason}"


def test_what_the_refusals_name_takes_the_models() -> None:
    assert converter.convert(only_in_branches(), array(16, 3, 8, 8), recipe="int4").layers
    assert converter.convert(stacked("LSTM", head=False), recipe="int4-weight-only-rtn").layers
    assert converter.convert(stacked("LSTM", head=False), sequences(8), recipe="int4-weight-only").layers


@pytest.mark.parametrize("exclude", ["nope", "after:nope", "re:(", "op:Softmax"])
def test_an_unknown_layer_is_refused_as_by_other_recipes(exclude: str) -> None:
    messages = []
    for recipe in ("int4", "int2-learned", "int4-qat"):
        with pytest.raises(UsageError) as caught:
            converter.convert(resnet(), array(16, 3, 12, 12), recipe=recipe, exclude=[exclude])
        messages.append(str(caught.value))
    assert messages[0].startswith("`exclude=")
    assert len(set(messages)) == 1


def test_control_flow_can_learn_around_it() -> None:
    check(NETWORKS["captured"](), "int2-learned")
    with pytest.raises(QuantizationError, match=r"If \(choice\) has no differentiable form"):
        check(NETWORKS["captured"](), "int4-qat")


def test_the_loss_of_the_network_needs_all_gradients() -> None:
    recipe = find_recipe("int4").with_pass(LearnedRounding(loss="network"))
    match = r"loss='network' needs gradients of the whole network: Round \(round\) has no differentiable form"
    with pytest.raises(QuantizationError, match=match):
        converter.convert(strange(everywhere=False), unread, recipe=recipe)
    require_learnable(resnet(), recipe, find_target("cpu"))
