"""ONNX operators as differentiable torch functions, and a graph of them as a program.

`Program` is built once from a graph and run with any weights. It knows nothing of quantization: what replaces the
graph's constants and what happens to a tensor once it is written are arguments of the run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
import torch.nn.functional as F
from torch import Tensor

from converter.learn.spatial import SPATIAL, NoTorchForm

__all__ = ["OPERATORS", "After", "Program", "unsupported", "untouched"]

Attributes = Mapping[str, Any]
After = Callable[[str, Tensor], Tensor]
"""What happens to a tensor that a node has written, by its name."""


def untouched(_: str, value: Tensor) -> Tensor:
    """The value as it is."""
    return value


class Program:
    """A graph as a torch function of its inputs and of whichever constants are given anew.

    Args:
        graph: topologically sorted; every operator must be one of `OPERATORS`, see `unsupported`.
        device: where its constants live.
    """

    def __init__(self, graph: gs.Graph, device: torch.device | str = "cpu") -> None:
        self.outputs = [str(tensor.name) for tensor in graph.outputs]
        self.constants: dict[str, Tensor] = {}
        self.steps: list[tuple[Callable[..., Tensor], dict[str, Any], list[str], str]] = []
        for node in graph.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and tensor.name not in self.constants:
                    value = np.array(tensor.values)  # a copy: torch wants to own what it may write
                    self.constants[tensor.name] = torch.from_numpy(value).to(device)
            reads = [str(tensor.name) for tensor in node.inputs]
            self.steps.append((OPERATORS[node.op], dict(node.attrs), reads, str(node.outputs[0].name)))
        self.last_read = {name: index for index, step in enumerate(self.steps) for name in step[2]}

    def __call__(
        self, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None, after: After = untouched
    ) -> dict[str, Tensor]:
        """The graph's outputs by name.

        Args:
            inputs: by tensor name.
            weights: read in place of constants of the same name, or of operands the graph has none for.
            after: see `After`; not applied to inputs.

        Raises:
            NoTorchForm: an attribute that the torch form does not have; names it.
        """
        values: dict[str, Tensor | None] = {"": None, **self.constants, **(weights or {}), **inputs}
        for index, (operator, attrs, reads, result) in enumerate(self.steps):
            values[result] = after(result, operator(attrs, *[values[name] for name in reads]))
            for name in reads:
                if self.last_read[name] == index and name not in self.outputs and name:
                    values.pop(name, None)
        return {name: value for name in self.outputs if (value := values[name]) is not None}


def unsupported(nodes: Sequence[gs.Node]) -> str | None:
    """The first operator that has no torch form here, in words; None if all have."""
    for node in nodes:
        if node.op not in OPERATORS or node.domain not in {None, "", "ai.onnx"}:
            return f"{node.op} ({node.name}) has no differentiable form"
        if sum(bool(tensor.name) for tensor in node.outputs) != 1:
            return f"{node.op} ({node.name}) writes several tensors"
    return None


def _clip(attrs: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bottom = attrs.get("min") if low is None else float(low)
    top = attrs.get("max") if high is None else float(high)
    return x if bottom is None and top is None else torch.clamp(x, bottom, top)


def _gemm(attrs: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = a.t() if attrs.get("transA") else a, b.t() if attrs.get("transB") else b
    y = float(attrs.get("alpha", 1.0)) * (a @ b)
    return y if c is None else y + float(attrs.get("beta", 1.0)) * c


def _hard_sigmoid(attrs: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(attrs.get("alpha", 0.2) * x + attrs.get("beta", 0.5), 0, 1)


def _prelu(attrs: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _axes(attrs: Attributes, axes: Tensor | None) -> tuple[int, ...]:
    """An attribute or, in later opsets, an operand."""
    given = attrs.get("axes") if axes is None else axes.tolist()
    return tuple(int(axis) for axis in given or ())


def _reduce_mean(attrs: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attrs, axes) or tuple(range(x.ndim))
    return x.mean(dim=chosen, keepdim=bool(attrs.get("keepdims", 1)))


def _concat(attrs: Attributes, *x: Tensor) -> Tensor:
    return torch.cat(x, dim=int(attrs["axis"]))


def _flatten(attrs: Attributes, x: Tensor) -> Tensor:
    axis = int(attrs.get("axis", 1)) % (x.ndim + 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _reshape(attrs: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    if attrs.get("allowzero"):
        return x.reshape(sizes)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def _slice(
    attrs: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    count = len(starts)
    places = [slice(None)] * x.ndim
    every = [1] * count if steps is None else [int(step) for step in steps.tolist()]
    if min(every) < 1:
        raise NoTorchForm("Slice with a negative step")
    for index, axis in enumerate(range(count) if axes is None else axes.tolist()):
        places[int(axis)] = slice(int(starts[index]), int(ends[index]), every[index])
    return x[tuple(places)]


def _shape(attrs: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[attrs.get("start", 0) : attrs.get("end")])


def _gather(attrs: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(attrs.get("axis", 0)) % x.ndim
    places = torch.where(indices < 0, indices + x.shape[axis], indices)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _squeeze(attrs: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attrs, axes)
    return x.squeeze(chosen) if chosen else x.squeeze()


def _unsqueeze(attrs: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attrs, axes)
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _transpose(attrs: Attributes, x: Tensor) -> Tensor:
    return x.permute([int(axis) for axis in attrs.get("perm") or reversed(range(x.ndim))])


def _softmax(attrs: Attributes, x: Tensor) -> Tensor:
    return torch.softmax(x, dim=int(attrs.get("axis", -1)))


def _gelu(attrs: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=str(attrs.get("approximate", "none")))


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Abs": lambda attrs, x: x.abs(),
    "Add": lambda attrs, a, b: a + b,
    "Clip": _clip,
    "Concat": _concat,
    "Div": lambda attrs, a, b: a / b,
    "Dropout": lambda attrs, x, *mask: x,
    "Elu": lambda attrs, x: F.elu(x, float(attrs.get("alpha", 1.0))),
    "Erf": lambda attrs, x: torch.erf(x),
    "Exp": lambda attrs, x: torch.exp(x),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda attrs, x: F.hardswish(x),
    "Identity": lambda attrs, x: x,
    "LeakyRelu": lambda attrs, x: F.leaky_relu(x, float(attrs.get("alpha", 0.01))),
    "MatMul": lambda attrs, a, b: a @ b,
    "Mul": lambda attrs, a, b: a * b,
    "Neg": lambda attrs, x: -x,
    "PRelu": _prelu,
    "ReduceMean": _reduce_mean,
    "Relu": lambda attrs, x: torch.relu(x),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": lambda attrs, x: torch.sigmoid(x),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": lambda attrs, x: F.softplus(x),
    "Sqrt": lambda attrs, x: torch.sqrt(x),
    "Squeeze": _squeeze,
    "Sub": lambda attrs, a, b: a - b,
    "Tanh": lambda attrs, x: torch.tanh(x),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    **SPATIAL,
}
"""By ONNX operator: attributes, then operands; those of `converter.learn.spatial` are among them."""
