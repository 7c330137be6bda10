"""Sizes of convolutions whose shapes are not known are guessed."""

import onnx_graphsurgeon as gs
import pytest

from passes.graph.integer_forms.geometry import convolution
from passes.graph.normalise.shapes import Shapes
from passes.ir.linear import linear_layers
from tests.support.graphs import array, build, node


@pytest.mark.parametrize(
    ("kernel", "shape", "pixels"),
    [
        ((3,), None, 56**2),
        ((3, 3), None, 56**2),
        ((3, 3, 3), None, 56**3),
        ((3, 3), ("n", 4, "h", 7), 56 * 7),
        ((3, 3), (1, 4, 6, 7), 42),
        ((1, 3), (1, 4, 1, None), 56**2),
    ],
)
def test_number_of_pixels(kernel: tuple[int, ...], shape: tuple[int | str | None, ...] | None, pixels: int) -> None:
    model = build(
        [node("Conv", ["x", "w"], ["y"], name="conv")], {"w": array(4, 3, *kernel)}, (1, 3, *[9] * len(kernel))
    )
    layer = linear_layers(gs.import_onnx(model))["conv"]
    shapes: Shapes = {} if shape is None else {"y": shape}
    assert convolution(layer, shapes).pixels == pixels
