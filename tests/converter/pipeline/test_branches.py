"""Layers in the branches of an If are quantized too: every branch is a model of its own."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.pipeline.branch_constants import share_branch_constants
from converter.pipeline.prepare import prepare
from converter.recipes.builtin import find_recipe
from converter.recipes.overrides import with_channels
from passes.channels.prune_channels import PruneChannels
from passes.errors import ModelError, UsageError
from passes.ir.bodies import bodies, names_inside
from passes.numerics.error import sqnr_db
from tests.support.control_flow import body
from tests.support.graphs import array, node, run
from tests.support.recipes import SOLVING, brief

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
SHAPE: list[int | str] = ["n", 8, 6, 6]
X = {rate: [{"x": array(1, 8, 6, 6, seed=seed), "rate": np.array(rate)} for seed in range(8)] for rate in (8, 16)}
BOTH = [each for pair in zip(X[8], X[16], strict=True) for each in pair]
TEST = {"x": array(4, 8, 6, 6, seed=20)}


def branch(name: str, weight: str, result: str) -> onnx.GraphProto:
    """Two layers. The weight of the first is a Constant of the branch, that of the second one is captured."""
    own = numpy_helper.from_array(array(8, 8, 3, 3, seed=len(name)) / 8, f"{name}_own")
    nodes = [
        node("Constant", [], [f"{name}_own"], value=own),
        node("Conv", ["a", f"{name}_own"], [f"{name}_b"], name=f"{name}_first", pads=[1] * 4),
        node("Relu", [f"{name}_b"], [f"{name}_c"]),
        node("Conv", [f"{name}_c", weight], [result], name=f"{name}_second"),
    ]
    return body(name, nodes, [(result, FLOAT, SHAPE)])


def nested(name: str, weight: str, result: str) -> onnx.GraphProto:
    """An If inside of a branch, which has a layer too."""
    inner = {
        f"{which}_branch": body(
            f"{name}_{which}", branch(which, weight, f"{which}_y").node, [(f"{which}_y", FLOAT, SHAPE)]
        )
        for which in ("then", "else")
    }
    nodes = [
        node("Constant", [], [f"{name}_sixteen"], value=numpy_helper.from_array(np.array(16))),
        node("Equal", ["rate", f"{name}_sixteen"], [f"{name}_again"]),
        node("If", [f"{name}_again"], [f"{name}_h"], name=f"{name}_choice", **inner),
        node("Conv", [f"{name}_h", weight], [result], name=f"{name}_last"),
    ]
    return body(name, nodes, [(result, FLOAT, SHAPE)])


def network(*, outside: bool = True, deep: bool = False, names: tuple[str, str] = ("fast", "slow")) -> onnx.ModelProto:
    """Two layers around an If on an input. One rate takes one branch, the others take the other."""
    make = nested if deep else branch
    choice = node(
        "If",
        ["is_fast"],
        ["h"],
        name="choice",
        then_branch=make(names[0], "v", "t"),
        else_branch=branch(names[1], "w", "e"),
    )
    first = node("Conv", ["x", "w"], ["a"], name="before") if outside else node("Neg", ["x"], ["a"])
    last = node("Conv", ["h", "v"], ["y"], name="after") if outside else node("Neg", ["h"], ["y"])
    nodes = [node("Equal", ["rate", "sixteen"], ["is_fast"]), first, choice, last]
    weights = {"w": array(8, 8, 1, 1) / 3, "v": array(8, 8, 1, 1, seed=1) / 3, "sixteen": np.array(16)}
    inputs = [helper.make_tensor_value_info("x", FLOAT, SHAPE), helper.make_tensor_value_info("rate", INT, [])]
    graph = helper.make_graph(
        nodes,
        "rates",
        inputs,
        [helper.make_tensor_value_info("y", FLOAT, SHAPE)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def agreement(model: onnx.ModelProto, quantized: onnx.ModelProto, rate: int) -> float:
    feeds = TEST | {"rate": np.array(rate)}
    return sqnr_db(run(model, feeds)[0], run(quantized, feeds)[0])


def bits(result: converter.Result) -> dict[str, int]:
    return {layer.name: layer.bits for layer in result.layers}


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("recipe", ["int8", "int8-gptq", "int4", "int4-weight-only"])
def test_both_branches_are_quantized(recipe: str, outside: bool, tmp_path: Path) -> None:
    model = network(outside=outside)
    result = converter.convert(model, BOTH, recipe=recipe)
    around = {"before", "after"} if outside else set()
    assert set(bits(result)) == {"fast_first", "fast_second", "slow_first", "slow_second"} | around
    assert set(bits(result).values()) == {8 if "8" in recipe else 4}
    for rate in (8, 16):
        assert agreement(model, result.model, rate) > (24 if "8" in recipe else 8)
    result.save(tmp_path / "m.onnx")
    found = {layer.name: layer.weight_bits for layer in converter.inspect(tmp_path / "m.onnx").layers}
    assert found == bits(result)
    assert not any("captured" in name for name in names_inside(bodies(result.model.graph.node[0])))


def test_a_branch_keeps_its_channels() -> None:
    """Also what it reads from the graph around it."""
    plan = with_channels(find_recipe("int8"), 0.5)
    step = PruneChannels(share=0.5, multiple=1, fewest=1)
    passes = tuple(step if isinstance(each, PruneChannels) else each for each in plan.passes)
    result = converter.convert(network(), BOTH, recipe=dataclasses.replace(plan, passes=passes))
    assert {layer.shape[:2] for layer in result.layers} == {(8, 8)}
    report = next(each for each in result.passes if each.name == "prune_channels")
    assert report.skipped["before"] == "choice (If) does not pass a channel's scale on"
    for rate in (8, 16):
        assert agreement(network(), result.model, rate) > 24


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in SOLVING if name not in {"int4-qat", "int2-learned"}])
def test_every_recipe(recipe: str) -> None:
    model, plan = network(deep=True), brief(recipe)
    result = converter.convert(model, BOTH if plan.needs_calibration else None, recipe=plan)
    for rate in (8, 16):
        assert agreement(model, result.model, rate) > 5


def test_weights_of_branches_are_stored_as_codes_only() -> None:
    """Also those that the branch read from the graph around it."""
    result = converter.convert(network(outside=False), BOTH)
    floats = [each for each in result.model.graph.initializer if each.data_type == FLOAT]
    assert max((len(each.dims) for each in floats), default=0) < 4
    inside = [tensor for choice in result.model.graph.node for each in bodies(choice) for tensor in each.initializer]
    assert {tensor.data_type for tensor in inside if len(tensor.dims) == 4} == {TensorProto.INT8}


def test_an_if_inside_a_branch() -> None:
    model = network(deep=True)
    result = converter.convert(model, BOTH)
    left = {name for name, count in bits(result).items() if count == 32}
    assert left == {"else_first", "else_second"}  # no sample gets there: the inner If asks the same again
    for rate in (8, 16):
        assert agreement(model, result.model, rate) > 20


def test_a_branch_that_no_sample_chooses_stays_in_float(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    result = converter.convert(model, X[16])
    assert {name for name, count in bits(result).items() if count == 32} == {"slow_first", "slow_second"}
    assert "else_branch of choice stays in float: no calibration sample chooses it" in caplog.text
    assert agreement(model, result.model, 16) > 24


def test_a_branch_that_cannot_be_converted_stays_in_float(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(model: onnx.ModelProto, *rest: Any, **more: Any) -> Any:
        if model.graph.name == "slow":
            raise ModelError("it cannot be")
        return prepare(model, *rest, **more)

    monkeypatch.setattr("converter.pipeline.convert.prepare", refusing)
    result = converter.convert(network(), BOTH)
    assert bits(result)["slow_first"] == 32
    assert bits(result)["fast_first"] == 8
    assert "else_branch of choice stays in float: it cannot be" in caplog.text


def test_a_model_that_would_stay_in_float_is_refused() -> None:
    model = network(outside=False)
    choice = next(each for each in model.graph.node if each.op_type == "If")
    fast = next(entry for entry in choice.attribute if entry.name == "then_branch")
    fast.g.CopyFrom(body("t", [node("Neg", ["a"], ["t"])], [("t", FLOAT, SHAPE)]))
    with pytest.raises(ModelError, match="nothing to quantize: else_branch of choice stays in float: no calibration"):
        converter.convert(model, X[16])


@pytest.mark.parametrize("selector", ["choice", "cho*", "re:choi.e"])
def test_the_branches_of_an_excluded_if_stay_in_float(selector: str) -> None:
    result = converter.convert(network(), BOTH, exclude=[selector])
    assert {name for name, count in bits(result).items() if count == 8} == {"before", "after"}
    same = converter.convert(network(deep=True), BOTH, exclude=[selector])
    assert {name for name, count in bits(same).items() if count == 8} == {"before", "after"}


def test_selectors_reach_into_branches() -> None:
    result = converter.convert(network(), BOTH, recipe="int4", exclude=["*er"], bits={"re:.*(before|_second)": 8})
    assert bits(result) == {
        "before": 8,
        "fast_first": 4,
        "fast_second": 8,
        "slow_first": 4,
        "slow_second": 8,
        "after": 32,
    }


@pytest.mark.parametrize("selector", ["fast_second", "fast_sec*", "re:fast_s.*"])
def test_layers_are_selected_that_are_in_branches_only(selector: str) -> None:
    result = converter.convert(network(), BOTH, exclude=[selector])
    assert [name for name, count in bits(result).items() if count == 32] == ["fast_second"]
    result = converter.convert(network(), BOTH, recipe="int4", bits={selector: 8})
    assert [name for name, count in bits(result).items() if count == 8] == ["fast_second"]


def test_a_layer_that_is_nowhere_is_refused_with_the_nearest_inside() -> None:
    with pytest.raises(UsageError, match="did you mean 'fast_second'"):
        converter.convert(network(), BOTH, exclude=["fast_secon"])


def test_names_inside_differ_from_those_around() -> None:
    """Branches and the graph around them have tensors of the same wished names."""
    model = network(names=("b", "a"))
    result = converter.convert(model, BOTH)
    around = {name for each in result.model.graph.node for name in each.output}
    around |= {tensor.name for tensor in result.model.graph.initializer}
    for choice in result.model.graph.node:
        for each in bodies(choice):
            own = {tensor.name for tensor in each.initializer} | {name for inner in each.node for name in inner.output}
            assert own.isdisjoint(around)
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("outside", [True, False])
def test_a_written_file_is_read_again(outside: bool) -> None:
    written = converter.convert(network(outside=outside, deep=True), BOTH).model
    kept = converter.convert(written, None, recipe="keep").model
    for rate in (8, 16):
        feeds = TEST | {"rate": np.array(rate)}
        np.testing.assert_array_equal(run(kept, feeds)[0], run(written, feeds)[0])


@pytest.mark.parametrize("storage_bits", [4, 8])
def test_a_weight_that_several_branches_read_is_stored_once(storage_bits: int) -> None:
    """Rounding to the nearest gives each of them the same codes. They run on integers there too."""
    model = network(outside=False)
    (choice,) = [each for each in model.graph.node if each.op_type == "If"]
    for graph in bodies(choice):
        del graph.node[0]  # its own weight
        graph.node[0].input[1] = "shared"
    model.graph.initializer.append(numpy_helper.from_array(array(8, 8, 3, 3) / 8, "shared"))
    recipe = converter.find_recipe("int8").with_solver(bits=storage_bits)
    result = converter.convert(model, BOTH, recipe=recipe)
    (choice,) = [each for each in result.model.graph.node if each.op_type == "If"]
    inside = [tensor for graph in bodies(choice) for tensor in graph.initializer if list(tensor.dims) == [8, 8, 3, 3]]
    (outside,) = [tensor for tensor in result.model.graph.initializer if list(tensor.dims) == [8, 8, 3, 3]]
    assert not inside
    assert all(outside.name in names_inside([graph]) for graph in bodies(choice))
    for rate in (8, 16):
        assert agreement(model, result.model, rate) > (24 if storage_bits == 8 else 12)  # two layers in a row
    assert all(layer.fused for layer in converter.inspect(result.model).layers)


def test_what_branches_return_and_small_constants_stay() -> None:
    graphs = []
    for name in ("then", "else"):
        table = numpy_helper.from_array(np.zeros((8, 16), np.float32), f"{name}_y")
        graphs.append(
            helper.make_graph([], name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, [8, 16])], [table])
        )
        graphs[-1].initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), f"{name}_small"))
    choice = node("If", ["yes"], ["y"], then_branch=graphs[0], else_branch=graphs[1])
    graph = helper.make_graph([choice], "all", [helper.make_tensor_value_info("yes", TensorProto.BOOL, [])], [])
    before = onnx.GraphProto.FromString(graph.SerializeToString())
    share_branch_constants(graph)
    assert graph == before
