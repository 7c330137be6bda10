"""Pad, Resize and CenterCropPad that name their axes are written for all axes, and compute the same."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray

from passes.graph.normalise.normalise import normalise
from tests.support.graphs import array, assert_same_outputs, build, node, ops

X = array(2, 3, 8, 6, seed=9)
Values = dict[str, NDArray[Any]]


def normalised(model: onnx.ModelProto) -> gs.Graph:
    graph = gs.import_onnx(model)
    normalise(graph)
    assert_same_outputs(model, graph, X)
    return graph


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), ("N", 3, "H", "W")], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    ("inputs", "values", "attributes"),
    [
        (["p", "v", "a"], {"p": [1, 2, 3, 4], "v": 0.5, "a": [2, 3]}, {}),
        (["p", "", "a"], {"p": [1, 2, 3, 4], "a": [-1, -2]}, {"mode": "reflect"}),
        (["p", "", "a"], {"p": [1, 0], "a": [3]}, {"mode": "edge"}),
        (["p", "", "a"], {"p": [1, -2], "a": [1]}, {}),
    ],
    ids=["two axes", "negative axes", "one axis", "channels"],
)
def test_pads_of_named_axes(
    inputs: list[str], values: dict[str, Any], attributes: dict[str, Any], shape: tuple[Any, ...]
) -> None:
    constants = {name: np.array(value, np.float32 if name == "v" else np.int64) for name, value in values.items()}
    graph = normalised(build([node("Pad", ["x", *inputs], ["y"], "pad", **attributes)], constants, shape, opset=18))
    (pad,) = graph.nodes
    assert len(pad.inputs) <= 3
    assert pad.inputs[1].values.shape == (8,)


def test_a_named_pad_with_zeros_becomes_part_of_the_convolution() -> None:
    nodes = [node("Pad", ["x", "p", "", "a"], ["h"], "pad"), node("Conv", ["h", "w"], ["y"], "conv")]
    constants = {"p": np.array([1, 2, 1, 2]), "a": np.array([2, 3]), "w": array(4, 3, 3, 3)}
    graph = normalised(build(nodes, constants, ("N", 3, 8, 6), opset=21))
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].attrs["pads"] == [1, 2, 1, 2]


RESIZES: dict[str, tuple[list[str], Values, dict[str, Any]]] = {
    "scales": (["", "s"], {"s": np.array([2, 1.5], np.float32)}, {"axes": [2, 3]}),
    "scales of swapped axes": (["", "s"], {"s": np.array([2, 1.5], np.float32)}, {"axes": [3, 2]}),
    "one axis, linear": (["", "s"], {"s": np.array([2], np.float32)}, {"axes": [-1], "mode": "linear"}),
    "sizes": (["", "", "z"], {"z": np.array([12, 13])}, {"axes": [2, 3], "mode": "linear"}),
    "not larger": (
        ["", "", "z"],
        {"z": np.array([16, 15])},
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
    ),
    "not smaller": (
        ["", "", "z"],
        {"z": np.array([16, 9])},
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"},
    ),
    "region": (
        ["r", "s"],
        {"r": np.array([0.1, 0.2, 0.9, 0.8], np.float32), "s": np.array([2, 2], np.float32)},
        {"axes": [2, 3], "mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", RESIZES)
def test_scales_and_sizes_of_named_axes(case: str, dynamic: bool) -> None:
    inputs, constants, attributes = RESIZES[case]
    shape = ("N", 3, "H", "W") if dynamic else (2, 3, 8, 6)
    graph = normalised(build([node("Resize", ["x", *inputs], ["y"], "up", **attributes)], constants, shape, opset=18))
    resize = next(each for each in graph.nodes if each.op == "Resize")
    unknown = "keep_aspect_ratio_policy" in attributes and dynamic  # the ratio
    assert ("axes" in resize.attrs) == unknown
    assert [resize.i().op, resize.o().op] == ["Reshape", "Reshape"] if unknown else "Reshape" not in ops(graph)


def test_computed_pads_of_named_axes() -> None:
    nodes = [node("Shape", ["x"], ["p"], "shape", start=1, end=3), node("Pad", ["x", "p", "", "a"], ["y"], "pad")]
    graph = normalised(build(nodes, {"a": np.array([3])}, ("N", 3, "H", "W"), opset=18))
    (pad,) = (each for each in graph.nodes if each.op == "Pad")
    assert len(pad.inputs) <= 3


def test_pads_of_computed_axes_are_kept_between_reshapes() -> None:
    nodes = [node("Shape", ["x"], ["a"], "shape", start=1, end=2), node("Pad", ["x", "p", "", "a"], ["y"], "pad")]
    constants, shape = {"p": np.array([1, 2])}, ("N", 3, "H", "W")
    graph = normalised(build(nodes, constants, shape, opset=18, output_shape=("N", 3, "H", "V")))
    assert ops(graph) == ["Shape", "Reshape", "Pad", "Reshape"]


@pytest.mark.parametrize("axes", [[2, 3], [-1], [3, 1]])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), ("N", 3, "H", "W")], ids=["static", "dynamic"])
def test_sizes_of_a_center_crop_pad(axes: list[int], shape: tuple[Any, ...]) -> None:
    cropping = node("CenterCropPad", ["x", "s"], ["y"], "crop", axes=axes)
    graph = normalised(build([cropping], {"s": np.array([11, 3][: len(axes)])}, shape, opset=18))
    assert next(each for each in graph.nodes if each.op == "CenterCropPad").attrs == {}
