"""Captured tensors are visible while a graph is rewritten, and bodies follow the new names."""

import onnx
import pytest
from onnx import TensorProto, helper

from passes.ir.bodies import CAPTURED, bodies, captured, enclose, expose, names_inside, tensors_read
from tests.support.control_flow import NETWORKS, SHAPE, body, with_if
from tests.support.graphs import array, node, run


def host(model: onnx.ModelProto) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in model.graph.node if bodies(each))
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("captured", {"d", "b"}),
        ("layer_inside", {"b", "w1", "x", "w0", "c"}),
        ("nested", {"zero", "most", "d", "b"}),
        ("loop", {"w1", "b"}),
        ("scan", {"mean"}),
        ("sequence_map", {"shift"}),
    ],
)
def test_what_bodies_read_from_outside(name: str, expected: set[str]) -> None:
    found = host(NETWORKS[name]())
    assert set(captured(found)) == expected
    assert set(tensors_read(found)) == expected | set(filter(None, found.input))


@pytest.mark.parametrize("name", NETWORKS)
def test_enclosing_undoes_exposing(name: str) -> None:
    model = NETWORKS[name]()
    before = model.SerializeToString(deterministic=True)
    expose(model.graph.node)
    assert any(entry.name == CAPTURED for each in model.graph.node for entry in each.attribute)
    enclose(model.graph)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_bodies_read_renamed_tensors_and_their_own_tensors_make_way(name: str) -> None:
    model = NETWORKS[name]()
    expected = run(model, array(*SHAPE))
    found = host(model)
    inside = sorted(names_inside(entry.g for entry in found.attribute if entry.HasField("g")))
    outside = captured(found)
    own = next(each for each in inside if each not in outside)  # the new name is one that the body has itself
    renamed = {outside[0]: own}
    expose(model.graph.node)
    for each in model.graph.node:
        each.input[:] = [renamed.get(each_input, each_input) for each_input in each.input]
        each.output[:] = [renamed.get(each_output, each_output) for each_output in each.output]
    for value in [*model.graph.initializer, *model.graph.input]:
        value.name = renamed.get(value.name, value.name)
    enclose(model.graph)
    assert (run(model, array(*SHAPE))[0] == expected[0]).all()


def test_a_name_that_a_deeper_body_defines_is_not_captured() -> None:
    deep = body("deep", [node("Neg", ["d"], ["q"])], [("q", TensorProto.FLOAT, None)])
    inner = node("If", ["some"], ["r"], then_branch=deep, else_branch=deep)
    model = with_if([inner, node("Add", ["r", "x2"], ["t"])], [node("Neg", ["d"], ["e"])], before=[
        node("Relu", ["c"], ["x2"]), node("Relu", ["x2"], ["q2"]),
    ])  # fmt: skip
    found = host(model)
    assert set(captured(found)) == {"some", "d", "x2"}
    assert captured(helper.make_node("Relu", ["c"], ["x2"])) == []
