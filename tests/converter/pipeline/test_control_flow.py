"""Networks with control flow: bodies stay as they are, and layers outside of them are quantized."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter.recipes.builtin import find_recipe
from passes.errors import ModelError
from passes.ir.bodies import bodies
from passes.numerics.error import sqnr_db
from tests.support.control_flow import NETWORKS, SHAPE, body, with_if
from tests.support.graphs import array, node, run
from tests.support.recipes import SOLVING, brief

DATA = np.concatenate([array(*SHAPE, seed=seed) for seed in range(4)])
TEST = array(*SHAPE, seed=9)


def agree(model: onnx.ModelProto, quantized: onnx.ModelProto, floor: float) -> None:
    expected, actual = run(model, TEST), run(quantized, TEST)
    for one, other in zip(expected, actual, strict=True):
        assert sqnr_db(one, other) > floor


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-weight-only"])
def test_layers_outside_are_quantized(name: str, recipe: str) -> None:
    model = NETWORKS[name]()
    result = converter.convert(model, DATA if find_recipe(recipe).needs_calibration else None, recipe=recipe)
    agree(model, result.model, 25 if recipe == "int8" else 8)
    inside = {layer.name: layer.reason for layer in result.layers if layer.bits == 32}
    outside = [layer.name for layer in result.layers if layer.bits < 32]
    assert outside == ["conv0", "conv1", *(["conv2"] if name != "unnamed" else [])]
    expected = {"layer_inside": ["inside", "also"], "loop": ["inside"]}.get(name, [])
    assert list(inside) == expected
    assert all(reason.startswith("inside the ") for reason in inside.values())


@pytest.mark.parametrize("name", ["nested", "loop"])
@pytest.mark.parametrize("recipe", [name for name in SOLVING if name not in {"int8", "int4", "int4-qat"}])
def test_every_recipe_takes_them(name: str, recipe: str) -> None:
    model, plan = NETWORKS[name](), brief(recipe)
    agree(model, converter.convert(model, DATA if plan.needs_calibration else None, recipe=plan).model, 8)


@pytest.mark.parametrize("name", NETWORKS)
def test_bodies_do_not_change(name: str) -> None:
    model = NETWORKS[name]()

    def operators(of: onnx.ModelProto) -> list[list[str]]:
        return [[inner.op_type for inner in each.node] for node in of.graph.node for each in bodies(node)]

    assert operators(converter.convert(model, DATA).model) == operators(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_written_file_is_read_again(name: str) -> None:
    written = converter.convert(NETWORKS[name](), DATA).model
    kept = converter.convert(written, None, recipe="keep").model
    np.testing.assert_array_equal(run(kept, TEST)[0], run(written, TEST)[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_comparison_blames_layers_only(name: str) -> None:
    model = NETWORKS[name]()
    comparison = converter.compare(model, converter.convert(model, DATA).model, DATA)
    added = {entry.tensor: entry.introduced_db for entry in comparison.layers}
    assert "h" in added or name == "sequence_map"
    # A choice, a loop or a scan adds no error of its own: what it reads is wrong, not what it does. Rounding of what
    # it writes is left, about 40 dB.
    assert all(error > 35 for error in added.values())
    assert comparison.sqnr_db > 25


def test_inspect_says_where_a_layer_is(tmp_path: Path) -> None:
    converter.convert(NETWORKS["loop"](), DATA).save(tmp_path / "m.onnx")
    found = {layer.name: (layer.storage, layer.reason) for layer in converter.inspect(tmp_path / "m.onnx").layers}
    assert found["inside"] == ("float32", "inside the Loop loop")
    assert found["conv1"][0] == "int8"


def test_layers_only_inside_are_refused_before_data_are_read() -> None:
    inside = body("b", [node("MatMul", ["d", "m"], ["t"])], [("t", 1, None)])
    other = body("o", [node("Neg", ["d"], ["e"])], [("e", 1, None)])
    model = with_if([node("Neg", ["d"], ["t"])], [node("Neg", ["d"], ["e"])])
    for layer in [each for each in model.graph.node if each.op_type == "Conv"]:
        layer.op_type, layer.input[:] = "Tanh", layer.input[:1]
        del layer.attribute[:]
    choice = next(each for each in model.graph.node if each.op_type == "If")
    choice.CopyFrom(node("If", ["some"], ["h"], "choice", then_branch=inside, else_branch=other))
    model.graph.initializer.append(onnx.numpy_helper.from_array(array(8, 8), "m"))
    for value in [*model.graph.output]:
        value.type.tensor_type.ClearField("shape")
        value.type.tensor_type.shape.dim.add()

    def unread() -> None:
        pytest.fail("the data were read")

    with pytest.raises(ModelError, match=r"all 1 layers are inside of choice \(If\)"):
        converter.convert(model, unread)
