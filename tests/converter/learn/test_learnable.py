"""What a learning recipe cannot do in a model is said before data are read."""

from typing import Any

import onnx
import pytest

pytest.importorskip("torch")

import converter
from converter.learn.learnable import require_learnable
from converter.recipes.builtin import find_recipe
from converter.targets.catalog import find_target
from passes.errors import QuantizationError
from passes.weights.learned_rounding import LearnedRounding
from tests.support.control_flow import NETWORKS
from tests.support.graphs import array, build, node
from tests.support.networks import resnet


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
