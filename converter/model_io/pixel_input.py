"""A model of floats becomes a model of uint8 pixels: what a program did to the pixels is in its graph.

    value = (pixel - zero) * step            one zero and one step for each channel

`with_pixels` computes that with Cast, Sub and Mul. `folded` computes it with a single zero and step for all channels
where that is possible, so that the pixels themselves are the codes of a quantized first layer, and no QuantizeLinear is
needed. A first convolution takes up what differs between the channels, in its weight and bias:

    W * (pixel_c - zero_c) * step_c  =  W' * (pixel_c - zero) * step  +  b'
    W' = W * step_c / step,      b' = sum over c and taps of W * step_c * (zero - zero_c)

The zeros that it pads with stand for the pixel zero_c of each channel, which one zero for all is not. So the image gets
a ring of the nearest pixel of each channel, and the convolution pads nothing. That is exact inside of the image. A
padded value is at most half a pixel, 0.5 * step_c, from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from converter.qdq.stored_weights import Tensors
from passes.errors import ModelError
from passes.ir.bodies import bodies, names_inside
from passes.ir.surgery import fresh_name

__all__ = ["PixelInput", "folded", "with_pixels"]

_WHOLE = 1e-3  # pixels: a zero that is this near to an integer is one
_EQUAL = 1e-6  # relative: steps that differ by rounding of float32 are equal


@dataclass(frozen=True)
class PixelInput:
    """How the pixels of one input become its floats.

    Attributes:
        name: Name of the input.
        zero: Pixel that becomes 0.0, for each channel of the model, [c].
        step: Value of one pixel, for each channel of the model, [c].
        channels_last: Whether the model itself takes [n, h, w, c].
        pixels_last: Whether the pixels are [n, h, w, c].
        reverse: Whether the pixels have the channels in the opposite order of the model's.
    """

    name: str
    zero: NDArray[np.float64]
    step: NDArray[np.float64]
    channels_last: bool = False
    pixels_last: bool = True
    reverse: bool = False

    @property
    def is_one(self) -> bool:
        """Whether all channels have one step, and one zero that is a pixel. Then pixels are codes as they are."""
        zero, step = self.zero, self.step
        one = bool(np.ptp(zero) <= _WHOLE and np.allclose(step, step[0], rtol=_EQUAL, atol=0))
        return one and abs(zero[0] - round(float(zero[0]))) <= _WHOLE and 0 <= round(float(zero[0])) <= 255


class _Front:
    """Nodes between the pixels and the model."""

    def __init__(self, model: onnx.ModelProto, pixels: PixelInput) -> None:
        self.model, self.pixels, self.graph = model, pixels, model.graph
        self.nodes: list[NodeProto] = []
        graph = self.graph
        values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
        touched = {name for node in graph.node for name in (*node.input, *node.output)}
        inside = {name for node in graph.node for name in names_inside(bodies(node))}
        self.taken = {value.name for value in values} | touched | inside
        self.node_names = {node.name for node in graph.node}
        self.input = next(value for value in graph.input if value.name == pixels.name)
        self.dims = list(self.input.type.tensor_type.shape.dim)
        self.floats = self.input.type.tensor_type.elem_type
        self.current, self.count = pixels.name, ""

    def constant(self, wish: str, values: NDArray[Any]) -> str:
        name = fresh_name(f"{self.pixels.name}_{wish}", self.taken)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        wish = f"{self.pixels.name}_{op.lower()}"
        result = fresh_name(wish, self.taken)
        name = fresh_name(wish, self.node_names)
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=name, **attributes))
        return result

    def follow(self, op: str, *others: str, **attributes: Any) -> None:
        """Apply an operator to the current tensor."""
        self.current = self.node(op, [self.current, *others], **attributes)

    def sizes(self) -> tuple[int | None, int | None, int | None, int | None]:
        """(batch, channels, height, width) of the input, None where any size is taken."""
        sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in self.dims]
        batch, first, second, third = sizes
        return (batch, third, first, second) if self.pixels.channels_last else (batch, first, second, third)

    def ring(self, pads: Sequence[int], codes: NDArray[np.uint8]) -> None:
        """Put pixels around the image: ``pads`` (top, left, bottom, right) of them, ``codes`` of each channel."""
        _, _, height, width = self.sizes()
        assert height is not None
        assert width is not None
        top, left, bottom, right = pads
        if self.pixels.pixels_last:  # rows of pixels side by side, so that few and long pieces are copied
            self.follow("Reshape", self.constant("rows", np.array([0, 0, -1], np.int64)))  # [n, h, w * c]
        vertical, horizontal = (1, 2) if self.pixels.pixels_last else (2, 3)
        for axis, before, after in ((horizontal, left, right), (vertical, top, bottom)):
            tall, wide = (height, None) if axis == horizontal else (None, left + width + right)
            borders = {size: self.border(codes, tall or size, wide or size) for size in {before, after} - {0}}
            joined = [*([borders[before]] if before else []), self.current, *([borders[after]] if after else [])]
            if len(joined) > 1:
                self.current = self.node("Concat", joined, axis=axis)
        if self.pixels.pixels_last:
            self.follow(
                "Reshape", self.constant("pixels", np.array([0, 0, -1, len(codes)], np.int64))
            )  # [n, h', w', c]

    def border(self, codes: NDArray[np.uint8], height: int, width: int) -> str:
        """A rectangle of ``codes`` for every image: [n, height, width * c], or [n, c, height, width]."""
        if self.pixels.pixels_last:
            values, sizes = np.tile(codes, width)[None, None], [height, width * len(codes)]
        else:
            values, sizes = codes[None, :, None, None], [len(codes), height, width]
        batch = self.sizes()[0]
        name = self.constant("border", values)
        if batch is not None:
            return self.node("Expand", [name, self.constant("border_shape", np.array([batch, *sizes], np.int64))])
        if not self.count:
            self.count = self.node("Shape", [self.pixels.name], start=0, end=1)
        rest = self.constant("border_shape", np.array(sizes, np.int64))
        return self.node("Expand", [name, self.node("Concat", [self.count, rest], axis=0)])

    def turned(self) -> None:
        """Bring the pixels to the model's layout."""
        if self.pixels.pixels_last != self.pixels.channels_last:
            self.follow("Transpose", perm=[0, 3, 1, 2] if self.pixels.pixels_last else [0, 2, 3, 1])

    def reversed(self) -> None:
        """Reverse the channels, in the model's layout."""
        order = self.constant("order", np.arange(len(self.pixels.zero))[::-1].astype(np.int64))
        self.follow("Gather", order, axis=3 if self.pixels.channels_last else 1)

    def scaled(self, zero: NDArray[np.float32], step: NDArray[np.float32]) -> None:
        """Subtract and multiply. The arrays are scalars, or broadcast over the model's layout."""
        self.follow("Cast", to=TensorProto.FLOAT)
        if np.any(zero):
            self.follow("Sub", self.constant("zero", zero))
        self.follow("Mul", self.constant("step", step))
        if self.floats != TensorProto.FLOAT:
            self.follow("Cast", to=self.floats)

    def finish(self) -> onnx.ModelProto:
        """Put the nodes before those of the model, which read the result."""
        for node in self.graph.node:
            node.input[:] = [self.current if name == self.pixels.name else name for name in node.input]
            if self.pixels.name in names_inside(bodies(node)):
                raise ModelError(
                    f"input {self.pixels.name!r} is read inside of {node.op_type} {node.name!r}, so its preprocessing "
                    "cannot be embedded; leave out `embed_preprocess=`"
                )
        for output in self.graph.output:
            if output.name == self.pixels.name:
                raise ModelError(
                    f"input {self.pixels.name!r} is an output too, so its preprocessing cannot be embedded; leave out "
                    "`embed_preprocess=`"
                )
        own = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *own])
        self.declare()
        return self.model

    def declare(self) -> None:
        """Declare the input as pixels in their layout."""
        order = [0, 1, 2, 3]
        if self.pixels.pixels_last != self.pixels.channels_last:
            order = [0, 2, 3, 1] if self.pixels.pixels_last else [0, 3, 1, 2]
        value = ValueInfoProto()
        value.name = self.pixels.name
        value.type.tensor_type.elem_type = TensorProto.UINT8
        value.type.tensor_type.shape.dim.extend([self.dims[axis] for axis in order])
        self.input.CopyFrom(value)


def with_pixels(model: onnx.ModelProto, pixels: PixelInput) -> onnx.ModelProto:
    """Return a model that takes pixels and computes what the given one does on their floats, in float.

    Args:
        model: The model. It does not change.
        pixels: Its input and what the pixels mean.

    Raises:
        ModelError: The input is read inside of a body, or is an output too.
    """
    front = _Front(_copy(model), pixels)
    front.turned()
    if pixels.reverse:
        front.reversed()
    if pixels.is_one:
        front.scaled(np.asarray(np.rint(pixels.zero[0]), np.float32), np.asarray(pixels.step[0], np.float32))
    else:
        shape = (1, 1, 1, -1) if pixels.channels_last else (1, -1, 1, 1)
        front.scaled(*(values.astype(np.float32).reshape(shape) for values in (pixels.zero, pixels.step)))
    return front.finish()


def folded(model: onnx.ModelProto, pixels: PixelInput) -> onnx.ModelProto:
    """Return the same as `with_pixels`, with one zero and one step for all channels if a convolution can take that up.

    Args:
        model: The model, at opset 15 or newer. It does not change.
        pixels: As in `with_pixels`.

    Raises:
        ModelError: As in `with_pixels`.
    """
    if pixels.is_one and not pixels.reverse:
        return with_pixels(model, pixels)
    front = _Front(_copy(model), pixels)
    conv = _first_convolution(front)
    if conv is None:
        return with_pixels(model, pixels)
    node, weight, bias, pads = conv
    zeros, steps = pixels.zero, pixels.step
    if pixels.reverse:
        weight, zeros, steps = weight[:, ::-1], zeros[::-1], steps[::-1]
    zero, step = float(np.clip(np.rint(zeros.mean()), 0, 255)), float(np.float32(steps.mean()))
    by_channel = (1, -1, *[1] * (weight.ndim - 2))
    steps, offset = steps.reshape(by_channel), (zero - zeros).reshape(by_channel)
    if any(pads) and not pixels.is_one:
        front.ring(pads, np.clip(np.rint(zeros), 0, 255).astype(np.uint8))
        _set_pads(node)
    moved = (weight * steps * offset).sum(axis=tuple(range(1, weight.ndim)))  # [o]
    front.turned()
    front.scaled(np.asarray(zero, np.float32), np.asarray(step, np.float32))
    node.input[1] = front.constant("weight", (weight * steps / step).astype(np.float32))
    if bias is not None or np.any(moved):
        kept = [] if bias is None else [bias]
        values = sum(kept, moved).astype(np.float32)
        node.input[2:] = [front.constant("bias", values)]
    return _without_unread(front.finish())


_Convolution = tuple[NodeProto, NDArray[np.float64], NDArray[np.float64] | None, tuple[int, int, int, int]]


def _first_convolution(front: _Front) -> _Convolution | None:
    """The convolution that alone reads the input: node, weight, bias, pads. None if there is none that can fold."""
    graph, pixels = front.graph, front.pixels
    readers = [node for node in graph.node if pixels.name in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv" or pixels.channels_last or front.floats != TensorProto.FLOAT:
        return None
    node = readers[0]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    constants = Tensors.of(graph).constants
    if attributes.get("group", 1) != 1 or attributes.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}:
        return None
    if any(name not in constants for name in node.input[1:] if name):
        return None
    padded = attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    pads = tuple(attributes.get("pads", (0, 0, 0, 0))) if padded else (0, 0, 0, 0)
    _, channels, height, width = front.sizes()
    inside = np.all((pixels.zero > -0.5) & (pixels.zero < 255.5))  # padded pixels exist
    if len(pads) != 4 or channels is None or (any(pads) and (height is None or width is None or not inside)):
        return None
    if min(pads) < 0:
        return None
    weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
    biased = len(node.input) > 2 and node.input[2]
    bias = numpy_helper.to_array(constants[node.input[2]]).astype(np.float64) if biased else None
    return node, weight, bias, pads


def _set_pads(node: NodeProto) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in {"pads", "auto_pad"}]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", [0, 0, 0, 0])])


def _without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove initializers that no node reads any more, in place."""
    graph = model.graph
    read = {name for node in graph.node for name in (*node.input, *names_inside(bodies(node)))}
    read |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result
