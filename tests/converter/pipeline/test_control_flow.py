"""Networks with control flow: bodies stay as they are, and layers outside of them are quantized."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import converter
from converter.recipes.builtin import find_recipe
from passes.errors import ModelError
from passes.ir.bodies import bodies
from passes.numerics.error import sqnr_db
from tests.support.control_flow import NETWORKS, SHAPE, body
from tests.support.graphs import array, build, node, run
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
    branch = ["inside", "also"] if name == "layer_inside" else []
    assert outside == ["conv0", "conv1", *branch, *(["conv2"] if name != "unnamed" else [])]
    assert list(inside) == (["inside"] if name == "loop" else [])
    assert all(reason.startswith("inside the ") for reason in inside.values())


@pytest.mark.parametrize("name", ["nested", "loop"])
@pytest.mark.parametrize("recipe", [name for name in SOLVING if name not in {"int8", "int4", "int4-qat"}])
def test_every_recipe_takes_them(name: str, recipe: str) -> None:
    model, plan = NETWORKS[name](), brief(recipe)
    agree(model, converter.convert(model, DATA if plan.needs_calibration else None, recipe=plan).model, 8)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"layer_inside"}))
def test_bodies_without_layers_do_not_change(name: str) -> None:
    model = NETWORKS[name]()

    def operators(of: onnx.ModelProto) -> list[list[str]]:
        return [[inner.op_type for inner in each.node] for host in of.graph.node for each in bodies(host)]

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
    assert all(error > (25 if name == "layer_inside" else 35) for error in added.values())
    assert comparison.sqnr_db > 25


def test_inspect_says_where_a_layer_is(tmp_path: Path) -> None:
    converter.convert(NETWORKS["loop"](), DATA).save(tmp_path / "m.onnx")
    found = {layer.name: (layer.storage, layer.reason) for layer in converter.inspect(tmp_path / "m.onnx").layers}
    assert found["inside"] == ("float32", "inside the Loop loop")
    assert found["conv1"][0] == "int8"


def test_layers_only_inside_a_loop_are_refused_before_data_are_read() -> None:
    inside = body(
        "steps",
        [node("MatMul", ["v", "m"], ["v_out"], name="inside"), node("Identity", ["go"], ["go_out"])],
        [("go_out", TensorProto.BOOL, []), ("v_out", TensorProto.FLOAT, ["n", 8])],
        [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, ["n", 8])],
    )
    loop = node("Loop", ["three", "", "x"], ["y"], name="loop", body=inside)
    model = build([loop], {"three": np.array(3), "m": array(8, 8)}, ["n", 8], output_shape=["n", 8])

    def unread() -> None:
        pytest.fail("the data were read")

    with pytest.raises(ModelError, match=r"all 1 layers are inside of loop \(Loop\), and the bodies of loops stay in"):
        converter.convert(model, unread)
