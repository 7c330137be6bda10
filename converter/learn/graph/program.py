"""An ONNX graph as a torch program, differentiable in its inputs and its weights.

The program knows nothing of quantization. Each run may replace constants of the graph, and may change each tensor after
a node has written it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from converter.learn.graph.operators import OPERATORS, SEVERAL

__all__ = ["After", "Program", "unsupported", "untouched"]

After = Callable[[str, Tensor], Tensor]
"""Called with the name and the value of a tensor that a node has written. The program goes on with what it returns."""


def untouched(_: str, value: Tensor) -> Tensor:
    """Return the value unchanged."""
    return value


def unsupported(nodes: Sequence[gs.Node]) -> str | None:
    """Why a graph with these nodes cannot run: its first operator without a torch form. None if it can."""
    for node in nodes:
        if node.op not in OPERATORS or node.domain not in {None, "", "ai.onnx"}:
            return f"{node.op} ({node.name}) has no differentiable form"
        if sum(bool(tensor.name) for tensor in node.outputs) != 1 and node.op not in SEVERAL:
            return f"{node.op} ({node.name}) writes several tensors"
    return None


class Program:
    """A graph as a torch function of its inputs and of the constants that a run replaces.

    Args:
        graph: Topologically sorted. Every operator must be in `OPERATORS`, see `unsupported`.
        device: Device of the graph's constants.
    """

    def __init__(self, graph: gs.Graph, device: torch.device | str = "cpu") -> None:
        self.outputs = [str(tensor.name) for tensor in graph.outputs]
        self.constants: dict[str, Tensor] = {}
        self.steps: list[tuple[Callable[..., Any], dict[str, Any], list[str], list[str]]] = []
        for node in graph.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and tensor.name not in self.constants:
                    value = np.array(tensor.values)  # a copy, because torch may write into it
                    self.constants[tensor.name] = torch.from_numpy(value).to(device)
            reads, writes = ([str(tensor.name) for tensor in side] for side in (node.inputs, node.outputs))
            attrs = {"num_outputs": len(writes)} if node.op in SEVERAL else {}
            self.steps.append((OPERATORS[node.op], attrs | dict(node.attrs), reads, writes))
        self.last_read = {name: index for index, step in enumerate(self.steps) for name in step[2]}

    def __call__(
        self, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None, after: After = untouched
    ) -> dict[str, Tensor]:
        """Run the graph.

        Args:
            inputs: Inputs by tensor name.
            weights: Tensors to read in place of constants of the same name, or of operands that have no constant.
            after: See `After`. It is not called for inputs.

        Returns:
            The graph's outputs by name.

        Raises:
            NoTorchForm: An attribute has a value that the torch form does not support. The message names it.
        """
        values: dict[str, Tensor | None] = {"": None, **self.constants, **(weights or {}), **inputs}
        for index, (operator, attrs, reads, writes) in enumerate(self.steps):
            result = operator(attrs, *[values[name] for name in reads])
            for name, value in zip(writes, result if isinstance(result, tuple) else (result,), strict=False):
                if name:
                    values[name] = after(name, value)
            for name in reads:
                if self.last_read[name] == index and name not in self.outputs and name:
                    values.pop(name, None)
        return {name: value for name in self.outputs if (value := values[name]) is not None}
