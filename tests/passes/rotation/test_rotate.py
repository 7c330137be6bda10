"""Rotation: exact where it is applied, refused with a reason elsewhere, and with a gain at 4 bits."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto

from passes.errors import QuantizationError
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.numerics.grid import ActivationGrid
from passes.numerics.weight_scale_search import absmax_grid
from passes.rotation.rotate import Rotate
from passes.rotation.rotation_groups import rotation_groups
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, build, node, run
from tests.support.integer_rules import RULES


def model_of(nodes: list[NodeProto], constants: dict[str, np.ndarray], shape: tuple[int | str, ...]) -> Model:
    return Model(gs.import_onnx(build(nodes, constants, shape)), RULES)


def bottlenecks(taps: int = 1) -> Model:
    """Make stem -> [expand, Relu, project, +] -> pool -> expand2 -> Relu -> project2 -> y with heavy-tailed weights."""

    def heavy(*shape: int, seed: int) -> np.ndarray:
        return np.asarray(array(*shape, seed=seed) ** 3)

    pads = [taps // 2] * 4
    nodes = [
        node("Conv", ["x", "stem.w", "stem.b"], ["s"], name="stem"),
        node("Conv", ["s", "expand.w", "expand.b"], ["a"], name="expand", pads=pads),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "project.w", "project.b"], ["c"], name="project"),
        node("Add", ["s", "c"], ["d"], name="add"),
        node("AveragePool", ["d"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "expand2.w"], ["e"], name="expand2", pads=pads),
        node("Relu", ["e"], ["f"], name="relu2"),
        node("Conv", ["f", "project2.w"], ["y"], name="project2"),
    ]
    constants = {
        "stem.w": heavy(16, 3, 1, 1, seed=1),
        "stem.b": array(16),
        "expand.w": heavy(48, 16, taps, taps, seed=2),
        "expand.b": array(48),
        "project.w": heavy(16, 48, 1, 1, seed=3),
        "project.b": array(16, seed=1),
        "expand2.w": heavy(48, 16, taps, taps, seed=4),
        "project2.w": heavy(8, 48, 1, 1, seed=5),
    }
    return model_of(nodes, constants, ("N", 3, 8, 8))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), taps=st.sampled_from([1, 3]), steps=st.integers(0, 10))
def test_the_function_stays_the_same(seed: int, taps: int, steps: int) -> None:
    model = bottlenecks(taps)
    before = gs.export_onnx(model.graph)
    old = model.weight(model.layers()["expand"])
    report = Rotate(steps=steps, seed=seed).apply(model, Stats())
    assert set(report.changed) == {"expand", "expand2"}
    assert np.abs(model.weight(model.layers()["expand"]) - old).max() > 0.1
    assert_same_outputs(before, model.graph, array(5, 3, 8, 8), 1e-4)


def test_every_layer_is_accounted_for_once() -> None:
    report = Rotate().apply(model := bottlenecks(), Stats())
    assert sorted([*report.changed, *report.skipped]) == sorted(model.layers())
    assert report.skipped["stem"] == "x is an input of the model"
    assert report.skipped["project"] == "relu (Relu) does not treat all channels alike and linearly"


def test_rounding_loses_less() -> None:
    """Round the whole network to nearest at 4 bits, and compare outputs that the rotation does not change."""

    def rounded(model: Model) -> np.ndarray:
        for layer in model.layers().values():
            weight = model.weight(layer)
            grid = absmax_grid(weight, 4)
            model.write(layer, grid.values(grid.codes(weight)), model.bias(layer))
        return run(gs.export_onnx(model.graph), x)[0]

    plain, rotated = bottlenecks(), bottlenecks()
    x = array(64, 3, 8, 8, seed=3)
    expected = run(gs.export_onnx(plain.graph), x)[0]
    Rotate().apply(rotated, Stats())
    gain = sqnr_db(expected, rounded(rotated)) - sqnr_db(expected, rounded(plain))
    assert gain > 1


def test_the_seed_decides() -> None:
    first, second, other = bottlenecks(), bottlenecks(), bottlenecks()
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        Rotate(seed=seed).apply(model, Stats())
    layer = first.layers()["expand"]
    np.testing.assert_array_equal(first.weight(layer), second.weight(layer))
    assert np.abs(first.weight(layer) - other.weight(layer)).max() > 0.01


def test_gemm_after_gemm() -> None:
    nodes = [
        node("Gemm", ["x", "first.w", "first.b"], ["h"], name="first", transB=1),
        node("Identity", ["h"], ["i"], name="same"),
        node("Gemm", ["i", "second.w"], ["y"], name="second", transB=0),
    ]
    constants = {"first.w": array(24, 10) ** 3, "first.b": array(24), "second.w": array(24, 5) ** 3}
    model = model_of(nodes, constants, ("N", 10))
    before = gs.export_onnx(model.graph)
    assert set(Rotate().apply(model, Stats()).changed) == {"second"}
    assert_same_outputs(before, model.graph, array(20, 10), 1e-4)


@pytest.mark.parametrize(
    ("middle", "attributes", "extra", "reason"),
    [
        ("Relu", {}, [], "middle (Relu) does not treat all channels alike and linearly"),
        ("MaxPool", {"kernel_shape": [1, 1]}, [], "middle (MaxPool) does not treat all channels alike"),
        ("Mul", {}, ["factor"], "middle (Mul) does not treat all channels alike"),
        ("Add", {}, ["factor"], "middle (Add) does not treat all channels alike"),
        ("Softmax", {"axis": 1}, [], "middle (Softmax) does not treat all channels alike"),
    ],
)
def test_the_reason_names_the_node_in_between(
    middle: str, attributes: dict[str, Any], extra: list[str], reason: str
) -> None:
    nodes = [
        node("Conv", ["x", "first.w"], ["h"], name="first"),
        node(middle, ["h", *extra], ["k"], name="middle", **attributes),
        node("Conv", ["k", "second.w"], ["y"], name="second"),
    ]
    constants = {"first.w": array(8, 3, 1, 1) ** 3, "second.w": array(8, 8, 1, 1) ** 3}
    constants |= {"factor": array(1, 8, 1, 1)} if extra else {}
    report = Rotate().apply(model_of(nodes, constants, ("N", 3, 6, 6)), Stats())
    assert not report.changed
    assert report.skipped["second"].startswith(reason)


def test_grouped_shared_and_leaving_tensors_stay() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="first"),
        node("Conv", ["h", "deep.w"], ["d"], name="deep", group=8),
        node("Conv", ["d", "w8"], ["e"], name="third"),
        node("Conv", ["e", "w8"], ["y"], name="fourth"),
    ]
    constants = {"w": array(8, 3, 1, 1), "deep.w": array(8, 1, 3, 3), "w8": array(8, 8, 1, 1)}
    report = Rotate().apply(model_of(nodes, constants, ("N", 3, 6, 6)), Stats())
    assert not report.changed
    assert report.skipped["deep"] == "deep reads its channels in 8 groups"
    assert report.skipped["fourth"] == "third shares w8 with another node"


def test_channels_that_meet_another_axis_stay() -> None:
    """The operand with fewer axes has its channels on axis 2 of the sum."""
    nodes = [
        node("Conv", ["x", "deep.w"], ["d"], name="deep"),
        node("Squeeze", ["x", "axis"], ["r"], name="line"),
        node("Conv", ["r", "flat.w"], ["v"], name="flat"),
        node("Add", ["d", "v"], ["e"], name="add"),
        node("Conv", ["e", "last.w"], ["y"], name="last"),
    ]
    constants = {"deep.w": array(8, 3, 1, 1) ** 3, "flat.w": array(8, 3, 1) ** 3, "last.w": array(8, 8, 1, 1) ** 3}
    model = model_of(nodes, constants | {"axis": np.array([2])}, (1, 3, 1, 6))
    before = gs.export_onnx(model.graph)
    report = Rotate().apply(model, Stats())
    assert report.skipped["last"] == "add (Add) adds channels of different axes"
    assert_same_outputs(before, model.graph, array(1, 3, 1, 6))


def test_a_pool_of_channels_that_are_last_is_no_pool_of_each_channel() -> None:
    nodes = [
        node("MatMul", ["x", "first.w"], ["h"], name="first"),
        node("AveragePool", ["h"], ["p"], name="pool", kernel_shape=[3], pads=[1, 1]),
        node("MatMul", ["p", "second.w"], ["y"], name="second"),
    ]
    model = model_of(nodes, {"first.w": array(10, 24) ** 3, "second.w": array(24, 5) ** 3}, ("N", 7, 10))
    before = gs.export_onnx(model.graph)
    report = Rotate().apply(model, Stats())
    assert report.skipped["second"] == "pool (AveragePool) does not keep all channels on one axis"
    assert_same_outputs(before, model.graph, array(2, 7, 10))


def test_flat_weights_are_not_rotated() -> None:
    nodes = [
        node("Conv", ["x", "first.w"], ["h"], name="first"),
        node("Conv", ["h", "second.w"], ["y"], name="second"),
    ]
    flat = {"first.w": np.sign(array(8, 16, 1, 1)), "second.w": np.sign(array(16, 8, 1, 1))}
    report = Rotate().apply(model_of(nodes, flat, ("N", 16, 6, 6)), Stats())
    assert report.skipped["second"] == "no rotation flattens the weights around its input"


def test_it_refuses_grids_and_bad_fields() -> None:
    model = bottlenecks()
    model.activation_qparams["s"] = ActivationGrid.of(0.0, 1.0)
    with pytest.raises(QuantizationError, match="put the pass before activation_ranges"):
        rotation_groups(model)
    with pytest.raises(ValueError, match="steps must not be negative, not -1"):
        Rotate(steps=-1)
    with pytest.raises(ValueError, match="seed must not be negative, not -2"):
        Rotate(seed=-2)
