"""Conv, ConvTranspose, Gemm and MatMul as matrix products: ``y = rows(x) @ weightᵀ + bias`` for every group.

Only this module handles groups, pads, strides, dilations and transB. A weight is ``[g, o, k]``: g groups, o outputs per
group, k inputs per group x kernel taps. Rows are ``[g, n, k]``: n output positions of all images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.errors import QuantizationError
from passes.ir.bodies import bodies
from passes.numerics.grid import Floats
from passes.numerics.im2col import Window, im2col

__all__ = [
    "LINEAR_OPS",
    "RECURRENT_OPS",
    "Linear",
    "find_linear",
    "has_layers",
    "linear_layers",
    "refused_layers",
    "why_not_linear",
]

Scalar = TypeVar("Scalar", bound=np.generic)
Seed = int | tuple[int, ...]

LINEAR_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
RECURRENT_OPS = frozenset({"LSTM", "GRU", "RNN"})
"""Operators with a weight for the input and one for the state, see `passes.ir.recurrent`."""
_OTHER_OPS = RECURRENT_OPS | {"Einsum", "DeformConv", "Attention"}
"""Operators that hold weights and are no linear layers."""


@dataclass(frozen=True)
class Linear:
    """The geometry of one layer, without arrays.

    Spatial tuples have one entry per spatial axis. For Gemm and MatMul they are empty.

    Attributes:
        name: Name of the node.
        op: Operator of the node.
        input: Name of the activation tensor that the layer reads.
        output: Name of the tensor that it writes.
        weight: Name of the weight.
        weight_shape: Shape of the weight as the node stores it.
        bias: Name of the bias, or None.
        groups: Number g of groups.
        strides: Stride along each spatial axis.
        dilations: Dilation along each spatial axis.
        pads: Pads at the begin of every spatial axis, then at the end of every axis.
        auto_pad: ONNX's auto_pad attribute.
        output_padding: ONNX's output_padding attribute of a ConvTranspose.
        transposed: Whether a Gemm has transB set.
        operand: Index of the weight among the node's inputs.
    """

    name: str
    op: str
    input: str
    output: str
    weight: str
    weight_shape: tuple[int, ...]
    bias: str | None
    groups: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    output_padding: tuple[int, ...] = ()
    transposed: bool = False
    operand: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size along each spatial axis. It is empty for Gemm and MatMul."""
        return self.weight_shape[2:] if self.op in {"Conv", "ConvTranspose"} else ()

    @property
    def inputs(self) -> int:
        """Number of inputs of all groups: channels, or columns of the input of a Gemm or MatMul."""
        if self.op == "Conv":
            return self.groups * self.weight_shape[1]
        return self.weight_shape[0] if self.op == "ConvTranspose" else self.matrix_shape[2]

    @property
    def outputs(self) -> int:
        """Number of outputs of all groups."""
        g, o, _ = self.matrix_shape
        return g * o

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape ``(g, o, k)`` of the weight."""
        taps = math.prod(self.kernel)
        if self.op == "Conv":
            return self.groups, self.weight_shape[0] // self.groups, self.weight_shape[1] * taps
        if self.op == "ConvTranspose":
            return self.groups, self.weight_shape[1], self.weight_shape[0] // self.groups * taps
        rows, columns = self.weight_shape
        return (1, rows, columns) if self.transposed else (1, columns, rows)

    @property
    def view(self) -> tuple[str, int, bool]:
        """How the layer reads its stored weight. Layers of one view have the same matrix for the same weight."""
        return (self.op if self.kernel else "matrix", self.groups, self.transposed)

    @property
    def channel_axis(self) -> int:
        """Axis of the output channels in the stored weight (those of one group for ConvTranspose)."""
        if self.op == "ConvTranspose":
            return 1
        return 0 if self.op == "Conv" or self.transposed else 1

    @property
    def has_rows(self) -> bool:
        """Whether the stored weight has the inputs of each output side by side."""
        return self.op == "Conv" or self.transposed

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape in which one number per output channel broadcasts over the stored weight."""
        shape = [1] * len(self.weight_shape)
        shape[self.channel_axis] = self.weight_shape[self.channel_axis]
        if self.op == "ConvTranspose" and self.groups > 1:
            shape[0] = self.weight_shape[0]
        return tuple(shape)

    def matrix(self, stored: NDArray[Scalar]) -> NDArray[Scalar]:
        """Convert the stored weight to ``[g, o, k]``."""
        g, o, k = self.matrix_shape
        if self.op == "Conv":
            return stored.reshape(g, o, k)
        if self.op == "ConvTranspose":
            split = stored.reshape(g, self.weight_shape[0] // g, o, *self.kernel)  # [g, i, o, *taps]
            flipped = np.flip(split, axis=tuple(range(3, split.ndim)))
            return np.ascontiguousarray(np.swapaxes(flipped, 1, 2)).reshape(g, o, k)
        return np.ascontiguousarray(stored if self.transposed else stored.T)[None]

    def stored(self, matrix: NDArray[Scalar]) -> NDArray[Scalar]:
        """Convert ``[g, o, k]`` to the shape that the node stores: the inverse of `matrix`."""
        g, o, _ = self.matrix_shape
        if self.op == "Conv":
            return matrix.reshape(self.weight_shape)
        if self.op == "ConvTranspose":
            split = np.swapaxes(matrix.reshape(g, o, self.weight_shape[0] // g, *self.kernel), 1, 2)
            flipped = np.flip(split, axis=tuple(range(3, split.ndim)))
            return np.ascontiguousarray(flipped).reshape(self.weight_shape)
        return np.ascontiguousarray(matrix[0] if self.transposed else matrix[0].T)

    def rows(self, x: Floats, *, positions: int | None = None, seed: Seed = 0, skip: int = 0) -> Floats:
        """Convert the layer's input to rows ``[g, n, k]``.

        Args:
            x: Input of the node, ``[n, c, *spatial]`` or ``[..., k]``.
            positions: Number of output positions per image, drawn at random without repetition, for each image
                separately. None takes all.
            seed: Random seed of the draw.
            skip: Images before these that had a draw from the same seed. So it does not matter how images are cut into
                batches.

        Raises:
            QuantizationError: The shape of ``x`` does not fit the weight.
        """
        g, _, k = self.matrix_shape
        if not self.kernel:
            if x.shape[-1] != k:
                raise QuantizationError(
                    f"{self.name}: input of shape {x.shape} does not end in the weight's {k} inputs"
                )
            rows = x.reshape(_batch(x), math.prod(x.shape[1:-1]), k)  # [n, positions, k]
            drawn = _drawn(len(rows), rows.shape[1], positions, seed, skip)
            return np.take_along_axis(rows, drawn[:, :, None], 1).reshape(1, -1, k)
        if x.ndim != 2 + len(self.kernel) or x.shape[1] * math.prod(self.kernel) != g * k:
            raise QuantizationError(f"{self.name}: input of shape {x.shape} for a weight of shape {self.weight_shape}")
        shape = self.output_shape(x.shape)[2:]
        drawn = _drawn(len(x), math.prod(shape), positions, seed, skip)  # [n, p]
        begins, strides = self._pads(x.shape[2:])[0], self.strides
        if self.op == "ConvTranspose":  # a stride-1 convolution of the zero-stuffed input with the flipped kernel
            size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.strides, strict=True)]
            stuffed = np.zeros((*x.shape[:2], *size), np.float32)
            stuffed[(slice(None), slice(None), *_every(self.strides))] = x
            reach = (d * (n - 1) for d, n in zip(self.dilations, self.kernel, strict=True))
            begins = tuple(r - b for r, b in zip(reach, begins, strict=True))
            x, strides = stuffed, (1,) * len(self.kernel)
        return im2col(x, drawn, shape, Window(self.kernel, strides, self.dilations, begins), g)

    def output_rows(self, y: Floats, *, positions: int | None = None, seed: Seed = 0, skip: int = 0) -> Floats:
        """Convert a tensor of the output's shape, ``[n, c, *spatial]`` or ``[..., o]``, to rows ``[g, n, o]``.

        With the same ``positions``, ``seed`` and ``skip`` as `rows`, it takes the same positions.
        """
        g, o, _ = self.matrix_shape
        if self.kernel:
            y = y.reshape(*y.shape[:2], math.prod(y.shape[2:]))
        else:
            y = y.reshape(_batch(y), math.prod(y.shape[1:-1]), o).swapaxes(1, 2)
        drawn = _drawn(len(y), y.shape[2], positions, seed, skip)
        picked = np.take_along_axis(y, drawn[:, None, :], 2)  # [n, g o, p]
        split = picked.reshape(len(y), g, o, drawn.shape[1]).transpose(1, 0, 3, 2)  # [g, n, p, o]
        return np.ascontiguousarray(split).reshape(g, split.shape[1] * split.shape[2], o)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output's shape for the shape of an input."""
        if not self.kernel:
            return (*shape[:-1], self.outputs)
        begins, ends = self._pads(shape[2:])
        spatial = []
        for axis, size in enumerate(shape[2:]):
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            pads = begins[axis] + ends[axis]
            if self.op == "ConvTranspose":
                spatial.append((size - 1) * self.strides[axis] + reach - pads + self.output_padding[axis])
            else:
                spatial.append((size + pads - reach) // self.strides[axis] + 1)
        return (shape[0], self.outputs, *spatial)

    def _pads(self, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        spatial = len(self.kernel)
        if self.auto_pad in {"NOTSET", "VALID"}:
            return self.pads[:spatial], self.pads[spatial:]
        begins, ends = [], []
        geometry = zip(size, self.kernel, self.strides, self.dilations, self.output_padding, strict=True)
        for n, kernel, stride, dilation, extra in geometry:
            reach = dilation * (kernel - 1) + 1
            if self.op == "ConvTranspose":
                total = max(reach - stride + extra, 0)
            else:
                total = max((-(-n // stride) - 1) * stride + reach - n, 0)
            small, large = total // 2, total - total // 2
            begins.append(small if self.auto_pad == "SAME_UPPER" else large)
            ends.append(large if self.auto_pad == "SAME_UPPER" else small)
        return tuple(begins), tuple(ends)


def _batch(x: Floats) -> int:
    return x.shape[0] if x.ndim > 1 else 1


def _drawn(images: int, count: int, positions: int | None, seed: Seed, skip: int) -> NDArray[np.intp]:
    """Return the sorted indices of the positions that are taken of each image, ``[images, positions]``."""
    if positions is None or count <= positions:
        return np.broadcast_to(np.arange(count), (images, count))
    draw = np.random.default_rng(seed)
    taken = [draw.choice(count, positions, replace=False, shuffle=False) for _ in range(skip + images)]
    return np.sort(taken[skip:])


def _every(steps: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(None, None, step) for step in steps)


def why_not_linear(node: gs.Node) -> str | None:
    """Return why a `LINEAR_OPS` node cannot be quantized as a linear layer, or None if it can."""
    if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
        constant = bool(node.inputs) and isinstance(node.inputs[0], gs.Constant)
        return "its first operand is the constant" if constant else "both operands are activations"
    if isinstance(node.inputs[0], gs.Constant):
        return "its input is a constant"
    weight = node.inputs[1]
    if weight.dtype != np.float32:
        return f"its weight is {np.dtype(weight.dtype).name}, not float32"
    if not math.prod(weight.shape):
        return f"its weight of shape {tuple(weight.shape)} has no elements"
    if node.op in {"Gemm", "MatMul"} and len(weight.shape) != 2:
        return f"its weight has shape {tuple(weight.shape)}, not two axes"
    if node.op == "Gemm":
        if node.attrs.get("transA", 0):
            return "transA is set"
        if node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
            return "alpha or beta is not 1"
    if len(node.inputs) > 2 and node.inputs[2].name and not isinstance(node.inputs[2], gs.Constant):
        return "its bias is an activation"
    if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2].name:
        shape = tuple(node.inputs[2].shape)
        if len(shape) == 2 and shape[0] != 1:
            return "its bias differs from row to row"
    if node.op == "ConvTranspose" and node.attrs.get("output_shape"):
        return "output_shape is set instead of pads"
    return None


def has_layers(graph: onnx.GraphProto) -> bool:
    """Whether a graph has a node of an operator in `LINEAR_OPS`, outside of loops. Branches of an If count."""
    return any(
        node.op_type in LINEAR_OPS or (node.op_type == "If" and any(has_layers(branch) for branch in bodies(node)))
        for node in graph.node
    )


def find_linear(node: gs.Node) -> Linear:
    """Return the geometry of a Conv, ConvTranspose, Gemm or MatMul node.

    Raises:
        QuantizationError: The node is not a linear layer.
    """
    reason = why_not_linear(node)
    if node.op not in LINEAR_OPS or reason:
        raise QuantizationError(f"{node.name}: {reason or node.op + ' is not a linear layer'}")
    weight = node.inputs[1]
    shape = tuple(int(n) for n in weight.shape)
    bias = node.inputs[2].name if len(node.inputs) > 2 and node.inputs[2].name else None
    spatial = len(shape) - 2 if node.op in {"Conv", "ConvTranspose"} else 0
    attrs = node.attrs

    def ints(key: str, default: int, count: int) -> tuple[int, ...]:
        return tuple(int(v) for v in attrs.get(key, [default] * count))

    return Linear(
        name=node.name,
        op=node.op,
        input=node.inputs[0].name,
        output=node.outputs[0].name,
        weight=weight.name,
        weight_shape=shape,
        bias=bias,
        groups=int(attrs.get("group", 1)),
        strides=ints("strides", 1, spatial),
        dilations=ints("dilations", 1, spatial),
        pads=ints("pads", 0, 2 * spatial),
        auto_pad=str(attrs.get("auto_pad", "NOTSET")),
        output_padding=ints("output_padding", 0, spatial),
        transposed=bool(attrs.get("transB", 0)),
    )


def linear_layers(graph: gs.Graph) -> dict[str, Linear]:
    """Return all linear layers of the graph by name, in the graph's order."""
    return {
        node.name: find_linear(node) for node in graph.nodes if node.op in LINEAR_OPS and why_not_linear(node) is None
    }


def refused_layers(graph: gs.Graph) -> dict[str, str]:
    """Return the reason, by name, for every node with weights, or of a linear operator, that is not a linear layer."""
    reasons = {node.name: _why_refused(node) for node in graph.nodes}
    return {str(name): reason for name, reason in reasons.items() if reason}


def _why_refused(node: gs.Node) -> str | None:
    """Return why a node stays in float. None if it is a linear layer, or holds no weights."""
    if node.op in LINEAR_OPS:
        return why_not_linear(node)
    if node.op in _OTHER_OPS and any(isinstance(each, gs.Constant) and len(each.shape) > 1 for each in node.inputs):
        return f"no pass quantizes {node.op}"
    return None
