"""An ONNX graph as a torch program: run with any weights, differentiable in all that is put in.

It knows nothing of quantization: what replaces the graph's constants and what happens to a tensor once it is written
are arguments of the run.
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
"""What happens to a tensor that a node has written, by its name."""


def untouched(_: str, value: Tensor) -> Tensor:
    """The value as it is."""
    return value


def unsupported(nodes: Sequence[gs.Node]) -> str | None:
    """The first operator that has no torch form here, in words; None if all have."""
    for node in nodes:
        if node.op not in OPERATORS or node.domain not in {None, "", "ai.onnx"}:
            return f"{node.op} ({node.name}) has no differentiable form"
        if sum(bool(tensor.name) for tensor in node.outputs) != 1 and node.op not in SEVERAL:
            return f"{node.op} ({node.name}) writes several tensors"
    return None


class Program:
    """A graph as a torch function of its inputs and of whichever constants are given anew.

    Args:
        graph: topologically sorted; every operator must be one of `OPERATORS`, see `unsupported`.
        device: where its constants live.
    """

    def __init__(self, graph: gs.Graph, device: torch.device | str = "cpu") -> None:
        self.outputs = [str(tensor.name) for tensor in graph.outputs]
        self.constants: dict[str, Tensor] = {}
        self.steps: list[tuple[Callable[..., Any], dict[str, Any], list[str], list[str]]] = []
        for node in graph.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and tensor.name not in self.constants:
                    value = np.array(tensor.values)  # a copy: torch wants to own what it may write
                    self.constants[tensor.name] = torch.from_numpy(value).to(device)
            reads, writes = ([str(tensor.name) for tensor in side] for side in (node.inputs, node.outputs))
            attrs = {"num_outputs": len(writes)} if node.op in SEVERAL else {}
            self.steps.append((OPERATORS[node.op], attrs | dict(node.attrs), reads, writes))
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
        for index, (operator, attrs, reads, writes) in enumerate(self.steps):
            found = operator(attrs, *[values[name] for name in reads])
            for name, value in zip(writes, found if isinstance(found, tuple) else (found,), strict=False):
                if name:
                    values[name] = after(name, value)
            for name in reads:
                if self.last_read[name] == index and name not in self.outputs and name:
                    values.pop(name, None)
        return {name: value for name in self.outputs if (value := values[name]) is not None}
