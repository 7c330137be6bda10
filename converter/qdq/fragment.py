"""Fragments: nodes and initializers to add to a graph, under unused names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.qdq.storage import code_tensor
from passes.ir.bodies import bodies, names_inside
from passes.ir.surgery import fresh_name

__all__ = ["Fragment", "Names"]


class Names:
    """Names of a graph's tensors and nodes. A new name that is taken gets ``_1``, ``_2``, ... appended."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
        self._tensors = {value.name for value in values} | set(_touched(graph.node))
        self._nodes = {node.name for node in graph.node}
        self.shared: dict[str, str] = {}  # initializers that many fragments read, by their wished name

    def tensor(self, wish: str) -> str:
        """A new tensor name."""
        return fresh_name(wish, self._tensors)

    def node(self, wish: str) -> str:
        """A new node name."""
        return fresh_name(wish, self._nodes)


@dataclass
class Fragment:
    """Nodes and initializers to add to a graph. `names` holds the names of that graph."""

    names: Names
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    @property
    def result(self) -> str:
        """The tensor that the last node writes."""
        return str(self.nodes[-1].output[0])

    def constant(self, wish: str, value: NDArray[Any]) -> str:
        """Add an initializer and return its name."""
        return self.tensor(wish, lambda name: numpy_helper.from_array(np.asarray(value, order="C"), name))

    def codes(self, wish: str, codes: NDArray[Any], bits: int) -> str:
        """Add an initializer of 2-, 4- or 8-bit codes and return its name."""
        return self.tensor(wish, lambda name: code_tensor(name, codes, bits))

    def tensor(self, wish: str, made: Callable[[str], TensorProto]) -> str:
        """Add the initializer that ``made`` creates under a new name, and return that name."""
        name = self.names.tensor(wish)
        self.initializers.append(made(name))
        return name

    def shared(self, wish: str, value: NDArray[Any]) -> str:
        """The name of an initializer that all fragments of the graph share. The first call adds it."""
        if wish not in self.names.shared:
            self.names.shared[wish] = self.constant(wish, value)
        return self.names.shared[wish]

    def node(self, op: str, wish: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node that writes a new tensor, and return that tensor's name."""
        return self.node_into(op, wish, inputs, self.names.tensor(output), **attributes)

    def node_into(self, op: str, wish: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node that writes a given tensor, and return that tensor's name."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=self.names.node(wish), **attributes))
        return output


def _touched(nodes: Iterable[NodeProto]) -> Iterable[str]:
    for node in nodes:
        yield from node.input
        yield from node.output
        yield from names_inside(bodies(node))
