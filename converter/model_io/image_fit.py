"""Nodes that bring a uint8 image of any size to the size of a model, as Pillow and `converter.data.preprocess` do.

onnxruntime's antialiased Resize of uint8 is within one step of Pillow's bilinear filter in all sizes if it leaves out
weights beyond the border (`exclude_outside`), as Pillow does. Without that, borders are many steps off. So is its cubic
form either way, and Pillow's other filters have no form in ONNX.

Sizes are computed in the graph as Python computes them: in whole numbers for the longer side and the crop, and in
float64 with ties to even for the letterbox.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.model_io.protobuf import tensor_names
from passes.ir.fresh_name import fresh_name

__all__ = ["ImageFit", "fitted"]

_FIT = "image_fit_"  # beginning of the names of these nodes, and of what they write


@dataclass(frozen=True)
class ImageFit:
    """What brings an image to its size. One of ``resize``, ``crop`` and ``letterbox`` is given, or the first two.

    Attributes:
        resize: Length of the shorter side in pixels, or (height, width).
        crop: Side of the centre that is cut out.
        letterbox: Side of the square into which the longer side fits.
        pad: Value of the pixels around it.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    letterbox: int | None = None
    pad: int = 0


class _Nodes:
    """Builds nodes on one image, whose rows and columns are two axes next to each other."""

    def __init__(self, graph: onnx.GraphProto, image: str, first: int) -> None:
        self.taken = set(tensor_names(graph))
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.image, self.axes = image, [first, first + 1]

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = fresh_name(f"{_FIT}constant", self.taken)
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        result = fresh_name(f"{_FIT}{op.lower()}", self.taken)
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=result, **attributes))
        return result

    def sides(self) -> str:
        """Height and width of the image, [2]."""
        return self("Shape", self.image, start=self.axes[0], end=self.axes[1] + 1)

    def resize(self, sizes: str) -> None:
        self.image = self(
            "Resize",
            *(self.image, "", "", sizes),
            axes=self.axes,
            mode="linear",
            antialias=1,
            exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        )

    def shorter(self, side: int) -> None:
        """Make the shorter side ``side`` pixels long, and the longer one ``side * longer // shorter``."""
        sides = self.sides()
        short = self("ReduceMin", sides, keepdims=1)
        self.resize(self("Div", self("Mul", sides, self.constant([side])), short))

    def crop(self, side: int) -> None:
        """Cut out the centre. Half a pixel goes to the even side, as with Python's round."""
        two = self.constant([2])
        rest = self("Sub", self.sides(), self.constant([side]))
        half = self("Div", rest, two)
        odd = self("Mul", self("Mod", rest, two), self("Mod", half, two))
        start = self("Add", half, odd)
        end = self("Add", start, self.constant([side]))
        self.image = self("Slice", self.image, start, end, self.constant(self.axes))

    def letterbox(self, side: int, pad: int) -> None:
        """Fit the longer side into the square and pad on both sides."""
        sides = self.sides()
        exact = self("Cast", sides, to=TensorProto.DOUBLE)
        longest = self("ReduceMax", exact, keepdims=1)
        ratio = self("Div", self.constant([side], np.float64), longest)
        whole = self("Cast", self("Round", self("Mul", exact, ratio)), to=TensorProto.INT64)
        size = self("Max", whole, self.constant([1]))
        self.resize(size)
        rest = self("Sub", self.constant([side, side]), size)
        before = self("Div", rest, self.constant([2]))
        pads = self("Concat", before, self("Sub", rest, before), axis=0)
        self.image = self("Pad", self.image, pads, self.constant(pad, np.uint8), self.constant(self.axes))


def fitted(
    graph: onnx.GraphProto, image: str, first: int, fit: ImageFit, shape: Sequence[int | None]
) -> tuple[list[NodeProto], list[TensorProto], str]:
    """Return the nodes and constants that fit an image, and the tensor that they write.

    Args:
        graph: The graph whose names are taken. It does not change.
        image: The image, uint8 with four axes.
        first: Axis of its rows. Columns are the next one.
        fit: What to do.
        shape: Shape of the result, None for sizes that are open. If only the first one is open, the result is declared.

    Returns:
        The nodes, in order, their constants, and the name of the result.
    """
    nodes = _Nodes(graph, image, first)
    if fit.letterbox is not None:
        nodes.letterbox(fit.letterbox, fit.pad)
    elif isinstance(fit.resize, tuple):
        nodes.resize(nodes.constant(fit.resize))
    elif fit.resize is not None:
        nodes.shorter(fit.resize)
    if fit.crop is not None:
        nodes.crop(fit.crop)
    if None not in shape[1:]:  # onnx cannot infer it
        known: NDArray[np.int64] = np.array([0, *shape[1:]], np.int64)  # 0: as it is
        nodes.image = nodes("Reshape", nodes.image, nodes.constant(known))
    return nodes.nodes, nodes.tensors, nodes.image
